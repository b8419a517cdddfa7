"""Files that are written whole or not at all, and the checkpoint that a killed run goes on from."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import torch


def write_whole(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, force it to the disk, and only then put it in the place of `path`.

    Whenever the process or the machine stops, path holds the old content or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with open(beside, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _sync_folder(path.parent)


# What file systems answer that cannot force a folder to the disk, as some over a network; the file itself is in place.
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM}


def _sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where its file system can do that; other errors are raised."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def check_writable(folder: str | os.PathLike) -> None:
    """Try to make a folder, unless it is there, and to write in it, before hours of work depend on it.

    Nothing is left behind, but for the folders above it.

    Raises:
        OSError: it cannot be made or written; the message names the folder and the reason.
    """
    folder = Path(folder)
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if new:
            folder.rmdir()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{folder} cannot be written ({reason}): choose another folder") from error


def check_file(path: str | os.PathLike) -> None:
    """Raise ValueError where a path is no file but a folder, a device or a pipe, which would be waited for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path}: not a file")


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
