"""Splits that do not fit their data set, and sizes, names and counts that cannot be, are refused."""

import re
from dataclasses import replace

import pytest
import torch
from samples import small_split

from dfs_edu import cli, data
from dfs_edu.data import Augmentation, DataError, Dataset, Split


def test_an_unknown_data_set_is_refused():
    with pytest.raises(DataError, match="'cifar' is not known; use one of digits, cifar100"):
        data.load("cifar")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), "images are torch.float32"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2).long(), r"not uint8 \(N, 3, H, W\)"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(3).long(), r"labels are torch.int64 \(3,\) for 2 images"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(2), "labels are torch.float32"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([0, 5]), "labels from 0 to 5, not from 0 to 4"),
        (torch.zeros(0, 3, 4, 4).byte(), torch.zeros(0).long(), "no images"),
    ],
)
def test_an_unknown_split_is_refused(images, labels, message):
    good, dataset = small_split()
    with pytest.raises(DataError, match=message):
        Dataset("x", Split("train", images, labels), good, good, dataset.classes, (0, 0, 0), (1, 1, 1), Augmentation())


def test_a_split_with_wrong_labels_is_refused(dataset):
    wrong = replace(dataset.train, labels=dataset.train.labels[:-1])
    with pytest.raises(DataError, match=r"imagenet, train: labels are torch.int64 \(37,\) for 38 images"):
        replace(dataset, train=wrong)


@pytest.mark.parametrize("pixels", [0, -3, 32.0, "32", 10**9, True, float("nan"), [32]])
@pytest.mark.parametrize("name", data.DATASETS)
def test_an_impossible_image_size_is_refused_before_anything_is_read(tmp_path, name, pixels):
    with pytest.raises(ValueError, match=rf"^pixels={re.escape(repr(pixels))}: a whole number from 1 to 4096$"):
        data.load(name, tmp_path / "nowhere", pixels)


@pytest.mark.parametrize("name", [None, 3, "", "Digits", ["digits"]])
def test_a_name_that_no_data_set_has_is_refused(name):
    with pytest.raises(ValueError, match=rf"data set {re.escape(repr(name))} is not known; use one of digits"):
        data.load(name)


@pytest.mark.parametrize("count", [0, -1, 2.0, "2", True])
@pytest.mark.parametrize("which", ["train", "held_out"])
def test_counts_of_images_are_whole_numbers_above_zero(which, count):
    _, dataset = small_split()
    with pytest.raises(ValueError, match=rf"^{which}={re.escape(repr(count))}: a whole number of images above zero"):
        dataset.first(**{which: count})
    assert len(dataset.first(train=10**20).train) == len(dataset.train)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--image-size", "0", "pixels=0: a whole number from 1, at most 4096, or None"),
        ("--image-size", "-3", "pixels=-3: a whole number from 1, at most 4096, or None"),
        ("--image-size", "1000000000", "pixels=1000000000: a whole number from 1, at most 4096, or None"),
        ("--train-images", "0", "train_images=0: a whole number from 1, at most 2147483647, or None"),
        ("--held-out-images", "-1", "held_out_images=-1: a whole number from 1, at most 2147483647, or None"),
        ("--seed", str(10**20), f"seed={10**20}: a whole number from 0, below {2**63}"),
    ],
)
def test_the_command_refuses_such_numbers_in_a_line(tmp_path, capsys, option, value, message):
    assert cli.main(["train", "digits/vgg7-4", "--scale", "smoke", "--out", str(tmp_path / "runs"), option, value]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"dfs-edu: {message}\n")
    assert not (tmp_path / "runs").exists()
