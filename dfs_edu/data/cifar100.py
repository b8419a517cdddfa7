"""CIFAR-100 (Krizhevsky, 2009): 60,000 photographs of 32x32 pixels in 100 classes.

torchvision's ``CIFAR100`` downloads, checks and reads the official files. It unpickles them, which runs whatever a file
asks for, so it reads files with the official MD5 sums only. Copies with other sums, such as the same images in another
order, are read by ``pickles``, which runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR100

from dfs_edu.data import pickles
from dfs_edu.data.dataset import Dataset
from dfs_edu.data.splits import Augmentation, DataError, Split

FOLDER = CIFAR100.base_folder
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the 50,000 training images
VALIDATION = 5_000
# The data set's own names in its own order: recorded outputs are shown where the data set is not
_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail
snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout
tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES = tuple(name.replace("_", " ") for name in _NAMES.split())
SPLIT_SEED = 100  # of the data set, not of a run: every run has the same validation images

Parts = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Sequence[str]]  # train and test: images, labels; names


def load(root: Path) -> Dataset:
    """Return 45,000 training, 5,000 validation (stratified, fixed) and 10,000 test images from root/cifar-100-python.

    Raises:
        DataError: A file, which is named, is missing, truncated, malformed or not one of CIFAR-100's.
    """
    from sklearn.model_selection import train_test_split  # slow to import

    (images, labels), test, names = _official(Path(root)) or _rewritten(Path(root) / FOLDER)
    train, validation = train_test_split(
        np.arange(len(labels)), test_size=VALIDATION, stratify=labels, random_state=SPLIT_SEED
    )
    train, validation = np.sort(train), np.sort(validation)
    return Dataset(
        name="cifar100",
        train=Split("train", images[train], labels[train]),
        validation=Split("validation", images[validation], labels[validation]),
        test=Split("test", *test),
        classes=tuple(name.replace("_", " ") for name in names),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(pad=4, fill=128, flip=True),
    )


def download(root: Path) -> None:
    """Fetch and unpack the official archive (169 MB) below root, and check its MD5 sums; needs a network."""
    CIFAR100(str(root), download=True)


def _official(root: Path) -> Parts | None:
    """The files as torchvision reads them; None unless all of them have the official sums.

    A file is checked and then opened again. So, as for programs, nobody else should be able to write to the folder.
    """
    try:
        train, test = (CIFAR100(root, train=part) for part in (True, False))
    except (OSError, RuntimeError):  # a file is missing, cannot be read or has another sum
        return None

    def tensors(part: CIFAR100) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)

    return tensors(train), tensors(test), train.classes


def _rewritten(folder: Path) -> Parts:
    """The same from files with any sums. Raises DataError for a file that is not as CIFAR-100's are."""
    ((train, _),), ((test, _),) = CIFAR100.train_list, CIFAR100.test_list
    parts = _images_and_labels(folder / train, 50_000), _images_and_labels(folder / test, 10_000)
    return *parts, _class_names(folder / CIFAR100.meta["filename"])


def _images_and_labels(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """uint8 (count, 3, 32, 32) and int64 (count,) of one file."""
    content = pickles.read(path)
    images, labels = content.get("data"), content.get("fine_labels")
    if not isinstance(images, pickles.Array):
        raise DataError(f"{path}: data is {type(images).__name__}, not uint8 ({count}, 3072)")
    try:
        pixels = images.bytes()
    except Exception as error:  # the array of a malformed pickle may hold anything
        raise DataError(f"{path}: data is not uint8 ({count}, 3072) but {error}") from error
    if pixels.shape != (count, 3072):
        raise DataError(f"{path}: data is uint8 {pixels.shape}, not uint8 ({count}, 3072)")
    if not isinstance(labels, list) or len(labels) != count or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: fine_labels is not a list of {count} whole numbers")
    if min(labels) < 0 or max(labels) > 99:
        raise DataError(f"{path}: fine_labels from {min(labels)} to {max(labels)}, not from 0 to 99")
    return torch.from_numpy(pixels.reshape(count, 3, 32, 32).copy()), torch.tensor(labels)


def _class_names(path: Path) -> list[str]:
    names = pickles.read(path).get(CIFAR100.meta["key"])
    if not isinstance(names, list) or len(names) != 100 or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: {CIFAR100.meta['key']} is not a list of 100 names")
    return names
