"""Weights of the losses that move from all alike to the last exits, epoch by epoch: a simple rule to compare with.

In an epoch, exit k of K has the weight 1 + t ((k - 1)/(K - 1) - 1/2), where t rises from 0 in the first epoch to 1 in
the last one. So all weights begin at 1, they end between 1/2 and 3/2, and always add up to K. The rule is ours, not
published.

Cost: one backward pass, as for the plain sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dfs_edu.methods.method import named
from dfs_edu.methods.weighted import Weighted


@named("shifting")
class Shifting(Weighted):
    """The sum of the losses with weights that move towards the last exits; they are 1 until an epoch begins.

    Args:
        exits: Number of exits, K.
    """

    takes = ()

    def __init__(self, exits: int):
        super().__init__(exits)
        self.depth = torch.linspace(0, 1, exits) if exits > 1 else torch.full((1,), 0.5)

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Shifting:
        return cls(exits)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.weights = 1 + epoch / max(1, epochs - 1) * (self.depth - 0.5)
