"""The sum of the losses, as it is or weighted: deep supervision, DSN (Lee et al., AISTATS 2015), and MSDNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Weighted:
    """The sum of the losses, each times its weight: one backward pass.

    exits     K
    weights   K numbers from 0, one of them above it; none: all 1

    Raises ValueError for other weights.
    """

    by_exit = False

    def __init__(self, exits: int, weights: Sequence[float] = ()):
        if weights and (len(weights) != exits or not all(w >= 0 for w in weights) or not any(weights)):
            raise ValueError(f"weights={tuple(weights)}: give {exits} numbers from 0, one for each exit")
        self.weights = torch.tensor(weights) if weights else None

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """One backward pass of the weighted sum, for trunk and others alike."""
        losses = torch.stack(list(losses))
        if self.weights is not None:
            self.weights = self.weights.to(losses)  # once: from then on they are there
            losses = losses * self.weights
        losses.sum().backward()

    def state_dict(self) -> dict:
        """Nothing: the weights are given."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing to load."""
        pass
