"""A split on disk is indexed like a tensor, and decoded when its images are asked for."""

from pathlib import Path

import pytest
import torch
from samples import make

from dfs_edu.data import DataError, Files, imagenet, ondisk
from dfs_edu.data.decoding import centred, decode


def test_a_slice_shows_its_images(dataset):
    some = dataset.train[:5]
    assert isinstance(some, Files)
    assert (some.images.shape, some.images.dtype) == ((5, 3, 32, 32), torch.uint8)
    for image, path in zip(some.images, some.paths, strict=True):
        assert torch.equal(image, centred(decode(dataset.train.root / path), 32))
    assert dataset.pixels == dataset.train.pixels == 32
    assert dataset.train.difficulty is None


def test_a_split_is_indexed_like_a_tensor(dataset):
    train = dataset.train
    for index in (slice(2, 9, 3), torch.tensor([7, 1, 1]), train.labels == 1):
        part = train[index]
        assert torch.equal(part.labels, train.labels[index])
        assert list(part.paths) == [train.paths[n] for n in torch.arange(len(train))[index]]
    assert len(dataset.first(4, 2).test) == 2


def test_a_gigabyte_of_images_is_not_decoded_by_mistake(dataset, monkeypatch):
    monkeypatch.setattr(ondisk, "RESIDENT", 3 * 32 * 32 * 6)
    assert len(dataset.train[:6].images) == 6
    with pytest.raises(DataError, match=r"38 images take .* GiB: take a slice"):
        _ = dataset.train.images


def test_a_label_is_the_number_of_its_folder(dataset):
    for split in (dataset.train, dataset.validation, dataset.test):
        for path, label in zip(split.paths, split.labels.tolist(), strict=True):
            assert Path(path).parent.name == dataset.classes[label]


def test_the_checksum_is_of_paths_sizes_and_labels(small, dataset, tmp_path):
    assert imagenet.load(small, 32).checksum == dataset.checksum
    (tmp_path / "elsewhere").symlink_to(small)
    assert imagenet.load(tmp_path / "elsewhere", 32).checksum == dataset.checksum
    assert imagenet.load(small, 48).checksum != dataset.checksum
    copy = make(tmp_path / "copy", {"train/a": 24, "train/b": 16, "val/a": 5, "val/b": 5})
    assert imagenet.load(copy, 32).checksum == dataset.checksum
    with open(copy / "val" / "a" / "003.JPEG", "ab") as file:
        file.write(b"0")
    assert imagenet.load(copy, 32).checksum != dataset.checksum


def test_a_broken_image_is_an_error_where_it_is_to_be_shown(spoilt):
    dataset, spoil = spoilt
    path = spoil(dataset.train, 2)
    with pytest.raises(DataError, match=f"{path}: not a readable image"):
        _ = dataset.train[:4].images


@pytest.mark.parametrize(("broken", "of", "stops"), [(1, 3, False), (2, 3, True), (5, 5_000, False), (6, 5_000, True)])
def test_how_many_are_many(broken, of, stops):
    names = {str(n) for n in range(broken)}
    if stops:
        with pytest.raises(DataError, match=f"{broken} of {of} images are broken"):
            ondisk.stop_if_many(names, of)
    else:
        ondisk.stop_if_many(names, of)
