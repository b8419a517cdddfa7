"""The threshold explorer from Python, without a page; the browser's side is in test_browser.py."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from dfs_edu import inference
from dfs_edu.inference import Outputs
from dfs_edu.widgets import page
from dfs_edu.widgets.explorer import GALLERY, ThresholdExplorer, side_by_side

MACS = [1e6, 3e6, 8e6]
CLASSES = ["ant", "bee", "cat", "dog"]


def outputs(split, N=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(4, (N,), generator=generator)
    right = torch.rand(3, N, generator=generator) < torch.tensor([[0.5], [0.7], [0.9]])
    return Outputs(torch.rand(3, N, generator=generator), torch.where(right, label, (label + 1) % 4), label, split)


def images(N=200):
    return np.random.default_rng(0).integers(0, 256, (N, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def explorer():
    return ThresholdExplorer(outputs("validation"), outputs("test", seed=1), MACS, images(), CLASSES)


def spent_on_validation(explorer):
    return inference.apply(outputs("validation"), explorer.thresholds, MACS).macs


def assert_shows(explorer, thresholds):
    """The result is that of `thresholds` on the test split."""
    point = inference.apply(outputs("test", seed=1), thresholds, MACS)
    assert explorer.thresholds == pytest.approx(list(map(float, thresholds)), abs=1e-7)
    assert explorer.point.accuracy == point.accuracy
    assert explorer.point.macs == point.macs
    assert explorer.point.share.tolist() == point.share.tolist()


def test_it_starts_at_the_budget_in_the_middle(explorer):
    assert explorer.budget == 4.5e6
    assert_shows(explorer, inference.best_thresholds(outputs("validation"), MACS, [4.5e6])[0])
    assert explorer.fitted


@pytest.mark.parametrize("budget", [1e6, 2.2e6, 8e6])
def test_the_budget_sets_the_thresholds(explorer, budget):
    explorer.budget = budget
    assert_shows(explorer, inference.best_thresholds(outputs("validation"), MACS, [budget])[0])
    assert explorer.budget == budget
    assert spent_on_validation(explorer) <= budget
    assert explorer.fitted


@pytest.mark.parametrize("thresholds", [[0.9, 0.4, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
def test_thresholds_by_hand_and_what_they_cost(explorer, thresholds):
    explorer.thresholds = thresholds
    assert_shows(explorer, thresholds)
    assert explorer.budget == pytest.approx(spent_on_validation(explorer))
    assert not explorer.fitted


def test_it_says_why_a_slider_changes_nothing():
    """Exit 1 is never right, nor more confident than 0.49, exit 2 than 0.89; exit 3 is right less often than exit 2."""
    parts = []
    for split in ("validation", "test"):
        confidence = torch.rand(3, 400, generator=torch.Generator().manual_seed(0))
        confidence *= torch.tensor([[0.49], [0.89], [1]])
        label = torch.zeros(400, dtype=torch.int64)
        prediction = torch.stack([label + 1, label, torch.arange(400) % 2])
        parts.append(Outputs(confidence, prediction, label, split))
    explorer = ThresholdExplorer(*parts, MACS)

    explorer.budget = 8e6
    assert explorer.idle[0].startswith("From 3.030 MMACs onwards a larger budget changes nothing: on validation")
    explorer.thresholds = [0.0, 0.5, 0.0]
    assert explorer.idle == [
        "No image gets past exit 1, whose threshold lets all leave: what is set for exit 2 changes nothing."
    ]
    explorer.thresholds = [0.48, 0.5, 0.0]
    assert explorer.idle == []
    explorer.thresholds = [0.5, 0.5, 0.0]
    assert explorer.idle == [
        "Raising its threshold further changes next to nothing at exit 1: of the images that get there, 99 % are less "
        "confident than 0.500."
    ]
    explorer.thresholds = [0.7, 1.0, 0.0]
    assert explorer.idle == [
        "Raising their thresholds further changes next to nothing at exits 1 and 2: of the images that get there, 99 % "
        "are less confident than 0.500 and 0.900, respectively."
    ]


def test_any_budget_in_between_is_found_as_well(explorer):
    explorer.budget = 3.33e6
    assert spent_on_validation(explorer) <= 3.33e6
    assert_shows(explorer, inference.best_thresholds(outputs("validation"), MACS, [3.33e6])[0])


def test_two_side_by_side_spend_the_same_part(explorer):
    expensive = [2 * m for m in MACS]
    other = ThresholdExplorer(outputs("validation", seed=2), outputs("test", seed=3), expensive, images(), CLASSES)
    box = side_by_side({"joint": explorer, "surgery": other})
    assert list(box.children) == [explorer, other]
    assert (explorer.setup["title"], other.setup["title"]) == ("joint", "surgery")
    explorer.budget = 2.4e6
    assert other.budget == pytest.approx(4.8e6)
    assert other.fitted
    other.thresholds = [0.9, 0.4, 0.0]
    assert other.thresholds == [0.9, 0.4, 0.0]
    assert explorer.budget == pytest.approx(other.budget / 2)
    with pytest.raises(ValueError, match="1 widgets: give at least two"):
        side_by_side({"joint": explorer})


def test_the_page_gets_the_images_in_their_order(explorer):
    smooth = np.repeat(np.arange(0, 200, dtype=np.uint8), 3 * 32 * 32).reshape(200, 3, 32, 32)  # JPEG keeps these
    explorer = ThresholdExplorer(outputs("validation"), outputs("test"), MACS, torch.from_numpy(smooth), CLASSES)
    data = base64.b64decode(explorer.setup["sprite"].removeprefix("data:image/jpeg;base64,"))
    sheet = np.asarray(Image.open(io.BytesIO(data))).reshape(GALLERY, 32, 32, 3)
    assert np.abs(sheet.astype(int) - np.arange(GALLERY)[:, None, None, None]).max() <= 1
    assert explorer.setup["labels"] == outputs("test").label[:GALLERY].tolist()
    assert explorer.setup["splits"] == [["validation", 400], ["test", 400]]


def test_it_works_without_images():
    bare = ThresholdExplorer(outputs("validation"), outputs("test", seed=1), MACS)
    assert (bare.setup["sprite"], bare.setup["labels"], bare.setup["predictions"]) == ("", [], [[], [], []])
    bare.thresholds = [0.9, 0.4, 0.0]
    assert_shows(bare, [0.9, 0.4, 0.0])


def test_the_page_gets_the_outputs_once_and_compact():
    """10,000 images and 7 exits, as on CIFAR-100, are well below a megabyte, besides the images."""
    K, N = 7, 10_000
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(100, (N,), generator=generator)
    prediction = torch.where(torch.rand(K, N, generator=generator) < 0.6, label, (label + 1) % 100)
    test = Outputs(torch.rand(K, N, generator=generator), prediction, label, "test")
    validation = Outputs(test.confidence[:, :5000], prediction[:, :5000], label[:5000], "validation")
    explorer = ThresholdExplorer(validation, test, torch.arange(1, K + 1), images(), list(map(str, range(100))))
    assert len(explorer.outputs) < 400_000
    arrays = unpacked(explorer.outputs, explorer.setup["layout"])
    assert (arrays["confidence"] == test.confidence.numpy()).all()
    assert (arrays["validation"] == validation.confidence.numpy()).all()
    assert (arrays["correct"] == test.correct.numpy()).all()
    assert arrays["best"].shape == (101, K)


def unpacked(values: bytes, layout) -> dict[str, np.ndarray]:
    values, at, arrays = zlib.decompress(values), 0, {}
    for name, kind, shape in layout:
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(values, kind, count, at).reshape(shape)
        at += count * np.dtype(kind).itemsize
    assert at == len(values)
    return arrays


class Comm:
    """The kernel's end of the line to the page: it keeps what was sent."""

    kernel, comm_id = True, "1"

    def __init__(self):
        self.sent = []

    def send(self, data, **_):
        if data["method"] == "update":
            self.sent.append(data["state"])

    def on_msg(self, _):
        pass

    def close(self):
        pass


def test_a_move_of_the_page_is_taken_and_not_answered(explorer):
    """The page has computed what follows; an answer would come late and pull a dragged slider back."""
    explorer.comm = comm = Comm()
    explorer.set_state({"thresholds": [0.9, 0.4, 0.0], "budget": 5e6, "fitted": False})
    assert comm.sent == []
    assert (explorer.thresholds, explorer.budget, explorer.fitted) == ([0.9, 0.4, 0.0], 5e6, False)
    assert_shows(explorer, [0.9, 0.4, 0.0])
    explorer.budget = 2e6  # and Python's are sent, few bytes each
    assert {name for state in comm.sent for name in state} == {"budget", "thresholds", "fitted"}
    assert len(json.dumps(comm.sent)) < 500


def test_the_page_leads_the_explorers_beside_it(explorer):
    other = ThresholdExplorer(outputs("validation", seed=2), outputs("test", seed=3), MACS, images(), CLASSES)
    side_by_side({"joint": explorer, "surgery": other})
    assert explorer.setup["group"] == other.setup["group"] != ""
    before = list(other.thresholds)
    explorer.set_state({"thresholds": [0.9, 0.4, 0.0], "budget": 5e6, "fitted": False})
    assert other.thresholds == before  # the page moves it, and says so by itself


@pytest.mark.parametrize(
    ("trait", "value", "says"),
    [
        ("thresholds", [0.5, 0.0], "2"),
        ("thresholds", [0.5, 0.5, 0.5], "last exit takes all"),
        ("thresholds", [1.5, 0.5, 0.0], "1.5"),
        ("thresholds", [float("nan"), 0.5, 0.0], "nan"),
        ("budget", 0.9e6, "900000"),
        ("budget", 8.1e6, "8100000"),
        ("budget", float("nan"), "nan"),
    ],
)
def test_wrong_values_change_nothing(explorer, trait, value, says):
    before = explorer.get_state()
    with pytest.raises(traitlets.TraitError, match=says):
        setattr(explorer, trait, value)
    assert explorer.get_state() == before


def test_wrong_arguments():
    validation, test = outputs("validation"), outputs("test")
    with pytest.raises(ValueError, match="fitted on validation"):
        ThresholdExplorer(test, validation, MACS, images(), CLASSES)
    with pytest.raises(ValueError, match="macs"):
        ThresholdExplorer(validation, test, MACS[:2], images(), CLASSES)
    with pytest.raises(ValueError, match=r"first M of the 400"):
        ThresholdExplorer(validation, test, MACS, images(401), CLASSES)
    with pytest.raises(ValueError, match=r"float64"):
        ThresholdExplorer(validation, test, MACS, images() / 255, CLASSES)
    with pytest.raises(ValueError, match="3 class names: the outputs need 4"):
        ThresholdExplorer(validation, test, MACS, images(), CLASSES[:3])


def test_readers_without_widgets_get_a_figure(explorer):
    data, _ = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    (shown,) = json.loads(json.dumps(data[page.STATE], allow_nan=False))
    assert shown["widget"] == "explorer"
    assert base64.b64decode(shown["state"]["outputs"]["base64"]) == explorer.outputs
    assert shown["state"]["budget"] == explorer.budget
    explorer.thresholds = [0.9, 0.4, 0.0]
    now = explorer.static_figure().data[-1]
    assert (now.x[0], now.y[0]) == pytest.approx((explorer.point.macs / 1e6, 100 * explorer.point.accuracy), abs=0.01)


def test_a_notebook_gets_the_figure_beside_the_widget(explorer, monkeypatch):
    monkeypatch.setattr("plotly.io.renderers.default", "plotly_mimetype")
    data, _ = explorer._repr_mimebundle_()
    assert set(data) >= {"application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"}


def test_the_page_makes_no_request_and_names_its_sliders():
    program = ThresholdExplorer._esm
    for outside in ("import ", "fetch(", "http://", "https://"):
        assert outside not in program.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "threshold of exit ${k + 1}" in program
    assert "lmSuppressShortcuts" in program
