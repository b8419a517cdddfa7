"""What moves the weights: optimizer, learning rate by step, and a moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, MultiStepLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel

from dfs_edu.training.recipes import Recipe


def make_optimizer(parameters: Iterable[nn.Parameter] | list[dict], recipe: Recipe) -> torch.optim.Optimizer:
    """Return SGD with momentum, plain or Nesterov's, or AdamW; fused: one kernel for each group of parameters."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    optimizer = torch.optim.SGD(
        parameters,
        recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    if recipe.momentum:
        optimizer.register_step_pre_hook(_start_late)
    return optimizer


def _start_late(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Give parameters whose first gradient comes later than others' a momentum of zero, as every first step has.

    The fused kernel takes the momenta of all parameters of a group, or of none.
    """
    for group in optimizer.param_groups:
        moving = [p for p in group["params"] if p.grad is not None]
        late = [p for p in moving if optimizer.state[p].get("momentum_buffer") is None]
        if len(late) < len(moving):
            for p in late:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """Return the recipe's learning rate, "onecycle" or "multistep"; call ``step`` after each step of the optimizer."""
    steps = recipe.epochs * steps_per_epoch
    if recipe.schedule == "multistep":
        return MultiStepLR(optimizer, [round(epoch * steps_per_epoch) for epoch in recipe.milestones])
    if steps == 1:
        return ConstantLR(optimizer, factor=1)
    rise = 0.3 if steps == 4 else 0.25  # a quarter of four steps ends where it begins: OneCycleLR divides by zero
    return OneCycleLR(optimizer, recipe.lr, steps, pct_start=rise, cycle_momentum=False)


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a network's weights and buffers.

    It is short at first: the n-th update keeps n/(n + 9) of the old average, at most ``decay``.
    """

    def blend(averages: Sequence[Tensor], news: Sequence[Tensor], updates: Tensor | int) -> None:
        keep = min(decay, float((1 + updates) / (10 + updates)))
        for average, new in zip(averages, news, strict=True):
            average.lerp_(new, 1 - keep) if average.is_floating_point() else average.copy_(new)

    return AveragedModel(network, multi_avg_fn=blend, use_buffers=True)
