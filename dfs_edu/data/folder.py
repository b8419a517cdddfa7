"""Any folder of images as a data set: JPEG, PNG or WEBP of any size, one folder per class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dfs_edu.data.dataset import Dataset
from dfs_edu.data.listing import Listing, files, files_below, has_folders, is_ignored, listed, set_apart, visible
from dfs_edu.data.ondisk import RESIDENT, Files, stop_if_many
from dfs_edu.data.splits import RGB, Augmentation, DataError, Split, check_side, few

SPLIT_SEED = 10
FEWEST = 3  # images per class: one for each split
MEASURED = 2_000  # training images whose mean and deviation stand for all
PARTS = ("train", "val", "test")


def load(root: Path, pixels: int = 32, seed: int = SPLIT_SEED) -> Dataset:
    """Return the images below root as a data set whose classes are named after their folders.

    Three layouts are understood:

    * ``root/<class>/``: split 80 / 10 / 10 %, stratified, by ``seed``;
    * ``root/train/<class>/`` and ``root/val/<class>/``: val is the test split, and 10 % of each class of train, chosen
      by ``seed``, are the validation split;
    * the same and ``root/test/<class>/``: three splits as they are.

    Images are resized and centre-cropped to ``pixels``. If all of them fit into memory (1 GiB), they are decoded now,
    and broken ones are left out with a warning; otherwise the splits are ``Files``, decoded as they are used. A warning
    names whatever may be images beside the folders of splits.

    Args:
        root: The folder.
        pixels: Side of the images.
        seed: Seed of the splits.

    Raises:
        DataError: Lists everything that is wrong with the folders (see ``listing.listed``); a class of the first layout
            has fewer than 3 images; more than 0.1 % of a split are broken.
    """
    check_side(pixels)
    if type(seed) is not int or seed < 0:
        raise DataError(f"seed={seed!r}: a whole number from 0")
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root} is missing: name the folder of images by --data or $DFS_EDU_DATA; it holds train/ and val/, or "
            "one folder per class"
        )
    classes, splits = _splits(root, pixels, seed)
    augmentation = Augmentation(pad=pixels // 8, fill=128, flip=True)
    if sum(map(len, splits)) * 3 * pixels**2 <= RESIDENT:
        train, validation, test = map(in_memory, splits)
        sample = train[:MEASURED]
    else:
        train, validation, test = splits
        count = max(1, min(MEASURED, RESIDENT // (3 * pixels**2)))
        sample = in_memory(train[:count], total=len(train))
    mean, std = mean_and_deviation(sample.images)
    return Dataset(root.resolve().name, train, validation, test, classes, mean, std, augmentation)


def test_images(root: Path, classes: Sequence[str], pixels: int) -> Split | Files:
    """Return the images below root/<class>/ as a test split for a network that knows ``classes``.

    At least two of the classes must be there, not necessarily all.

    Raises:
        DataError: A class is not known; or the folders are not as they should be (see ``listing.listed``).
    """
    root = Path(root)
    (listing,) = listed(root, ("",))
    if unknown := sorted(set(listing) - set(classes)):
        raise DataError(f"{root} holds classes that the run does not know: {few(unknown)}; it knows {few(classes)}")
    split = files("test", root, "", listing, pixels)
    split = replace(split, labels=torch.tensor([classes.index(name) for name in listing])[split.labels])
    return in_memory(split) if len(split) * 3 * pixels**2 <= RESIDENT else split


def in_memory(split: Files, total: int | None = None) -> Split:
    """Decode a split, or the first part of one with ``total`` images; broken images are left out with a warning."""
    decoded, faults = split.read()
    stop_if_many(faults, total or len(split))
    if faults:
        warnings.warn(f"left out of {split.name}: {few(faults)}", stacklevel=3)
    return decoded


def mean_and_deviation(images: Tensor) -> tuple[RGB, RGB]:
    """Return mean and standard deviation of each channel of uint8 (N, 3, H, W), in units of 0 to 1.

    A deviation is at least one grey level, so that images of one colour can be normalised.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([plane.flatten().bincount(minlength=256) for plane in images.unbind(1)])  # (3, 256)
    shares = counts / counts.sum(1, keepdim=True).double()
    mean = shares @ levels
    variance = shares @ levels.square() - mean.square()
    return tuple(mean.tolist()), tuple(variance.clamp(min=1 / 255**2).sqrt().tolist())


def _splits(root: Path, pixels: int, seed: int) -> tuple[tuple[str, ...], list[Files]]:
    """The classes, and train, validation and test, from whichever layout root has."""
    capitals = [entry.name for entry in visible(root) if entry.name not in PARTS and entry.name.lower() in PARTS]
    if capitals:
        raise DataError(f"{root} holds {few(capitals)}: write train, val and test in lower case")

    def tenth(n: int) -> int:
        return max(1, round(n / 10))

    # Folders of splits, with or without a validation split of their own, or folders of classes alone
    parts = tuple(part for part in PARTS if has_folders(root / part))
    if parts:
        _warn_of_others(root, parts)
    if parts == PARTS:
        listings, folders = listed(root, PARTS), PARTS
    elif parts:
        whole, test = listed(root, ("train", "val"))
        listings = [*set_apart(whole, lambda n: (min(tenth(n), n - 1),), seed), test]
        folders = ("train", "train", "val")
    else:
        (whole,) = listed(root, ("",))
        _check_classes(root, whole)
        listings = set_apart(whole, lambda n: (tenth(n), tenth(n)), seed)
        folders = ("", "", "")
    named = zip(("train", "validation", "test"), folders, listings, strict=True)
    return tuple(listings[0]), [files(name, root, folder, listing, pixels) for name, folder, listing in named]


def _check_classes(root: Path, listing: Listing) -> None:
    """Raise DataError unless what root holds are classes, each large enough to be split."""
    if set(listing) <= set(PARTS):
        raise DataError(f"{root}: {few(list(listing))} hold images, but no class folders")
    small = [f"{name} ({len(names)})" for name, names in listing.items() if len(names) < FEWEST]
    if small:
        raise DataError(
            f"{root} holds {len(small)} classes of fewer than {FEWEST} images, one for each of train, validation and "
            f"test: {few(small)}"
        )


def _warn_of_others(root: Path, parts: Sequence[str]) -> None:
    """Warn of whatever is beside the folders of splits and may be images, since it is not read."""
    others = [entry for entry in visible(root) if entry.name not in parts]
    counts = {entry.name: files_below(entry.path) for entry in others if entry.is_dir()}
    left = [entry.name for entry in others if counts.get(entry.name, not is_ignored(entry.name))]
    if left:
        warnings.warn(f"left out: {root} also holds {few(left)}, beside {', '.join(parts)}", stacklevel=4)
