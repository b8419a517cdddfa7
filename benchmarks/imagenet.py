"""Reading ImageNet for training: images per second of ``Streamed`` and of the usual pipeline.

The usual pipeline is torchvision's ImageFolder with PIL: RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize,
in a DataLoader. Both read the same images with as many workers, from the disk's cache after the first round. They take
turns, since the speed of a shared machine drifts; the ratio of the medians is what counts. Timing starts after as many
batches as there are workers, so that starting the workers is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from dfs_edu import data
from dfs_edu.data import Files, imagenet
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.streamed import Streamed, default_workers
from dfs_edu.training.machine import device_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the folder that holds train/ and val/ (default: the usual places)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=default_workers())
    args = parser.parse_args()
    dataset = imagenet.load(data.find_imagenet(args.data))
    assert isinstance(dataset.train, Files)  # on the disk
    variants = {
        "ImageFolder, PIL": usual(dataset, dataset.train, args.batch, args.workers),
        "Streamed": Streamed(dataset.train, dataset, args.batch, train=True, workers=args.workers),
    }
    rates = {name: [] for name in variants}
    for _ in tqdm(range(args.rounds)):
        for name, batches in variants.items():
            rates[name].append(images_per_second(batches, args.workers))
    print(
        f"\n{len(dataset.train)} images at {dataset.pixels} pixels, batch {args.batch}, {args.workers} workers, "
        f"{device_name(torch.device('cpu'))}, median of {args.rounds} rounds"
    )
    report(rates)


def report(rates: dict[str, list[float]]) -> None:
    """Print median and range of each, and the ratio of the medians."""
    usual = statistics.median(rates["ImageFolder, PIL"])
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{name:18} {median:6.0f} images/s ({spread})   of ImageFolder: {median / usual:.2f}")


def usual(dataset: Dataset, train: Files, batch: int, workers: int) -> DataLoader:
    """ImageFolder's batches of the same training images."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(train.pixels),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(dataset.mean, dataset.std),
        ]
    )
    folder = ImageFolder(str(train.root / "train"), transform)
    paths = [str(train.root / path) for path in train.paths]
    folder.samples = list(zip(paths, train.labels.tolist(), strict=True))
    return DataLoader(folder, batch, shuffle=True, num_workers=workers, drop_last=True)


def images_per_second(batches: Iterable, workers: int) -> float:
    """Images per second of one epoch, without its first ``workers`` batches."""
    count, start = 0, 0.0
    for n, (images, _) in enumerate(batches, start=1):
        if n > workers:
            count += len(images)
        elif n == workers:
            start = time.perf_counter()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
