"""A run under way, saved and resumed: everything that the next step depends on, in one file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dfs_edu.training import checkpoint, health, results
from dfs_edu.training.device import random_state, set_random_state
from dfs_edu.training.recipes import Recipe

if TYPE_CHECKING:
    from dfs_edu.training.trainer import Trainer


def save(trainer: Trainer) -> None:
    """Write a checkpoint and the record, if the run has a folder. All processes call it together.

    Raises FloatingPointError, and writes nothing, if a loss or a weight is not finite.
    """
    trainer.saved = time.monotonic()
    name_broken(trainer)
    if trainer.folder is None:
        return
    health.check_losses(trainer)
    health.check_weights(trainer)
    own = {"totals": trainer.meters.totals(), "random": random_state(trainer.device)}
    state = {
        "objective": trainer.objective.state_dict(),
        "average": trainer.average and trainer.average.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "method": trainer.method.state_dict(),
        "batches": trainer.batches.state_dict(),
        "rates": trainer.meters.rates,
        "processes": trainer.team.gather(own),
        "record": trainer.record,
    }
    if trainer.team.leads:
        checkpoint.keep(trainer.folder, state)
        results.write(trainer.folder / results.RECORD, trainer.record)
    trainer.team.wait()


def name_broken(trainer: Trainer) -> None:
    """Name in the record the images that could not be read: of all splits and processes, before a kill as well."""
    own = trainer.broken | set(trainer.batches.broken)
    if broken := set(trainer.record.get("broken", ())).union(*trainer.team.gather(own)):
        trainer.record["broken"] = sorted(broken)


def load(trainer: Trainer) -> bool:
    """Go on from the newest whole checkpoint in the run's folder. Returns whether there is one.

    Raises ValueError, naming the difference, for a run that was begun with another recipe, other data or another
    number of processes.
    """
    state = checkpoint.newest(trainer.folder)
    if state is None:
        return False
    _check_same(trainer, state)
    trainer.objective.load_state_dict(state["objective"])
    if trainer.average:
        trainer.average.load_state_dict(state["average"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.method.load_state_dict(state.get("method", {}))
    trainer.batches.load_state_dict(state["batches"])
    own = state["processes"][trainer.team.rank]
    trainer.meters.restore(own["totals"], state.get("rates", []))  # older checkpoints have no rates
    set_random_state(own["random"], trainer.device)
    _take_over(trainer, state["record"])
    return True


def _check_same(trainer: Trainer, state: dict) -> None:
    begun, here = state["record"], trainer.record
    recipe = Recipe.from_dict(begun["recipe"]).to_dict()  # fields that came into recipes since have their defaults
    changed = {
        "recipe": results.changed(recipe, here["recipe"]),
        "data": results.changed_data(begun["data"], here["data"]),
    }
    for part, words in changed.items():
        if words:
            raise ValueError(f"{trainer.folder} was begun with another {part}: {'; '.join(words)}")
    before, now = len(state["processes"]), trainer.team.world
    if before != now:
        raise ValueError(f"{trainer.folder} was begun by {before} processes, now there are {now}")


def _take_over(trainer: Trainer, begun: dict) -> None:
    """Continue the record of a run that was begun elsewhere or by other versions: it names all of them."""
    precision = begun["environment"]["precision"]  # a run keeps its own
    trainer.bf16 = precision == "bf16"
    here = trainer.record["environment"] | {"precision": precision}
    before = begun.get("resumed", [begun["environment"]])[-1]
    if "final" not in begun and results.changed(before, here):
        begun["resumed"] = [*begun.get("resumed", []), here]
    trainer.record = begun
