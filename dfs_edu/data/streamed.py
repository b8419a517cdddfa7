"""Batches of a split that lies on the disk: decoded by worker processes, reproducible from any position.

What a worker needs for a batch is in the batch's task, and every random draw is a function of (seed, epoch, place of
the picture in the epoch). So the pictures are the same whatever the number of workers and of processes that share a
batch, and a resumed epoch reads nothing of what came before. JPEGs are decoded on the CPU on every device: the decoders
of GPUs give slightly other pixels, and a run would not be the same elsewhere.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, process, resource_tracker, util

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from dfs_edu.data.batching import Epochs
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.images import Files, centred, decode, few, stop_if_many
from dfs_edu.data.splits import DataError

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop: share of the picture, width by height
MOST_WORKERS = 8
MOST_LETTERS = 60  # of the folder of temporary files; names of sockets add 40


class Streamed(Epochs):
    """Batches of a split whose pictures are read as they are needed.

    In training each picture is a random crop (RandomResizedCrop), half of them mirrored where the data set says so;
    otherwise it is cut from the middle.

    workers   processes that decode; None: one a core, 8 at the most; 0: none besides this one. Their batches come in
              shared memory, of which a container may have too little (Docker: --shm-size)

    A broken picture is skipped. In training, its place is taken by the next good one of its part of the batch, so that
    shapes stay; otherwise the batch is shorter by it. `broken` names those met so far. Raises DataError, as it reads,
    where more than 0.1 % of the split (and more than one picture) are broken, or all that this process trains on in a
    batch.
    """

    def __init__(self, split: Files, dataset: Dataset, *options, workers: int | None = None, **more):
        super().__init__(split, dataset, *options, **more)
        self.flip = dataset.augmentation.flip
        self.workers = default_workers() if workers is None else workers
        self._broken = set()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rest of the current epoch; the position counts a batch as seen once it is handed out."""
        order = np.arange(len(self.split))
        if self.train:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.split))
        rest = range(self.batch, len(self))
        for (images, shown), b in zip(self._read(order, rest), rest, strict=True):
            chosen = order[self._mine(b)]
            self.batch = b + 1
            self._note_broken(chosen, shown)
            if len(shown):
                labels = self.split.labels[chosen[shown.numpy()]]
                images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
                yield self.normalise(images), labels.to(self.device, non_blocking=True)
        self.epoch, self.batch = self.epoch + 1, 0

    @property
    def broken(self) -> list[str]:
        """Paths below the split's root of the broken pictures that were met so far."""
        return sorted(self._broken)

    def _mine(self, b: int) -> range:
        """Places in the epoch's order of this process's part of batch b; parts of a ragged batch differ by one."""
        start = b * self.batch_size
        return range(start + self.rank, min(start + self.batch_size, len(self.split)), self.world)

    def _read(self, order: np.ndarray, batches: range) -> DataLoader:
        """What `read` returns for this process's part of each of `batches`."""
        workers = min(self.workers, len(batches))
        return DataLoader(
            _Reader(),
            batch_size=None,  # a task is a batch already
            sampler=self._tasks(order, batches),
            num_workers=workers,
            multiprocessing_context=_start_method() if workers else None,
            worker_init_fn=_ignore_interrupts,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # without one, it draws from the random state of whoever iterates
        )

    def _tasks(self, order: np.ndarray, batches: range) -> Iterator[Task]:
        for b in batches:
            mine = self._mine(b)
            paths = tuple(str(self.split.root / self.split.paths[n]) for n in order[mine])
            draws = tuple((self.seed, self.epoch, place) for place in mine) if self.train else None
            yield Task(paths, self.split.pixels, draws, self.flip)

    def _note_broken(self, chosen: np.ndarray, shown: Tensor) -> None:
        missing = set(range(len(chosen))) - set(shown.tolist())
        if not missing:
            return
        paths = [self.split.paths[chosen[n]] for n in missing]
        self._broken.update(paths)
        stop_if_many(self._broken, len(self.split))
        if self.train and not len(shown):
            raise DataError(f"all pictures of a batch are broken, below {self.split.root}: {few(sorted(paths))}")


@dataclass(frozen=True)
class Task:
    """The pictures of one batch, and how they are cut."""

    paths: tuple[str, ...]
    pixels: int
    draws: tuple[tuple[int, int, int], ...] | None  # seed, epoch, place in it of each; None: cut from the middle
    flip: bool  # mirror half of those that are drawn


class _Reader:
    """`read`, as a DataLoader calls it. It holds nothing: a million paths would be copied to each worker."""

    def __getitem__(self, task: Task) -> tuple[Tensor, Tensor]:
        return read(task)


def read(task: Task) -> tuple[Tensor, Tensor]:
    """The good pictures of a task: uint8 (B, pixels, pixels, 3), and which of the task's they are, int64 (B,).

    In training, the place of a broken picture shows the next good one, so that B stays where any is good.
    """
    images = torch.empty(len(task.paths), task.pixels, task.pixels, 3, dtype=torch.uint8)
    good = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own random state
        for n, path in enumerate(task.paths):
            try:
                picture = decode(path)
            except DataError:
                continue
            good.append(n)
            if task.draws is None:
                cut = centred(picture, task.pixels)
            else:
                torch.default_generator.manual_seed(_number(*task.draws[n]))
                cut = crop(picture, task.pixels, task.flip)
            images[n] = cut.permute(1, 2, 0)
    if len(good) == len(task.paths):
        return images, torch.tensor(good)
    places = range(len(task.paths)) if task.draws and good else good
    shown = torch.tensor([good[bisect_left(good, n) % len(good)] for n in places], dtype=torch.int64)
    return images[shown], shown


def crop(picture: Tensor, pixels: int, flip: bool) -> Tensor:
    """uint8 (3, H, W) -> (3, pixels, pixels): RandomResizedCrop and, if `flip`, RandomHorizontalFlip of torchvision.

    Draws from torch's random state.
    """
    top, left, height, width = RandomResizedCrop.get_params(picture, AREA, RATIO)
    part = picture[None, :, top : top + height, left : left + width]
    part = part.contiguous(memory_format=torch.channels_last)  # as the resize reads and writes without re-packing
    cut = F.resize(part, [pixels, pixels], antialias=True)[0]
    return cut.flip(2) if flip and torch.rand(()) < 0.5 else cut


def default_workers() -> int:
    """One for each core that this process may use, 8 at the most; the processes that torchrun starts share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _number(*draw: int) -> int:
    """A seed for the picture at a place; place 0 is counted as 1, since SeedSequence takes no notice of a last 0."""
    *position, place = draw
    return int(np.random.SeedSequence([*position, place + 1]).generate_state(1, np.uint64)[0] >> 1)


@cache
def _start_method():
    """Workers are forked from a server that holds no threads and no GPU; where there are none, torch's default."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    _keep_addresses_short()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not by every worker of every epoch
    resource_tracker.ensure_running()  # or the server starts it, which unblocks the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by workers from their first moment
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _keep_addresses_short() -> None:
    """Processes meet at sockets in the folder of temporary files, whose paths may have about 100 letters at most."""
    config = process.current_process()._config  # what multiprocessing's children inherit
    if "tempdir" not in config and len(tempfile.gettempdir()) > MOST_LETTERS and os.path.isdir("/tmp"):
        config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
        util.Finalize(None, shutil.rmtree, args=(config["tempdir"], True), exitpriority=-100)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the one that trains decides when its workers stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
