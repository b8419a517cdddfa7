"""What a data set is: pictures and labels in three splits, checked once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

LARGEST_SIDE = 4096  # of an image that a network reads; a record of a stranger may ask for any


class DataError(ValueError):
    """The data are missing, damaged or not what they should be; the message says which and what to do."""


@dataclass(frozen=True)
class Augmentation:
    """What training does to pictures, in this order.

    pad          pixels around the picture before a random crop, filled with `fill` (0-255)
    flip         mirror half of them
    autoaugment  the policy that AutoAugment (Cubuk et al., CVPR 2019) found on CIFAR-10, by torchvision's operations
    cutout       side in pixels of a black square at a random place (DeVries and Taylor, 2017); 0: none
    """

    pad: int = 4
    fill: int = 128
    flip: bool = True
    autoaugment: bool = False
    cutout: int = 0


@dataclass(frozen=True)
class Split:
    """Pictures of one split. difficulty (N,), 0 easy to 1 hard, is known where the pictures were composed."""

    name: str  # "train", "validation" or "test"
    images: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N,) int64
    difficulty: Tensor | None = None  # (N,) float32
    broken: tuple[str, ...] = ()  # paths of images that were left out when the split was read

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self)} pictures of {self.pixels}x{self.pixels})"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        difficulty = None if self.difficulty is None else self.difficulty[index]
        return Split(self.name, self.images[index], self.labels[index], difficulty, self.broken)

    @property
    def pixels(self) -> int:
        """Height and width of its pictures."""
        return self.images.shape[-1]

    def content(self) -> Iterator:
        """What the checksum is made of."""
        yield self.images.contiguous().numpy().data
        yield self.labels.contiguous().numpy().data


def check_side(pixels: int) -> None:
    """Raise DataError unless images can be read at this side."""
    if type(pixels) is not int or not 0 < pixels <= LARGEST_SIDE:
        raise DataError(f"pixels={pixels!r}: a whole number from 1 to {LARGEST_SIDE}")
