"""Batches of a split on disk: decoded by worker processes, reproducible from any position.

A batch's task holds all that a worker needs, and every random draw is a function of (seed, epoch, position of the image
in the epoch). So the images do not depend on the number of workers, nor on the number of processes that share a batch,
and a resumed epoch reads nothing of what came before. JPEGs are decoded on the CPU whatever the device: the decoders of
GPUs give slightly different pixels, and a run could not be repeated elsewhere.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, process, resource_tracker, util
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from dfs_edu.data.batching import Epochs
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.decoding import centred, decode
from dfs_edu.data.ondisk import Files, stop_if_many
from dfs_edu.data.splits import DataError, few

AREA, RATIO = [0.08, 1.0], [3 / 4, 4 / 3]  # of a random crop: share of the image, width by height
MOST_WORKERS = 8
MOST_LETTERS = 60  # in the path of the folder of temporary files; names of sockets add 40


class Streamed(Epochs):
    """Batches of a split whose images are read as they are needed.

    In training each image is cropped at random (RandomResizedCrop), and half of them are mirrored if the data set says
    so; otherwise images are centre-cropped.

    A broken image is skipped. In training, the next good image of this process's part of the batch takes its place, so
    that shapes stay; otherwise the batch is shorter by it. ``broken`` names the broken images met so far.

    Args:
        split: The split.
        dataset: Its data set.
        options: As for ``Epochs``.
        workers: Number of processes that decode. None for one per core, at most 8; 0 to decode in this process. Batches
            come through shared memory, of which a container may have too little (Docker: ``--shm-size``).
        more: As for ``Epochs``.

    Raises:
        DataError: While reading: more than 0.1 % of the split (and more than one image) are broken, or all images of a
            batch that this process trains on.
    """

    split: Files

    def __init__(self, split: Files, dataset: Dataset, *options: Any, workers: int | None = None, **more: Any):
        super().__init__(split, dataset, *options, **more)
        self.flip = dataset.augmentation.flip
        self.workers = default_workers() if workers is None else workers
        self._broken: set[str] = set()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rest of the current epoch; a batch counts as seen once it is handed out."""
        order = np.arange(len(self.split))
        if self.train:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.split))
        rest = range(self.batch, len(self))
        for (images, shown), b in zip(self._read(order, rest), rest, strict=True):
            indices = order[self._part(b)]
            self.batch = b + 1
            self._note_broken(indices, shown)
            if len(shown):
                labels = self.split.labels[indices[shown.numpy()]]
                images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
                yield self.mixed(self.normalise(images), labels.to(self.device, non_blocking=True))
        self.epoch, self.batch = self.epoch + 1, 0

    @property
    def broken(self) -> Sequence[str]:
        """Paths, relative to the split's root, of the broken images met so far."""
        return sorted(self._broken)

    def _part(self, b: int) -> range:
        """Positions in the epoch of this process's part of batch b; the parts of a ragged batch differ by one."""
        start = b * self.batch_size
        return range(start + self.rank, min(start + self.batch_size, len(self.split)), self.world)

    def _read(self, order: np.ndarray, batches: range) -> data.DataLoader:
        """What ``read`` returns for this process's part of each of ``batches``."""
        workers = min(self.workers, len(batches))
        return data.DataLoader(
            _Reader(),
            batch_size=None,  # a task is a whole batch
            sampler=self._tasks(order, batches),
            num_workers=workers,
            multiprocessing_context=_start_method() if workers else None,
            worker_init_fn=_ignore_interrupts,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # without one, it would draw from torch's random state
        )

    def _tasks(self, order: np.ndarray, batches: range) -> Iterator[Task]:
        for b in batches:
            part = self._part(b)
            paths = tuple(str(self.split.root / self.split.paths[n]) for n in order[part])
            draws = tuple((self.seed, self.epoch, position) for position in part) if self.train else None
            yield Task(paths, self.split.pixels, draws, self.flip)

    def _note_broken(self, indices: np.ndarray, shown: Tensor) -> None:
        """Remember which images of a batch were not shown, and stop if they are too many."""
        missing = set(range(len(indices))) - set(shown.tolist())
        if not missing:
            return
        paths = [self.split.paths[indices[n]] for n in missing]
        self._broken.update(paths)
        stop_if_many(self._broken, len(self.split))
        if self.train and not len(shown):
            raise DataError(f"all images of a batch are broken, below {self.split.root}: {few(sorted(paths))}")


@dataclass(frozen=True)
class Task:
    """The images of one batch, and how they are cropped.

    Attributes:
        paths: The files.
        pixels: Side of the crops.
        draws: Seed, epoch and position in the epoch of each image; None for centre crops.
        flip: Mirror half of the random crops.
    """

    paths: tuple[str, ...]
    pixels: int
    draws: tuple[tuple[int, int, int], ...] | None
    flip: bool


class _Reader(data.Dataset):
    """``read``, as a DataLoader calls it. It holds no paths: a million of them would be copied to each worker."""

    def __getitem__(self, index: Task) -> tuple[Tensor, Tensor]:
        return read(index)


def read(task: Task) -> tuple[Tensor, Tensor]:
    """Return the good images of a task, uint8 (B, pixels, pixels, 3), and their places in the task, int64 (B,).

    In training, the place of a broken image shows the next good one, so that B stays the same if any image is good.
    """
    images = torch.empty(len(task.paths), task.pixels, task.pixels, 3, dtype=torch.uint8)
    good = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own random state
        for n, path in enumerate(task.paths):
            try:
                image = decode(path)
            except DataError:
                continue
            good.append(n)
            if task.draws is None:
                cropped = centred(image, task.pixels)
            else:
                torch.default_generator.manual_seed(_seed(*task.draws[n]))
                cropped = crop(image, task.pixels, task.flip)
            images[n] = cropped.permute(1, 2, 0)
    if len(good) == len(task.paths):
        return images, torch.tensor(good)

    # Leave out the broken ones, or show the next good one of the batch in their place
    places = range(len(task.paths)) if task.draws and good else good
    shown = torch.tensor([good[bisect_left(good, n) % len(good)] for n in places], dtype=torch.int64)
    return images[shown], shown


def crop(image: Tensor, pixels: int, flip: bool) -> Tensor:
    """Apply torchvision's RandomResizedCrop and, if ``flip``, RandomHorizontalFlip, drawn from torch's random state.

    Args:
        image: uint8 (3, H, W).
        pixels: Side of the crop.
        flip: Whether to mirror half of the images.

    Returns:
        uint8 (3, pixels, pixels).
    """
    top, left, height, width = RandomResizedCrop.get_params(image, AREA, RATIO)
    part = image[None, :, top : top + height, left : left + width]
    part = part.contiguous(memory_format=torch.channels_last)  # the resize then needs no other order in memory
    resized = F.resize(part, [pixels, pixels], antialias=True)[0]
    return resized.flip(2) if flip and torch.rand(()) < 0.5 else resized


def default_workers() -> int:
    """Return one worker per core that this process may use, at most 8; processes of one torchrun share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _seed(seed: int, epoch: int, position: int) -> int:
    """The seed of an image's draws. Position 0 is counted as 1, since SeedSequence ignores a last 0."""
    return int(np.random.SeedSequence([seed, epoch, position + 1]).generate_state(1, np.uint64)[0] >> 1)


@cache
def _start_method():
    """Fork workers from a server that has no threads and no GPU; on systems without one, use torch's default."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    _keep_addresses_short()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not by every worker of every epoch
    resource_tracker.ensure_running()  # otherwise the server starts it, which unblocks the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers inherit this from their first moment
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _keep_addresses_short() -> None:
    """Put multiprocessing's sockets below /tmp if their paths would exceed the system's limit of about 100 letters."""
    config = process.current_process()._config  # ty: ignore[missing-attribute]  private, and what its children inherit
    if "tempdir" not in config and len(tempfile.gettempdir()) > MOST_LETTERS and os.path.isdir("/tmp"):
        config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
        util.Finalize(None, shutil.rmtree, args=(config["tempdir"], True), exitpriority=-100)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the one that trains decides when its workers stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
