"""Sums over an epoch, in one process: losses, correct predictions, learning rates, seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfs_edu.data import Batches, Streamed
from dfs_edu.precision import widest


class Meters:
    """Sums over the batches of an epoch, on the device; reading them waits for a GPU.

    Attributes:
        losses: (K,), summed over batches.
        correct: (K,) int64, number of images.
        rates: Step and learning rate of each step.
        seconds: Of training, without evaluation and writing.
    """

    def __init__(self, exits: int, device: torch.device):
        self.losses = widest(torch.zeros(exits, device=device))
        self.correct = torch.zeros(exits, device=device, dtype=torch.int64)
        self.rates: list[list] = []
        self.seconds = 0.0

    def add(self, losses: Sequence[Tensor], logits: Sequence[Tensor], y: Tensor, parts: float) -> None:
        """Add one of ``parts`` parts of a batch: losses K x (), logits K x (B, classes), labels y (B,).

        Of mixed images, labels are the share of each class, (B, classes), and the largest one counts as the right one.
        """
        y = y if y.ndim == 1 else y.argmax(1)
        self.losses += torch.stack(list(losses)).detach() / parts
        self.correct += torch.stack([(logits_k.argmax(1) == y).sum() for logits_k in logits])

    def not_finite(self) -> list[int]:
        """Return the exits, 1 the first, whose loss is not finite."""
        return [k for k, finite in enumerate(self.losses.isfinite().tolist(), start=1) if not finite]

    def accuracy(self, batches: Batches | Streamed) -> str:
        """Return the training accuracy of each exit so far, in percent, for a progress bar."""
        seen = batches.batch * batches.batch_size // batches.world
        return " ".join(f"{n / seen:.0%}" for n in self.correct.tolist())

    def totals(self) -> list[Any]:
        """Return the sums, on the CPU, for a checkpoint."""
        return [self.losses.cpu(), self.correct.cpu(), self.seconds]

    def restore(self, totals: Sequence[Any], rates: Sequence[list]) -> None:
        """Continue from the totals and learning rates of a checkpoint."""
        losses, correct, self.seconds = totals
        self.losses.copy_(losses)
        self.correct.copy_(correct)
        self.rates = list(rates)
