"""Folders of pictures, a folder a class: listed, checked and split before a run, without a look into the pictures."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dfs_edu.data.files import Files, few
from dfs_edu.data.splits import DataError

READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
# Known to be no images, and passed over; whatever else is not hidden is refused, so that no image is left out unseen
NO_IMAGES = (".csv", ".db", ".htm", ".html", ".ini", ".json", ".md", ".pdf", ".txt", ".xml", ".yaml", ".yml")
MIX_SEED = 1

Listing = dict[str, list[str]]  # class -> names of its pictures, both sorted


def listed(root: Path, folders: tuple[str, ...]) -> list[Listing]:
    """The pictures below root/folder/class/ for each of `folders`, all of which have the same classes.

    Images are told by their names' endings (READ). Hidden files and those known to be no images (NO_IMAGES) are passed
    over. Raises DataError, with all that is wrong: missing folders, any other file, links that lead nowhere, images in
    folders of class folders, classes without an image, classes that are not in every folder (the same letters in
    another Unicode form are another name), fewer than two classes.
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
        faults += _twins(lacking, listing)
    if not faults and len(every) < 2:
        faults.append(f"{root}: {len(every)} classes; at least two folders of pictures are needed")
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


def _images_below(folder: str) -> int:
    return sum(name.lower().endswith(READ) for _, _, names in os.walk(folder) for name in names)


def _list(folder: Path) -> tuple[Listing, list[str]]:
    """The classes below a folder, and what is wrong with them."""
    listing, refused, dangling, deeper = {}, [], [], []
    for place in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."):
        entries = [e for e in os.scandir(folder / place) if e.name[0] != "."]
        names = [e.name for e in entries if e.is_file()]
        listing[place] = sorted(name for name in names if name.lower().endswith(READ))
        refused += [f"{place}/{name}" for name in names if not name.lower().endswith(READ + NO_IMAGES)]
        dangling += [f"{place}/{e.name}" for e in entries if not os.path.exists(e.path)]
        below = {e.name: _images_below(e.path) for e in entries if e.is_dir()}
        deeper += [f"{place}/{name} ({count})" for name, count in below.items() if count]
    faults = []
    if dangling:
        faults.append(f"{folder} holds {len(dangling)} links that lead nowhere: {few(sorted(dangling))}")
    if deeper:
        faults.append(f"{folder} holds images in folders of class folders, where none is read: {few(sorted(deeper))}")
    if not listing:
        faults.append(f"{folder} holds no folder of pictures")
    if refused:
        faults.append(
            f"{folder} holds {len(refused)} files that are neither of {', '.join(READ)} nor known to be no images: "
            f"{few(sorted(refused))}"
        )
    empty = [place for place, names in listing.items() if not names]
    if empty:
        faults.append(f"{folder} holds classes without a picture ({len(empty)}): {few(empty)}")
    return listing, faults
