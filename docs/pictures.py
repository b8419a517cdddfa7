"""Make the README's images: `.venv/bin/python docs/pictures.py` opens the widgets in JupyterLab and photographs them.

Networks, outputs and tracked runs are the recorded ones, so nothing is trained. It needs CIFAR-100's images
(DFS_EDU_DATA) and chromium, and writes explorer.png, explorer-dark.png, gallery.png and conflict.png.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]
from lab import run_all_cells, running_browser, running_lab, shut_down  # noqa: E402  (found by the path above)

EXPLORER = """
import dfs_edu as dfs
from dfs_edu import figures, inference, probes
from dfs_edu.training import results
from dfs_edu.training.runs import load_network
from dfs_edu.widgets import recorded
from dfs_edu.widgets.gallery import ExitGallery

photographs = dfs.data.load("cifar100")
recorded.explorer("cifar100-vgg7-64-lesson-joint-seed0")
"""
GALLERY = """
net, _ = load_network(results.RECORDED / "cifar100-vgg7-64-lesson-surgery-own-0.5-seed0")
few = photographs.validation[:24]
batch = list(dfs.data.Batches(few, photographs, batch_size=24))
maps = {"Grad-CAM": probes.grad_cam(net, batch[0][0]), "integrated gradients": 0}
maps["integrated gradients"] = probes.integrated_gradients(net, batch[0][0], steps=16)
outputs = inference.collect(net, batch, split="validation")
gallery = ExitGallery(few.images, maps, outputs, photographs.classes)
deep_only = (outputs.prediction[-1] == outputs.label) & (outputs.prediction[0] != outputs.label)
gallery.image = int((deep_only * outputs.confidence[-1]).argmax())  # the first exit is wrong, the last right and sure
gallery
"""
CONFLICT = """
from dfs_edu.widgets.frames import FramePlayer

record = next(iter(results.recorded("*vgg7-64*-joint-*", folder=results.RECORDED / "tracked").values()))
looks = probes.history(record["conflict"]["looks"])
title = "vgg7-64 on CIFAR-100: cosine between the gradients of two exits"
player = FramePlayer(figures.conflict_through_training(looks["step"], looks["cosine"], title))
player.frame = list(looks["step"]).index(500)  # a snapshot with conflict, of 700 steps
player
"""
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PARTS = {"explorer": ".dfs-explorer", "gallery": ".dfs-exit-gallery", "conflict": ".dfs-frames"}


def main() -> None:
    notebook = new_notebook(
        cells=[new_code_cell(source) for source in (EXPLORER, GALLERY, CONFLICT)], metadata={"kernelspec": KERNEL}
    )
    with (
        tempfile.TemporaryDirectory() as home,
        running_lab(Path(home)) as lab,
        running_browser() as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 3600})  # JupyterLab renders what is in view
        run_all_cells(lab, page, notebook, "pictures.ipynb", ready=".dfs-frames")
        for part in PARTS.values():
            page.locator(part).wait_for()
        still(page, "gallery")
        still(page, "conflict")
        still(page, "explorer")
        dark(page)
        still(page, "explorer", "explorer-dark")
        shut_down(page)


def photograph(page, part: str) -> Image.Image:
    page.mouse.move(0, 0)  # nothing is hovered over
    return Image.open(io.BytesIO(page.locator(PARTS[part]).screenshot())).convert("RGB")


def still(page, part: str, name: str = "") -> None:
    """A PNG of at most 256 colours: small, and text stays sharp."""
    colours = photograph(page, part).quantize(256, dither=Image.Dither.NONE)
    colours.save(DOCS / f"{name or part}.png", optimize=True)


def dark(page) -> None:
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("document.body.dataset.jpThemeLight == 'false'")


if __name__ == "__main__":
    main()
