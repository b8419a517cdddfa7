"""The checkpoint that a killed run resumes from."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dfs_edu.files import write_whole

# A checkpoint file: SEAL, the SHA-256 of what follows, and what torch.save wrote
SEAL = b"dfs_edu checkpoint 1\n"
NEXT, NEWEST, BEFORE = "checkpoint.next.pt", "checkpoint.pt", "checkpoint.before.pt"


def save(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: Of the file.
        state: Tensors, numbers, strings, lists and dicts only, so that reading it runs no code.
    """
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getbuffer()).digest()

    def write(file: BinaryIO) -> None:
        file.write(SEAL + digest)
        file.write(content.getbuffer())

    write_whole(path, write)


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        ValueError: A bit of the file has changed, or it is no checkpoint; the message names the file.
    """
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


def keep(folder: str | os.PathLike, state: dict[str, Any]) -> None:
    """Save the newest checkpoint of a run, and keep the one before.

    At every moment one of the two is whole: the old one is renamed only once the new one is on the disk.
    """
    folder = Path(folder)
    for unfinished in folder.glob(f".{NEXT}.*"):  # of a process that was killed while it wrote
        unfinished.unlink()
    save(folder / NEXT, state)
    if (folder / NEWEST).exists():
        os.replace(folder / NEWEST, folder / BEFORE)
    os.replace(folder / NEXT, folder / NEWEST)


def is_there(folder: str | os.PathLike) -> bool:
    """Tell whether a run's folder holds a checkpoint, whole or not."""
    return any((Path(folder) / name).exists() for name in (NEXT, NEWEST, BEFORE))


def newest(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Read the newest whole checkpoint of a run's folder, skipping damaged ones with a warning.

    Returns:
        The state that was saved, or None if there is no checkpoint yet.

    Raises:
        ValueError: All checkpoints are damaged; the message names them.
    """
    damaged = []
    for name in (NEXT, NEWEST, BEFORE):  # NEXT is there if the process was killed between two renames
        path = Path(folder) / name
        if not path.exists():
            continue
        try:
            state = load(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for message in damaged:
            warnings.warn(f"{message}; going on from {name}, the one before", stacklevel=2)
        return state
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}. No whole checkpoint is left: begin again in another folder")
    return None
