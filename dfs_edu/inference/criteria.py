"""How sure is an exit of a picture? Scores from 0 to 1: a picture leaves where the score reaches the exit's threshold.

A criterion takes the exit's probabilities p (B, classes) and, where it is in HISTORY, `agreed` (B,): how many exits in
a row, this one last, predict what the one before them did, as a fraction of the K - 1 that there can be. It returns the
score (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dfs_edu.precision import at_least_float32


def confidence(p: Tensor, agreed: Tensor | None = None) -> Tensor:
    """The largest probability: of MSDNet, Huang et al., ICLR 2018."""
    return p.amax(1)


def margin(p: Tensor, agreed: Tensor | None = None) -> Tensor:
    """How far the largest probability is above the second."""
    first, second = p.topk(2, dim=1).values.unbind(1)
    return first - second


def entropy(p: Tensor, agreed: Tensor | None = None) -> Tensor:
    """What the entropy lacks of its largest value, log(classes), as a fraction of it: BranchyNet, ICPR 2016."""
    return (1 - torch.special.entr(p).sum(1) / math.log(p.shape[1])).clamp(0, 1)


def patience(p: Tensor, agreed: Tensor) -> Tensor:
    """Leave after t exits that agree with the one before them: the threshold is t / (K - 1). PABEE, NeurIPS 2020."""
    return agreed


HISTORY = (patience,)
CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "confidence": confidence,
    "margin": margin,
    "entropy": entropy,
    "patience": patience,
}


def checked_criterion(name: str) -> str:
    if name not in CRITERIA:
        raise ValueError(f"criterion={name!r}: use one of {', '.join(CRITERIA)}")
    return name


class Judge:
    """Says of each exit's logits, shallow to deep, how sure it is and what it predicts.

    exits         K
    criterion     a key of CRITERIA
    temperatures  K numbers by which the exits' logits are divided; None: 1

    Raises ValueError for an unknown criterion, or temperatures that are not K positive numbers.
    """

    def __init__(self, exits: int, criterion: str = "confidence", temperatures=None):
        self.exits, self.score = exits, CRITERIA[checked_criterion(criterion)]
        self.temperatures = [1.0] * exits if temperatures is None else [float(t) for t in temperatures]
        if len(self.temperatures) != exits or not all(0 < t < math.inf for t in self.temperatures):
            raise ValueError(f"temperatures={self.temperatures}: give {exits} positive numbers, one for each exit")
        self.restart()

    def restart(self) -> None:
        """A new batch comes to the first exit."""
        self.k, self.before, self.streak = 0, None, None

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The next exit's logits (B, classes) -> score float32 (B,), prediction int64 (B,)."""
        p, t = at_least_float32(logits), self.temperatures[self.k]
        p = (p if t == 1 else p / t).softmax(1)
        prediction = p.argmax(1)
        self.k += 1
        return self.score(p, self._agreed(prediction)).float(), prediction

    def _agreed(self, prediction: Tensor) -> Tensor | None:
        if self.score not in HISTORY:
            return None
        same = torch.zeros_like(prediction) if self.before is None else (prediction == self.before).long()
        self.streak = same if self.streak is None else (self.streak + 1) * same
        self.before = prediction
        return self.streak / max(self.exits - 1, 1)

    def keep(self, index: Tensor) -> None:
        """Only the pictures at these indices (n,) of the batch go on."""
        if self.before is not None:
            self.before, self.streak = self.before[index], self.streak[index]
