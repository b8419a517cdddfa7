"""ImageNet-1k (Russakovsky et al., 2015), or any part of it, from the folders train/<wnid>/ and val/<wnid>/."""

from __future__ import annotations

from pathlib import Path

from dfs_edu.data.dataset import Dataset
from dfs_edu.data.listing import files, listed, set_apart
from dfs_edu.data.splits import Augmentation, check_side

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training images, as torchvision's networks use them
SPLIT_SEED = 1000  # of the data set, not of a run: every run has the same validation images


def load(root: Path, pixels: int = 224) -> Dataset:
    """Return the images below root/train and root/val, to be read at ``pixels``; classes are named by their wnids.

    What ImageNet calls val is the public test set, on which papers report: here it is the test split. The validation
    split is taken from train/ by a fixed seed: 50 images per class, but 5 % of a small class, and none of a class with
    one image. So 50,000 images of the whole data set (slightly fewer, because of classes below 1,000) are not trained
    on. Only the names of the files are read.

    Raises:
        DataError: Lists everything that is wrong with the folders (see ``listing.listed``); or no class has two images.
    """
    check_side(pixels)
    root = Path(root)
    train, test = listed(root, ("train", "val"))
    train, validation = set_apart(train, lambda n: (held_out(n),), SPLIT_SEED)
    return Dataset(
        name="imagenet",
        train=files("train", root, "train", train, pixels),
        validation=files("validation", root, "train", validation, pixels),
        test=files("test", root, "val", test, pixels),
        classes=tuple(train),
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(pad=0, flip=True),  # crops are RandomResizedCrop's, see ``Streamed``
    )


def held_out(count: int) -> int:
    """Return how many images of a class of ``count`` are set apart for validation."""
    return min(50, max(1, round(0.05 * count)), count - 1)
