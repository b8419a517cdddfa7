"""CIFAR-100 (Krizhevsky, 2009) from the official pickles, read by an unpickler that runs nothing."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from dfs_edu.data.dataset import Dataset
from dfs_edu.data.splits import Augmentation, DataError, Split

FOLDER = "cifar-100-python"
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the 50,000 training pictures
VALIDATION = 5_000
SPLIT_SEED = 100  # of the data set, not of a run: every run sees the same validation pictures

MOST_BYTES = 2**29  # of a file; the largest of the data set has 155 MB
MOST_STEPS = 1_000_000  # of a pickle; the official files have 200,000
CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST")  # steps that make an object of a class
MOST_CALLS = 9  # each may copy a text as long as the file; an array takes three
MOST_TUPLES = 1_000  # Python hashes nested tuples without a limit to their depth, and dies of 100,000


class _Array:
    """What a pickle says of an array: shape, type and bytes. Nothing of numpy's is made while it is read."""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, _, content = state
        self.content = content.encode("latin1") if isinstance(content, str) else content

    def bytes(self) -> np.ndarray:
        """The array, uint8; raises ValueError where it is anything else."""
        code = getattr(self.dtype, "code", None)
        few = isinstance(self.shape, tuple) and len(self.shape) < 10
        if not few or not all(type(n) is int and 0 <= n < 2**31 for n in self.shape):
            raise ValueError("an array whose shape is not a few whole numbers")
        if code != "u1" or not isinstance(self.content, bytes) or len(self.content) != math.prod(self.shape):
            raise ValueError(f"an array of type {_short(repr(code))} and shape {self.shape!r}, not of bytes")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape)


class _Type:
    def __init__(self, code: str, *_):
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """Byte order and the like: of no importance for bytes."""


class _Encoded:
    """Bytes, as Python 3 writes them in the old protocol."""

    def __new__(cls, text: str, encoding: str):
        return text.encode("latin1")  # copies, so a pickle may not do it often: see `_check_steps`

    def __setstate__(self, state: tuple) -> None:
        """Of bytes there is none."""


class _New:
    """`_reconstruct` makes an empty array, whatever it is told; its state comes later."""

    def __new__(cls, *_):
        return _Array()

    def __setstate__(self, state: tuple) -> None:
        """The array has it."""


# What the pickles of numpy arrays name, under numpy's old and new module names, and what stands in for it: with
# numpy's own names, a pickle could make raw bytes into pointers.
_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _New,
    ("numpy._core.multiarray", "_reconstruct"): _New,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Encoded,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _STAND_INS:
            raise DataError(
                f"the pickle names {_short(f'{module}.{name}')}; only arrays and plain values are read: refused"
            )
        return _STAND_INS[module, name]


def _check_steps(content: bytes) -> None:
    """Raise ValueError for a pickle that would take much more memory than its file, or end the process.

    Lengths beyond the file's end are refused by pickletools. The rest: too many steps, of which each makes an object;
    places in memory beyond the number of steps, since Python makes room for all before them; deep tuples; and a text
    that is encoded again and again.
    """
    tuples = encoded = 0
    for step, (code, argument, _) in enumerate(pickletools.genops(content)):
        if step >= MOST_STEPS:
            raise ValueError(f"more than {MOST_STEPS:,} steps")
        if "PUT" in code.name and argument > step:
            raise ValueError(f"it remembers place {argument} after {step} steps")
        tuples += "TUPLE" in code.name
        encoded += code.name in CALLS
        if tuples > MOST_TUPLES or encoded > MOST_CALLS:
            raise ValueError(f"more than {MOST_TUPLES:,} tuples or {MOST_CALLS} objects")


def _short(text: str) -> str:
    """One line of at most 100 characters of what a file says."""
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:100]}..."


def load(root: Path) -> Dataset:
    """45,000 train, 5,000 validation (stratified, fixed) and 10,000 test pictures from root/cifar-100-python.

    Raises DataError naming the file, for a missing, truncated, foreign or malformed one.
    """
    folder = Path(root) / FOLDER
    images, labels = _read(folder / "train", 50_000)
    train, validation = train_test_split(
        np.arange(len(labels)), test_size=VALIDATION, stratify=labels, random_state=SPLIT_SEED
    )
    train, validation = np.sort(train), np.sort(validation)
    return Dataset(
        name="cifar100",
        train=Split("train", images[train], labels[train]),
        validation=Split("validation", images[validation], labels[validation]),
        test=Split("test", *_read(folder / "test", 10_000)),
        classes=_class_names(folder / "meta"),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(pad=4, fill=128, flip=True),
    )


def download(root: Path) -> None:
    """Fetch and unpack the official archive (169 MB) below root by torchvision; needs a network."""
    from torchvision.datasets import CIFAR100

    CIFAR100(str(root), download=True)


def _read(path: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    content = _unpickle(path)
    images, labels = content.get("data"), content.get("fine_labels")
    if not isinstance(images, _Array):
        raise DataError(f"{path}: data is {type(images).__name__}, not uint8 ({count}, 3072)")
    try:
        images = images.bytes()
    except Exception as error:  # a state may hold anything
        raise DataError(f"{path}: data is not uint8 ({count}, 3072) but {error}") from error
    if images.shape != (count, 3072):
        raise DataError(f"{path}: data is uint8 {images.shape}, not uint8 ({count}, 3072)")
    if not isinstance(labels, list) or len(labels) != count or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: fine_labels is not a list of {count} whole numbers")
    if min(labels) < 0 or max(labels) > 99:
        raise DataError(f"{path}: fine_labels from {min(labels)} to {max(labels)}, not from 0 to 99")
    return torch.from_numpy(images.reshape(count, 3, 32, 32).copy()), torch.tensor(labels)


def _class_names(path: Path) -> tuple[str, ...]:
    names = _unpickle(path).get("fine_label_names")
    if not isinstance(names, list) or len(names) != 100 or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: fine_label_names is not a list of 100 names")
    return tuple(name.replace("_", " ") for name in names)


def _unpickle(path: Path) -> dict:
    try:
        if path.exists() and not path.is_file():
            raise DataError("not a regular file")  # reading a pipe might never end
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path.stat().st_size:,} bytes, more than {MOST_BYTES:,}: not a file of CIFAR-100")
        written = path.read_bytes()
        _check_steps(written)
        content = _ArrayUnpickler(io.BytesIO(written), encoding="latin1").load()
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
