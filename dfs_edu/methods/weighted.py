"""The sum of the losses, as it is or weighted: deep supervision, DSN (Lee et al., AISTATS 2015), and MSDNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dfs_edu.methods.method import Method, named


@named("sum")
class Weighted(Method):
    """The sum of the losses, each times its weight: one backward pass.

    exits     K
    weights   K numbers from 0, one of them above it; none: all 1

    Raises ValueError for another number of weights.
    """

    takes = ("weights",)

    def __init__(self, exits: int, weights: Sequence[float] = ()):
        if weights and len(weights) != exits:
            raise ValueError(f"weights={tuple(weights)}: give {exits} numbers from 0, one for each exit")
        self.weights = torch.tensor(weights) if weights else None

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Weighted:
        return cls(exits, weights)

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """One backward pass of the weighted sum, for trunk and others alike."""
        losses = torch.stack(list(losses))
        if self.weights is not None:
            self.weights = self.weights.to(losses)  # once: from then on they are there
            losses = losses * self.weights
        losses.sum().backward()
