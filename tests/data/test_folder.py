"""Any folder of images becomes a data set, or is refused with all that is wrong."""

import io
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import collected, cut, jpeg, make, same, smooth, write

import dfs_edu as dfs
from dfs_edu import cli
from dfs_edu.data import Batches, DataError, Files, Split, Streamed, folder


def test_a_plain_folder_is_split_by_a_fixed_seed(tmp_path):
    root = make(tmp_path / "pets", {"cat": 20, "dog": 30, "eel": 3}, ".png")
    dataset = folder.load(root, 16)
    sizes = [split.labels.bincount().tolist() for split in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [[16, 24, 1], [2, 3, 1], [2, 3, 1]]
    assert (dataset.name, dataset.classes) == ("pets", ("cat", "dog", "eel"))
    assert isinstance(dataset.train, Split)
    rows = [{image.numpy().tobytes() for image in s.images} for s in (dataset.train, dataset.validation, dataset.test)]
    assert len(set().union(*rows)) == sum(map(len, rows)) == 53
    assert folder.load(root, 16).checksum == dataset.checksum != folder.load(root, 16, seed=1).checksum


@pytest.mark.parametrize("parts", [("train", "val"), ("train", "val", "test")])
def test_a_folder_with_parts(tmp_path, parts):
    root = make(tmp_path, {f"{part}/{c}": 20 for part in parts for c in ("a", "b")})
    dataset = folder.load(root, 16)
    sizes = [len(split) for split in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == ([36, 4, 40] if len(parts) == 2 else [40, 40, 40])
    assert [split.name for split in (dataset.train, dataset.validation, dataset.test)] == [
        "train",
        "validation",
        "test",
    ]


def test_a_class_may_be_called_train(tmp_path):
    assert folder.load(make(tmp_path, {"train": 4, "bus": 4}), 16).classes == ("bus", "train")


def test_mean_and_deviation_are_of_the_training_images(tmp_path):
    dataset = folder.load(make(tmp_path, {"a": 12, "b": 12}), 16)
    values = dataset.train.images.numpy() / 255
    np.testing.assert_allclose(dataset.mean, values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, values.std((0, 2, 3)), rtol=1e-6)


def test_images_of_one_colour_can_be_normalised(tmp_path):
    for n, place in enumerate("aaabbb"):
        write(tmp_path / place / f"{n}.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    dataset = folder.load(tmp_path, 8)
    images, _ = next(iter(Batches(dataset.train, dataset, 2)))
    assert torch.equal(images, torch.zeros(2, 3, 8, 8))


def test_what_does_not_fit_into_memory_stays_on_the_disk(tmp_path, monkeypatch):
    root = make(tmp_path, {"a": 12, "b": 12})
    resident = folder.load(root, 16)
    monkeypatch.setattr(folder, "RESIDENT", 24 * 3 * 16**2 - 1)
    on_disk = folder.load(root, 16)
    assert isinstance(on_disk.train, Files)
    assert on_disk.mean == resident.mean
    assert torch.equal(on_disk.test.images, resident.test.images)
    streaming = collected(Streamed(on_disk.test, on_disk, 3, workers=0))
    assert same(streaming, collected(Batches(resident.test, resident, 3)))


def test_small_classes_and_single_classes_are_refused(tmp_path):
    make(tmp_path / "one", {"a": 9})
    with pytest.raises(DataError, match="one holds one class, a: at least two are needed"):
        folder.load(tmp_path / "one")
    make(tmp_path / "few", {"a": 9, "b": 2, "c": 1})
    with pytest.raises(DataError, match=r"few holds 2 classes of fewer than 3 images, .*: b \(2\), c \(1\)"):
        folder.load(tmp_path / "few")
    make(tmp_path / "half", {"train/a": 9, "train/b": 9})
    with pytest.raises(DataError, match="half/val is missing"):
        folder.load(tmp_path / "half")
    with pytest.raises(DataError, match="nowhere is missing"):
        folder.load(tmp_path / "nowhere")


def test_broken_images_of_a_folder_are_left_out_and_named(tmp_path):
    root = make(tmp_path, {"train/a": 9, "train/b": 9, "val/a": 3, "val/b": 3})
    (root / "val" / "a" / "001.JPEG").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"left out of test: .*val/a/001\.JPEG: not a readable image"):
        dataset = folder.load(root, 16)
    assert len(dataset.test) == 5
    recipe = dfs.recipes.get("folder/vgg7-4", scale="smoke", pixels=16)
    with pytest.warns(UserWarning, match="left out of test"):
        run = dfs.train(recipe, None, root=root, progress=False)
    assert run.record["broken"] == ["val/a/001.JPEG"]
    (root / "val" / "b" / "001.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 images are broken, more than 0\.1 %"):
        folder.load(root, 16)


def test_a_cut_jpeg_is_left_out_of_a_folder_and_named(tmp_path):
    root = make(tmp_path, {"train/a": 9, "train/b": 9, "val/a": 3, "val/b": 3})
    (root / "val" / "a" / "001.JPEG").write_bytes(cut(jpeg((50, 40)), 0.5))
    with pytest.warns(UserWarning, match=r"left out of test: .*val/a/001\.JPEG: not a readable image"):
        assert len(folder.load(root, 16).test) == 5


@pytest.mark.parametrize("name", ["Train", "VAL"])
def test_folders_of_splits_in_capitals_are_named(tmp_path, name):
    root = make(tmp_path, {f"{name}/a": 3, f"{name}/b": 3})
    with pytest.raises(DataError, match=rf"holds {name}: write train, val and test in lower case"):
        folder.load(root, 16)


@pytest.fixture
def trained(capsys):
    """`dfs-edu train` on a folder: exit status and standard error. What takes a minute waits for ever."""

    def stop(*_):
        raise TimeoutError("it waits")

    def run(root: Path) -> tuple[int, str]:
        options = ["--scale", "smoke", "--image-size", "16", "--data", str(root), "--out", str(root.parent / "runs")]
        status = cli.main(["train", "folder/vgg7-4", *options])
        return status, capsys.readouterr().err

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield run
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def in_pixels(format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(smooth(0).permute(1, 2, 0).numpy()).save(file, format)
    return file.getvalue()


LAYOUTS = {"classes alone": "", "train and val": "train/"}


@pytest.fixture(params=LAYOUTS)
def root_and_part(request, tmp_path):
    """A good folder of either layout, and where its folders of classes are."""
    part = LAYOUTS[request.param]
    counts = {f"{part}cat": 4, f"{part}dog": 4} | ({"val/cat": 2, "val/dog": 2} if part else {})
    root = make(tmp_path / "pets", counts)
    folder.load(root, 16)
    return root, root / part


@pytest.mark.parametrize(("name", "content"), [("scan.ppm", in_pixels("PPM")), ("scan", in_pixels("JPEG"))])
def test_images_of_any_name_deeper_or_beside_the_classes_are_named(root_and_part, name, content):
    root, part = root_and_part
    (part / "cat" / "more" / "yet").mkdir(parents=True)
    (part / "cat" / "more" / "yet" / name).write_bytes(content)
    (part / "cat" / "more" / "notes.txt").write_text("passed over")
    with pytest.raises(
        DataError, match=r"1 folders with files inside class folders, which are not read: cat/more \(1\)$"
    ):
        folder.load(root, 16)
    (part / "cat" / "more" / "yet" / name).rename(part / name)
    with pytest.raises(DataError, match=f"1 files beside the class folders: {name}$"):
        folder.load(root, 16)
    (part / name).rename(part / f".{name}")
    folder.load(root, 16)


def test_a_linked_folder_in_a_deeper_folder_counts_and_a_circle_ends(root_and_part):
    root, part = root_and_part
    (part / "cat" / "more").mkdir()
    (part / "cat" / "more" / "all").symlink_to(part)
    with pytest.raises(DataError, match=r"which are not read: cat/more \(1\)$"):
        folder.load(root, 16)


def test_pipes_sockets_and_devices_are_named_and_nothing_waits_for_them(root_and_part, trained):
    root, part = root_and_part
    os.mkfifo(part / "cat" / "pipe.jpg")
    os.mkfifo(part / "beside")
    (part / "dog" / "null.png").symlink_to("/dev/null")
    status, message = trained(root)
    assert (status, message.count("\n")) == (1, 1)
    assert "3 pipes, sockets or devices: beside, cat/pipe.jpg, dog/null.png" in message


def test_a_link_in_place_of_a_class_folder_that_leads_nowhere_is_named(root_and_part):
    root, part = root_and_part
    (part / "eel").symlink_to(root / "nowhere")
    with pytest.raises(DataError, match=r"1 links that lead nowhere: eel$"):
        folder.load(root, 16)
    (part / "eel").unlink()
    (root.parent / "eels").mkdir()
    (part / "eel").symlink_to(root.parent / "eels")
    with pytest.raises(DataError, match=r"1 classes without an image: eel"):
        folder.load(root, 16)


@pytest.mark.parametrize("part", LAYOUTS.values(), ids=LAYOUTS)
def test_one_class_is_refused_by_name(tmp_path, part, trained):
    root = make(tmp_path / "pets", {f"{part}cat": 4} | ({"val/cat": 2} if part else {}))
    message = f"dfs-edu: {root} holds one class, cat: at least two are needed, each a folder of images\n"
    assert trained(root) == (1, message)


def test_what_is_beside_the_folders_of_splits_is_warned_of(tmp_path):
    root = make(tmp_path / "pets", {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2, "test": 2, "extra/deep": 1})
    write(root / "loose.jpg", smooth(1))
    for name in ("README", "LICENSE", "labels.csv", ".hidden.jpg"):
        (root / name).write_text("passed over")
    (root / "docs").mkdir()
    with pytest.warns(UserWarning, match=r"left out: .*pets also holds extra, loose\.jpg, test, beside train, val$"):
        folder.load(root, 16)


def test_splits_without_folders_of_classes_are_not_taken_for_classes(tmp_path):
    with pytest.raises(DataError, match="train, val hold images, but no class folders"):
        folder.load(make(tmp_path, {"train": 4, "val": 4}), 16)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True])
def test_a_seed_of_a_folder_is_a_whole_number(tmp_path, seed):
    with pytest.raises(ValueError, match=rf"^seed={re.escape(repr(seed))}: a whole number from 0$"):
        folder.load(tmp_path, seed=seed)
