"""What moves the weights: optimizer, learning rate by step, and a moving average of what they were."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dfs_edu.training.recipes import Recipe


def make_optimizer(parameters: Iterable[nn.Parameter] | list[dict], recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum, plain or Nesterov's, or AdamW, as the recipe says; fused: one kernel for a group."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    options = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(parameters, recipe.lr, nesterov=nesterov, fused=True, **options)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int):
    """The recipe's learning rate, "onecycle" or "multistep": call `.step()` after each step of the optimizer."""
    steps = recipe.epochs * steps_per_epoch
    if recipe.schedule == "multistep":
        milestones = [round(epoch * steps_per_epoch) for epoch in recipe.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    if steps == 1:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    rise = 0.3 if steps == 4 else 0.25  # of four steps a quarter ends where it begins: OneCycleLR divides by zero
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, steps, pct_start=rise, cycle_momentum=False)


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights and buffers, short at first: n/(n + 9) up to `decay`."""

    def blend(averages: list[Tensor], news: list[Tensor], updates) -> None:
        keep = min(decay, float((1 + updates) / (10 + updates)))
        for average, new in zip(averages, news, strict=True):
            average.lerp_(new, 1 - keep) if average.is_floating_point() else average.copy_(new)

    return AveragedModel(network, multi_avg_fn=blend, use_buffers=True)
