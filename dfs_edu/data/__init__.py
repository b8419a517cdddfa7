"""Data sets: uint8 images in three splits, kept in memory and on the device as a whole, or streamed from disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from dfs_edu.data import cifar100, digits, folder, imagenet
from dfs_edu.data.augmentation import augment
from dfs_edu.data.batching import Batches
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.ondisk import Files
from dfs_edu.data.splits import Augmentation, DataError, Split, check_side
from dfs_edu.data.streamed import Streamed

__all__ = [
    "ANY_SIZE",
    "DATASETS",
    "Augmentation",
    "Batches",
    "DataError",
    "Dataset",
    "Files",
    "Split",
    "Streamed",
    "augment",
    "batches",
    "find",
    "load",
    "locate",
    "places",
]

DATASETS = ("digits", "cifar100", "imagenet", "folder")
ANY_SIZE = ("imagenet", "folder")  # data sets whose images can be read at any size


def load(name: str, root: str | os.PathLike | None = None, pixels: int | None = None) -> Dataset:
    """Return a data set by name.

    Args:
        name: "digits", which is embedded; "cifar100"; "imagenet", a folder with train/ and val/; or "folder", any
            folder of images with one folder per class.
        root: Where to look: for "folder" the folder itself, for "imagenet" the folder or its parent, for "cifar100" the
            parent. By default $DFS_EDU_DATA, or data/ (see ``places``).
        pixels: Side of the images. ImageNet and folders can be read at any size; by default 224 and 32.

    Raises:
        DataError: A ValueError. The name is unknown; the size is not a whole number from 1 to 4096, or not one that the
            data set has; files are missing (the message says where they were looked for, and how to get them) or
            damaged.
    """
    if name not in DATASETS:
        raise DataError(f"data set {name!r} is not known; use one of {', '.join(DATASETS)}")
    if pixels is not None:
        check_side(pixels)
    size, home = {} if pixels is None else {"pixels": pixels}, locate(name, root)
    if name in ANY_SIZE and home:
        return (imagenet if name == "imagenet" else folder).load(home, **size)
    dataset = cifar100.load(home) if home else digits.load()
    if pixels not in (None, dataset.pixels):
        raise DataError(f"{name} has images of {dataset.pixels}x{dataset.pixels}, not {pixels}x{pixels} pixels")
    return dataset


def batches(
    split: Split | Files, dataset: Dataset, *options: Any, augmentation: str = "crop", **more: Any
) -> Batches | Streamed:
    """Return ``Batches`` of a split in memory, or ``Streamed`` of one on disk.

    Args:
        split: The split.
        dataset: Its data set.
        options: As for ``batching.Epochs``.
        augmentation: "crop" or "autoaugment", see ``recipes.Recipe``.
        more: As for ``batching.Epochs``.

    Raises:
        ValueError: AutoAugment is asked for images that are streamed; or see ``batching.Epochs``.
    """
    if isinstance(split, Split):
        changes = dataset.augmentation
        if augmentation == "autoaugment":
            changes = replace(changes, autoaugment=True, cutout=dataset.pixels // 2)
        return Batches(split, dataset, *options, augmentation=changes, **more)
    if augmentation != "crop":
        raise ValueError(f"augmentation={augmentation!r} needs images in memory; those of {dataset.name} are streamed")
    return Streamed(split, dataset, *options, **more)


def locate(name: str, root: str | os.PathLike | None = None) -> Path | None:
    """Return the folder that ``load`` reads a data set from; None for digits, which are embedded.

    Args:
        name: Of the data set.
        root: See ``load``.

    Raises:
        DataError: CIFAR-100 or ImageNet is missing; the message says where it was looked for.
    """
    if name == "folder":
        return places(root)[0]
    if name == "imagenet":
        return find_imagenet(root)
    return find(cifar100.FOLDER, root) if name == "cifar100" else None


def places(root: str | os.PathLike | None = None) -> list[Path]:
    """Return where to look for data sets: in ``root`` if given, else in $DFS_EDU_DATA, ./data, the checkout's data/."""
    if root is not None:
        return [Path(root)]
    named = os.environ.get("DFS_EDU_DATA")
    here, checkout = Path("data").absolute(), Path(__file__).parents[2] / "data"
    return [*([Path(named)] if named else []), *dict.fromkeys([here, checkout])]


def find(folder: str, root: str | os.PathLike | None = None) -> Path:
    """Return the first place that holds ``folder``.

    Raises:
        DataError: None does; the message says where it was looked for.
    """
    for place in places(root):
        if (place / folder).is_dir():
            return place
    looked = ", ".join(str(place.absolute() / folder) for place in places(root))
    raise DataError(
        f"no {folder}: looked for {looked}. With a network, `dfs-edu download cifar100` fetches it into data/; "
        "without one, unpack the official archive and name its parent folder by --data or $DFS_EDU_DATA"
    )


def find_imagenet(root: str | os.PathLike | None = None) -> Path:
    """Return the first folder with train/ and val/ among the places, and ``imagenet`` in each of them.

    Raises:
        DataError: There is none; the message says where it was looked for.
    """
    for place in places(root):
        for candidate in (place, place / "imagenet"):
            if (candidate / "train").is_dir() or (candidate / "val").is_dir():
                return candidate
    looked = ", ".join(str(place.absolute()) for place in places(root))
    raise DataError(
        f"no ImageNet: looked for train/ and val/, and for imagenet/ with them, in {looked}. It is not downloaded: "
        "get it from image-net.org, and name its folder by --data or $DFS_EDU_DATA"
    )
