"""What a step of training calls: the objective, compiled and spread over processes as the recipe asks for it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dfs_edu.distributed import Team
from dfs_edu.losses import Objective


def forward_of(
    objective: Objective, by_exit: bool, compiled: bool, team: Team, device: torch.device, idle: bool
) -> nn.Module:
    """The objective, ready to be called with a batch.

    Args:
        objective: the network with its losses.
        by_exit: the graph is walked backward once for each exit, which DistributedDataParallel does not allow; the
            method then averages gradients over the processes itself.
        compiled: use torch.compile.
        team: the processes that train together.
        device: where the network is.
        idle: whether some parameter feeds no exit, see `distributed.has_idle`.
    """
    if by_exit:
        return _compiled_by_exit(objective) if compiled else objective
    forward = torch.compile(objective) if compiled else objective
    if team.world == 1:
        return forward
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(forward, device_ids=ids, find_unused_parameters=idle)


def _compiled_by_exit(objective: Objective) -> nn.Module:
    """Stages and heads compiled one by one, since the graph is walked once for every exit."""
    torch._functorch.config.donated_buffer = False  # what a backward pass has read, the next exit's reads again
    for module in (*objective.network.stages, *objective.network.heads):
        module.compile(isolate_recompiles=True)  # or eight graphs are the most for all that share a class
    return objective
