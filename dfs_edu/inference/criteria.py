"""Exit criteria: how sure an exit is of an image, as a score from 0 to 1 that is compared with the exit's threshold.

A criterion maps the exit's probabilities ``p`` (B, classes) to scores (B,). Those in ``HISTORY`` look at earlier exits
as well, through ``agreed`` (B,): the number of exits in a row, up to and including this one, that predict what the exit
before them did, as a fraction of the K - 1 that are possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dfs_edu.precision import at_least_float32


class Criterion(Protocol):
    """Probabilities (B, classes), and the agreement so far (B,), to scores (B,) from 0 to 1."""

    def __call__(self, p: Tensor, agreed: Tensor | None = None) -> Tensor: ...


def confidence(p: Tensor, agreed: Tensor | None = None) -> Tensor:
    """The largest probability. Source: MSDNet, Huang et al., ICLR 2018."""
    return p.amax(1)


def margin(p: Tensor, agreed: Tensor | None = None) -> Tensor:
    """The difference between the largest probability and the second largest."""
    first, second = p.topk(2, dim=1).values.unbind(1)
    return first - second


def entropy(p: Tensor, agreed: Tensor | None = None) -> Tensor:
    """One minus the entropy as a fraction of its maximum, log(classes). Source: BranchyNet, ICPR 2016."""
    return (1 - torch.special.entr(p).sum(1) / math.log(p.shape[1])).clamp(0, 1)


def patience(p: Tensor, agreed: Tensor | None = None) -> Tensor:
    """Agreement: threshold t / (K - 1) means leaving after t exits that agree with the one before them.

    Source: PABEE, Zhou et al., NeurIPS 2020.
    """
    if agreed is None:
        raise TypeError("agreed=None: patience compares the predictions of several exits")
    return agreed


HISTORY = (patience,)
CRITERIA: dict[str, Criterion] = {
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
    "patience": patience,
}


def checked_criterion(name: str) -> str:
    """The name itself; ValueError unless it is a key of CRITERIA."""
    if name not in CRITERIA:
        raise ValueError(f"criterion={name!r}: use one of {', '.join(CRITERIA)}")
    return name


class Judge:
    """Turn the logits of each exit, from shallow to deep, into scores and predictions.

    Args:
        exits: K.
        criterion: a key of CRITERIA.
        temperatures: K numbers by which the exits' logits are divided; None: 1.

    Raises:
        ValueError: an unknown criterion, or temperatures that are not K positive numbers.
    """

    def __init__(
        self, exits: int, criterion: str = "confidence", temperatures: Sequence[float] | Tensor | None = None
    ) -> None:
        self.exits, self.score = exits, CRITERIA[checked_criterion(criterion)]
        self.temperatures = [1.0] * exits if temperatures is None else [float(t) for t in temperatures]
        if len(self.temperatures) != exits or not all(0 < t < math.inf for t in self.temperatures):
            raise ValueError(f"temperatures={self.temperatures}: give {exits} positive numbers, one per exit")
        self.restart()

    def restart(self) -> None:
        """Get ready for the first exit of a new batch."""
        self.k = 0
        self.previous: tuple[Tensor, Tensor] | None = None  # the last exit's predictions and agreements in a row, (B,)

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The next exit's logits (B, classes) -> score float32 (B,), prediction int64 (B,)."""
        p, t = at_least_float32(logits), self.temperatures[self.k]
        p = (p if t == 1 else p / t).softmax(1)
        prediction = p.argmax(1)
        self.k += 1
        return self.score(p, self._agreed(prediction)).float(), prediction

    def _agreed(self, prediction: Tensor) -> Tensor | None:
        """Exits in a row that agree, as a fraction of K - 1; None if the criterion does not ask for it."""
        if self.score not in HISTORY:
            return None
        if self.previous is None:
            streak = torch.zeros_like(prediction)
        else:
            before, streak = self.previous
            streak = (streak + 1) * (prediction == before).long()  # one that differs starts again from 0
        self.previous = prediction, streak
        return streak / max(self.exits - 1, 1)

    def keep(self, index: Tensor) -> None:
        """Go on with the images at these indices (n,) of the batch only."""
        if self.previous is not None:
            prediction, streak = self.previous
            self.previous = prediction[index], streak[index]
