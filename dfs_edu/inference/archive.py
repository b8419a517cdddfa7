"""Outputs as a file: an .npz whose headers are checked before anything in it is unpacked."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from dfs_edu.files import check_file, write_whole

if TYPE_CHECKING:
    from dfs_edu.inference.outputs import Outputs

MOST = 2**25  # answers in a file: exits times images; ImageNet's training images at 7 exits are a quarter of it
KINDS = {"confidence": "f", "doubt": "f", "prediction": "iu", "label": "iu"}  # kinds of numbers in a file, by name
WORDS = ("split", "criterion", "source")
LONGEST = 4 * 1000  # bytes of a word in a file
DAMAGED = (KeyError, TypeError, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error)  # what `read` raises


def write(path: str | Path, outputs: Outputs) -> None:
    """Write a compressed .npz that appears complete or not at all, classes in as few bytes as hold them."""
    narrow = _narrowest(outputs.prediction, outputs.label)
    arrays: dict[str, Any] = {
        "confidence": outputs.confidence.numpy(),
        "prediction": outputs.prediction.numpy().astype(narrow),
        "label": outputs.label.numpy().astype(narrow),
        **{name: np.array(getattr(outputs, name)) for name in WORDS},
    }
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def read(path: str | Path) -> dict[str, Any]:
    """Read the fields of ``Outputs`` that ``write`` wrote. Files of older versions hold 1 - confidence and fewer words.

    Raises:
        Exception: one of ``DAMAGED``, for any other file.
    """
    _check_headers(path)
    with np.load(path, allow_pickle=False) as file:
        confidence = file["confidence"] if "confidence" in file else 1 - file["doubt"].astype(np.float32)
        return {
            "confidence": torch.from_numpy(confidence),
            "prediction": torch.from_numpy(file["prediction"].astype(np.int64)),
            "label": torch.from_numpy(file["label"].astype(np.int64)),
            "split": str(file["split"]),
            "criterion": str(file["criterion"]) if "criterion" in file else "confidence",
            "source": str(file["source"]) if "source" in file else "",
        }


def _narrowest(*classes: Tensor) -> type[np.integer]:
    """The first of four types that holds all of the values: 40,000 is no int16."""
    low, high = (min(t.min().item() for t in classes), max(t.max().item() for t in classes))
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    return next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


def _check_headers(path: str | Path) -> None:
    """Raise ValueError for arrays that ``write`` does not write, before any of them is unpacked.

    A file of 400 kB can unpack to gigabytes; its headers say so.
    """
    check_file(path)
    with ZipFile(path) as file:
        for entry in file.infolist():
            name = entry.filename.removesuffix(".npy")
            with file.open(entry) as array:
                shape, dtype = _header(array)
                size = math.prod(shape) * dtype.itemsize
                if name in KINDS:
                    good = dtype.kind in KINDS[name] and math.prod(shape) <= MOST
                else:
                    good = name in WORDS and dtype.kind == "U" and size <= LONGEST
                if not good:
                    raise ValueError(f"{name} is {dtype} of shape {shape}")
                if entry.file_size - array.tell() != size:
                    raise ValueError(f"{name} has {entry.file_size} bytes, not those of {dtype} of shape {shape}")


def _header(array: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an .npy file; numpy itself refuses a header that is too long or is not a plain literal."""
    version = np.lib.format.read_magic(array)
    if version != (1, 0):  # what numpy writes for plain arrays; the header of others may be gigabytes long
        raise ValueError(f"an array in version {version} of numpy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(array)
    return shape, dtype
