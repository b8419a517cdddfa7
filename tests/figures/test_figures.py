"""Figures show the numbers that they were given, in the units that they name."""

import base64
import inspect
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dfs_edu import figures, inference, probes
from dfs_edu.figures.look import FORWARD, GRADIENT, MEANINGS

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


def tracked(looks=3, exits=3):
    """Steps, and the cosine of each stage and pair; the last stage has none."""
    cosine = np.random.default_rng(0).uniform(-0.5, 0.5, (looks, exits, exits * (exits - 1) // 2))
    cosine[:, -1] = NAN
    return np.arange(looks) * 50.0, cosine


def channels():
    shared = np.array([True, True, False])
    return probes.Channels(np.array([-6.0, 0, 4]), np.array([3.0, 0, 4]), np.array([4.0, 1, 1]), shared)


def leakage():
    through = np.array([[[1.0, 0.5], [2, 0]], [[NAN, NAN], [0, 0]]])
    return probes.Leakage(np.zeros((2, 3, 2, 2)), through, np.array([4.0, 2]))


def cost(forward, backward):
    return SimpleNamespace(forward_flops=forward, backward_flops=backward)


def counted():
    """Two exits: the trunk costs 1 and 2 million MACs more, and each head half a million."""
    return SimpleNamespace(macs=np.array([1500000, 4000000]), head_macs=np.array([500000, 500000]))


def stepped():
    """Two exits after steps of three lengths along the sum, PCGrad's and UPGrad's direction."""
    slope, curvature = np.array([[-1.0, 0.5], [-0.5, -0.5], [-0.5, -0.5]]), np.full((3, 2), 0.5)
    lengths, loss, weights = np.array([0.0, 0.5, 1.0]), np.array([2.0, 1.0]), np.ones((3, 2))
    measured = np.arange(18.0).reshape(3, 3, 2)
    measured[1, 2] = NAN
    gramian = np.array([[2.0, -0.5], [-0.5, 1.0]])
    names = ("sum", "pcgrad", "upgrad")
    return probes.Steps((0, 2), names, gramian, weights, lengths, loss, slope, curvature, measured)


def flows():
    """Three exits, of which each gains one logit."""
    shared = np.array([[0.5, 0.4, 0.3], [NAN, 0.8, 0.7]])
    return SimpleNamespace(parts=lambda: (shared, 1 - shared))


def ablated():
    loss = np.array([[0.1, 0.25, -0.01], [NAN, 0.4, 0.3], [NAN, NAN, NAN]])
    return SimpleNamespace(loss=lambda part: loss if part == "shared" else loss / 2)


def probed():
    accuracy = {"shared": [0.5, NAN], "specific": [0.6, NAN], "mixed": [0.55, NAN], "whole": [0.7, 0.9]}
    return SimpleNamespace(accuracy=accuracy, chance=0.1)


RECORD = {"epochs": [{"epoch": e, "seconds": 60, "validation_accuracy": [0.1 * e, 0.2 * e]} for e in (1, 2, 3)]}
ANGLES = {
    str(a): {"g": [1, 0], "h": [math.cos(a), math.sin(a)], "sum": [1 + math.cos(a), math.sin(a)]} for a in (60, 90)
}
ALL = {
    "conflict_heatmap": lambda: figures.conflict_heatmap(report()),
    "conflict_heatmaps": lambda: figures.conflict_heatmaps({"joint": report(), "surgery": report(1)}),
    "conflict_through_training": lambda: figures.conflict_through_training(*tracked()),
    "conflict_by_depth": lambda: figures.conflict_by_depth({"joint": ([0, 50], [[0.5, 1.0, NAN], [0.25, 0.0, NAN]])}),
    "channel_conflict": lambda: figures.channel_conflict({"joint": channels(), "surgery": channels()}),
    "leakage": lambda: figures.leakage({"last": leakage(), "all": leakage()}),
    "gradient_work": lambda: figures.gradient_work(
        {"joint": cost(10**7, 2 * 10**7), "surgery": cost(10**7, 15 * 10**6)}
    ),
    "accuracy_per_exit": lambda: figures.accuracy_per_exit({"joint": [[0.5, 0.6], [0.7, 0.6]]}, {"theirs": [0.7, 0.8]}),
    "gain_per_exit": lambda: figures.gain_per_exit({"surgery": [[0.1, -0.2], [0.3, 0.2]]}, {"theirs": [0.08, 0.05]}),
    "accuracy_cost": lambda: figures.accuracy_cost({"joint": curve()}, {"joint": ([1e6, 4e6], [0.5, 0.6])}, point()),
    "learning_curves": lambda: figures.learning_curves(RECORD),
    "answers": lambda: figures.answers(ANGLES, "90", prefix="angle "),
    "arrows": lambda: figures.arrows(ANGLES["60"]),
    "steps": lambda: figures.steps(stepped(), 1),
    "agreements": lambda: figures.agreements({"at the start": [[0.5, -0.1]], "trained": [[0.2, 0]]}, ["batch 1"]),
    "seed_by_seed": lambda: figures.seed_by_seed({"mean": ([0.5, 0.6], [0.4, 0.7])}, ["joint", "surgery"]),
    "trade_off": lambda: figures.trade_off({"detached": ((-0.1, 0.02), (0.05, 0.01))}, "first exit", "last exit"),
    "weights_of_exits": lambda: figures.weights_of_exits({"sum": [1, 1, 1], "mgda": torch.tensor([0.2, 0.5, 0.3])}),
    "gaps": lambda: figures.gaps({"surgery": ([0.01, -0.02], [0.02, 0.01]), "pcgrad": ([0, NAN], [0.1, NAN])}, 2),
    "accuracy_over_time": lambda: figures.accuracy_over_time({"paper": RECORD, "full": RECORD}),
    "seeds_needed": lambda: figures.seeds_needed({"vgg7-64": {2: 4.0, 3: 1.25}}, {"exit 1": 5.0, "last exit": 1.5}),
    "shares": lambda: figures.shares(point()),
    "rates": lambda: figures.rates({1: {"torch": 500.0, "onnx": 900.0}, 128: {"torch": 1234.5, "onnx": 2000.0}}),
    "speed_ups": lambda: figures.speed_ups({"one by one": ([1, 1.5, 2], [0.9, 1.2, 1.4]), "128 at once": ([2], [1.9])}),
    "layer_work": lambda: figures.layer_work({"joint": 1, "surgery": 0.5}),
    "saved_by_network": lambda: figures.saved_by_network({"vgg7": 0.165, "vit": 0}),
    "saved_by_beta": lambda: figures.saved_by_beta([0.25, 0.5], {"theory": [0.25, 0.125], "measured": [0.2, -0.1]}),
    "pulls": lambda: figures.pulls({"joint": np.ones((4, 2)), "cut": [[1, 1], [1, 1], [1, 0], [0, 1]]}),
    "weight_gradients": lambda: figures.weight_gradients({"joint": np.ones((3, 2, 3, 3)), "cut": [[0, 3], [0, -4]]}),
    "parts_of_whole": lambda: figures.parts_of_whole({"MACs": [1e6, 4e6], "time": torch.tensor([0.5, 0.8])}),
    "waits": lambda: figures.waits({"whole": [0.002, 0.001], "early": np.linspace(0, 1, 1000)}),
    "reliability": lambda: figures.reliability({"as trained": diagram(), "calibrated": diagram(1)}),
    "shares_by": lambda: figures.shares_by({"one": point(), "other": point()}),
    "by_exit": lambda: figures.by_exit({"joint": {"f+": [0.1, 0.2], "f-": [0.3, NAN]}}, "Alike", "CKA", unit=True),
    "costs": lambda: figures.costs({"one": (counted(), [0.25, 0.5]), "other": (counted(), None)}),
    "gaps_by_cost": lambda: figures.gaps_by_cost(
        {"one": ([1e6, 4e6], [[0.01, -0.02], [0.03, -0.06]]), "other": ([1e6, 2e6, 3e6], [[0.1, 0.2, 0.3]])}
    ),
    "cuts": lambda: figures.cuts({"price 0": np.arange(500) % 300, "price 1": np.arange(500)[::-1]}),
    "budget_differences": lambda: figures.budget_differences([1e6, 2e6], {"a": ([0.1, 0.2], [0, 0.1], [0.2, 0.4])}),
    "cka_heatmaps": lambda: figures.cka_heatmaps({"joint": np.eye(3), "surgery": np.ones((3, 3))}, ["1+", "1-", "2"]),
    "ablation_heatmaps": lambda: figures.ablation_heatmaps({"surgery": ablated()}),
    "probe_accuracies": lambda: figures.probe_accuracies({"joint": probed(), "surgery": probed()}),
    "selectivities": lambda: figures.selectivities({"f+": [[0.1, 0.2], [NAN, 0.3]], "f-": [[0.5], [0.4, 0.6]]}),
    "pictures": lambda: figures.pictures(np.zeros((2, 3, 4, 4), np.uint8), ["a", "b"], "Two pictures"),
    "predictions": lambda: figures.predictions(["ant"], [["✓ ant"], ["✗ bee"]], [[True], [False]], [[0.5], [0.25]]),
    "looks": lambda: figures.looks(np.zeros((2, 3, 4, 4), np.uint8), np.ones((3, 2, 4, 4)), ["a", "b"]),
    "conductances": lambda: figures.conductances({"joint": flows(), "surgery": flows()}),
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


LINK = '<a href="//x.y">&'


def poisoned(value):
    """The same with a link in front of every name; the fields of a record stay."""
    if isinstance(value, str):
        return LINK + value
    if isinstance(value, dict) and "epochs" not in value:
        return {poisoned(name): poisoned(inside) for name, inside in value.items()}
    return [poisoned(inside) for inside in value] if isinstance(value, list) else value


def texts(value):
    """All texts inside a figure's plain values."""
    if isinstance(value, str):
        yield value
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(inside)


@pytest.mark.parametrize("name", ALL)
def test_names_are_shown_as_they_are_and_never_as_markup(name, monkeypatch):
    """A folder of images, or a run, may be called as it likes: plotly would make a link of it."""
    draw = getattr(figures, name)

    def with_links(*args, **options):
        given = inspect.signature(draw).bind(*args, **options).arguments | {"title": ""}
        return draw(**{argument: poisoned(value) for argument, value in given.items()})

    monkeypatch.setattr(figures, name, with_links)
    shown = list(texts(json.loads(ALL[name]().to_json())))
    assert not [text for text in shown if "<a" in text or "&<" in text]
    assert shown.count('&lt;a href="//x.y">&amp;') == 1  # the title, escaped once
    titled_alone = ("conflict_heatmap", "conflict_through_training", "learning_curves", "shares", "steps")
    assert name in titled_alone or len([text for text in shown if "&lt;a" in text]) > 1


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


def colour_at(value, scale):
    """The colour of a value on plotly's scale from -1 to 1, as (r, g, b)."""
    place = (value + 1) / 2
    stops, colours = zip(*scale, strict=True)
    upper = next(i for i, stop in enumerate(stops) if stop > place)
    low, high = (np.array([int(colours[i][j : j + 2], 16) for j in (1, 3, 5)]) for i in (upper - 1, upper))
    return low + (high - low) * (place - stops[upper - 1]) / (stops[upper] - stops[upper - 1])


def test_small_cosines_differ_from_each_other_and_from_zero():
    scale = figures.conflict_heatmap(report()).layout.coloraxis.colorscale
    zero = colour_at(0, scale)
    assert np.ptp(zero) == 0  # grey
    for small in (1e-6, 1e-3, 0.02):
        plus, minus = colour_at(small, scale), colour_at(-small, scale)
        assert plus[2] > plus[0] + 20  # blue
        assert minus[0] > minus[2] + 20  # red
        assert min(np.abs(plus - zero).max(), np.abs(minus - zero).max()) > 60
    for a, b in ((0.02, 0.1), (0.1, 0.3), (0.3, 0.8)):
        assert all(np.abs(colour_at(s * a, scale) - colour_at(s * b, scale)).max() > 40 for s in (1, -1))


def test_only_an_exact_zero_is_drawn_as_zero():
    given = report()
    given.cosine[0, 0, 1:] = [0, -1e-12]
    given.cosine[1, 0, 1:] = [0.00041234, -0.123456]
    (map_,) = figures.conflict_heatmap(given).data
    assert list(map_.z[0][:2]) == [0, -1e-6]
    assert list(map_.z[1][:2]) == [0.000412, -0.123]
    step, cosine = tracked()
    cosine[2, 0] = [0, 1e-4, -0.1234]
    assert list(figures.conflict_through_training(step, cosine).data[0].z[0]) == [0, 1e-4, -0.12]


def test_every_column_of_a_heatmap_is_labelled():
    several = {"joint": report(exits=6), "surgery": report(1, exits=6)}
    figs = figures.conflict_heatmaps(several), figures.conflict_through_training(*tracked(3, 6))
    for axis in (figs[0].layout.xaxis, figs[0].layout.xaxis2, figs[1].layout.xaxis):
        assert (axis.tickmode, len(axis.ticktext), list(axis.tickvals)) == ("array", 15, list(range(15)))
        assert axis.tickangle == -90
    assert figures.conflict_heatmap(report()).layout.xaxis.tickangle == 0


def test_heatmaps_share_one_scale_from_minus_one_to_one():
    weak, strong = report(), report(1)
    strong.cosine[0, 0, 2] = -0.87
    fig = figures.conflict_heatmaps({"weak": weak, "strong": strong})
    assert [trace.coloraxis for trace in fig.data] == ["coloraxis"] * 2
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (-1, 1)
    assert [note.text for note in fig.layout.annotations] == ["weak", "strong"]
    with pytest.raises(ValueError, match="reports"):
        figures.conflict_heatmaps({})


def test_heatmap_of_nothing_but_nan():
    empty = report()
    empty.cosine[:] = NAN
    assert all(value is None for row in figures.conflict_heatmap(empty).data[0].z for value in row)


def test_one_frame_per_step_on_one_scale():
    step, cosine = tracked()
    cosine[1, 0, 2] = -0.87
    fig = figures.conflict_through_training(step, cosine)
    (shown,) = fig.data
    assert (shown.zmin, shown.zmax) == (-1, 1)
    assert list(shown.x) == ["1·2", "1·3", "2·3"]
    assert list(shown.y) == ["stage 1", "stage 2", "stage 3"]
    assert [frame.name for frame in fig.frames] == ["0", "50", "100"]
    for frame, look in zip(fig.frames, cosine, strict=True):
        np.testing.assert_allclose(np.array(frame.data[0].z, dtype=float), look, atol=5e-3)
    assert shown.z == fig.frames[-1].data[0].z
    (slider,) = fig.layout.sliders
    assert slider.active == 2
    assert [step.args[0][0] for step in slider.steps] == ["0", "50", "100"]
    with pytest.raises(ValueError, match="step="):
        figures.conflict_through_training([], np.zeros((0, 3, 3)))


def test_a_slider_has_thirty_frames_at_most_and_stays_small():
    fig = figures.conflict_through_training(*tracked(200, 6))
    assert len(fig.frames) == 30
    assert (fig.frames[0].name, fig.frames[-1].name) == ("0", "9950")
    assert len(fig.to_json()) < 30_000


def test_stages_have_panels_and_runs_share_them():
    share = np.array([[0.5, 1, NAN], [0.25, 0, NAN]])
    fig = figures.conflict_by_depth({"joint": ([0, 50], share), "surgery": ([0, 50], share / 2)})
    assert [note.text for note in fig.layout.annotations] == ["stage 1", "stage 2"]  # no exits meet in the third
    first, second, other, _ = fig.data
    assert (list(first.x), list(first.y), list(second.y)) == ([0, 50], [50, 25], [100, 0])
    assert list(other.y) == [25, 12.5]
    assert (first.xaxis, second.xaxis, other.xaxis) == ("x", "x2", "x")
    assert [trace.showlegend for trace in fig.data] == [True, False, True, False]
    assert first.line.dash != other.line.dash
    with pytest.raises(ValueError, match="nothing"):
        figures.conflict_by_depth({"nothing": ([0], [[NAN]])})


def test_networks_of_different_depth_share_the_panels_that_both_have():
    fig = figures.conflict_by_depth({"deep": ([0], [[0.5, 1, NAN]]), "flat": ([0], [[0.25, NAN]])})
    assert [trace.name for trace in fig.data] == ["deep", "deep", "flat", "flat"]


def test_channels_are_bars_of_two_parts():
    shared, specific, *_ = ALL["channel_conflict"]().data
    assert (list(shared.x), list(specific.x)) == ([1, 2], [3])
    np.testing.assert_allclose([*shared.y, *specific.y], channels().contribution(), atol=1e-5)
    assert shared.marker.pattern.shape != specific.marker.pattern.shape
    with pytest.raises(ValueError, match="reports"):
        figures.channel_conflict({})


def test_leaking_paths_are_bars_over_the_own_gradient():
    bars = ALL["leakage"]().data[:4]
    assert [bar.name for bar in bars[::2]] == ["f+, shared, finest scale", "f+, shared, coarsest scale"]
    assert [list(bar.y) for bar in bars] == [[0.25, None], [0.125, None], [0.5, 0], [0, 0]]
    assert list(bars[0].x) == [1, 2]
    with pytest.raises(ValueError, match="reports"):
        figures.leakage({})


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


def test_gains_in_points_around_a_line_at_zero():
    fig = ALL["gain_per_exit"]()
    surgery, theirs = fig.data
    assert list(surgery.y) == [20.0, 0.0]
    assert list(theirs.y) == [8.0, 5.0]
    assert "published" in theirs.name
    assert [line.y0 for line in fig.layout.shapes] == [0]
    assert "points" in fig.layout.yaxis.title.text


def test_accuracy_cost_in_percent_and_millions():
    line, marks, now = ALL["accuracy_cost"]().data
    assert (line.x[0], line.y[0]) == (1.0, 12.5)
    assert list(marks.x) == [1.0, 4.0]
    assert list(marks.text) == ["1", "2"]
    assert (now.x[0], now.y[0]) == (2.5, 80.0)


def test_bands_are_behind_their_line_and_not_in_the_legend():
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


def test_a_bar_of_trunk_and_heads_ends_where_the_last_exit_leaves():
    trunk, heads, exits = ALL["costs"]().data
    assert (list(trunk.base)[:2], list(trunk.x)[:2]) == ([0, 1.5], [1.0, 2.0])
    assert (list(heads.base)[:2], list(heads.x)[:2]) == ([1.0, 3.5], [0.5, 0.5])
    assert list(exits.x) == [1.5, 4.0, 1.5, 4.0]
    assert list(exits.text) == ["25", "50", "1", "2"]
    assert list(trunk.y) == ["one", "one", "other", "other"]


def test_differences_over_cost_reach_from_the_lowest_seed_to_the_highest():
    one, other = (trace for trace in ALL["gaps_by_cost"]().data)
    assert (list(one.x), list(one.y)) == ([25.0, 100.0], [2.0, -4.0])
    assert (list(one.error_y.array), list(one.error_y.arrayminus)) == ([1.0, 2.0], [1.0, 2.0])
    assert other.name == "other (n = 1)"
    assert other.error_y.array is None


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


def test_reliability_shows_the_bins_that_hold_images():
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


def test_gains_are_level_lines_across_the_widths():
    fig = ALL["seeds_needed"]()
    (line,) = fig.data
    assert (list(line.x), list(line.y)) == ([2, 3], [4.0, 1.25])
    assert [(shape.y0, shape.y1) for shape in fig.layout.shapes] == [(5.0, 5.0), (1.5, 1.5)]
    assert [note.text for note in fig.layout.annotations] == ["exit 1: +5.0", "last exit: +1.5"]
    assert fig.layout.yaxis.range[1] > 5


def test_rates_stand_side_by_side():
    one, many = ALL["rates"]().data
    assert (list(one.x), list(one.y), one.name) == (["torch", "onnx"], [500, 900], "one by one")
    assert (list(many.y), many.name, list(many.text)) == ([1234.5, 2000], "128 at once", ["1,234", "2,000"])


def test_measured_speed_ups_are_beside_the_promised_ones():
    promise, one, many = ALL["speed_ups"]().data
    assert (list(promise.x), list(promise.y)) == ([1, 2], [1, 2])
    assert (list(one.x), list(one.y), list(many.y)) == ([1, 1.5, 2], [0.9, 1.2, 1.4], [1.9])


def test_what_is_saved_in_percent():
    theory, measured = ALL["saved_by_beta"]().data
    assert (list(theory.x), list(theory.y), list(measured.y)) == ([0.25, 0.5], [25, 12.5], [20, -10])


def test_a_layer_computes_what_is_used_of_its_input_gradient():
    forward, weights, inputs, unused = figures.layer_work({"joint": 1, "surgery": 0.25}).data
    assert list(forward.x) == list(weights.x) == [1, 1]
    assert (list(inputs.x), list(unused.x)) == ([1, 0.25], [0, 0.75])
    assert list(unused.text) == ["", "not computed"]
    with pytest.raises(ValueError, match="computed"):
        figures.layer_work({})


def test_what_networks_save_in_percent():
    (bars,) = figures.saved_by_network({"vgg7": 0.165, "vit": 0}).data
    assert list(bars.x) == [16.5, 0]
    assert list(bars.text) == ["16.5 %", "0.0 %"]


def test_a_line_keeps_its_colour_in_every_panel():
    fig = figures.by_exit({"a": {"f+": [0.1, 0.2]}, "b": {"f-": [0.3], "f+": [0.4]}}, "Alike", "CKA")
    first, other, again = fig.data
    assert first.line.color == again.line.color != other.line.color
    assert [trace.showlegend for trace in fig.data] == [True, True, False]
    assert (first.xaxis, again.xaxis) == ("x", "x2")
    with pytest.raises(ValueError, match="values"):
        figures.by_exit({}, "Alike", "CKA")


def test_shares_of_a_channel_are_intensities():
    joint, cut = ALL["pulls"]().data
    assert [list(row) for row in joint.z] == [[1, 1], [1, 1], [-1, -1], [-1, -1]]
    assert [list(row) for row in cut.z] == [[1, 1], [1, 1], [-1, 0], [0, -1]]
    assert list(cut.y) == ["deeper exits see", "this exit sees", "deeper exits pull", "this exit pulls"]
    equal = figures.pulls({"joint": np.ones((4, 2)), "equilibrium": [[1, 1], [1, 1], [0.75, 0.75], [0.25, 0.25]]})
    assert [list(row) for row in equal.data[1].text] == [["1", "1"], ["1", "1"], ["0.75", "0.75"], ["0.25", "0.25"]]
    assert equal.data[0].z != equal.data[1].z
    scale = equal.layout.coloraxis.colorscale
    assert not any(figures.COLOURS[1] in colour for _, colour in scale)  # vermilion is f-
    wide = figures.pulls({"joint": np.ones((4, 25))}).data[0]
    assert (wide.texttemplate, equal.data[0].texttemplate) == (None, "%{text}")
    with pytest.raises(ValueError, match="junctions="):
        figures.pulls({})


def outlined(fig):
    """(axes, left, right, top, bottom) of each outline, in whole cells, from 0."""
    return [
        (s.xref + s.yref, math.ceil(s.x0), math.floor(s.x1), math.ceil(s.y0), math.floor(s.y1))
        for s in fig.layout.shapes
    ]


def test_exact_zeros_of_a_heatmap_are_outlined():
    assert outlined(figures.conflict_heatmap(report())) == []
    assert outlined(ALL["pulls"]()) == [("x2y2", 1, 1, 2, 2), ("x2y2", 0, 0, 3, 3)]
    given = report()
    given.cosine[:2, 0, 1] = given.cosine[:2, 0, 2] = given.cosine[1, 1, 2] = 0
    given.cosine[0, 1, 2] = -1e-12  # not exactly
    assert outlined(figures.conflict_heatmaps({"a": report(1), "b": given})) == [
        ("x2y2", 0, 1, 0, 0),
        ("x2y2", 0, 2, 1, 1),
    ]


def test_gradients_of_weights_are_lengths_of_the_longest():
    joint, cut = ALL["weight_gradients"]().data
    assert [list(row) for row in joint.z] == [[1, 1]] * 3
    assert [list(row) for row in cut.z] == [[0, 0.75], [0, 1]]
    assert outlined(ALL["weight_gradients"]()) == [("x2y2", 0, 0, 0, 1)]
    assert [list(row) for row in figures.weight_gradients({"": np.zeros((1, 2))}).data[0].z] == [[0, 0]]
    with pytest.raises(ValueError, match="gradients="):
        figures.weight_gradients({})


def test_forward_gradient_and_the_two_parts_have_one_colour_each():
    assert len(set(MEANINGS.values())) == 4
    cut = ALL["pulls"]()
    colours = [colour for _, colour in cut.layout.coloraxis.colorscale]
    assert (colours[0], colours[-1]) == (GRADIENT, FORWARD)
    assert [bar.marker.color for bar in ALL["gradient_work"]().data] == [FORWARD, GRADIENT]
    for name in ("channel_conflict", "leakage", "conductances"):
        bars = {bar.name[:2]: bar.marker.color for bar in ALL[name]().data}
        assert bars == {"f+": MEANINGS["shared"], "f-": MEANINGS["specific"]}


def test_costs_are_parts_of_the_last_exits():
    macs, time = ALL["parts_of_whole"]().data
    assert (list(macs.x), list(macs.y), list(time.y)) == ([1, 2], [25, 100], pytest.approx([62.5, 100]))


def test_waits_are_sorted_and_end_with_all_images():
    whole, early = ALL["waits"]().data
    assert (list(whole.x), list(whole.y)) == ([1, 2], [50, 100])
    assert len(early.x) == 200
    assert (early.x[-1], early.y[-1]) == (1000, 100)


def test_similarity_is_shown_from_0_to_1():
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


def test_images_are_drawn_pixel_for_pixel():
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
def test_images_of_another_kind(images):
    with pytest.raises(ValueError, match="give uint8"):
        figures.pictures(images)


def test_titles_of_another_number():
    with pytest.raises(ValueError, match="1 titles for 2 images"):
        figures.pictures(np.zeros((2, 3, 4, 4), np.uint8), ["a"])


def test_arrows_start_at_the_origin_and_the_slider_names_each_case():
    fig = figures.answers(ANGLES, "90")
    assert [(trace.x[0], trace.y[0]) for trace in fig.data] == [(0, 0)] * 3
    for trace, vector in zip(fig.data, ANGLES["90"].values(), strict=True):
        assert [trace.x[1], trace.y[1]] == pytest.approx(vector, abs=1e-3)
    assert [frame.name for frame in fig.frames] == list(ANGLES)
    (slider,) = fig.layout.sliders
    assert slider.active == 1
    assert [step.args[0] for step in slider.steps] == [("60",), ("90",)]
    assert fig.frames[0].data[2].x[1] == pytest.approx(1 + math.cos(60), abs=1e-3)


def test_arrows_of_every_case_fit_and_fill_the_figure():
    """Of the answers no one goes left or far up: room that no arrow uses would make all of them small."""
    fig = figures.answers({"a": {"g": (1, 0), "h": (0.5, 0.4)}, "b": {"g": (1, 0), "h": (-0.2, 0.1)}}, "a")
    (left, right), (bottom, top) = fig.layout.xaxis.range, fig.layout.yaxis.range
    assert -0.6 < left < -0.2
    assert 1 < right < 1.4
    assert -0.4 < bottom < 0
    assert 0.4 < top < 0.8


def test_a_step_is_predicted_and_measured_beside_each_other():
    line, curve, measured, second_line, _, second = figures.steps(stepped(), 1).data
    assert (list(line.x), list(line.y), list(curve.y)) == ([0, 0.5, 1], [2, 1.75, 1.5], [2, 1.8125, 1.75])
    assert (list(measured.y), list(second.y)) == ([6, 8, None], [7, 9, None])
    assert list(second_line.y) == [1, 0.75, 0.5]


def test_a_slider_is_grey_in_both_themes():
    """By default plotly draws it white, which glares on a dark page."""
    fig = figures.answers(ANGLES, "90")
    (slider,) = fig.layout.sliders
    assert {slider.bgcolor, slider.bordercolor, slider.tickcolor} == {fig.layout.template.layout.font.color}


def test_a_filled_mark_is_an_interval_without_zero():
    fig = figures.gaps({"a": ([0.03, 0.01, -0.05], [0.02, 0.02, 0.01]), "b": ([0, 0, 0], [0.1, 0.1, 0.1])}, exits=2)
    assert [note.text for note in fig.layout.annotations] == ["exit 1", "exit 2", "mean of exits"]
    assert [trace.marker.symbol[0] for trace in fig.data] == ["circle", "circle-open", "circle"]
    assert [trace.x[0] for trace in fig.data] == pytest.approx([3, 1, -5])
    assert [trace.error_x.array[0] for trace in fig.data] == pytest.approx([2, 2, 1])
    assert [trace.marker.color[0] for trace in fig.data] == [figures.COLOURS[0], figures.COLOURS[0], figures.COLOURS[1]]


def test_a_trade_off_has_each_difference_on_its_own_axis():
    (mark,) = figures.trade_off({"detached": ((-0.1, 0.02), (0.05, 0.01))}, "first exit", "last exit").data
    assert (mark.x, mark.y, mark.error_x.array, mark.error_y.array) == ((-10,), (5,), (2,), (1,))


def test_seeds_are_lines_from_arm_to_arm():
    fig = figures.seed_by_seed({"a": ([0.5, 0.6], [0.4, 0.7]), "b": ([0, 0], [1, 1])}, ["joint", "surgery"])
    assert [list(trace.y) for trace in fig.data] == [[50, 40], [60, 70], [0, 100], [0, 100]]
    assert [trace.name for trace in fig.data if trace.showlegend] == ["seed 0", "seed 1"]
    assert all(trace.x == ("joint", "surgery") for trace in fig.data)


def test_agreement_is_coloured_by_its_sign():
    fig = figures.agreements({"start": [[0.5, -0.1], [0.25, 0]], "end": [[1, 1], [1, 1]]}, ["batch 1", "batch 2"])
    assert [list(row) for row in fig.data[0].z] == [[0.5, -0.1], [0.25, 0]]
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (-1, 1)
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.agreements({}, [])


def pixels(address: str) -> np.ndarray:
    """The picture inside an address, (H, W, 4)."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)


def test_heat_is_a_part_of_nearly_the_most():
    rising = np.arange(-100, 301.0).reshape(1, 401)  # its 99th percentile is 296
    maps = np.stack([rising, 1000 * rising, -np.abs(rising), np.eye(1, 401)])
    found = figures.heat(maps)
    assert found[0, 0, [0, 100, 248, 396, 400]] == pytest.approx([0, 0, 148 / 296, 1, 1])
    assert (found[1] == found[0]).all()
    assert (found[2] == 0).all()
    assert (found[3] == np.eye(1, 401)).all()  # less than a hundredth of the pixels, and yet there


def test_overlay_has_one_row_per_image_and_one_column_per_exit():
    maps = np.zeros((2, 3, 4, 5))
    maps[1, 2, :, :2] = 7
    maps[0, 1] = np.linspace(0, 1, 20).reshape(4, 5)
    sheet = pixels(figures.overlay(maps)).reshape(2, 4, 3, 5, 4).transpose(0, 2, 1, 3, 4)
    hot, cold = figures.images.HEAT[[-1, 0]]
    assert (sheet[1, 2, :, :2] == hot).all()
    assert (sheet[1, 2, :, 2:] == cold).all()
    assert (sheet[1, 0] == cold).all()
    light = sheet[0, 1, ..., :3].sum(-1).ravel()
    assert (np.diff(light) >= 0).all()
    assert len(np.unique(light)) == figures.images.LEVELS


def test_a_map_of_32x32_takes_half_a_kilobyte_at_most():
    maps = np.random.default_rng(0).random((4, 6, 32, 32))  # noise, which no PNG makes smaller
    assert len(figures.overlay(maps)) < 24 * 750


def test_maps_are_beside_their_images():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    images[1, 0] = 200  # red
    maps = np.zeros((3, 2, 4, 4))
    maps[2, 1, 0, 0] = 5
    fig = figures.looks(images, maps, ["ant", "bee"], [["a", "b"], ["c", "d"], ["e", "f"]], zoom=2)
    sheet = pixels(fig.data[0].source)
    high, wide = sheet.shape[0] // 2, sheet.shape[1] // 4
    tile = sheet.reshape(2, high, 4, wide, 4).transpose(0, 2, 1, 3, 4)[:, :, :4, :4]
    assert np.abs(tile[1, 0] - [200, 0, 0, 255]).max() <= 8  # a palette of 128 colours
    assert np.ptp(tile[1, 1, ..., :3], axis=-1).max() <= 8  # grey where nothing speaks
    assert np.ptp(tile[1, 3, 0, 0, :3]) > 80
    assert np.ptp(tile[1, 3, 1:, :, :3], axis=-1).max() <= 8
    texts = [note.text for note in fig.layout.annotations]
    assert texts == ["ant", "a", "c", "e", "bee", "b", "d", "f", "image", "exit 1", "exit 2", "exit 3"]


def test_predictions_are_blue_if_right_and_stronger_if_confident():
    right, confidence = [[True, False], [True, True]], [[0.5, 0.25], [1.0, 0.75]]
    fig = figures.predictions(["1 ant", "2 bee"], [["✓ ant", "✗ ant"], ["✓ ant", "✓ bee"]], right, confidence)
    assert [list(row) for row in fig.data[0].z] == [[0.5, 1.0], [-0.25, 0.75]]
    assert [list(row) for row in fig.data[0].text] == [["✓ ant", "✓ ant"], ["✗ ant", "✓ bee"]]
    assert (fig.data[0].zmin, fig.data[0].zmax) == (-1, 1)
    with pytest.raises(ValueError, match=r"1 names, answers \(2, 2\)"):
        figures.predictions(["1 ant"], [["a", "b"], ["c", "d"]], right, confidence)


def test_maps_that_do_not_fit():
    images, maps = np.zeros((2, 3, 4, 4), np.uint8), np.zeros((3, 2, 4, 4))
    with pytest.raises(ValueError, match="float64"):
        figures.looks(images / 255, maps)
    with pytest.raises(ValueError, match=r"maps of shape \(3, 1, 4, 4\)"):
        figures.looks(images, maps[:, :1])
    with pytest.raises(ValueError, match="give 2 names, and 2 texts of each of 3 exits"):
        figures.looks(images, maps, ["ant", "bee"], [["a", "b"]])


def test_conductances_by_hand():
    fig = figures.conductances({"one": flows()})
    own_shared, last_shared, own_specific, last_specific = (list(bar.y) for bar in fig.data)
    assert own_shared == pytest.approx([0.5, 0.8])
    assert last_shared == pytest.approx([0.3, 0.7])
    assert own_specific == pytest.approx([0.5, 0.2])
    assert last_specific == pytest.approx([0.7, 0.3])
    with pytest.raises(ValueError, match="reports"):
        figures.conductances({})
