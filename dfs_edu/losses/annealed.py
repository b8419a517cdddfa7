"""The last exit teaches the others at a temperature that rises as it gets sure (Phuong and Lampert, ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dfs_edu.distributed import average
from dfs_edu.losses.crossentropy import separate_losses
from dfs_edu.losses.teaching import Teaching, named, soft_loss
from dfs_edu.precision import at_least_float32


@named("annealed-distillation")
class AnnealedDistillation(Teaching):
    """Cross-entropy at every exit, and at all but the last one with the last exit's probabilities besides.

    The second term has both sides at temperature T and is multiplied by its square. T begins at 1. Whenever the last
    exit's largest probability at T, averaged over the batch, is above ``limit``, T is multiplied by ``growth`` for the
    steps that follow. So the teacher never gets so sure that it says no more than the labels. T never falls.

    The rule and its numbers are those of the authors' code. There, both terms are multiplied by 0.5 and the sum of all
    exits' losses by 10 / K for K exits; here both have the weight 1, as there for five exits, so that a step is as long
    as that of plain cross-entropy. With several processes, the batch is that of all together.

    Args:
        limit: Mean largest probability, above which the temperature rises.
        growth: Factor by which it rises.
        smoothing: Of the labels, see ``exit_losses``.
    """

    in_parts: ClassVar[bool] = False  # the temperature may rise once per batch

    temperature: Tensor

    def __init__(self, limit: float = 0.5, growth: float = 1.05, smoothing: float = 0.0):
        super().__init__(smoothing)
        self.limit, self.growth = limit, growth
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, exits: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Return K losses () for K logits (B, classes); in training mode, the temperature may rise."""
        T = self.temperature.clone()  # the backward pass needs the one of this step
        *losses, last = separate_losses(exits, labels, self.smoothing)
        soft_losses = [T.square() * soft_loss(logits_k, exits[-1], T) for logits_k in exits[:-1]]
        if self.training:
            self._anneal(at_least_float32(exits[-1]).detach() / T)
        return [*(loss + soft for loss, soft in zip(losses, soft_losses, strict=True)), last]

    @torch.compiler.disable  # a collective operation splits a compiled graph: the compiler continues behind it
    def _anneal(self, softened: Tensor) -> None:
        """Raise the temperature if the teacher is sure, given its logits (B, classes), divided by it."""
        sure = softened.softmax(1).amax(1).mean()
        average([sure])
        self.temperature.mul_(torch.where(sure > self.limit, self.growth, 1.0))
