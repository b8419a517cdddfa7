"""How often ensembles of the exits so far are right, counted batch by batch beside what each exit answers by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dfs_edu.answers import ENSEMBLES, answered


class Tally:
    """Counts the correct answers of each ensemble of exits 1 to k, for ``collect(each=tally)``.

    Logits are not kept, only K numbers per ensemble.

    Attributes:
        correct: Name of an ensemble, of ``answers.ENSEMBLES`` -> int64 (K,), number of images, on the logits' device.
    """

    def __init__(self) -> None:
        self.correct: dict[str, Tensor] = {}

    def __call__(self, logits: Sequence[Tensor], labels: Tensor) -> None:
        """Count a batch: K logits (B, classes) and labels (B,)."""
        for name in ENSEMBLES:
            right = torch.stack([(answer.argmax(1) == labels).sum() for answer in answered(name, logits)])
            self.correct[name] = self.correct[name] + right if name in self.correct else right
