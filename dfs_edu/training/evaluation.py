"""What a network under training answers on a whole split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfs_edu import data, inference
from dfs_edu.answers import ENSEMBLES
from dfs_edu.training import health

if TYPE_CHECKING:
    from dfs_edu.training.trainer import Trainer


def evaluate(
    trainer: Trainer, split: data.Split | data.Files, tally: inference.Tally | None = None
) -> inference.Outputs:
    """Compute the exit outputs of a split, by the moving average of the weights if the recipe keeps one.

    Each process computes a part of the split and gets the outputs of all of it. Images that cannot be read are added to
    the trainer's ``broken``. A tally counts this process's part.

    Raises:
        FloatingPointError: An output is not finite.
    """
    part = split[trainer.team.slice(len(split))]
    batches = data.batches(part, trainer.dataset, trainer.recipe.batch_size, device=trainer.device)
    try:
        with trainer.autocast():
            outputs = inference.collect(trainer.evaluated, batches, each=tally)
    except FloatingPointError as error:  # BatchNorm's averages may be infinite though no loss or weight is
        health.fail(trainer, str(error).removesuffix(" not finite"))
    trainer.broken |= set(batches.broken)
    return inference.Outputs.joined(trainer.team.gather(outputs))


def evaluate_at_the_end(trainer: Trainer) -> tuple[inference.Outputs, inference.Outputs, dict[str, Any]]:
    """Compute the outputs of both splits, each in one pass, and what a record's "final" says of them.

    Returns:
        Outputs of the validation and of the test split, and "validation_accuracy" and "test_accuracy", K numbers each,
        of what the exits answer. "ensembles" has the same two for each ensemble of the answers of exits 1 to k
        (answers.py).
    """
    found: list[inference.Outputs] = []
    final: dict[str, Any] = {"ensembles": {name: {} for name in ENSEMBLES}}
    for split in (trainer.dataset.validation, trainer.dataset.test):
        tally = inference.Tally()
        outputs = evaluate(trainer, split, tally)
        found.append(outputs)
        final[f"{split.name}_accuracy"] = outputs.accuracy.tolist()
        for name, correct in tally.correct.items():
            accuracy = trainer.team.sum(correct).cpu().double() / len(outputs.label)
            final["ensembles"][name][f"{split.name}_accuracy"] = accuracy.tolist()
    validation, test = found
    return validation, test, final
