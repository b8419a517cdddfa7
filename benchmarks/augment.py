"""Reading batches of training pictures, augmented: whole batches on the device, and picture by picture with PIL.

Both crop, flip, apply AutoAugment's policy, cut a square out and normalise: `Batches`, as this package trains, and
torchvision's transforms in a DataLoader with a worker for every core. The contestants take turns in one run, since the
speed of a shared machine drifts; what counts is the ratio of the medians. Workers live for one turn, so that they
disturb no other, and the clock starts when what they prepared while they started is used up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from tqdm import tqdm

import dfs_edu as dfs
from benchmarks.step import make_step
from dfs_edu.data import Augmentation, Batches, DataError, Dataset
from dfs_edu.training import heap
from dfs_edu.training.machine import device_name
from dfs_edu.training.trainer import bf16_pays, pick_device

BACKBONE = "vgg7-64"  # whose training step is the measure
AHEAD = 2  # batches that a worker prepares ahead
OURS, THEIRS = 16_384, 2_560  # pictures of a turn: a second or a few, on two cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--batch", type=int, nargs="*", default=[128, 512], help="pictures; PIL and the step: the first"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    if device.type == "cpu":
        heap.keep_freed()  # as train() does
    dataset = load()
    how = replace(dataset.augmentation, autoaugment=True, cutout=dataset.train.images.shape[-1] // 2)
    first = args.batch[0]
    step = make_step(BACKBONE, first, dfs.Joint(), device, bf16=bf16_pays(device))
    readers = {
        batch: partial(next, endless(Batches(dataset.train, dataset, batch, True, device=device, augmentation=how)))
        for batch in args.batch
    }
    ours, theirs, steps = {batch: [] for batch in readers}, [], []  # seconds of a batch, round by round
    for _ in tqdm(range(args.rounds)):
        for batch, read in readers.items():
            ours[batch].append(seconds(read, -(-OURS // batch), 1, device))
        steps.append(seconds(step, 3, 1, device))
        loader = DataLoader(
            OneByOne(dataset, how), first, shuffle=True, num_workers=args.workers, prefetch_factor=AHEAD
        )
        theirs.append(seconds(partial(next, endless(loader)), -(-THEIRS // first), AHEAD * args.workers, device))

    print(f"\n{dataset.name}, {device_name(device)}, median of {args.rounds} rounds")
    report(ours, theirs, steps, first, args.workers)


def report(ours: dict[int, list[float]], theirs: list[float], steps: list[float], first: int, workers: int) -> None:
    one_by_one, step = first / statistics.median(theirs), statistics.median(steps)
    print(f"{f'PIL, {workers} workers':26} {one_by_one:9,.0f} pictures/s")
    for batch, values in ours.items():
        rate = batch / statistics.median(values)
        print(f"{f'whole batches of {batch}':26} {rate:9,.0f} pictures/s, {rate / one_by_one:.1f} times as many")
    reading = statistics.median(ours[first])
    print(f"{f'a batch of {first}':26} {1000 * reading:9.1f} ms, {reading / step:.1%} of a training step of {BACKBONE}")


def load() -> Dataset:
    try:
        return dfs.data.load("cifar100")
    except DataError:
        return dfs.data.load("digits")


def seconds(call: Callable[[], object], times: int, before: int, device: torch.device) -> float:
    """Of a call, after some calls that are not timed."""
    for i in range(before + times):
        if i == before:
            synchronise(device)
            start = time.perf_counter()
        call()
    synchronise(device)
    return (time.perf_counter() - start) / times


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def endless(batches: Iterable) -> Iterator:
    while True:
        yield from batches


class OneByOne(torch.utils.data.Dataset):
    """The training pictures, each augmented by torchvision's transforms of PIL pictures."""

    def __init__(self, dataset: Dataset, how: Augmentation):
        self.images = dataset.train.images.permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
        self.labels = dataset.train.labels.tolist()
        fill = (how.fill,) * 3
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(self.images.shape[1:3], how.pad, fill=fill),
                transforms.RandomHorizontalFlip(),
                transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=fill),
                transforms.ToTensor(),
                partial(cut_out, side=how.cutout),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def cut_out(image: Tensor, side: int) -> Tensor:
    """A black square around a random centre. image (3, H, W), changed in place."""
    top, left = (int(torch.randint(n, ())) - side // 2 for n in image.shape[1:])
    image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    return image


if __name__ == "__main__":
    main()
