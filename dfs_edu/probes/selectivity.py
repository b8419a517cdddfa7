"""How much a channel speaks for one class alone."""

from __future__ import annotations

import torch
from torch import Tensor

from dfs_edu.modes import in_any_mode


@in_any_mode
def class_selectivity(activations: Tensor, labels: Tensor) -> Tensor:
    """(C,), float64: (m1 - m2) / (m1 + m2) of each channel, in [0, 1] (Morcos et al., ICLR 2018, section 2.3).

    activations   (N, C), not negative: one number a picture, such as its mean over the positions
    labels        (N,), int64

    m1 is the channel's mean activation in the class where that is highest, m2 the mean of its means in all other
    classes. 1: it is silent but for one class; 0: it says the same of all. With few pictures a class, chance alone
    makes one class the highest: compare what was measured on the same pictures. NaN for a channel that is always 0.

    Raises ValueError for activations below 0, of which the index is no longer a fraction: the lowest value of each
    channel can count as its silence, f - f.amin(0). And for shapes that do not fit, and fewer than 2 classes.
    """
    if activations.ndim != 2 or labels.shape != activations.shape[:1]:
        raise ValueError(f"shapes {tuple(activations.shape)}, {tuple(labels.shape)}: give (N, C) and labels (N,)")
    if not activations.min() >= 0:
        raise ValueError(f"activations down to {activations.min().item():.6g}: give some that are not negative")
    classes = labels.unique()
    if len(classes) < 2:
        raise ValueError(f"labels of class {classes.tolist()} alone: selectivity is between 2 classes at least")
    means = torch.stack([activations[labels == c].double().mean(0) for c in classes])  # (classes, C)
    highest = means.amax(0)
    others = (means.sum(0) - highest) / (len(classes) - 1)
    return (highest - others) / (highest + others)
