"""Folders of pictures, a folder a class: listed, checked and split before a run, without a look into the pictures."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dfs_edu.data.images import Files, few
from dfs_edu.data.splits import DataError

READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
# Known not to be images, and passed over; whatever else is not hidden is refused, so that no image is left out unseen
NO_IMAGES = (".csv", ".db", ".htm", ".html", ".ini", ".json", ".md", ".pdf", ".txt", ".xml", ".yaml", ".yml")
NO_IMAGES += (".gz", ".ipynb", ".log", ".mat", ".npy", ".npz", ".py", ".sh", ".tar", ".tgz", ".tsv", ".zip")
NO_IMAGES_CALLED = ("license", "licence", "readme")  # without an ending
MIX_SEED = 1

Listing = dict[str, list[str]]  # class -> names of its pictures, both sorted


def listed(root: Path, folders: tuple[str, ...]) -> list[Listing]:
    """The pictures below root/folder/class/ for each of `folders`, all of which have the same classes.

    Images are known by the endings of their names (READ). Hidden files and those known not to be images (NO_IMAGES)
    are passed over, wherever they are. Raises DataError, with all that is wrong: missing folders, any other file, pipes
    and devices, links that lead nowhere, files beside class folders or in folders below them, classes without an
    image, classes that are not in every folder (the same letters in another Unicode form are another name), fewer than
    two classes.
    """
    faults = [f"{root / folder} is missing" for folder in folders if not (root / folder).is_dir()]
    listings = []
    for folder in folders:
        if (root / folder).is_dir():
            listing, faulty = _list(root / folder)
            listings.append(listing)
            faults += faulty
    every = set().union(*listings)
    for folder, listing in zip(folders, listings, strict=False) if len(listings) == len(folders) else ():
        lacking = sorted(every - set(listing))
        if lacking:
            faults.append(f"{root / folder} lacks classes that are elsewhere ({len(lacking)}): {few(lacking)}")
        faults += _twins(lacking, listing) + _twins_within(root / folder, listing)
    if len(every) == 1:
        faults.append(f"{root} holds one class, {min(every)}: at least two are needed, each a folder of images")
    if faults:
        raise DataError("; ".join(faults))
    return listings


def set_apart(listing: Listing, counts: Callable[[int], tuple[int, ...]], seed: int) -> list[Listing]:
    """What remains of each class, and the parts set apart, of counts(n) pictures of a class of n."""
    parts = []
    for c, names in enumerate(listing.values()):
        order = np.random.default_rng([seed, c]).permutation(len(names))
        ends = np.cumsum(counts(len(names)))
        *apart, rest = np.split(order, ends)
        parts.append([[names[n] for n in np.sort(part)] for part in (rest, *apart)])
    return [dict(zip(listing, part, strict=True)) for part in zip(*parts, strict=True)]


def files(name: str, root: Path, folder: str, listing: Listing, pixels: int) -> Files:
    """A split of what is listed below root/folder; mixed, so that its first pictures are of many classes."""
    paths = [os.path.join(folder, place, picture) for place, pictures in listing.items() for picture in pictures]
    labels = torch.arange(len(listing)).repeat_interleave(torch.tensor([len(names) for names in listing.values()]))
    order = np.random.default_rng(MIX_SEED).permutation(len(paths))
    return Files(name, root, tuple(paths[n] for n in order), labels[order], pixels)


def has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() and entry.name[0] != "." for entry in os.scandir(folder))


def _twins(lacking: list[str], listing: Listing) -> list[str]:
    """Names that look the same in two folders and are written in different Unicode forms."""
    here = {unicodedata.normalize("NFC", name): name for name in listing}
    same = [name for name in lacking if unicodedata.normalize("NFC", name) in here]
    if not same:
        return []
    pairs = [f"{name!a} and {here[unicodedata.normalize('NFC', name)]!a}" for name in same]
    return [f"names that look alike are in different Unicode forms, rename one of each: {few(pairs)}"]


def _twins_within(folder: Path, listing: Listing) -> list[str]:
    """Names in one folder that look the same and are written in different Unicode forms."""
    forms: dict[str, list[str]] = {}
    for name in listing:
        forms.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    twins = [" and ".join(f"{name!a}" for name in names) for names in forms.values() if len(names) > 1]
    return [f"{folder} holds classes that look alike, in different Unicode forms: {few(twins)}"] if twins else []


def is_passed_over(name: str) -> bool:
    """Whether a file is hidden or known not to be an image."""
    name = name.lower()
    return name.startswith(".") or name.endswith(NO_IMAGES) or name in NO_IMAGES_CALLED


def files_below(folder: str | Path) -> int:
    """How many files in a folder, and in the folders below it, are not passed over; a link to a folder counts as one.

    Raises OSError for a folder that cannot be read.
    """
    count, waiting = 0, [folder]
    while waiting:
        for entry in visible(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            else:
                count += not is_passed_over(entry.name)
    return count


def visible(folder: str | Path) -> list[os.DirEntry]:
    """The entries of a folder that are not hidden, sorted by name."""
    return sorted((entry for entry in os.scandir(folder) if entry.name[0] != "."), key=lambda entry: entry.name)


def _list(folder: Path) -> tuple[Listing, list[str]]:
    """The classes below a folder, and what is wrong with them."""
    listing, refused, dangling, special, deeper = {}, [], [], [], []

    def is_file(entry: os.DirEntry, place: str) -> bool:
        """Whether an entry is a regular file; anything else is noted, since reading a pipe may never end."""
        if entry.is_file():
            return True
        (special if os.path.exists(entry.path) else dangling).append(place)
        return False

    entries = visible(folder)
    classes = [entry for entry in entries if entry.is_dir()]
    beside = [e.name for e in entries if not e.is_dir() and is_file(e, e.name) and not is_passed_over(e.name)]
    for c in classes:
        listing[c.name] = []
        for entry in visible(c.path):
            place = f"{c.name}/{entry.name}"
            if entry.is_dir():
                if count := files_below(entry.path):
                    deeper.append(f"{place} ({count})")
            elif is_file(entry, place):
                if entry.name.lower().endswith(READ):
                    listing[c.name].append(entry.name)
                elif not is_passed_over(entry.name):
                    refused.append(place)
    empty = [place for place, names in listing.items() if not names]
    counted = {
        "links that lead nowhere": dangling,
        "pipes, sockets or devices": special,
        "files beside the folders of classes": beside,
        f"files that are neither {', '.join(READ)} nor known not to be images": refused,
    }
    faults = [f"{folder} holds {len(names)} {what}: {few(names)}" for what, names in counted.items() if names]
    if deeper:
        faults.append(f"{folder} holds files in folders of class folders, where none is read: {few(deeper)}")
    if not listing:
        faults.append(f"{folder} holds no folder of images")
    if empty:
        faults.append(f"{folder} holds classes without an image ({len(empty)}): {few(empty)}")
    return listing, faults
