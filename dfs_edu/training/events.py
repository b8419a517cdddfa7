"""A run's curves for TensorBoard, by the step of training, written after each epoch: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CURVES = ("loss", "train_accuracy", "validation_accuracy", "gradient_norm", "conflict")
Point = tuple[str, int, float | None]  # of a curve: its name, the step, the value; None is left out


def of_epoch(row: dict, step: int) -> list[Point]:
    """A row of the record's epochs, which ended with a step: one curve for each exit."""
    points = [(f"{curve}/exit{k}", step, value) for curve in CURVES for k, value in enumerate(row[curve], start=1)]
    return [*points, ("pictures_per_second", step, row["pictures_per_second"]), ("epoch", step, row["epoch"])]


def write(folder: Path, points: Iterable[Point], since: int) -> None:
    """Add points of steps from `since` on. An epoch that is written again replaces the first one."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, needed once

    with SummaryWriter(folder / "events", purge_step=since) as writer:
        for curve, step, value in points:
            if value is not None:
                writer.add_scalar(curve, value, step)
