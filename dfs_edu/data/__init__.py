"""Data sets: uint8 pictures in three splits, in memory and on the device whole, or on the disk and streamed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dfs_edu.data import cifar100, digits, folder, imagenet
from dfs_edu.data.augmentation import augment
from dfs_edu.data.batching import Batches
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.images import Files
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
    "places",
]

DATASETS = ("digits", "cifar100", "imagenet", "folder")
ANY_SIZE = ("imagenet", "folder")  # their pictures are read at the size that is asked for


def load(name: str, root: str | os.PathLike | None = None, pixels: int | None = None) -> Dataset:
    """A data set by name.

    "digits"     embedded
    "cifar100"   found below root, $DFS_EDU_DATA or data/
    "imagenet"   a folder with train/ and val/, found there too, as `imagenet`, or root itself
    "folder"     any folder of pictures, a folder a class: root itself, or $DFS_EDU_DATA
    pixels       side of the pictures; ImageNet and folders can be read at any (224 and 32 if nothing is said)

    Raises DataError, a ValueError: an unknown name; a size that is not a whole number from 1 to 4096, or that the data
    set does not have; missing files, with where it looked and how to get them; damaged files.
    """
    if name not in DATASETS:
        raise DataError(f"data set {name!r} is not known; use one of {', '.join(DATASETS)}")
    if pixels is not None:
        check_side(pixels)
    size = {} if pixels is None else {"pixels": pixels}
    if name == "imagenet":
        return imagenet.load(find_imagenet(root), **size)
    if name == "folder":
        return folder.load(places(root)[0], **size)
    dataset = digits.load() if name == "digits" else cifar100.load(find(cifar100.FOLDER, root))
    if pixels not in (None, dataset.pixels):
        raise DataError(f"{name} has pictures of {dataset.pixels}x{dataset.pixels}, not {pixels}x{pixels} pixels")
    return dataset


def batches(split: Split | Files, dataset: Dataset, *options, augmentation: str = "crop", **more) -> Batches | Streamed:
    """`Batches` of a split in memory, `Streamed` of one on the disk; their options: see `batches.Epochs`.

    augmentation   "crop" or "autoaugment", see `recipes.Recipe`
    """
    if isinstance(split, Split):
        how = dataset.augmentation
        if augmentation == "autoaugment":
            how = replace(how, autoaugment=True, cutout=dataset.pixels // 2)
        return Batches(split, dataset, *options, augmentation=how, **more)
    if augmentation != "crop":
        raise ValueError(f"augmentation={augmentation!r} is for pictures in memory; those of {dataset.name} are read")
    return Streamed(split, dataset, *options, **more)


def places(root: str | os.PathLike | None = None) -> list[Path]:
    """Where data sets are looked for: `root` alone if given, else $DFS_EDU_DATA, data/ here, data/ of the checkout."""
    if root is not None:
        return [Path(root)]
    named = os.environ.get("DFS_EDU_DATA")
    here, checkout = Path("data").absolute(), Path(__file__).parents[2] / "data"
    return [*([Path(named)] if named else []), *dict.fromkeys([here, checkout])]


def find(folder: str, root: str | os.PathLike | None = None) -> Path:
    """The first place that holds `folder`. Raises DataError, with where it looked, if none does."""
    for place in places(root):
        if (place / folder).is_dir():
            return place
    looked = ", ".join(str(place.absolute() / folder) for place in places(root))
    raise DataError(
        f"no {folder}: looked for {looked}. With a network, `dfs-edu download cifar100` fetches it into data/; "
        "without one, unpack the official archive and name its parent folder by --data or $DFS_EDU_DATA"
    )


def find_imagenet(root: str | os.PathLike | None = None) -> Path:
    """The first place that is, or holds as `imagenet`, a folder with train/ and val/. Raises DataError if none is."""
    for place in places(root):
        for there in (place, place / "imagenet"):
            if (there / "train").is_dir() or (there / "val").is_dir():
                return there
    looked = ", ".join(str(place.absolute()) for place in places(root))
    raise DataError(
        f"no ImageNet: looked for train/ and val/, and for imagenet/ with them, in {looked}. It is not downloaded: "
        "get it from image-net.org, and name its folder by --data or $DFS_EDU_DATA"
    )
