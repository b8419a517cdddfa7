"""A run's curves for TensorBoard, by training step, written after each epoch: ``tensorboard --logdir runs``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dfs_edu.files import write_whole

CURVES = ("loss", "train_accuracy", "validation_accuracy", "gradient_norm", "conflict")
Point = tuple[str, int, float | None]  # name of the curve, step, value; None is left out


def of_epoch(row: dict[str, Any], step: int) -> list[Point]:
    """Return the points of an epoch of a record, one curve per exit, at the step with which it ended."""
    points = [(f"{curve}/exit{k}", step, value) for curve in CURVES for k, value in enumerate(row[curve], start=1)]
    return [*points, ("pictures_per_second", step, row["pictures_per_second"]), ("epoch", step, row["epoch"])]


def write(folder: Path, points: Iterable[Point], since: int) -> None:
    """Write points of steps from ``since`` onwards; those that an epoch wrote before it was resumed are replaced.

    TensorBoard reads a run's files by name and believes the later one. Its own writer names them by the second, the
    process and a counter without leading zeros, so of two files of one second the older may come last; ours have the
    nanosecond.
    """
    from torch.utils.tensorboard import SummaryWriter  # slow to import, needed once

    with tempfile.TemporaryDirectory() as scratch:
        with SummaryWriter(scratch, purge_step=since) as writer:
            for curve, step, value in points:
                if value is not None:
                    writer.add_scalar(curve, value, step)
        (written,) = Path(scratch).iterdir()
        content = written.read_bytes()
    write_whole(folder / "events" / f"events.out.tfevents.{time.time_ns()}", lambda file: file.write(content))
