"""Saving and resuming a run: everything that the next step depends on, in one checkpoint."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from dfs_edu.training import checkpoint, health, records
from dfs_edu.training.device import random_state, set_random_state
from dfs_edu.training.recipes import Recipe

if TYPE_CHECKING:
    from dfs_edu.training.start import Start
    from dfs_edu.training.trainer import Trainer


def begin(trainer: Trainer, start: Start | None) -> None:
    """Begin a new run, from given weights if there are any."""
    if start:
        trainer.record["start"] = start.load(trainer.network, trainer.dataset.classes)
        if trainer.average:
            trainer.evaluated.load_state_dict(trainer.network.state_dict())


def save(trainer: Trainer) -> None:
    """Write a checkpoint and the record, if the run has a folder. All processes call it together.

    Raises:
        FloatingPointError: A loss or a weight is not finite; nothing is written.
    """
    trainer.saved = time.monotonic()
    name_broken(trainer)
    if trainer.folder is None:
        return
    health.check_losses(trainer)
    health.check_weights(trainer)

    # What is the same in all processes, and what each has for itself
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

    # One process writes, the others wait
    if trainer.team.leads:
        checkpoint.keep(trainer.folder, state)
        records.write(trainer.folder / records.RECORD, trainer.record)
    trainer.team.wait()


def name_broken(trainer: Trainer) -> None:
    """List in the record the images that could not be read: in all splits and processes, before a resume as well."""
    own = trainer.broken | set(trainer.batches.broken)
    if broken := set(trainer.record.get("broken", ())).union(*trainer.team.gather(own)):
        trainer.record["broken"] = sorted(broken)


def load(trainer: Trainer) -> bool:
    """Resume from the newest whole checkpoint in the run's folder.

    Returns:
        Whether there is one.

    Raises:
        ValueError: The run was started with another recipe, other data or another number of processes; the message
            names the difference.
    """
    state = checkpoint.newest(trainer.folder) if trainer.folder else None
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


def _check_same(trainer: Trainer, state: dict[str, Any]) -> None:
    """Raise ValueError if a checkpoint is of a run that differs from this one."""
    old, new = state["record"], trainer.record
    recipe = Recipe.from_dict(old["recipe"]).to_dict()  # newer fields, which it lacks, have their defaults
    changed = {
        "recipe": records.changed(recipe, new["recipe"]),
        "data": records.changed_data(old["data"], new["data"]),
    }
    for part, words in changed.items():
        if words:
            raise ValueError(f"{trainer.folder} was started with another {part}: {'; '.join(words)}")
    before, now = len(state["processes"]), trainer.team.world
    if before != now:
        raise ValueError(f"{trainer.folder} was started by {before} processes, now there are {now}")


def _take_over(trainer: Trainer, record: dict[str, Any]) -> None:
    """Continue the record of a run, perhaps started on another machine or with other versions: it lists all."""
    precision = record["environment"]["precision"]  # a run keeps its precision
    trainer.bf16 = precision == "bf16"
    here = trainer.record["environment"] | {"precision": precision}
    before = record.get("resumed", [record["environment"]])[-1]
    if "final" not in record and records.changed(before, here):
        record["resumed"] = [*record.get("resumed", []), here]
    trainer.record = record
