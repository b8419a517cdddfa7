"""Whether a run under way is still well: its losses, weights and outputs are finite numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from dfs_edu.training import checkpoint

if TYPE_CHECKING:
    from dfs_edu.training.trainer import Trainer


def check_losses(trainer: Trainer) -> None:
    """Raise FloatingPointError, naming the exits, if a loss of this epoch is not finite. Waits for a GPU."""
    if exits := trainer.meters.not_finite():
        fail(trainer, f"the loss of exit {', '.join(map(str, exits))} is")


def check_weights(trainer: Trainer) -> None:
    """Raise FloatingPointError if a weight is not finite, as after a last step whose result no loss shows yet."""
    if not all(p.isfinite().all() for p in trainer.network.parameters()):
        fail(trainer, "weights are")


def fail(trainer: Trainer, what: str) -> NoReturn:
    """Raise FloatingPointError: what is not finite ("weights are"), where in the run, and what to do about it."""
    epoch, batch = trainer.batches.epoch, trainer.batches.batch
    place = f"in epoch {epoch + 1}, batch {batch}" if batch else f"after epoch {epoch}"
    recipe, folder = trainer.recipe, trainer.folder
    kept = folder and (folder / checkpoint.NEWEST).exists()
    raise FloatingPointError(
        f"{what} not finite {place}: try a learning rate below {recipe.lr:g}, weight decay below "
        f"{recipe.weight_decay:g} or precision fp32"
        + (f"; the last good checkpoint stays in {folder}: try in another one" if kept else "")
    )
