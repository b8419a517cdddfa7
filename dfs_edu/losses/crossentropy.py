"""The cross-entropy of each exit with the labels, whole classes or mixtures of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dfs_edu.precision import at_least_float32


def exit_losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each exit (K,), averaged over the batch.

    Args:
        logits: K logits (B, classes). If autocast left them in bfloat16, losses are float32; float64 stays float64.
        labels: Classes, int64 (B,), or each image's probabilities of all classes, (B, classes).
        smoothing: Fraction of the target that is spread over all classes (Szegedy et al., CVPR 2016).

    >>> undecided, sure = torch.zeros(1, 4), torch.tensor([[9.0, 0.0, 0.0, 0.0]])
    >>> exit_losses([undecided, sure], torch.tensor([0])).numpy().round(3)
    array([1.386, 0.   ], dtype=float32)
    """
    return torch.stack(separate_losses(logits, labels, smoothing))


def separate_losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> list[Tensor]:
    """Return the same as K tensors (): the backward pass of one does not enter the stages after its exit."""
    return _losses(logits, labels, smoothing, "mean")


def image_losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> list[Tensor]:
    """Return the losses of each image, K tensors (B,); their means are ``separate_losses``."""
    return _losses(logits, labels, smoothing, "none")


def _losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float, reduction: str) -> list[Tensor]:
    wide = [at_least_float32(logits_k) for logits_k in logits]
    targets = labels.to(wide[0].dtype) if labels.is_floating_point() else labels
    return [F.cross_entropy(logits_k, targets, reduction=reduction, label_smoothing=smoothing) for logits_k in wide]
