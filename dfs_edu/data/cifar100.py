"""CIFAR-100 (Krizhevsky, 2009) from the official pickles, read by an unpickler that runs nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from dfs_edu.data.splits import Augmentation, DataError, Dataset, Split

FOLDER = "cifar-100-python"
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the 50,000 training pictures
VALIDATION = 5_000
SPLIT_SEED = 100  # of the data set, not of a run: every run sees the same validation pictures

# What the pickles of numpy arrays name, under numpy's old and new module names; nothing else is looked up.
_ALLOWED = {
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes in the old protocol
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise DataError(f"the pickle names {module}.{name}; only arrays and plain values are read: refused")
        return super().find_class(module, name)


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
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (count, 3072):
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"{path}: data is {found}, not uint8 ({count}, 3072)")
    if not isinstance(labels, list) or len(labels) != count or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: fine_labels is not a list of {count} whole numbers")
    labels = torch.tensor(labels)
    if labels.min() < 0 or labels.max() > 99:
        raise DataError(f"{path}: fine_labels from {labels.min()} to {labels.max()}, not from 0 to 99")
    return torch.from_numpy(images.reshape(count, 3, 32, 32).copy()), labels


def _class_names(path: Path) -> tuple[str, ...]:
    names = _unpickle(path).get("fine_label_names")
    if not isinstance(names, list) or len(names) != 100 or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: fine_label_names is not a list of 100 names")
    return tuple(name.replace("_", " ") for name in names)


def _unpickle(path: Path) -> dict:
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; `dfs-edu download cifar100` fetches the data set") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path}: not a whole pickle ({type(error).__name__}: {error}); fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not CIFAR-100's dictionary")
    return content
