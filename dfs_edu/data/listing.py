"""Folders of pictures, a folder a class: listed, checked and split before a run, without a look into the pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dfs_edu.data.files import Files, few
from dfs_edu.data.splits import DataError

READ = (".jpg", ".jpeg", ".png", ".webp")
NOT_READ = (".avif", ".bmp", ".gif", ".heic", ".tif", ".tiff")  # refused, so that no picture is left out unseen
MIX_SEED = 1

Listing = dict[str, list[str]]  # class -> names of its pictures, both sorted


def listed(root: Path, folders: tuple[str, ...]) -> list[Listing]:
    """The pictures below root/folder/class/ for each of `folders`, all of which have the same classes.

    Pictures are told by their names' endings (READ). Hidden files, folders in class folders and files that are no
    pictures are passed over. Raises DataError, with all that is wrong: missing folders, pictures of other formats,
    classes without a picture, classes that are not in every folder, fewer than two classes.
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


def _list(folder: Path) -> tuple[Listing, list[str]]:
    """The classes below a folder, and what is wrong with them."""
    listing, refused = {}, []
    for place in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."):
        names = [e.name for e in os.scandir(folder / place) if e.name[0] != "." and e.is_file()]
        listing[place] = sorted(name for name in names if name.lower().endswith(READ))
        refused += [f"{place}/{name}" for name in names if name.lower().endswith(NOT_READ)]
    faults = []
    if not listing:
        faults.append(f"{folder} holds no folder of pictures")
    if refused:
        faults.append(
            f"{folder} holds {len(refused)} pictures that are none of {', '.join(READ)}: {few(sorted(refused))}"
        )
    empty = [place for place, names in listing.items() if not names]
    if empty:
        faults.append(f"{folder} holds classes without a picture ({len(empty)}): {few(empty)}")
    return listing, faults
