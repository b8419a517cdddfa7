"""What a training step calls: the objective, compiled and spread over processes as the recipe asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dfs_edu import distributed
from dfs_edu.losses import Objective
from dfs_edu.modes import as_found

if TYPE_CHECKING:
    from dfs_edu.training.trainer import Trainer


def forward_of(trainer: Trainer) -> nn.Module:
    """Return what a step calls with a batch: (x, y) -> losses K x (), logits K x (B, classes).

    A method that goes through the graph once per exit averages gradients over the processes itself, since
    DistributedDataParallel does not allow that.
    """
    objective, compiled, device = trainer.objective, trainer.recipe.compile, trainer.device
    if trainer.method.by_exit:
        return _compiled_by_exit(objective) if compiled else objective
    forward = cast("nn.Module", torch.compile(objective)) if compiled else objective
    if trainer.team.world == 1:
        return forward
    ids = [device.index] if device.type == "cuda" else None
    idle = distributed.has_idle(trainer.network, trainer.dataset.pixels)  # a parameter that feeds no exit
    return DistributedDataParallel(forward, device_ids=ids, find_unused_parameters=idle)


def losses_now(trainer: Trainer, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return K losses () of a batch, in training mode without gradients; buffers and random state are put back."""
    with as_found(trainer.objective), torch.no_grad(), trainer.autocast():
        return trainer.objective(x, y)[0]


def _compiled_by_exit(objective: Objective) -> nn.Module:
    """Compile stages and heads one by one, since the backward pass runs once per exit."""
    from torch._functorch import config  # slow to import, needed here alone

    # The next exit's backward pass reads the same buffers again
    config.donated_buffer = False  # ty: ignore[invalid-assignment]  a setting, though its type is that of a constant
    for module in (*objective.network.stages, *objective.network.heads):
        module.compile(isolate_recompiles=True)  # else all modules of a class share a limit of eight graphs
    return objective
