"""ImageNet's folders become three splits, the same on every machine."""

import numpy as np
import pytest
import torch
from PIL import Image
from samples import collected, make, same, sample
from torchvision.transforms import v2

from dfs_edu.data import DataError, Streamed, imagenet
from dfs_edu.data.decoding import decode


def test_validation_is_set_apart_from_train_and_val_is_the_test_split(dataset):
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [38, 2, 10]
    assert dataset.classes == ("a", "b")
    assert not set(dataset.train.paths) & set(dataset.validation.paths)
    assert all(path.startswith("train/") for path in dataset.train.paths + dataset.validation.paths)
    assert all(path.startswith("val/") for path in dataset.test.paths)


@pytest.mark.parametrize(("count", "apart"), [(1, 0), (2, 1), (10, 1), (50, 2), (732, 37), (1000, 50), (1300, 50)])
def test_images_set_apart_of_a_class(count, apart):
    assert imagenet.held_out(count) == apart


def test_the_first_images_of_a_split_are_of_many_classes(tmp_path):
    root = make(tmp_path, {f"{part}/{c}": 6 for part in ("train", "val") for c in "abcdef"})
    dataset = imagenet.load(root, 32)
    assert len(set(dataset.train[:12].labels.tolist())) > 3


def test_classes_of_one_image_leave_nothing_to_validate(tmp_path):
    with pytest.raises(DataError, match="imagenet, validation: no images"):
        imagenet.load(make(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1}))


def test_real_images_of_imagenet():
    dataset = imagenet.load(sample(), 64)
    assert len(dataset.classes) == 1_000
    assert not set(dataset.train.paths) & set(dataset.validation.paths)
    part = dataset.first(train=96, held_out=24)
    batches = Streamed(part.train, part, 32, train=True, workers=0)
    found = collected(batches)
    assert batches.broken == []
    images = torch.cat([images for images, _ in found])
    assert images.mean().abs() < 0.3
    assert 0.7 < images.std() < 1.3  # ImageNet's mean and deviation are those of these images
    assert same(collected(Streamed(part.train, part, 32, train=True, workers=2)), found)


def test_real_images_are_cut_as_torchvisions_own_transforms_cut_them():
    dataset = imagenet.load(sample(), 224)
    some = dataset.test[:6]
    usual = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    for image, path in zip(some.images, some.paths, strict=True):
        whole = decode(some.root / path)
        assert torch.equal(image, usual(whole))
        pil_image = np.array(usual(Image.open(some.root / path).convert("RGB")))
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - pil_image).mean() < 1.5
