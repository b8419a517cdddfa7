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
from dfs_edu.widgets.gallery import ROWS, ExitGallery

CLASSES = ["ant", "queen_bee", "cat", "dog"]


def outputs(exits=3, N=10):
    generator = torch.Generator().manual_seed(0)
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
    [("image", 10, "image=10: give an index from 0 to 9"), ("image", -1, "-1"), ("method", "LIME", "'Grad-CAM'")],
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


def test_the_page_asks_nobody():
    program = ExitGallery._esm
    assert not [outside for outside in ("import ", "fetch(", "http://", "https://") if outside in program]
    assert "lmSuppressShortcuts" in program
