"""The checkpoint that a killed run resumes from."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import torch

from dfs_edu.files import write_whole

# A checkpoint file: SEAL, the SHA-256 of what follows, and what torch.save wrote.
SEAL = b"dfs_edu checkpoint 1\n"
NEXT, NEWEST, BEFORE = "checkpoint.next.pt", "checkpoint.pt", "checkpoint.before.pt"


def save(path: str | os.PathLike, state: dict) -> None:
    """A checkpoint: tensors, numbers, strings, lists and dicts only, so that reading it runs nothing."""
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getbuffer()).digest()

    def write(file: BinaryIO) -> None:
        file.write(SEAL + digest)
        file.write(content.getbuffer())

    write_whole(path, write)


def load(path: str | os.PathLike) -> dict:
    """Read a checkpoint onto the CPU. Raises ValueError naming the file if a single bit of it has changed."""
    with open(path, "rb") as file:
        seal, digest, content = file.read(len(SEAL)), file.read(32), file.read()
    if seal != SEAL:
        raise ValueError(f"{path}: not a whole checkpoint (it does not begin like one)")
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path}: not a whole checkpoint (its checksum is wrong: truncated or damaged)")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own
        reason = str(error).partition("\n")[0]  # torch goes on with advice to read the file unchecked
        raise ValueError(f"{path}: not a whole checkpoint ({reason})") from error


def keep(folder: str | os.PathLike, state: dict) -> None:
    """Save the newest checkpoint of a run; the one before stays beside it.

    At every moment one of the two is whole: the newest becomes the one before only when its successor is on the disk.
    """
    folder = Path(folder)
    for unfinished in folder.glob(f".{NEXT}.*"):  # of a process that was killed while it wrote
        unfinished.unlink()
    save(folder / NEXT, state)
    if (folder / NEWEST).exists():
        os.replace(folder / NEWEST, folder / BEFORE)
    os.replace(folder / NEXT, folder / NEWEST)


def is_there(folder: str | os.PathLike) -> bool:
    """Whether a run's folder holds a checkpoint, whole or not."""
    return any((Path(folder) / name).exists() for name in (NEXT, NEWEST, BEFORE))


def newest(folder: str | os.PathLike) -> dict | None:
    """The newest whole checkpoint of a run's folder; None where there is none yet.

    A damaged one is passed over with a warning. Raises ValueError, naming them, where all that are there are damaged.
    """
    damaged = []
    for name in (NEXT, NEWEST, BEFORE):  # the next: a kill came between two renames
        path = Path(folder) / name
        if not path.exists():
            continue
        try:
            state = load(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for error in damaged:
            warnings.warn(f"{error}; going on from {name}, the one before", stacklevel=2)
        return state
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}. No whole checkpoint is left: begin again in another folder")
    return None
