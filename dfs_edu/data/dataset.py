"""A data set: three splits of one kind of images, and what a run's record says of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from dfs_edu.data.images import Files
from dfs_edu.data.splits import Augmentation, DataError, Split


@dataclass(frozen=True)
class Dataset:
    """A data set. mean and std of the training pictures a channel, in units of 0 to 1."""

    name: str
    train: Split | Files  # in memory, or on the disk
    validation: Split | Files
    test: Split | Files
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
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
        """Height and width of its pictures."""
        return self.train.pixels

    @property
    def checksum(self) -> str:
        """Short SHA-256 of all pictures and labels: the same data, the same words in every record.

        Of pictures on the disk it tells paths, sizes and labels apart, not what is in the files.
        """
        digest = hashlib.sha256()
        for split in self.splits:
            for part in split.content():
                digest.update(part)
        return digest.hexdigest()[:16]

    @property
    def facts(self) -> dict:
        """What a run's record says of its data: enough to know them again, and to use the trained network elsewhere."""
        known = {"name": self.name, "checksum": self.checksum, "classes": list(self.classes), "pixels": self.pixels}
        return known | {"mean": list(self.mean), "std": list(self.std)}

    def first(self, train: int | None = None, held_out: int | None = None) -> Dataset:
        """The first images of each split only: `train` for training, `held_out` for validation and test.

        None, or more than there are, stands for all. Raises ValueError unless a count is a whole number above zero.
        """
        for name, count in {"train": train, "held_out": held_out}.items():
            if count is not None and (type(count) is not int or count < 1):
                raise ValueError(f"{name}={count!r}: a whole number of images above zero, or None for all")
        validation, test = self.validation[:held_out], self.test[:held_out]
        return replace(self, train=self.train[:train], validation=validation, test=test)


def _check(split: Split | Files, classes: int, where: str) -> None:
    labels = split.labels
    count = len(split.images) if isinstance(split, Split) else len(split)  # those on the disk are not read for this
    if isinstance(split, Split):
        images = split.images
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"{where}: images are {images.dtype} {tuple(images.shape)}, not uint8 (N, 3, H, W)")
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise DataError(f"{where}: labels are {labels.dtype} {tuple(labels.shape)} for {count} images")
    if not len(labels):
        raise DataError(f"{where}: no pictures")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{where}: labels from {labels.min()} to {labels.max()}, not from 0 to {classes - 1}")
