"""What a network under training answers on a whole split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfs_edu import data, inference
from dfs_edu.training import health

if TYPE_CHECKING:
    from dfs_edu.training.trainer import Trainer


def evaluate(trainer: Trainer, split: data.Split | data.Files) -> inference.Outputs:
    """Compute the exit outputs of a split, by the moving average of the weights if the recipe keeps one.

    Each process computes a part of the split and gets the outputs of all of it. Images that cannot be read are added to
    the trainer's ``broken``.

    Raises:
        FloatingPointError: An output is not finite.
    """
    part = split[trainer.team.slice(len(split))]
    batches = data.batches(part, trainer.dataset, trainer.recipe.batch_size, device=trainer.device)
    try:
        with trainer.autocast():
            outputs = inference.collect(trainer.evaluated, batches)
    except FloatingPointError as error:  # BatchNorm's averages may be infinite though no loss or weight is
        health.fail(trainer, str(error).removesuffix(" not finite"))
    trainer.broken |= set(batches.broken)
    return inference.Outputs.joined(trainer.team.gather(outputs))
