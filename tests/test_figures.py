"""Figures show the numbers that they were given, in the units that they name."""

import base64
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dfs_edu import figures, inference

NAN = float("nan")


def report(seed=0, layers=3, exits=3):
    cosine = np.random.default_rng(seed).uniform(-0.5, 0.5, (layers, exits, exits))
    cosine[-1, :2] = cosine[-1, :, :2] = NAN
    return SimpleNamespace(cosine=cosine, layers=[f"stages.{i}.conv" for i in range(layers)])


def point():
    share, exit_accuracy = torch.tensor([0.75, 0.25, 0.0]), torch.tensor([0.9, 0.5, NAN])
    exit, right = torch.tensor([0, 0, 0, 1]), torch.tensor([True, True, True, False])
    return inference.Point(0.8, 2.5e6, share, exit_accuracy, exit, right)


def curve():
    macs = torch.linspace(1e6, 4e6, 40, dtype=torch.float64)
    return inference.Curve(macs, macs / 8e6, torch.zeros(40, 3), torch.ones(40))


def diagram(seed=0, exits=4, pictures=500):
    """Exit 1 never reaches the upper bins."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(exits, pictures, generator=generator)
    confidence[0] *= 0.5
    right = torch.rand(exits, pictures, generator=generator) < 0.5
    return inference.reliability(inference.Outputs(confidence, right.long(), torch.ones(pictures).long(), "test"), 10)


def cost(forward, backward):
    return SimpleNamespace(forward_flops=forward, backward_flops=backward)


def ablated():
    loss = np.array([[0.1, 0.25, -0.01], [NAN, 0.4, 0.3], [NAN, NAN, NAN]])
    return SimpleNamespace(loss=lambda part: loss if part == "shared" else loss / 2)


def probed():
    accuracy = {"shared": [0.5, NAN], "specific": [0.6, NAN], "mixed": [0.55, NAN], "whole": [0.7, 0.9]}
    return SimpleNamespace(accuracy=accuracy, chance=0.1)


RECORD = {"epochs": [{"epoch": e, "seconds": 60, "validation_accuracy": [0.1 * e, 0.2 * e]} for e in (1, 2, 3)]}
ALL = {
    "conflict_heatmap": lambda: figures.conflict_heatmap(report()),
    "conflict_heatmaps": lambda: figures.conflict_heatmaps({"joint": report(), "surgery": report(1)}),
    "gradient_work": lambda: figures.gradient_work(
        {"joint": cost(10**7, 2 * 10**7), "surgery": cost(10**7, 15 * 10**6)}
    ),
    "accuracy_per_exit": lambda: figures.accuracy_per_exit({"joint": [[0.5, 0.6], [0.7, 0.6]]}, {"theirs": [0.7, 0.8]}),
    "accuracy_cost": lambda: figures.accuracy_cost({"joint": curve()}, {"joint": ([1e6, 4e6], [0.5, 0.6])}, point()),
    "learning_curves": lambda: figures.learning_curves(RECORD),
    "accuracy_over_time": lambda: figures.accuracy_over_time({"paper": RECORD, "full": RECORD}),
    "shares": lambda: figures.shares(point()),
    "rates": lambda: figures.rates({1: {"torch": 500.0, "onnx": 900.0}, 128: {"torch": 1234.5, "onnx": 2000.0}}),
    "speed_ups": lambda: figures.speed_ups({"one by one": ([1, 1.5, 2], [0.9, 1.2, 1.4]), "128 at once": ([2], [1.9])}),
    "parts_of_whole": lambda: figures.parts_of_whole({"MACs": [1e6, 4e6], "time": torch.tensor([0.5, 0.8])}),
    "waits": lambda: figures.waits({"whole": [0.002, 0.001], "early": np.linspace(0, 1, 1000)}),
    "reliability": lambda: figures.reliability({"as trained": diagram(), "calibrated": diagram(1)}),
    "shares_by": lambda: figures.shares_by({"one": point(), "other": point()}),
    "cuts": lambda: figures.cuts({"price 0": np.arange(500) % 300, "price 1": np.arange(500)[::-1]}),
    "budget_differences": lambda: figures.budget_differences([1e6, 2e6], {"a": ([0.1, 0.2], [0, 0.1], [0.2, 0.4])}),
    "cka_heatmaps": lambda: figures.cka_heatmaps({"joint": np.eye(3), "surgery": np.ones((3, 3))}, ["1+", "1-", "2"]),
    "ablation_heatmaps": lambda: figures.ablation_heatmaps({"surgery": ablated()}),
    "probe_accuracies": lambda: figures.probe_accuracies({"joint": probed(), "surgery": probed()}),
    "selectivities": lambda: figures.selectivities({"f+": [[0.1, 0.2], [NAN, 0.3]], "f-": [[0.5], [0.4, 0.6]]}),
    "pictures": lambda: figures.pictures(np.zeros((2, 3, 4, 4), np.uint8), ["a", "b"], "Two pictures"),
}


@pytest.mark.parametrize("name", ALL)
def test_small_titled_and_readable_on_light_and_dark(name):
    fig = ALL[name]()
    text = fig.to_json()
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert len(text) < 9000
    assert fig.layout.title.text
    assert fig.layout.template.layout.paper_bgcolor == fig.layout.template.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert not fig.layout.template.data.to_plotly_json()  # none of plotly's own template
    ink = fig.layout.template.layout.font.color
    assert min(contrast(ink, "#ffffff"), contrast(ink, "#111111")) > 4.2


def contrast(a, b):
    """WCAG's contrast ratio of two colours."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_lines_differ_in_more_than_colour():
    looks = [figures.style(i) for i in range(13)]  # VGG16 has 13 exits
    assert len({(look["line"]["dash"], look["line"]["color"]) for look in looks}) == 13
    assert (
        len({look["line"]["dash"] for look in looks[:7]}) == len({look["marker"]["symbol"] for look in looks[:7]}) == 7
    )


def test_heatmap_shows_each_pair_once_and_leaves_nan_blank():
    given = report()
    (map_,) = figures.conflict_heatmap(given).data
    assert list(map_.x) == ["1·2", "1·3", "2·3"]
    assert list(map_.y) == given.layers
    assert map_.z[0] == pytest.approx([given.cosine[0, 0, 1], given.cosine[0, 0, 2], given.cosine[0, 1, 2]], abs=5e-4)
    assert list(map_.z[2]) == [None, None, None]


def test_heatmaps_share_one_scale_with_zero_in_its_middle():
    weak, strong = report(), report(1)
    strong.cosine[0, 0, 2] = -0.87
    fig = figures.conflict_heatmaps({"weak": weak, "strong": strong})
    assert [trace.coloraxis for trace in fig.data] == ["coloraxis"] * 2
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (-0.87, 0.87)
    assert [note.text for note in fig.layout.annotations] == ["weak", "strong"]
    with pytest.raises(ValueError, match="reports"):
        figures.conflict_heatmaps({})


def test_heatmap_of_nothing_but_nan():
    empty = report()
    empty.cosine[:] = NAN
    assert all(value is None for row in figures.conflict_heatmap(empty).data[0].z for value in row)


def test_interval_of_three_seeds_by_hand():
    fig = figures.accuracy_per_exit({"joint": np.array([[0.5], [0.6], [0.7]]), "once": [[0.4]]}, {"theirs": [0.7]})
    joint, once, theirs = fig.data
    assert list(joint.y) == [60.0]
    assert joint.error_y.array[0] == pytest.approx(100 * 4.3027 * 0.1 / math.sqrt(3), abs=0.01)  # t(0.975, 2) = 4.3027
    assert "n = 3" in joint.name
    assert "95 %" in joint.name
    assert once.error_y.array is None
    assert "n = 1" in once.name
    assert "published" in theirs.name
    assert theirs.line.dash == "dot"
    assert theirs.marker.symbol.endswith("-open")


def test_accuracy_cost_in_percent_and_millions():
    line, marks, now = ALL["accuracy_cost"]().data
    assert (line.x[0], line.y[0]) == (1.0, 12.5)
    assert list(marks.x) == [1.0, 4.0]
    assert list(marks.text) == ["1", "2"]
    assert (now.x[0], now.y[0]) == (2.5, 80.0)


def test_bands_lie_behind_their_line_and_out_of_the_legend():
    both = {"joint": curve(), "other": curve()}
    fig = figures.accuracy_cost(both, bands={"joint": (curve().accuracy - 0.01, curve().accuracy + 0.02)})
    band, joint, _ = fig.data
    assert (band.fill, band.showlegend) == ("toself", False)
    assert band.fillcolor == "rgba(0,114,178,0.2)"  # of the line's own colour
    assert joint.line.color == "#0072B2"
    assert (band.y[0], band.y[-1]) == (14.5, 11.5)
    assert (band.x[0], band.x[-1]) == (1.0, 1.0)
    assert fig.layout.height == figures.accuracy_cost(both).layout.height


def test_differences_in_points_with_their_bands():
    band, line = ALL["budget_differences"]().data
    assert (list(line.x), list(line.y)) == ([1.0, 2.0], [10.0, 20.0])
    assert list(band.y) == [20.0, 40.0, 10.0, 0.0]


def test_the_best_cut_is_drawn_even_where_the_line_is_thinned():
    value = np.zeros(5001)
    value[1234] = 7
    line, star = figures.cuts({"": value}).data
    assert (list(star.x), list(star.y)) == ([1234], [7.0])
    assert 7.0 in line.y
    assert len(line.x) <= 101
    assert (line.x[0], line.x[-1]) == (0, 5000)


def test_shares_side_by_side():
    one, other = ALL["shares_by"]().data
    assert list(one.y) == [75.0, 25.0, 0.0]
    assert list(one.text) == ["75", "25", ""]
    assert one.marker.pattern.shape != other.marker.pattern.shape


def test_learning_curves_shares_and_work():
    assert list(figures.learning_curves(RECORD).data[1].y) == pytest.approx([20, 40, 60])
    (bars,) = figures.shares(point()).data
    assert list(bars.y) == [75.0, 25.0, 0.0]
    assert list(bars.text) == ["75.0 %<br>90.0 % right", "25.0 %<br>50.0 % right", "0.0 %"]
    forward, backward = ALL["gradient_work"]().data
    assert (list(forward.x), list(backward.x)) == ([10.0, 10.0], [20.0, 15.0])


def test_reliability_shows_the_bins_that_have_pictures():
    given = diagram()
    fig = figures.reliability({"one": given, "two": diagram(1)}, exits=[0, 3])
    assert [note.text for note in fig.layout.annotations] == ["exit 1", "exit 4"]
    ideal, first, other, _, last, _ = fig.data
    assert list(ideal.x) == list(ideal.y) == [0, 100]
    some = given.count[0] > 0
    assert len(first.x) == some.sum() == 5  # of 10 bins
    assert list(first.x) == pytest.approx((100 * given.confidence[0][some]).tolist(), abs=0.01)
    assert list(first.y) == pytest.approx((100 * given.accuracy[0][some]).tolist(), abs=0.01)
    assert list(last.customdata) == given.count[3].tolist()
    assert np.argmax(last.marker.size) == given.count[3].argmax()
    assert [trace.showlegend for trace in fig.data] == [True] * 3 + [False] * 3
    assert first.marker.symbol != other.marker.symbol
    assert (first.xaxis, last.xaxis) == ("x", "x2")
    with pytest.raises(ValueError, match="diagrams"):
        figures.reliability({})


def test_time_adds_up_over_the_epochs():
    rows = [{"epoch": i, "seconds": 60 * i, "validation_accuracy": [0.1, 0.1 * i]} for i in (1, 2, 3)]
    fig = figures.accuracy_over_time({"a": {"epochs": rows}, "b": {"epochs": rows[:1]}})
    assert list(fig.data[0].x) == [1, 3, 6]
    assert list(fig.data[0].y) == pytest.approx([10, 20, 30])
    assert list(fig.data[1].x) == [1]
    assert list(figures.accuracy_over_time({"a": {"epochs": rows}}, exit=0).data[0].y) == [10, 10, 10]


def test_rates_stand_side_by_side():
    one, many = ALL["rates"]().data
    assert (list(one.x), list(one.y), one.name) == (["torch", "onnx"], [500, 900], "one by one")
    assert (list(many.y), many.name, list(many.text)) == ([1234.5, 2000], "128 at once", ["1,234", "2,000"])


def test_speed_ups_lie_beside_what_was_promised():
    promise, one, many = ALL["speed_ups"]().data
    assert (list(promise.x), list(promise.y)) == ([1, 2], [1, 2])
    assert (list(one.x), list(one.y), list(many.y)) == ([1, 1.5, 2], [0.9, 1.2, 1.4], [1.9])


def test_costs_are_parts_of_the_last_exits():
    macs, time = ALL["parts_of_whole"]().data
    assert (list(macs.x), list(macs.y), list(time.y)) == ([1, 2], [25, 100], pytest.approx([62.5, 100]))


def test_waits_are_sorted_and_end_with_everybody():
    whole, early = ALL["waits"]().data
    assert (list(whole.x), list(whole.y)) == ([1, 2], [50, 100])
    assert len(early.x) == 200
    assert (early.x[-1], early.y[-1]) == (1000, 100)


def test_likeness_is_shown_from_nothing_to_the_same():
    fig = ALL["cka_heatmaps"]()
    joint, surgery = fig.data
    assert (list(joint.x), list(joint.y)) == (["1+", "1-", "2"], ["1+", "1-", "2"])
    assert [list(row) for row in joint.z] == np.eye(3).tolist()
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 1)
    assert joint.coloraxis == surgery.coloraxis == "coloraxis"
    with pytest.raises(ValueError, match="matrices"):
        figures.cka_heatmaps({}, [])


def test_what_is_lost_is_shown_in_points_without_the_exits_that_are_not_cut():
    fig = ALL["ablation_heatmaps"]()
    shared, specific = fig.data
    assert [note.text for note in fig.layout.annotations] == ["surgery, without f+", "surgery, without f-"]
    assert (list(shared.y), list(shared.x)) == (["of exit 1", "of exit 2"], ["1", "2", "3"])
    assert [list(row) for row in shared.z] == [[10, 25, -1], [None, 40, 30]]
    assert list(specific.z[1]) == [None, 20, 15]
    assert fig.layout.coloraxis.cmax == 40
    with pytest.raises(ValueError, match="ablations"):
        figures.ablation_heatmaps({})


def test_probes_stand_beside_chance():
    fig = ALL["probe_accuracies"]()
    assert [trace.name for trace in fig.data[:5]] == ["f+", "f-", "half of each", "f+ and f-, all channels", "chance"]
    assert list(fig.data[0].y) == [50, None]
    assert list(fig.data[3].y) == [70, 90]
    assert list(fig.data[4].y) == [10, 10]
    assert [trace.showlegend for trace in fig.data] == [True] * 5 + [False] * 5
    assert {trace.xaxis for trace in fig.data} == {"x", "x2"}
    with pytest.raises(ValueError, match="probes"):
        figures.probe_accuracies({})


def test_every_channel_is_a_mark_and_one_that_is_always_silent_is_none():
    shared, specific = ALL["selectivities"]().data
    assert (list(shared.x), list(shared.y)) == ([1, 1, 2], [0.1, 0.2, 0.3])
    assert (list(specific.x), list(specific.y)) == ([1, 2, 2], [0.5, 0.4, 0.6])
    assert shared.marker.symbol != specific.marker.symbol


def test_pictures_come_out_pixel_for_pixel():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 5, 6), dtype=np.uint8)
    fig = figures.pictures(torch.from_numpy(images), ["a", "b", "c"], columns=2, zoom=3)
    data = base64.b64decode(fig.data[0].source.removeprefix("data:image/png;base64,"))
    sheet = np.asarray(Image.open(io.BytesIO(data)))
    high, wide = sheet.shape[0] // 2, sheet.shape[1] // 2
    for n, image in enumerate(images):
        top, left = n // 2 * high, n % 2 * wide
        assert (sheet[top : top + 5, left : left + 6, :3].transpose(2, 0, 1) == image).all()
    assert (sheet[high:, wide:, 3] == 0).all()  # the fourth place is empty
    assert [note.text for note in fig.layout.annotations] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 3, 4, 4), np.uint8),
        np.zeros((2, 3, 4, 4)),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
    ],
)
def test_pictures_of_another_kind(images):
    with pytest.raises(ValueError, match="pictures are uint8"):
        figures.pictures(images)


def test_titles_of_another_number():
    with pytest.raises(ValueError, match="1 titles for 2 pictures"):
        figures.pictures(np.zeros((2, 3, 4, 4), np.uint8), ["a"])
