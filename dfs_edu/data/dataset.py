"""A data set: three splits of images of one size, and the facts that a run records about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from dfs_edu.data.ondisk import Files
from dfs_edu.data.splits import RGB, Augmentation, DataError, Split


@dataclass(frozen=True)
class Dataset:
    """A data set: its splits, its classes, and how its images are normalised and augmented.

    Attributes:
        name: What records call it.
        train: The training split, in memory or on disk.
        validation: The split on which models, thresholds and temperatures are chosen.
        test: The split that is looked at once, at the end.
        classes: Names of the classes, in the order of the labels.
        mean: Mean of each channel over the training images, in units of 0 to 1.
        std: Standard deviation of each channel, in the same units.
        augmentation: What training does to its images.

    Raises:
        DataError: Images, labels and classes do not fit together, or a split is empty.
    """

    name: str
    train: Split | Files
    validation: Split | Files
    test: Split | Files
    classes: tuple[str, ...]
    mean: RGB
    std: RGB
    augmentation: Augmentation

    def __post_init__(self):
        for split in self.splits:
            _check(split, len(self.classes), f"{self.name}, {split.name}")

    @property
    def splits(self) -> tuple[Split | Files, Split | Files, Split | Files]:
        """Train, validation and test."""
        return self.train, self.validation, self.test

    @property
    def pixels(self) -> int:
        """Height and width of an image."""
        return self.train.pixels

    @property
    def checksum(self) -> str:
        """Short SHA-256 of all images and labels, so that records of the same data carry the same checksum.

        For images on disk it covers paths, file sizes and labels, not the content of the files.
        """
        digest = hashlib.sha256()
        for split in self.splits:
            for part in split.content():
                digest.update(part)
        return digest.hexdigest()[:16]

    @property
    def facts(self) -> dict:
        """What a run records about its data, enough to recognise them and to use the trained network elsewhere."""
        identity = {"name": self.name, "checksum": self.checksum, "classes": list(self.classes), "pixels": self.pixels}
        return identity | {"mean": list(self.mean), "std": list(self.std)}

    def first(self, train: int | None = None, held_out: int | None = None) -> Dataset:
        """Return the data set with only the first images of each split.

        Args:
            train: Number of training images; None, or more than there are, for all.
            held_out: Number of validation and of test images, likewise.

        Raises:
            ValueError: A count is not a whole number above zero.
        """
        for name, count in {"train": train, "held_out": held_out}.items():
            if count is not None and (type(count) is not int or count < 1):
                raise ValueError(f"{name}={count!r}: a whole number of images above zero, or None for all")
        validation, test = self.validation[:held_out], self.test[:held_out]
        return replace(self, train=self.train[:train], validation=validation, test=test)


def _check(split: Split | Files, classes: int, where: str) -> None:
    """Raise DataError unless images, labels and the number of classes fit together."""
    labels, count = split.labels, len(split)
    if isinstance(split, Split):  # images on disk are not read for this
        images, count = split.images, len(split.images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"{where}: images are {images.dtype} {tuple(images.shape)}, not uint8 (N, 3, H, W)")
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise DataError(f"{where}: labels are {labels.dtype} {tuple(labels.shape)} for {count} images")
    if not count:
        raise DataError(f"{where}: no images")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{where}: labels from {labels.min()} to {labels.max()}, not from 0 to {classes - 1}")
