"""Batches of a split that lies on the device whole; augmented as whole batches, reproducible from any position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dfs_edu.data.augmentation import augment
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.splits import Augmentation, Split

if TYPE_CHECKING:
    from dfs_edu.data.images import Files


AT_ONCE = 2048 * 32 * 32  # pixels that are augmented together: fewer take as long on a GPU, which waits for its orders


class Epochs:
    """What batches of a split have in common, wherever it lies: iterating once is one epoch of (images, labels).

    images are float32 normalised (B, 3, H, W), channels-last, and labels (B,), both on the device.

    split        what to read
    dataset      whose mean, deviation and augmentation count
    batch_size   pictures a batch, of all processes together
    train        True: a new order each epoch, augmented, the ragged last batch dropped. False: as they lie, all of them
    seed         every random draw is a function of (seed, epoch, place in it), so the position is the whole random
                 state: `state_dict` holds it, and an iterator that loads it goes on as if it had never stopped
    rank, world  of `world` processes that share each batch, this one gets every world-th picture, from the rank-th, so
                 that parts of their batches, too, make up parts of the whole batch

    Raises ValueError where the batch cannot be shared out evenly.
    """

    broken: Sequence[str] = ()  # pictures that could not be read; there are none in memory

    def __init__(
        self,
        split: Split | Files,
        dataset: Dataset,
        batch_size: int,
        train: bool = False,
        seed: int = 0,
        device="cpu",
        rank: int = 0,
        world: int = 1,
    ):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: at least one picture a batch")
        self.split, self.train, self.seed = split, train, seed
        self.batch_size = min(batch_size, len(split))
        if self.batch_size % world:
            raise ValueError(f"a batch of {self.batch_size} pictures cannot be shared out evenly to {world} processes")
        self.device, self.rank, self.world = torch.device(device), rank, world
        self.mean = 255 * torch.tensor(dataset.mean, device=device).view(3, 1, 1)
        self.std = 255 * torch.tensor(dataset.std, device=device).view(3, 1, 1)
        self.epoch = self.batch = 0

    def __len__(self) -> int:
        return len(self.split) // self.batch_size if self.train else -(-len(self.split) // self.batch_size)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32, mean 0 and deviation 1 a channel over the data set."""
        return (images - self.mean).div_(self.std).contiguous(memory_format=torch.channels_last)

    def pictures(self, images: Tensor) -> Tensor:
        """What `normalise` was given: float32 (B, 3, H, W) -> uint8, to be looked at."""
        return (images * self.std + self.mean).round().to(torch.uint8)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seed, self.epoch, self.batch = state["seed"], state["epoch"], state["batch"]


class Batches(Epochs):
    """Batches of a split whose pictures move to the device once.

    augmentation   instead of the data set's own
    """

    def __init__(self, split: Split, dataset: Dataset, *options, augmentation: Augmentation | None = None, **more):
        super().__init__(split, dataset, *options, **more)
        self.mine = slice(self.rank, self.batch_size, self.world)
        self.augmentation = augmentation or dataset.augmentation
        self.images = split.images.to(self.device)  # (N, 3, H, W) uint8
        self.labels = split.labels.to(self.device)  # (N,)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rest of the current epoch; the position counts a batch as seen once it is handed out."""
        order = torch.arange(len(self.split))
        if self.train:
            order = torch.randperm(len(self.split), generator=self._random())
        pixels = self.batch_size * self.images[0, 0].numel()
        batches = order.to(self.images.device).split(self.batch_size)[: len(self)]
        while self.batch < len(self):
            some = batches[self.batch : self.batch + max(1, AT_ONCE // pixels)]
            for images, chosen in zip(self._read(some), some, strict=True):
                self.batch += 1
                yield self.normalise(images[self.mine]), self.labels[chosen[self.mine]]
        self.epoch, self.batch = self.epoch + 1, 0

    def _read(self, some: Sequence[Tensor]) -> Sequence[Tensor]:
        """The pictures of the next batches, augmented together, each as it would be alone.

        Whole batches, whoever trains on which part of them: the draws are then the same for any `world`.
        """
        images = self.images.index_select(0, torch.cat(some))  # many times as fast as indexing
        if self.train:
            places = range(self.batch + 1, self.batch + 1 + len(some))
            images = augment(images, self.augmentation, *map(self._random, places))
        return images.split(self.batch_size)

    def _random(self, *draw: int) -> torch.Generator:
        """Drawn on the CPU whatever the device, so that every device sees the same pictures."""
        seed = np.random.SeedSequence([self.seed, self.epoch, *draw]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed) >> 1)
