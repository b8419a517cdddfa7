"""Read the pickles of CIFAR-100, plain values and byte arrays, without running anything that they name.

Unpickling calls whatever functions a file asks for. Here every name is refused but the few with which NumPy arrays are
written, and inert classes stand in for those: with NumPy's own, a pickle could make raw bytes into pointers. Files that
would take much more memory than their size, or end the process, are refused as well.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path

import numpy as np

from dfs_edu.data.splits import DataError

MOST_BYTES = 2**29  # of a file; the largest of CIFAR-100 has 155 MB
MOST_STEPS = 1_000_000  # of a pickle; the official files have 200,000
CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST")  # steps that make an object of a class
MOST_CALLS = 9  # each may copy a text as long as the file; an array takes three
MOST_TUPLES = 1_000  # Python hashes nested tuples whatever their depth, and crashes at 100,000


def read(path: Path) -> dict:
    """Return the dictionary that a pickle holds, with each NumPy array as an ``Array``.

    Raises:
        DataError: The file, which is named, is missing, too large, damaged, holds something else than a dictionary of
            plain values and arrays, or asks for too much.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError("not a regular file")  # reading a pipe might never end
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path.stat().st_size:,} bytes, more than {MOST_BYTES:,}: not a file of CIFAR-100")
        data = path.read_bytes()
        _check_steps(data)
        content = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; `dfs-edu download cifar100` fetches the data set") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = _short(f"{type(error).__name__}: {error}")
        raise DataError(f"{path}: not a whole pickle ({reason}); fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not CIFAR-100's dictionary")
    return content


class _Inert:
    """An object that ignores the state that a pickle gives it."""

    def __setstate__(self, state: object) -> None:
        pass


class _EmptyArray(_Inert):
    """``_reconstruct`` makes an empty array, whatever its arguments; the array itself receives the state."""

    def __new__(cls, *_):
        return Array()


class _DType(_Inert):
    """A type of numbers; byte order and alignment do not matter for bytes."""

    def __init__(self, code: str, *_):
        self.code = code


class _Encoded(_Inert):
    """Bytes, as Python 3 writes them in the old protocols."""

    def __new__(cls, text: str, encoding: str):
        return text.encode("latin1")  # makes a copy, so a pickle may not do it often: see ``_check_steps``


class Array:
    """What a pickle says about an array: shape, type and bytes. No NumPy array is made while the file is read."""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, _, content = state
        self.content = content.encode("latin1") if isinstance(content, str) else content

    def bytes(self) -> np.ndarray:
        """Return the array, which must be uint8. Raises ValueError for any other."""
        code = getattr(self.dtype, "code", None)
        few = isinstance(self.shape, tuple) and len(self.shape) < 10
        if not few or not all(type(n) is int and 0 <= n < 2**31 for n in self.shape):
            raise ValueError("an array whose shape is not a few whole numbers")
        if code != "u1" or not isinstance(self.content, bytes) or len(self.content) != math.prod(self.shape):
            raise ValueError(f"an array of type {_short(repr(code))} and shape {self.shape!r}, not of bytes")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape)


# What the pickles of NumPy arrays name, under NumPy's old and new module names, and what stands in for it
_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _EmptyArray,
    ("numpy._core.multiarray", "_reconstruct"): _EmptyArray,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Encoded,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _STAND_INS:
            name = _short(f"{module}.{name}")
            raise DataError(f"the pickle names {name}; only arrays and plain values are read: refused")
        return _STAND_INS[module, name]


def _check_steps(data: bytes) -> None:
    """Raise ValueError for a pickle that would take much more memory than its file, or end the process.

    pickletools refuses lengths beyond the end of the file. Checked here are too many steps, each of which makes an
    object; places in the memo beyond the number of steps, since Python allocates all places up to them; deep tuples;
    and a text that is encoded again and again.
    """
    tuples = calls = 0
    for step, (code, argument, _) in enumerate(pickletools.genops(data)):
        if step >= MOST_STEPS:
            raise ValueError(f"more than {MOST_STEPS:,} steps")
        if "PUT" in code.name and (argument or 0) > step:
            raise ValueError(f"it remembers place {argument} after {step} steps")
        tuples += "TUPLE" in code.name
        calls += code.name in CALLS
        if tuples > MOST_TUPLES or calls > MOST_CALLS:
            raise ValueError(f"more than {MOST_TUPLES:,} tuples or {MOST_CALLS} objects")


def _short(text: str) -> str:
    """The text in one line of at most 100 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:100]}..."
