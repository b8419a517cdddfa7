"""Write a file as a whole or not at all, and check a path before hours of work depend on it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def write_whole(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, force it to the disk, and only then move it to ``path``.

    Whenever the process or the machine stops, path holds the old content or the new one, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _sync_folder(path.parent)


# What file systems answer that cannot force a folder to the disk, as some network ones; the file itself is in place
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM}


def _sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk if its file system can do that; other errors are raised."""
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
    """Try to create a folder, unless it exists, and to write in it; leave nothing behind.

    Raises:
        OSError: It cannot be created or written; the message names the folder and the reason.
    """
    folder = Path(folder)
    try:
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in new:
            with suppress(OSError):  # another process has begun to write there
                path.rmdir()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{folder} cannot be written ({reason}): choose another folder") from error


def check_file(path: str | os.PathLike) -> None:
    """Raise ValueError if a path is a folder, a device or a pipe: reading from those might never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path}: not a file")
