"""The gallery from Python, without a page; the browser's side is in test_browser.py."""

import base64
import io
import json

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from dfs_edu import figures
from dfs_edu.inference import Outputs
from dfs_edu.widgets.gallery import DISAGREEMENT, GIVEN, LINES, ROWS, ExitGallery, side_by_side

CLASSES = ["ant", "queen_bee", "cat", "dog"]


def outputs(exits=3, N=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label, prediction = (torch.randint(4, size, generator=generator) for size in ((N,), (exits, N)))
    return Outputs(torch.rand(exits, N, generator=generator), prediction, label, "test")


def images(N=10):
    return np.random.default_rng(0).integers(0, 256, (N, 3, 32, 32), dtype=np.uint8)


def maps(exits=3, N=10):
    random = np.random.default_rng(1)
    return {name: random.standard_normal((exits, N, 32, 32)) for name in ("Grad-CAM", "integrated gradients")}


@pytest.fixture
def gallery():
    return ExitGallery(images(), maps(), outputs(), CLASSES, title="joint")


def test_the_page_gets_what_the_exits_say(gallery):
    setup, said = gallery.setup, outputs()
    assert setup["label"] == said.label.tolist()
    assert setup["prediction"] == said.prediction.tolist()
    assert np.array(setup["confidence"]) == pytest.approx(said.confidence.numpy(), abs=5e-4)
    assert setup["classes"] == ["ant", "queen bee", "cat", "dog"]
    assert (setup["title"], setup["size"]) == ("joint", [32, 32])
    assert (gallery.image, gallery.method) == (0, "Grad-CAM")


def test_the_page_gets_one_row_per_image_and_one_column_per_exit(gallery):
    for name, found in maps().items():
        data = base64.b64decode(gallery.setup["maps"][name].removeprefix("data:image/png;base64,"))
        sheet = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
        assert sheet.shape == (10 * 32, 3 * 32, 4)
        for n, k in ((0, 0), (7, 2), (9, 1)):
            part = sheet[32 * n :, 32 * k :][:32, :32].astype(int)
            heat = figures.heat(found[k, n])
            assert (part[heat == 0] == [0, 0, 0, 140]).all()
            assert np.corrcoef(part[..., 0].ravel(), heat.ravel())[0, 1] > 0.95


def test_what_is_sent_is_small():
    """24 images, six exits, and two methods, one of them noise."""
    gallery = ExitGallery(images(24), maps(6, 24), outputs(6, 24), CLASSES)
    state = {key: value for key, value in gallery.get_state().items() if key not in ("_esm", "_css")}
    assert len(json.dumps(state, default=str)) < 300_000
    json.dumps(gallery.setup, allow_nan=False)


@pytest.mark.parametrize(
    ("trait", "value", "says"),
    [
        ("image", 10, "image=10: give an index from 0 to 9"),
        ("image", -1, "-1"),
        ("method", "LIME", "'Grad-CAM'"),
        ("order", "by size", "most"),
    ],
)
def test_wrong_values_change_nothing(gallery, trait, value, says):
    before = gallery.get_state()
    with pytest.raises(traitlets.TraitError, match=says):
        setattr(gallery, trait, value)
    assert gallery.get_state() == before


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"\(9, 3, 32, 32\), uint8: .* the 10 images"):
        ExitGallery(images(9), maps(), outputs(), CLASSES)
    with pytest.raises(ValueError, match="float64"):
        ExitGallery(images() / 255, maps(), outputs(), CLASSES)
    with pytest.raises(ValueError, match="'Grad-CAM', 'integrated gradients' without images"):
        ExitGallery(None, maps(), outputs(), CLASSES)
    with pytest.raises(ValueError, match=r"'Grad-CAM' have the shape \(4, 10, 32, 32\): .*\(3, 10, 32, 32\)"):
        ExitGallery(images(), maps(4), outputs(), CLASSES)
    with pytest.raises(ValueError, match="3 class names: the outputs need 4"):
        ExitGallery(images(), maps(), outputs(), CLASSES[:3])


def test_readers_without_widgets_get_a_figure(gallery, monkeypatch):
    monkeypatch.setattr("plotly.io.renderers.default", "plotly_mimetype")
    data, _ = gallery._repr_mimebundle_()
    assert set(data) >= {"application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"}
    gallery.image, gallery.method = 8, "integrated gradients"
    fig, said = gallery.static_figure(), outputs()
    shown = [8, 9, 0, 1]
    assert len(shown) == ROWS
    texts = [note.text for note in fig.layout.annotations]
    assert fig.layout.title.text.endswith("integrated gradients")
    assert texts[0:16:4] == [gallery.setup["classes"][said.label[n]] for n in shown]
    assert all((text[0] == "✓") == bool(said.correct[0, n]) for text, n in zip(texts[1:16:4], shown, strict=True))


def test_the_page_makes_no_request():
    program = ExitGallery._esm.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not [outside for outside in ("import ", "fetch(", "http://", "https://") if outside in program]
    assert "lmSuppressShortcuts" in program


def test_most_disagreement_first(gallery):
    assert gallery.shown == list(range(10))
    gallery.order = DISAGREEMENT
    counts = outputs().disagreement.tolist()
    assert gallery.shown == sorted(range(10), key=lambda n: (-counts[n], n))
    gallery.image = gallery.shown[-2]
    names = [note.text for note in gallery.static_figure().layout.annotations][0:16:4]
    following = [*gallery.shown[-2:], *gallery.shown[:2]]
    assert names == [gallery.setup["classes"][outputs().label[n]] for n in following]


def beside(seed=0):
    """The same images, another network's answers."""
    own, other = outputs(), outputs(seed=seed)
    return Outputs(other.confidence, other.prediction, own.label, "test")


def test_side_by_side_an_image_chosen_in_one_is_chosen_in_all(gallery):
    other = ExitGallery(images(), {"Grad-CAM": maps()["Grad-CAM"]}, beside(5), CLASSES)
    row = side_by_side({"joint": gallery, "surgery": other})
    assert list(row.children) == [gallery, other]
    assert (gallery.setup["title"], other.setup["title"]) == ("joint", "surgery")
    assert gallery.setup["group"] == other.setup["group"] != ""
    gallery.image = 3
    assert other.image == 3
    other.order = DISAGREEMENT
    together = outputs().disagreement + beside(5).disagreement
    assert gallery.shown == other.shown == together.argsort(descending=True, stable=True).tolist()
    gallery.method = "integrated gradients"  # the other has no such maps
    assert other.method == "Grad-CAM"
    gallery.set_state({"image": 7})  # by the page, which passes it on itself
    assert (gallery.image, other.image) == (7, 3)


def test_only_the_same_images_stand_side_by_side(gallery):
    with pytest.raises(ValueError, match="1 widgets: give at least two"):
        side_by_side({"joint": gallery})
    with pytest.raises(ValueError, match="show different images"):
        side_by_side({"joint": gallery, "surgery": ExitGallery(None, None, outputs(seed=5), CLASSES)})


def test_without_images_it_says_why_and_shows_the_predictions():
    gallery = ExitGallery(None, None, outputs(), CLASSES, missing="They are elsewhere.")
    assert (gallery.setup["images"], gallery.setup["maps"], gallery.setup["missing"]) == ("", {}, "They are elsewhere.")
    assert gallery.method == ""
    gallery.order, gallery.image = DISAGREEMENT, 2
    fig = gallery.static_figure()
    assert len(fig.data[0].z) == min(LINES, 10)
    assert fig.data[0].y[0] == f"3 {gallery.setup['classes'][outputs().label[2]]}"
    with pytest.raises(traitlets.TraitError, match="LIME"):
        gallery.method = "LIME"


def test_images_without_maps():
    gallery = ExitGallery(images(), {}, outputs(), CLASSES)
    assert gallery.setup["images"].startswith("data:image/jpeg;base64,")
    assert (gallery.setup["maps"], gallery.setup["missing"], gallery.order) == ({}, "", GIVEN)
    assert gallery.static_figure().data[0].type == "heatmap"
