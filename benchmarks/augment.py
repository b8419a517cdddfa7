"""Reading augmented batches of training images: whole batches on the device, and image by image with PIL.

Both crop, flip, apply AutoAugment's policy, cut a square out and normalise: ``Batches``, as this package trains, and
torchvision's transforms in a DataLoader with a worker for every core. The variants take turns in one run, since the
speed of a shared machine drifts; the ratio of the medians is what counts. Workers live for one turn, so that they
do not disturb the next, and timing starts when the batches that they prepared during their start are used up.
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
from dfs_edu.data import Augmentation, Batches, DataError, Dataset, Split
from dfs_edu.training import heap
from dfs_edu.training.machine import device_name
from dfs_edu.training.trainer import bf16_pays, pick_device

BACKBONE = "vgg7-64"  # its training step is the yardstick
AHEAD = 2  # batches that a worker prepares in advance
WHOLE, PIL = 16_384, 2_560  # images per turn: one second to a few, on two cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--batch",
        type=int,
        nargs="*",
        default=[128, 512],
        help="images per batch; PIL and the training step use the first",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    if device.type == "cpu":
        heap.keep_freed()  # as train() does
    dataset = load()
    assert isinstance(dataset.train, Split)  # in memory
    augmentation = replace(dataset.augmentation, autoaugment=True, cutout=dataset.train.images.shape[-1] // 2)
    first = args.batch[0]
    step = make_step(BACKBONE, first, dfs.Joint(), device, bf16=bf16_pays(device))
    readers = {
        batch: partial(
            next, endless(Batches(dataset.train, dataset, batch, True, device=device, augmentation=augmentation))
        )
        for batch in args.batch
    }
    whole, pil, steps = {batch: [] for batch in readers}, [], []  # seconds per batch, one entry per round
    for _ in tqdm(range(args.rounds)):
        for batch, read in readers.items():
            whole[batch].append(seconds(read, -(-WHOLE // batch), 1, device))
        steps.append(seconds(step, 3, 1, device))
        loader = DataLoader(
            OneByOne(dataset, augmentation), first, shuffle=True, num_workers=args.workers, prefetch_factor=AHEAD
        )
        pil.append(seconds(partial(next, endless(loader)), -(-PIL // first), AHEAD * args.workers, device))

    print(f"\n{dataset.name}, {device_name(device)}, median of {args.rounds} rounds")
    report(whole, pil, steps, first, args.workers)


def report(whole: dict[int, list[float]], pil: list[float], steps: list[float], first: int, workers: int) -> None:
    """Print images per second, and the share of a training step that reading takes."""
    one_by_one, step = first / statistics.median(pil), statistics.median(steps)
    print(f"{f'PIL, {workers} workers':26} {one_by_one:9,.0f} images/s")
    for batch, values in whole.items():
        rate = batch / statistics.median(values)
        print(f"{f'whole batches of {batch}':26} {rate:9,.0f} images/s, {rate / one_by_one:.1f} times as many")
    reading = statistics.median(whole[first])
    print(f"{f'a batch of {first}':26} {1000 * reading:9.1f} ms, {reading / step:.1%} of a training step of {BACKBONE}")


def load() -> Dataset:
    """CIFAR-100, or the digits where it is not installed."""
    try:
        return dfs.data.load("cifar100")
    except DataError:
        return dfs.data.load("digits")


def seconds(call: Callable[[], object], times: int, before: int, device: torch.device) -> float:
    """Seconds per call, over ``times`` calls after ``before`` calls that are not timed."""
    for _ in range(before):
        call()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    synchronise(device)
    return (time.perf_counter() - start) / times


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def endless(batches: Iterable) -> Iterator:
    """One epoch after the other."""
    while True:
        yield from batches


class OneByOne(torch.utils.data.Dataset):
    """The training images, each augmented by torchvision's transforms of PIL images."""

    def __init__(self, dataset: Dataset, augmentation: Augmentation):
        self.images = dataset.train.images.permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
        self.labels = dataset.train.labels.tolist()
        fill = (augmentation.fill,) * 3
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(self.images.shape[1:3], augmentation.pad, fill=fill),
                transforms.RandomHorizontalFlip(),
                transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=list(fill)),
                transforms.ToTensor(),
                partial(cut_out, side=augmentation.cutout),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def cut_out(image: Tensor, side: int) -> Tensor:
    """A black square around a random centre. image (3, H, W), changed in place."""
    top, left = (int(torch.randint(n, ())) - side // 2 for n in image.shape[1:])
    image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    return image


if __name__ == "__main__":
    main()
