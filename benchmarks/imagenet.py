"""Reading ImageNet for training: pictures a second of `Streamed` and of the usual pipeline.

The usual one is torchvision's ImageFolder with PIL: RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize, in a
DataLoader. Both read the same pictures with as many workers, from the disk's cache after the first round, and take
turns, since the speed of a shared machine drifts; what counts is the ratio of the medians. Counting starts when as many
batches have come as there are workers, so that starting them does not count.
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
from dfs_edu.data import imagenet
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.streamed import Streamed, default_workers
from dfs_edu.training.machine import device_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the folder that holds train/ and val/ (default: where ImageNet is found)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=default_workers())
    args = parser.parse_args()
    dataset = imagenet.load(data.find_imagenet(args.data))
    contestants = {
        "ImageFolder, PIL": usual(dataset, args.batch, args.workers),
        "Streamed": Streamed(dataset.train, dataset, args.batch, train=True, workers=args.workers),
    }
    rates = {name: [] for name in contestants}
    for _ in tqdm(range(args.rounds)):
        for name, batches in contestants.items():
            rates[name].append(pictures_a_second(batches, args.workers))
    print(
        f"\n{len(dataset.train)} pictures at {dataset.pixels} pixels, batch {args.batch}, {args.workers} workers, "
        f"{device_name(torch.device('cpu'))}, median of {args.rounds} rounds"
    )
    report(rates)


def report(rates: dict[str, list[float]]) -> None:
    usual = statistics.median(rates["ImageFolder, PIL"])
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{name:18} {median:6.0f} pictures/s ({spread})   of ImageFolder: {median / usual:.2f}")


def usual(dataset: Dataset, batch: int, workers: int) -> DataLoader:
    """ImageFolder's batches of the same training pictures."""
    train = dataset.train
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


def pictures_a_second(batches: Iterable, workers: int) -> float:
    """Of one epoch, without its start."""
    count, start = 0, None
    for n, (images, _) in enumerate(batches, start=1):
        if start is None:
            start = time.perf_counter() if n >= workers else None
        else:
            count += len(images)
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
