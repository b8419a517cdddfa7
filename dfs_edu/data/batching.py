"""Batches of a split that is on the device as a whole: augmented batch by batch, reproducible from any position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfs_edu.data.augmentation import augment
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.mixing import Mixing, mix
from dfs_edu.data.ondisk import Files
from dfs_edu.data.splits import Augmentation, Split

AT_ONCE = 2048 * 32 * 32  # pixels that are augmented together: fewer take a GPU as long, which waits for its commands


class Epochs:
    """What all batches have in common, wherever the split is: one iteration is one epoch of (images, labels).

    Images are float32, normalised, (B, 3, H, W) and channels-last; labels are (B,), or each class's share (B, classes)
    where images are mixed. Both are on the device.

    Args:
        split: The images to read.
        dataset: Its mean, deviation and augmentation apply.
        batch_size: Images per batch, over all processes together.
        train: True for a new order in each epoch, augmented images, and no ragged last batch. False for all images as
            they are, in order.
        seed: Every random draw is a function of (seed, epoch, position in the epoch). So the position is the whole
            random state: ``state_dict`` holds it, and an iterator that loads it continues as if never stopped.
        device: Where the batches are wanted.
        rank: Index of this process among those that share each batch. It gets every world-th image from the rank-th
            onwards, so that parts of their batches, too, make up parts of the whole batch.
        world: Number of these processes.
        mixing: In training, mix each image with another one: "mixup" or "cutmix" (mixing.py).

    Raises:
        ValueError: The batch size is not a whole number above zero, or the batch cannot be shared evenly, if images are
            mixed in pairs.
    """

    def __init__(
        self,
        split: Split | Files,
        dataset: Dataset,
        batch_size: int,
        train: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        mixing: Mixing = "none",
    ):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: at least one image per batch")
        self.split, self.train, self.seed = split, train, seed
        self.batch_size = min(batch_size, len(split))
        if self.batch_size % world:
            raise ValueError(f"a batch of {self.batch_size} images cannot be divided evenly among {world} processes")
        if mixing != "none" and world > 1 and self.batch_size // world % 2:
            raise ValueError(f"mixing={mixing!r}: the {self.batch_size // world} images of a process make no pairs")
        self.device, self.rank, self.world = torch.device(device), rank, world
        self.mixing, self.classes = mixing, len(dataset.classes)
        self.mean = 255 * torch.tensor(dataset.mean, device=device).view(3, 1, 1)
        self.std = 255 * torch.tensor(dataset.std, device=device).view(3, 1, 1)
        self.epoch = self.batch = 0

    def __len__(self) -> int:
        return len(self.split) // self.batch_size if self.train else -(-len(self.split) // self.batch_size)

    @property
    def broken(self) -> Sequence[str]:
        """Paths of the images that could not be read so far; in memory there are none."""
        return ()

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 (B, 3, H, W) into float32 with mean 0 and deviation 1 per channel over the data set."""
        return (images - self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the batch that was read last, float32 images (B, 3, H, W) and labels (B,), if it is to be mixed."""
        if not self.train or self.mixing == "none":
            return images, labels
        images, labels = mix(images, labels, self.classes, self.mixing, self._random(self.batch, 1))
        return images.contiguous(memory_format=torch.channels_last), labels

    def denormalise(self, images: Tensor) -> Tensor:
        """Undo ``normalise``: float32 (B, 3, H, W) -> uint8."""
        return (images * self.std + self.mean).round().to(torch.uint8)

    def state_dict(self) -> dict[str, int]:
        """Return seed, epoch and batch: all that is needed to continue from here."""
        return {"seed": self.seed, "epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from where another iterator over the same split was."""
        self.seed, self.epoch, self.batch = state["seed"], state["epoch"], state["batch"]

    def _random(self, *position: int) -> torch.Generator:
        """A generator on the CPU, whatever the device, so that every device sees the same images."""
        seed = np.random.SeedSequence([self.seed, self.epoch, *position]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed) >> 1)


class Batches(Epochs):
    """Batches of a split in memory, whose images move to the device once.

    Args:
        split: The split.
        dataset: Its data set.
        options: As for ``Epochs``.
        augmentation: To be used instead of the data set's own.
        more: As for ``Epochs``.
    """

    def __init__(
        self, split: Split, dataset: Dataset, *options: Any, augmentation: Augmentation | None = None, **more: Any
    ):
        super().__init__(split, dataset, *options, **more)
        self.part = slice(self.rank, self.batch_size, self.world)  # of each batch, for this process
        self.augmentation = augmentation or dataset.augmentation
        self.images = split.images.to(self.device)  # (N, 3, H, W) uint8
        self.labels = split.labels.to(self.device)  # (N,)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rest of the current epoch; a batch counts as seen once it is handed out."""
        order = torch.arange(len(self.split))
        if self.train:
            order = torch.randperm(len(self.split), generator=self._random())
        batches = order.to(self.images.device).split(self.batch_size)[: len(self)]

        # Read as many batches at once as keep the device busy, then hand them out one by one
        at_once = max(1, AT_ONCE // (self.batch_size * self.images[0, 0].numel()))
        while self.batch < len(self):
            group = batches[self.batch : self.batch + at_once]
            for images, indices in zip(self._read(group), group, strict=True):
                self.batch += 1
                yield self.mixed(self.normalise(images[self.part]), self.labels[indices[self.part]])
        self.epoch, self.batch = self.epoch + 1, 0

    def _read(self, group: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The images of the next batches, augmented together, each as it would be alone.

        Whole batches, whichever part this process trains on: so the draws do not depend on ``world``.
        """
        images = self.images.index_select(0, torch.cat(group))  # many times as fast as indexing
        if self.train:
            positions = range(self.batch + 1, self.batch + 1 + len(group))
            images = augment(images, self.augmentation, *map(self._random, positions))
        return images.split(self.batch_size)
