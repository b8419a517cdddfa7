"""What probes check of their arguments before they compute anything. Every error names the value."""

from __future__ import annotations

import torch
from torch import Tensor

from dfs_edu.multiexit import MultiExit


def check_network(net: MultiExit) -> None:
    """Raise TypeError for anything but a MultiExit."""
    if not isinstance(net, MultiExit):
        raise TypeError(f"net is a {type(net).__name__}: probes look into a MultiExit, as build and attach make it")


def check_images(images: Tensor) -> None:
    """Raise ValueError for anything but floating-point images (B, C, H, W), B at least 1."""
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise ValueError(f"images: {_described(images)}; give floating-point images (B, C, H, W), B at least 1")


def check_labels(labels: Tensor, images: int, name: str = "labels") -> None:
    """Raise ValueError for anything but int64 classes (B,), counted from 0, one for each image."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (images,):
        raise ValueError(f"{name}: {_described(labels)}; give one int64 class for each of the {images} images")
    if labels.min() < 0:
        raise ValueError(f"{name} down to {labels.min()}: classes count from 0")


def check_count(**counts: int) -> None:
    """Raise ValueError, naming the argument, for anything but a whole number from 1."""
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{name}={count!r}: give a whole number above zero")


def _described(value) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
