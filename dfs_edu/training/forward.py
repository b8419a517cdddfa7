"""What a training step calls: the objective, compiled and spread over processes as the recipe asks."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dfs_edu.distributed import Team
from dfs_edu.losses import Objective


def forward_of(
    objective: Objective, by_exit: bool, compiled: bool, team: Team, device: torch.device, idle: bool
) -> nn.Module:
    """Return the objective, ready to be called with a batch.

    Args:
        objective: The network with its losses.
        by_exit: Whether the method goes through the graph once per exit. DistributedDataParallel does not allow that,
            so the method averages gradients over the processes itself.
        compiled: Whether to use torch.compile.
        team: The processes that train together.
        device: Where the network is.
        idle: Whether some parameter feeds no exit, see ``distributed.has_idle``.
    """
    if by_exit:
        return _compiled_by_exit(objective) if compiled else objective
    forward = cast("nn.Module", torch.compile(objective)) if compiled else objective
    if team.world == 1:
        return forward
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(forward, device_ids=ids, find_unused_parameters=idle)


def _compiled_by_exit(objective: Objective) -> nn.Module:
    """Compile stages and heads one by one, since the backward pass runs once per exit."""
    from torch._functorch import config  # slow to import, needed here alone

    # The next exit's backward pass reads the same buffers again
    config.donated_buffer = False  # ty: ignore[invalid-assignment]  a setting, though its type is that of a constant
    for module in (*objective.network.stages, *objective.network.heads):
        module.compile(isolate_recompiles=True)  # else all modules of a class share a limit of eight graphs
    return objective
