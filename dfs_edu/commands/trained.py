"""`dfs-edu evaluate`, `probe` and `export`: what is done with the network of a finished run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from dfs_edu import data, inference, probes
from dfs_edu.commands.kinds import AnyFolder
from dfs_edu.data import folder
from dfs_edu.inference import exporting
from dfs_edu.multiexit import MultiExit
from dfs_edu.tables import lines, printable
from dfs_edu.training.device import pick_device
from dfs_edu.training.inputs import load_data
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.runs import check_data, load_network

Run = Annotated[Positional[Path], arg(metavar="RUN")]
Criterion = Annotated[str, arg(metavar="{" + ",".join(inference.CRITERIA) + "}")]
Out = Annotated[Path | None, arg(metavar="DIR")]


def evaluate(
    run: Run,
    test_data: AnyFolder = None,
    criterion: Criterion = "confidence",
    budget: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0),
    data: AnyFolder = None,
    device: str = "auto",
) -> None:
    """Print accuracy and cost of each exit, and of early exit within budgets, as `export` would ship it.

    Args:
        run: Folder of a finished run, such as runs/digits-vgg7-16-lesson-joint-seed0.
        test_data: Measure on other images: a folder with one folder for each class of the run.
        criterion: What decides whether an image leaves.
        budget: Average cost that thresholds are fitted for: 0 is the first exit's, 1 the last one's.
        data: Folder of data sets; otherwise $DFS_EDU_DATA, then data/.
        device: cpu, cuda or auto.
    """
    budgets = _checked_budgets(budget)
    network, dataset, batches = _trained(run, data, device)
    if test_data:
        dataset = replace(dataset, test=folder.test_images(Path(test_data), dataset.classes, dataset.pixels))

    # Everything is fitted on the validation split
    validation = inference.collect(network, batches(dataset.validation), logits=True)
    macs = probes.cost(network, (3, dataset.pixels, dataset.pixels)).macs
    policies = inference.fit_policies(validation, macs, macs[0] + budgets * (macs[-1] - macs[0]), criterion)
    test = inference.collect(network, batches(dataset.test), criterion=criterion, temperatures=policies[0].temperatures)

    columns = ["exit", "MMACs", "validation %", "test %"]
    exits = zip(macs / 1e6, validation.accuracy * 100, test.accuracy * 100, strict=True)
    print(lines(columns, [[f"{k}", *(f"{float(v):.2f}" for v in row)] for k, row in enumerate(exits, 1)]))
    where = f"{len(test.label)} images of {test_data}, classes as trained" if test_data else "the test split"
    print(f"\nearly exit, fitted on the validation split, measured on {printable(where)}")
    print(f"policy: {policies[0].name}")
    rows = []
    for fraction, policy in zip(budgets, policies, strict=True):
        point = inference.apply(test, policy.thresholds, macs)
        share = " ".join(f"{100 * s:.0f}" for s in point.share.tolist())
        spent = [(macs[0] + fraction * (macs[-1] - macs[0])) / 1e6, point.macs / 1e6]
        thresholds = " ".join(f"{t:.4f}" for t in policy.thresholds.tolist())
        cells = [f"{fraction:g}", *(f"{value:.2f}" for value in spent), f"{100 * point.accuracy:.2f}"]
        rows.append([*cells, share, thresholds])
    print(lines(["budget", "MMACs", "spent", "test %", "share leaving, %", "thresholds"], rows))


def export(
    run: Run,
    out: Out = None,
    criterion: Criterion = "confidence",
    budget: float = 0.5,
    data: AnyFolder = None,
    device: str = "auto",
) -> None:
    """Write a trained network as ONNX and torch.export files, stage by stage.

    The folder runs with numpy and onnxruntime alone. Temperatures and thresholds are fitted on the validation split.

    Args:
        run: Folder of a finished run.
        out: A new folder (default: export/ in the run's folder).
        criterion: What decides whether an image leaves.
        budget: Average cost that thresholds are fitted for: 0 is the first exit's, 1 the last one's.
        data: Folder of data sets; otherwise $DFS_EDU_DATA, then data/.
        device: cpu, cuda or auto.
    """
    (fraction,) = _checked_budgets([budget])
    # What is missing is noticed before minutes of work are lost
    exporting.exporter_versions()
    target = exporting.new_folder(out or run / "export")
    network, dataset, batches = _trained(run, data, device)
    validation = inference.collect(network, batches(dataset.validation), logits=True)
    shape = (3, dataset.pixels, dataset.pixels)
    macs = probes.cost(network, shape).macs
    (policy,) = inference.fit_policies(validation, macs, [macs[0] + fraction * (macs[-1] - macs[0])], criterion)
    point = inference.apply(validation.again(policy.criterion, policy.temperatures), policy.thresholds, macs)
    written = exporting.export(
        network.cpu(),
        target,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        thresholds=policy.thresholds,
        temperatures=policy.temperatures,
        criterion=policy.criterion,
        input_shape=shape,
        name=run.resolve().name,
    )
    print(f"{written}: {100 * point.accuracy:.2f} % on validation for {point.macs / 1e6:.4g} MMACs per image")
    print(f"policy: {policy.name}")


def probe(run: Run, images: int = 512, data: AnyFolder = None, device: str = "auto") -> None:
    """Print the cosines between the exits' gradients on training images, layer by layer.

    Args:
        run: Folder of a finished run.
        images: Number of training images to probe with.
        data: Folder of data sets; otherwise $DFS_EDU_DATA, then data/.
        device: cpu, cuda or auto.
    """
    if images < 1:
        raise ValueError(f"--images {images}: at least one")
    network, dataset, batches = _trained(run, data, device)
    train = dataset.train[:images]
    report = probes.conflict(network, *next(iter(batches(train, images))))
    rows = []
    for layer, pairs, share in zip(report.layers, report.pairs(), report.conflicting(), strict=True):
        pairs = pairs[~np.isnan(pairs)]
        if len(pairs):
            rows.append([layer, f"{pairs.mean():+.3f}", f"{pairs.min():+.3f}", f"{100 * share:.0f}"])
    print(f"cosine between the gradients of two exits, {len(train)} training images:")
    print(lines(["layer", "mean", "lowest", "conflicting %"], rows))


def _checked_budgets(budgets: Sequence[float]) -> np.ndarray:
    if not budgets:
        raise ValueError("--budget: give at least one, from 0 to 1")
    for budget in budgets:
        if not 0 <= budget <= 1:
            raise ValueError(f"--budget {budget}: from 0, the first exit's cost, to 1, the last one's")
    return np.array(budgets)


def _trained(run: Path, root: str | None, device: str) -> tuple[MultiExit, data.Dataset, Callable[..., Iterable]]:
    """Return a run's network on its device, the data set that it was trained on, and a maker of batches for it."""
    network, record = load_network(run)
    place = pick_device(device)
    dataset = load_data(Recipe.from_dict(record["recipe"]), root)
    check_data(run, record, dataset)

    def batches(split, size: int = 500) -> Iterable:
        return data.batches(split, dataset, size, device=place)

    return network.to(place), dataset, batches
