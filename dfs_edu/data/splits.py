"""What a data set is: pictures and labels in three splits, checked once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class DataError(ValueError):
    """The data are missing, damaged or not what they should be; the message says which and what to do."""


@dataclass(frozen=True)
class Augmentation:
    """pad: pixels around the picture before a random crop, filled with `fill` (0-255); flip: mirror half of them."""

    pad: int = 4
    fill: int = 128
    flip: bool = True


@dataclass(frozen=True)
class Split:
    """Pictures of one split. difficulty (N,), 0 easy to 1 hard, is known where the pictures were composed."""

    name: str  # "train", "validation" or "test"
    images: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N,) int64
    difficulty: Tensor | None = None  # (N,) float32

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        difficulty = None if self.difficulty is None else self.difficulty[index]
        return Split(self.name, self.images[index], self.labels[index], difficulty)


@dataclass(frozen=True)
class Dataset:
    """A data set. mean and std of the training pictures a channel, in units of 0 to 1."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augmentation: Augmentation

    def __post_init__(self):
        for split in (self.train, self.validation, self.test):
            check(split, len(self.classes), f"{self.name}, {split.name}")

    @property
    def checksum(self) -> str:
        """Short SHA-256 of all pictures and labels: the same data, the same words in every record."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(split.images.contiguous().numpy().data)
            digest.update(split.labels.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def first(self, train: int | None = None, held_out: int | None = None) -> Dataset:
        """The first pictures of each split only: `train` for training, `held_out` for validation and test."""
        validation, test = self.validation[:held_out], self.test[:held_out]
        return replace(self, train=self.train[:train], validation=validation, test=test)


def check(split: Split, classes: int, where: str) -> None:
    images, labels = split.images, split.labels
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"{where}: images are {images.dtype} {tuple(images.shape)}, not uint8 (N, 3, H, W)")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(f"{where}: labels are {labels.dtype} {tuple(labels.shape)} for {len(images)} images")
    if not len(labels):
        raise DataError(f"{where}: no pictures")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{where}: labels from {labels.min()} to {labels.max()}, not from 0 to {classes - 1}")
