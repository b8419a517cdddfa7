"""Folders of images, one folder per class: listed, checked and split before a run, without opening an image."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from dfs_edu.data.ondisk import Files
from dfs_edu.data.splits import DataError, few

READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
# Known not to be images, and ignored. Any other file that is not hidden is refused, so that no image is overlooked
NO_IMAGES = (".csv", ".db", ".htm", ".html", ".ini", ".json", ".md", ".pdf", ".txt", ".xml", ".yaml", ".yml")
NO_IMAGES += (".gz", ".ipynb", ".log", ".mat", ".npy", ".npz", ".py", ".sh", ".tar", ".tgz", ".tsv", ".zip")
NO_IMAGES_CALLED = ("license", "licence", "readme")  # without an extension
MIX_SEED = 1

Listing = dict[str, list[str]]  # class -> names of its image files, both sorted


def listed(root: Path, folders: tuple[str, ...]) -> list[Listing]:
    """List the images below root/folder/class/ for each of ``folders``, all of which must have the same classes.

    Images are recognised by their extensions (``READ``). Hidden files and those known not to be images (``NO_IMAGES``)
    are ignored everywhere.

    Raises:
        DataError: Lists everything that is wrong: missing folders, files of any other kind, pipes and devices, dangling
            links, files beside class folders or in folders inside them, classes without an image, classes that are not
            in every folder (the same letters in another Unicode form are another name), fewer than two classes.
    """
    listings: dict[str, Listing] = {}
    faults = [f"{root / folder} is missing" for folder in folders if not (root / folder).is_dir()]
    for folder in folders:
        if (root / folder).is_dir():
            listings[folder], faulty = _list(root / folder)
            faults += faulty

    # Compare the folders with each other
    classes = set().union(*listings.values())
    for folder, listing in listings.items() if len(listings) == len(folders) else ():
        if lacking := sorted(classes - set(listing)):
            faults.append(f"{root / folder} lacks classes that are elsewhere ({len(lacking)}): {few(lacking)}")
    faults += _look_alikes(root, classes)
    if len(classes) == 1:
        faults.append(f"{root} holds one class, {min(classes)}: at least two are needed, each a folder of images")
    if faults:
        raise DataError("; ".join(faults))
    return list(listings.values())


def set_apart(listing: Listing, counts: Callable[[int], tuple[int, ...]], seed: int) -> list[Listing]:
    """Split a listing at random: what remains of each class, then the parts set apart.

    Args:
        listing: What is to be split.
        counts: Size of a class -> sizes of the parts to set apart.
        seed: Each class is shuffled by this and its index.
    """
    parts = []
    for c, names in enumerate(listing.values()):
        order = np.random.default_rng([seed, c]).permutation(len(names))
        ends = np.cumsum(counts(len(names)))
        *apart, rest = np.split(order, ends)
        parts.append([[names[n] for n in np.sort(part)] for part in (rest, *apart)])
    return [dict(zip(listing, part, strict=True)) for part in zip(*parts, strict=True)]


def files(name: str, root: Path, folder: str, listing: Listing, pixels: int) -> Files:
    """Return what is listed below root/folder as a split, shuffled so that its first images are of many classes."""
    paths = [os.path.join(folder, label, image) for label, images in listing.items() for image in images]
    labels = torch.arange(len(listing)).repeat_interleave(torch.tensor([len(names) for names in listing.values()]))
    order = np.random.default_rng(MIX_SEED).permutation(len(paths))
    return Files(name, root, tuple(paths[n] for n in order), labels[order], pixels)


def has_folders(folder: Path) -> bool:
    """Whether a folder exists and holds a folder that is not hidden."""
    return folder.is_dir() and any(entry.is_dir() for entry in visible(folder))


def is_ignored(name: str) -> bool:
    """Whether a file is hidden or known not to be an image."""
    name = name.lower()
    return name.startswith(".") or name.endswith(NO_IMAGES) or name in NO_IMAGES_CALLED


def files_below(folder: str | Path) -> int:
    """Count the files in a folder, and in all folders inside it, that are not ignored.

    A link to a folder counts as one file.

    Raises:
        OSError: A folder cannot be read.
    """
    count, waiting = 0, [folder]
    while waiting:
        for entry in visible(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            else:
                count += not is_ignored(entry.name)
    return count


def visible(folder: str | Path) -> list[os.DirEntry]:
    """Return the entries of a folder that are not hidden, sorted by name."""
    return sorted((entry for entry in os.scandir(folder) if entry.name[0] != "."), key=lambda entry: entry.name)


def _look_alikes(root: Path, classes: Iterable[str]) -> list[str]:
    """A fault if names of classes that look the same are written in different Unicode forms."""
    forms: dict[str, list[str]] = {}
    for name in sorted(classes):
        forms.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    alike = [" and ".join(f"{name!a}" for name in names) for names in forms.values() if len(names) > 1]
    if not alike:
        return []
    return [f"{root} holds classes that look alike in different Unicode forms, rename one of each: {few(alike)}"]


def _list(folder: Path) -> tuple[Listing, list[str]]:
    """The classes below a folder, and what is wrong with them."""
    listing: Listing = {}
    dangling, special, beside, refused, deeper = [], [], [], [], []

    def is_file(entry: os.DirEntry, place: str) -> bool:
        """Whether an entry is a regular file; anything else is noted, since reading a pipe may never end."""
        if entry.is_file():
            return True
        (special if os.path.exists(entry.path) else dangling).append(place)
        return False

    def list_class(label: str, path: str) -> None:
        listing[label] = []
        for entry in visible(path):
            place = f"{label}/{entry.name}"
            if entry.is_dir():
                if count := files_below(entry.path):
                    deeper.append(f"{place} ({count})")
            elif is_file(entry, place):
                if entry.name.lower().endswith(READ):
                    listing[label].append(entry.name)
                elif not is_ignored(entry.name):
                    refused.append(place)

    for entry in visible(folder):
        if entry.is_dir():
            list_class(entry.name, entry.path)
        elif is_file(entry, entry.name) and not is_ignored(entry.name):
            beside.append(entry.name)

    counted = {
        "links that lead nowhere": dangling,
        "pipes, sockets or devices": special,
        "files beside the class folders": beside,
        f"files that are neither {', '.join(READ)} nor known not to be images": refused,
        "folders with files inside class folders, which are not read": deeper,
        "classes without an image": [label for label, names in listing.items() if not names],
    }
    faults = [f"{folder} holds {len(names)} {what}: {few(names)}" for what, names in counted.items() if names]
    return listing, faults if listing else [*faults, f"{folder} holds no folder of images"]
