"""How much a channel responds to one class alone."""

from __future__ import annotations

import torch
from torch import Tensor

from dfs_edu.modes import in_any_mode


@in_any_mode
def class_selectivity(activations: Tensor, labels: Tensor) -> Tensor:
    """Return the class selectivity (m1 - m2) / (m1 + m2) of each channel: float64 (C,), in [0, 1].

    m1 is the channel's mean activation in the class where that is highest, m2 the mean of its means in all other
    classes. 1: it responds to one class alone; 0: it responds to all alike. With few images per class, chance alone
    makes one class the highest, so compare values that were measured on the same images. NaN for a channel that is
    always 0.

    Args:
        activations: (N, C), not negative: one number per image, such as its mean over the positions. If a channel has
            negative values, its lowest can count as zero response: f - f.amin(0).
        labels: (N,), int64.

    Raises:
        ValueError: for activations below 0, with which the index is not a fraction, for shapes that do not fit, and for
            fewer than 2 classes.

    Source:
        Morcos et al., ICLR 2018, section 2.3.
    """
    if activations.ndim != 2 or labels.shape != activations.shape[:1]:
        raise ValueError(f"shapes {tuple(activations.shape)}, {tuple(labels.shape)}: give (N, C) and labels (N,)")
    if not activations.min() >= 0:
        raise ValueError(f"activations down to {activations.min().item():.6g}: they must not be negative")
    classes = labels.unique()
    if len(classes) < 2:
        raise ValueError(f"labels of class {classes.tolist()} alone: selectivity needs at least 2 classes")
    means = torch.stack([activations[labels == c].double().mean(0) for c in classes])  # (classes, C)
    highest = means.amax(0)
    others = (means.sum(0) - highest) / (len(classes) - 1)
    return (highest - others) / (highest + others)
