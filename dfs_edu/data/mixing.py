"""Mixup and CutMix: every image of a batch is mixed with another one, and their labels by the same shares.

* "mixup": the weighted mean of two images (Zhang et al., ICLR 2018).
* "cutmix": a rectangle of one image in the other, labels by the area that was really pasted (Yun et al., ICCV 2019).

The first image's share is drawn from Beta(1, 1), which is uniform, once per batch: alpha = 1 as in both papers on
CIFAR (mixup's has 0.2 on ImageNet). CutMix's authors mix half of the batches on CIFAR and all on ImageNet; here all are
mixed. Both papers pair images by a random permutation, which may pair an image with itself. Here the partner is half a
batch further on, in an order that is random already: so it is in the same process, and what is mixed does not depend on
the number of processes. torchvision's ``MixUp`` and ``CutMix``, which pair neighbours and draw from torch's own random
state, could not promise that; for two images they compute the same.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Mixing = Literal["none", "mixup", "cutmix"]
MIXINGS = get_args(Mixing)


def mix(images: Tensor, labels: Tensor, classes: int, how: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix a batch, on its device.

    Args:
        images: Floating point (B, C, H, W), not written to.
        labels: int64 (B,).
        classes: Number of classes.
        how: "mixup" or "cutmix".
        generator: On the CPU.

    Returns:
        Images, and the share of each class in each image, (B, classes), of the images' type.
    """
    share = torch.rand((), generator=generator).item()
    if how == "mixup":
        return blended(images, share), targets(images, labels, classes, share)
    H, W = images.shape[-2:]
    row, column = (int(torch.randint(n, (), generator=generator)) for n in (H, W))
    (top, bottom), (left, right) = (extent(middle, n, share) for middle, n in ((row, H), (column, W)))
    pasted = images.clone()
    pasted[..., top:bottom, left:right] = partners(images)[..., top:bottom, left:right]
    return pasted, targets(images, labels, classes, 1 - (bottom - top) * (right - left) / (H * W))


def blended(images: Tensor, share: float) -> Tensor:
    """Return the mean of images (B, C, H, W) and their partners, which have what the share leaves of 1."""
    return images.lerp(partners(images), 1 - share)


def extent(middle: int, pixels: int, share: float) -> tuple[int, int]:
    """Return where a rectangle begins and ends on a side of so many pixels; what hangs over the border is cut off.

    >>> extent(1, 32, share=0.75)  # a quarter of the area, half of the side: 8 pixels to either side of pixel 1
    (0, 9)
    """
    half = int(0.5 * math.sqrt(1 - share) * pixels)
    return max(0, middle - half), min(pixels, middle + half)


def targets(images: Tensor, labels: Tensor, classes: int, share: float) -> Tensor:
    """Return the share of each class (B, classes), given that of an image's own label."""
    own = F.one_hot(labels, classes).to(images.dtype)
    return own.lerp(partners(own), 1 - share)


def partners(batch: Tensor) -> Tensor:
    """Return what each of a batch (B, ...) is mixed with: what lies half a batch further on."""
    return batch.roll(-(len(batch) // 2), 0)
