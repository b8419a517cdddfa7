"""Widgets of the recorded networks, whose exit outputs are part of the repository (data/recorded).

Photographs, and the maps computed from them, are shown where the data set is; everything else works without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfs_edu import data, probes
from dfs_edu.backbones import build
from dfs_edu.data import Batches, DataError, Dataset, Split, cifar100
from dfs_edu.inference import Outputs
from dfs_edu.multiexit import MultiExit
from dfs_edu.training import records, results, runs
from dfs_edu.training.recipes import Recipe
from dfs_edu.widgets.explorer import ThresholdExplorer
from dfs_edu.widgets.gallery import ExitGallery

IMAGES = 48  # in a gallery
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


def network(run: str) -> MultiExit:
    """Load a recorded CIFAR-100 network.

    Raises:
        FileNotFoundError: There is no such run, or its weights were not kept.
        ValueError: The run is not one on CIFAR-100.
    """
    folder, _ = _run(run)
    return runs.load_network(folder)[0]


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
