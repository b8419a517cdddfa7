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
    return inference.Point(0.8, 2.5e6, share, exit_accuracy, torch.tensor([0, 0, 0, 1]))


def curve():
    macs = torch.linspace(1e6, 4e6, 40, dtype=torch.float64)
    return inference.Curve(macs, macs / 8e6, torch.zeros(40, 3), torch.ones(40))


def cost(forward, backward):
    return SimpleNamespace(forward_flops=forward, backward_flops=backward)


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


def test_learning_curves_shares_and_work():
    assert list(figures.learning_curves(RECORD).data[1].y) == pytest.approx([20, 40, 60])
    (bars,) = figures.shares(point()).data
    assert list(bars.y) == [75.0, 25.0, 0.0]
    assert list(bars.text) == ["75.0 %<br>90.0 % right", "25.0 %<br>50.0 % right", "0.0 %"]
    forward, backward = ALL["gradient_work"]().data
    assert (list(forward.x), list(backward.x)) == ([10.0, 10.0], [20.0, 15.0])


def test_time_adds_up_over_the_epochs():
    rows = [{"epoch": i, "seconds": 60 * i, "validation_accuracy": [0.1, 0.1 * i]} for i in (1, 2, 3)]
    fig = figures.accuracy_over_time({"a": {"epochs": rows}, "b": {"epochs": rows[:1]}})
    assert list(fig.data[0].x) == [1, 3, 6]
    assert list(fig.data[0].y) == pytest.approx([10, 20, 30])
    assert list(fig.data[1].x) == [1]
    assert list(figures.accuracy_over_time({"a": {"epochs": rows}}, exit=0).data[0].y) == [10, 10, 10]


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
