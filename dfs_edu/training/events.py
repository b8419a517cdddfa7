"""A run's curves for TensorBoard, by training step, written after each epoch: ``tensorboard --logdir runs``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

CURVES = ("loss", "train_accuracy", "validation_accuracy", "gradient_norm", "conflict")
Point = tuple[str, int, float | None]  # name of the curve, step, value; None is left out


def of_epoch(row: dict[str, Any], step: int) -> list[Point]:
    """Return the points of an epoch of a record, one curve per exit, at the step with which it ended."""
    points = [(f"{curve}/exit{k}", step, value) for curve in CURVES for k, value in enumerate(row[curve], start=1)]
    return [*points, ("pictures_per_second", step, row["pictures_per_second"]), ("epoch", step, row["epoch"])]


def write(folder: Path, points: Iterable[Point], since: int) -> None:
    """Write points of steps from ``since`` onwards; those that an epoch wrote before it was resumed are replaced."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, needed once

    with SummaryWriter(folder / "events", purge_step=since) as writer:
        for curve, step, value in points:
            if value is not None:
                writer.add_scalar(curve, value, step)
