"""What several tests of data sets share: a small data set laid out as ImageNet."""

from pathlib import Path

import pytest
from samples import make

from dfs_edu.data import imagenet


def pytest_collection_modifyitems(items):
    """torchvision announces that its decoders will move to another package."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning"))


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """Two classes of 24 and 16 training images and 5 test images each."""
    return make(tmp_path_factory.mktemp("small"), {"train/a": 24, "train/b": 16, "val/a": 5, "val/b": 5})


@pytest.fixture(scope="session")
def dataset(small):
    return imagenet.load(small, pixels=32)


@pytest.fixture
def spoilt(tmp_path):
    """A data set of 40 images, and what breaks the n-th training image."""
    root = make(tmp_path, {"train/a": 24, "train/b": 16, "val/a": 5, "val/b": 5})
    dataset = imagenet.load(root, 32)

    def spoil(split, n: int, content: bytes = b"no image") -> str:
        (root / split.paths[n]).write_bytes(content)
        return split.paths[n]

    return dataset, spoil
