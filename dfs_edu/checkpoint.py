"""Files that are written whole or not at all, and the checkpoint that a killed run goes on from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch


def write_whole(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, force it to the disk, and only then put it in the place of `path`.

    Whenever the process or the machine stops, path holds the old content or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    if os.name == "posix":  # the new name is on the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def save(path: str | os.PathLike, state: dict) -> None:
    """A checkpoint: tensors, numbers, strings, lists and dicts only, so that reading it runs nothing."""
    write_whole(path, lambda file: torch.save(state, file))


def load(path: str | os.PathLike) -> dict:
    """Read a checkpoint onto the CPU. Raises ValueError naming the file if it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, pickle and torch each have their own
        reason = str(error).partition("\n")[0]  # torch goes on with advice to read the file unchecked
        raise ValueError(f"{path}: not a whole checkpoint ({reason})") from error
