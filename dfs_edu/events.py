"""A run's curves for TensorBoard, epoch by epoch as they come: `tensorboard --logdir runs`."""

from __future__ import annotations

from pathlib import Path

CURVES = ("loss", "train_accuracy", "validation_accuracy", "gradient_norm", "conflict")


def write(folder: Path, row: dict) -> None:
    """Add a row of the record's epochs: one curve an exit. An epoch that is written again replaces the first one."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, needed once

    with SummaryWriter(folder / "events", purge_step=row["epoch"]) as writer:
        for curve in CURVES:
            for k, value in enumerate(row[curve], start=1):
                if value is not None:
                    writer.add_scalar(f"{curve}/exit{k}", value, row["epoch"])
        writer.add_scalar("pictures_per_second", row["pictures_per_second"], row["epoch"])
