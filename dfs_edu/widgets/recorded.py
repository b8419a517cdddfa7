"""Widgets of the recorded networks, whose exit outputs are part of the repository (data/recorded).

Photographs, and the maps computed from them, are shown where the data set is; everything else works without it.
"""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from dfs_edu import data, figures, probes
from dfs_edu.backbones import build
from dfs_edu.data import Batches, DataError, Dataset, Split, cifar100
from dfs_edu.data.decoding import centred, decode
from dfs_edu.inference import Outputs
from dfs_edu.multiexit import MultiExit
from dfs_edu.training import records, results, runs
from dfs_edu.training.recipes import Recipe
from dfs_edu.widgets.explorer import ThresholdExplorer
from dfs_edu.widgets.gallery import ExitGallery

IMAGES = 48  # in a gallery
MOST = 8  # images of the reader's own, at a time
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PIXELS = 32  # side of CIFAR-100's images
MISSING = (
    "The images are not shown because CIFAR-100 was not on the computer that made this figure. The predictions were "
    "recorded when the network was tested. To see the images, run 'dfs-edu download cifar100' and make the figure "
    "again."
)


def explorer(run: str, title: str = "", first: int | None = None) -> ThresholdExplorer:
    """Return the threshold explorer of a recorded CIFAR-100 network, without images if the data set is not here.

    Args:
        run: Name of its folder, such as "cifar100-vgg7-64-lesson-joint-seed0".
        title: Heading.
        first: Number of validation and of test images to use, from the first on: fewer make a smaller page. None: all.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The run is not one on CIFAR-100.
    """
    folder, record = _run(run)
    validation, test = (_first(Outputs.load(folder / f"{split}.npz"), first) for split in ("validation", "test"))
    recipe = Recipe.from_dict(record["recipe"])
    network = build(recipe.backbone, len(cifar100.CLASSES), recipe.junction)
    found = photographs(record)
    images = None if found is None else found[1].images[: len(test.label)]
    macs = probes.cost(network).macs.tolist()
    return ThresholdExplorer(validation, test, macs, images, cifar100.CLASSES, title)


def gallery(
    run: str, indices: Sequence[int] = range(IMAGES), title: str = "", maps: dict[str, Callable] | None = None
) -> ExitGallery:
    """Return the gallery of a recorded CIFAR-100 network, without images and maps if the data set is not here.

    Maps need the network's weights as well; those of seed 0 were kept.

    Args:
        run: Name of its folder, such as "cifar100-vgg7-64-lesson-joint-seed0".
        indices: Of the images of the test split.
        title: Heading.
        maps: Name -> probe of a network and a batch; by default Grad-CAM.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The run is not one on CIFAR-100.
    """
    folder, record = _run(run)
    chosen = torch.tensor(list(indices))
    outputs = _chosen(Outputs.load(folder / "test.npz"), chosen)
    found = photographs(record)
    if found is None:
        return ExitGallery(None, None, outputs, cifar100.CLASSES, title, MISSING)
    dataset, few = found[0], found[1][chosen]
    attributions: dict[str, Any] = {}
    if (folder / runs.WEIGHTS).exists():
        net, _ = runs.load_network(folder)
        batch = next(iter(Batches(few, dataset, batch_size=len(few))))[0]
        attributions = {name: probe(net, batch) for name, probe in (maps or {"Grad-CAM": probes.grad_cam}).items()}
    return ExitGallery(few.images, attributions, outputs, cifar100.CLASSES, title)


def own_images(folder: str | Path | None = None) -> tuple[list[str], Tensor]:
    """Read the images in a folder, at most 8, as a network for CIFAR-100 needs them: cropped to squares of 32 pixels.

    Args:
        folder: The folder. None: parts of the two photographs that come with scikit-learn.

    Returns:
        N names, and uint8 (N, 3, 32, 32).

    Raises:
        FileNotFoundError: The folder does not exist, or holds no JPEG, PNG or WEBP.
        DataError: A file is not an image; the message names it.
    """
    if folder is None:
        photos = _photos_of_scikit_learn()
    else:
        folder = Path(folder).expanduser()
        found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise FileNotFoundError(f"{folder}: no such folder, or no JPEG, PNG or WEBP in it")
        photos = {path.stem: decode(path) for path in found[:MOST]}
    return list(photos), torch.stack([centred(photo, PIXELS) for photo in photos.values()])


def _photos_of_scikit_learn() -> dict[str, Tensor]:
    """Parts of a photograph of a lake and of one of a flower, name -> uint8 (3, H, W)."""
    from sklearn.datasets import load_sample_image

    lake, flower = (torch.tensor(load_sample_image(f"{name}.jpg")).permute(2, 0, 1) for name in ("china", "flower"))
    return {
        "a tower": lake[:, :, :427],
        "sky and water": lake[:, 40:300, 250:510],
        "trees": lake[:, 220:420, 400:600],
        "a flower": flower[:, 50:350, 150:450],
    }


def verdicts(run: str, names: Sequence[str], images: Tensor, title: str = "") -> go.Figure:
    """Draw what each exit of a recorded CIFAR-100 network says about any images, and where it looks (Grad-CAM).

    Args:
        run: Name of its folder, such as "cifar100-vgg7-64-lesson-joint-seed0".
        names: N short texts.
        images: uint8 (N, 3, 32, 32).
        title: Title of the figure.

    Raises:
        FileNotFoundError: There is no such run, or its weights were not kept.
        ValueError: The run is not one on CIFAR-100.
    """
    net = _network(run)
    batch = _normalised(images)
    said = [[f"{name} {confidence:.0%}" for name, confidence in row] for row in _answers(net, batch)]
    title = title or "What each exit says, and where it looks"
    return figures.looks(images, probes.grad_cam(net, batch), names, said, title)


def upload(run: str) -> ipywidgets.VBox:
    """Return a button to upload images, with what each exit of a recorded CIFAR-100 network says about them below it.

    It needs a running notebook.

    Args:
        run: As for ``verdicts``.

    Raises:
        FileNotFoundError: There is no such run, or its weights were not kept.
        ValueError: The run is not one on CIFAR-100.
    """
    net = _network(run)
    button = ipywidgets.FileUpload(accept=",".join(SUFFIXES), multiple=True, description="Your images")
    shown = ipywidgets.HTML()

    def answer(change) -> None:
        try:
            photos = {file["name"]: _decoded(file["content"], file["name"]) for file in change["new"][:MOST]}
        except DataError as error:
            shown.value = f"<p>{html.escape(str(error))}</p>"
            return
        shown.value = _table(net, list(photos), torch.stack(list(photos.values()))) if photos else ""

    button.observe(answer, "value")
    return ipywidgets.VBox([button, shown])


def _decoded(content: Any, name: str) -> Tensor:
    """An uploaded file as the network needs it; an error names the file as the reader knows it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{Path(name).suffix}"
        path.write_bytes(content)
        try:
            return centred(decode(path), PIXELS)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from error


def _table(net: MultiExit, names: list[str], images: Tensor) -> str:
    """One row per image, one column per exit: the class, and the confidence, in words and as the depth of a colour."""
    rows = []
    answers = _answers(net, _normalised(images))
    for n, name in enumerate(names):
        uri = figures.data_uri(images[n].permute(1, 2, 0).numpy())
        picture = f'<img src="{uri}" alt="" width="64" height="64" style="image-rendering:pixelated"><br>'
        cells = [
            f'<td style="background:rgba(0,158,115,{0.6 * confidence:.2f})">{label}<br>{confidence:.0%}</td>'
            for label, confidence in (row[n] for row in answers)
        ]
        rows.append(f"<tr><th>{picture}{html.escape(name)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>exit {k}</th>" for k in range(1, len(answers) + 1))
    return f"<table><tr><th>as the network sees it</th>{head}</tr>{''.join(rows)}</table>"


def _answers(net: MultiExit, batch: Tensor) -> list[list[tuple[str, float]]]:
    """K lists of N: the class that an exit predicts for an image, and its confidence."""
    with torch.no_grad():
        best = [logits.softmax(1).max(1) for logits in net(batch)]
    return [[(cifar100.CLASSES[label], c) for label, c in zip(b.indices, b.values.tolist(), strict=True)] for b in best]


def _normalised(images: Tensor) -> Tensor:
    """uint8 images as a network for CIFAR-100 gets them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cifar100.MEAN, cifar100.STD))
    return (images / 255 - mean) / std


def _network(run: str) -> MultiExit:
    folder, _ = _run(run)
    return runs.load_network(folder)[0]


def photographs(record: dict[str, Any]) -> tuple[Dataset, Split] | None:
    """Return CIFAR-100 and its test split if it is here and is the one that the run was trained on; otherwise None."""
    try:
        dataset = data.load("cifar100")
    except DataError:
        return None
    if dataset.checksum != record["data"]["checksum"]:
        return None
    assert isinstance(dataset.test, Split)
    return dataset, dataset.test


def _chosen(outputs: Outputs, images: Tensor | slice) -> Outputs:
    parts = outputs.confidence[:, images], outputs.prediction[:, images], outputs.label[images]
    return Outputs(*parts, outputs.split, outputs.criterion, source=outputs.source)


def _first(outputs: Outputs, number: int | None) -> Outputs:
    return outputs if number is None else _chosen(outputs, slice(number))


def _run(run: str) -> tuple[Path, dict[str, Any]]:
    folder = results.RECORDED / run
    if not folder.is_dir():
        raise results.missing(folder)
    record = records.read(folder)
    if record["recipe"]["dataset"] != "cifar100":
        raise ValueError(f"{run} is a run on {record['recipe']['dataset']}: give one on CIFAR-100")
    return folder, record
