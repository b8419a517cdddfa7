"""What a data set is made of: splits of images and labels, and how training augments them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

LARGEST_SIDE = 4096  # of an image as a network reads it; a record from elsewhere may ask for any size
FEW = 5  # names that an error quotes from a longer list

RGB = tuple[float, float, float]


class DataError(ValueError):
    """The data are missing, damaged or not what they should be; the message says which and what to do."""


@dataclass(frozen=True)
class Augmentation:
    """What training does to images, in this order.

    Attributes:
        pad: Pixels added on each side before a random crop, filled with ``fill`` (0-255).
        flip: Mirror half of the images.
        autoaugment: Apply the policy that AutoAugment (Cubuk et al., CVPR 2019) found on CIFAR-10, with torchvision's
            operations.
        cutout: Side in pixels of a black square at a random place (DeVries and Taylor, 2017); 0 for none.
    """

    pad: int = 4
    fill: int = 128
    flip: bool = True
    autoaugment: bool = False
    cutout: int = 0


@dataclass(frozen=True)
class Split:
    """The images and labels of one split, in memory.

    Attributes:
        name: "train", "validation" or "test".
        images: uint8 (N, 3, H, W).
        labels: int64 (N,).
        difficulty: float32 (N,), from 0 easy to 1 hard; None unless the images were composed.
        broken: Paths of the image files that were left out when the split was read.
    """

    name: str
    images: Tensor
    labels: Tensor
    difficulty: Tensor | None = None
    broken: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self)} images of {self.pixels}x{self.pixels})"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        difficulty = None if self.difficulty is None else self.difficulty[index]
        return Split(self.name, self.images[index], self.labels[index], difficulty, self.broken)

    @property
    def pixels(self) -> int:
        """Height and width of an image."""
        return self.images.shape[-1]

    def content(self) -> Iterator:
        """Yield the bytes from which the checksum is computed."""
        yield self.images.contiguous().numpy().data
        yield self.labels.contiguous().numpy().data


def check_side(pixels: int) -> None:
    """Raise DataError unless images can be read at this side length."""
    if type(pixels) is not int or not 0 < pixels <= LARGEST_SIDE:
        raise DataError(f"pixels={pixels!r}: a whole number from 1 to {LARGEST_SIDE}")


def few(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are, for an error message."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
