"""The reader's own images: from a folder or an upload, and what each exit of a recorded network says about them."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import plotly.graph_objects as go
import torch
from torch import Tensor

from dfs_edu import figures, probes
from dfs_edu.data import DataError, cifar100
from dfs_edu.data.decoding import centred, decode
from dfs_edu.multiexit import MultiExit
from dfs_edu.widgets import recorded

MOST = 8  # images at a time
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PIXELS = 32  # side of CIFAR-100's images


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
    net = recorded.network(run)
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
    net = recorded.network(run)
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
