"""The sum of the losses, plain or weighted: deep supervision, DSN (Lee et al., AISTATS 2015), and MSDNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dfs_edu.methods.method import Method, named


@named("sum")
class Weighted(Method):
    """The sum of the losses, each times its weight, in one backward pass.

    Args:
        exits: Number of exits, K.
        weights: K numbers from 0, at least one of them above it; empty: all 1.

    Raises:
        ValueError: There are weights, but not K.
    """

    in_parts = True
    takes = ("weights",)

    def __init__(self, exits: int, weights: Sequence[float] = ()):
        if weights and len(weights) != exits:
            raise ValueError(f"weights={tuple(weights)}: give {exits} numbers from 0, one for each exit")
        self.weights = torch.tensor(weights) if weights else None

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Weighted:
        return cls(exits, weights)

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Run one backward pass of the weighted sum, for the trunk and the others alike."""
        stacked = torch.stack(list(losses))
        if self.weights is not None:
            self.weights = self.weights.to(stacked)  # moves to the device once
            stacked = stacked * self.weights
        stacked.sum().backward()
