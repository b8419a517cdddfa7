"""Data sets, resident on the device, as uint8 pictures in three splits."""

from __future__ import annotations

import os
from pathlib import Path

from dfs_edu.data import cifar100, digits
from dfs_edu.data.batches import Batches, augment
from dfs_edu.data.splits import Augmentation, DataError, Dataset, Split

__all__ = ["DATASETS", "Augmentation", "Batches", "DataError", "Dataset", "Split", "augment", "find", "load", "places"]

DATASETS = ("digits", "cifar100")


def load(name: str, root: str | os.PathLike | None = None) -> Dataset:
    """A data set by name: "digits" (embedded) or "cifar100" (found below root, $DFS_EDU_DATA or data/).

    Raises DataError: an unknown name; missing files, with where it looked and how to get them; damaged files.
    """
    if name not in DATASETS:
        raise DataError(f"data set {name!r} is not known; use one of {', '.join(DATASETS)}")
    return digits.load() if name == "digits" else cifar100.load(find(cifar100.FOLDER, root))


def places(root: str | os.PathLike | None = None) -> list[Path]:
    """Where data sets are looked for: `root` alone if given, else $DFS_EDU_DATA, data/ here, data/ of the checkout."""
    if root is not None:
        return [Path(root)]
    named = os.environ.get("DFS_EDU_DATA")
    here, checkout = Path("data").absolute(), Path(__file__).parents[2] / "data"
    return [*([Path(named)] if named else []), *dict.fromkeys([here, checkout])]


def find(folder: str, root: str | os.PathLike | None = None) -> Path:
    """The first place that holds `folder`."""
    for place in places(root):
        if (place / folder).is_dir():
            return place
    looked = ", ".join(str(place.absolute() / folder) for place in places(root))
    raise DataError(
        f"no {folder}: looked for {looked}. With a network, `dfs-edu download cifar100` fetches it into data/; "
        "without one, unpack the official archive and name its parent folder by --data or $DFS_EDU_DATA"
    )
