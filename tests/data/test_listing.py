"""Folders of images are listed in full, or refused with all that is wrong."""

import os

import pytest
from samples import make

from dfs_edu.data import DataError, imagenet


def test_the_order_in_which_the_disk_lists_does_not_matter(small, dataset, monkeypatch):
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed(list(scandir(path))))
    again = imagenet.load(small, 32)
    assert again.train.paths == dataset.train.paths
    assert again.checksum == dataset.checksum


def test_what_is_no_image_is_passed_over(tmp_path):
    root = make(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1})
    for name in ("notes.txt", ".hidden.jpg", "Thumbs.db"):
        (root / "train" / "a" / name).write_text("no image")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "labels.csv").write_text("a,b")
    assert len(imagenet.load(root, 32).train) == 6


def test_all_that_is_wrong_with_the_folders_is_listed(tmp_path):
    with pytest.raises(DataError, match=r"x/train is missing; .*x/val is missing"):
        imagenet.load(tmp_path / "x")
    root = make(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/c": 1, "val/d": 1})
    (root / "train" / "e").mkdir()
    (root / "train" / "a" / "scan.TIFF").write_bytes(b"II")
    with pytest.raises(DataError) as error:
        imagenet.load(root)
    for part in (
        "train holds 1 classes without an image: e",
        "train holds 1 files that are neither .jpg, .jpeg, .jpe, .jfif, .png, .webp nor known not to be images: "
        "a/scan.TIFF",
        "train lacks classes that are elsewhere (2): c, d",
        "val lacks classes that are elsewhere (2): b, e",
    ):
        assert part in str(error.value)


def test_a_long_list_is_shortened(tmp_path):
    root = make(tmp_path, {f"train/{n:02}": 1 for n in range(12)} | {"val/00": 1})
    with pytest.raises(DataError, match=r"lacks classes that are elsewhere \(11\): 01, 02, 03, 04, 05 and 6 more"):
        imagenet.load(root)


def test_folders_without_classes_and_one_class_are_refused(tmp_path):
    make(tmp_path, {"val/a": 1})
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train holds no folder of images"):
        imagenet.load(tmp_path)
    make(tmp_path, {"train/a": 3})
    with pytest.raises(DataError, match="holds one class, a: at least two are needed"):
        imagenet.load(tmp_path)


def test_no_image_is_left_out_unseen(tmp_path):
    root = make(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    jpeg = next((root / "train" / "a").iterdir()).read_bytes()
    for suffix in ".jpe", ".jfif":
        (root / "train" / "a" / f"more{suffix}").write_bytes(jpeg)
    (root / "train" / "a" / "notes.txt").write_text("passed over")
    assert len(imagenet.load(root).train) + len(imagenet.load(root).validation) == 6
    (root / "train" / "a" / "plain").write_bytes(b"")
    (root / "train" / "b" / "x.ppm").write_bytes(b"")
    (root / "train" / "b" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    deeper = root / "val" / "a" / "deeper"
    deeper.mkdir()
    (deeper / "y.jpg").write_bytes(b"")
    with pytest.raises(DataError) as error:
        imagenet.load(root)
    for part in (
        "2 files that are neither",
        "a/plain, b/x.ppm",
        "1 links that lead nowhere: b/gone.jpg",
        "a/deeper (1)",
    ):
        assert part in str(error.value)


def test_names_in_two_unicode_forms_are_reported_as_look_alikes(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = make(tmp_path, {f"train/{composed}": 2, "train/b": 2, f"val/{decomposed}": 1, "val/b": 1})
    with pytest.raises(DataError, match=r"different Unicode forms, rename one of each: 'caf(e\\u0301|\\xe9)' and"):
        imagenet.load(root)


def test_names_in_two_unicode_forms_in_one_folder_too(tmp_path):
    names = ("caf\u00e9", "cafe\u0301", "b")
    root = make(tmp_path, {f"{split}/{name}": 2 for split in ("train", "val") for name in names})
    with pytest.raises(DataError, match="holds classes that look alike in different Unicode forms"):
        imagenet.load(root)
