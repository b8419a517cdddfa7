"""Any folder of pictures as a data set: JPEG, PNG or WEBP of any size, a folder a class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dfs_edu.data.dataset import Dataset
from dfs_edu.data.images import RESIDENT, Files, few, stop_if_many
from dfs_edu.data.listing import files, files_below, has_folders, is_passed_over, listed, set_apart, visible
from dfs_edu.data.splits import Augmentation, DataError, Split, check_side

SPLIT_SEED = 10
LEAST = 3  # pictures a class: one for each split
MEASURED = 2_000  # training pictures whose mean and deviation stand for all


def load(root: Path, pixels: int = 32, seed: int = SPLIT_SEED) -> Dataset:
    """The pictures below root, in one of three layouts; classes are named as their folders.

    root/<class>/                            split 80 / 10 / 10 %, stratified, by `seed`
    root/train/<class>/, root/val/<class>/   val is the test split; 10 % of each class of train, by `seed`, validate
    the same, and root/test/<class>/         three splits as they are

    Pictures are resized and cut from the middle to `pixels`. Where all of them fit into memory (1 GiB), they are
    decoded now, and broken ones left out with a warning; otherwise the splits are `Files`, decoded as they are used.
    Whatever may be images beside the folders of splits is named in a warning.

    Raises DataError, with all that is wrong, where the folders are not as they should be (see `listing.listed`), where
    a class of the first layout has fewer than 3 pictures, and where more than 0.1 % of a split are broken.
    """
    check_side(pixels)
    if type(seed) is not int or seed < 0:
        raise DataError(f"seed={seed!r}: a whole number from 0")
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root} is missing: name the folder of pictures by --data or $DFS_EDU_DATA; it holds train/ and val/, or "
            "a folder a class"
        )
    classes, splits = _splits(root, pixels, seed)
    if sum(map(len, splits)) * 3 * pixels**2 <= RESIDENT:
        splits = [in_memory(split, of=len(split)) for split in splits]
        sample = splits[0][:MEASURED]
    else:
        few_enough = max(1, min(MEASURED, RESIDENT // (3 * pixels**2)))
        sample = in_memory(splits[0][:few_enough], of=len(splits[0]))
    mean, std = mean_and_deviation(sample.images)
    augmentation = Augmentation(pad=pixels // 8, fill=128, flip=True)
    return Dataset(root.resolve().name, *splits, classes, mean, std, augmentation)


def test_images(root: Path, classes: Sequence[str], pixels: int) -> Split | Files:
    """The images below root/<class>/ as a test split of known classes: at least two of them, not always all.

    Raises DataError for a class that is not known, and where the folders are not as they should be (`listing.listed`).
    """
    root = Path(root)
    (listing,) = listed(root, ("",))
    if unknown := sorted(set(listing) - set(classes)):
        raise DataError(f"{root} holds classes that the run does not know: {few(unknown)}; it knows {few(classes)}")
    split = files("test", root, "", listing, pixels)
    split = replace(split, labels=torch.tensor([classes.index(name) for name in listing])[split.labels])
    return in_memory(split, of=len(split)) if len(split) * 3 * pixels**2 <= RESIDENT else split


def in_memory(split: Files, of: int) -> Split:
    """The split decoded, of a whole of `of` pictures; broken ones are left out with a warning."""
    pictures, broken = split.read()
    stop_if_many(broken, of)
    if broken:
        warnings.warn(f"left out of {split.name}: {few(broken)}", stacklevel=3)
    return pictures


def mean_and_deviation(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of uint8 (N, 3, H, W) a channel, in units of 0 to 1; a deviation below a grey level is one grey level."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([plane.flatten().bincount(minlength=256) for plane in images.unbind(1)])  # (3, 256)
    shares = counts / counts.sum(1, keepdim=True).double()
    mean = shares @ levels
    variance = shares @ levels.square() - mean.square()
    return tuple(mean.tolist()), tuple(variance.clamp(min=1 / 255**2).sqrt().tolist())


def _warn_of_others(root: Path, parts: list[str]) -> None:
    """Warn of what is beside the folders of splits and may be images: none of it is read."""
    others = [entry for entry in visible(root) if entry.name not in parts]
    counts = {entry.name: files_below(entry.path) for entry in others if entry.is_dir()}
    left = [entry.name for entry in others if counts.get(entry.name, not is_passed_over(entry.name))]
    if left:
        warnings.warn(f"left out: {root} also holds {few(left)}, beside {', '.join(parts)}", stacklevel=4)


def _splits(root: Path, pixels: int, seed: int) -> tuple[tuple[str, ...], list[Files]]:
    """The classes, and train, validation and test, by whichever layout root has."""
    share = lambda n: max(1, round(n / 10))  # noqa: E731
    known = ("train", "val", "test")
    large = [entry.name for entry in root.iterdir() if entry.name not in known and entry.name.lower() in known]
    if large:
        raise DataError(
            f"{root} holds {few(sorted(large))}: the names train, val and test are written in small letters"
        )
    parts = [part for part in known if has_folders(root / part)]
    if parts:
        _warn_of_others(root, parts)
    if parts == ["train", "val", "test"]:
        train, validation, test = listed(root, ("train", "val", "test"))
        where = ("train", "val", "test")
    elif parts:
        whole, test = listed(root, ("train", "val"))
        train, validation = set_apart(whole, lambda n: (min(share(n), n - 1),), seed)
        where = ("train", "train", "val")
    else:
        (whole,) = listed(root, ("",))
        if set(whole) <= set(known):
            raise DataError(f"{root}: {few(list(whole))} hold images, but no folders of classes")
        few_pictures = [f"{name} ({len(names)})" for name, names in whole.items() if len(names) < LEAST]
        if few_pictures:
            raise DataError(
                f"{root} holds {len(few_pictures)} classes of fewer than {LEAST} pictures, one for each of train, "
                f"validation and test: {few(few_pictures)}"
            )
        train, validation, test = set_apart(whole, lambda n: (share(n), share(n)), seed)
        where = ("", "", "")
    named = zip(("train", "validation", "test"), where, (train, validation, test), strict=True)
    return tuple(train), [files(name, root, folder, listing, pixels) for name, folder, listing in named]
