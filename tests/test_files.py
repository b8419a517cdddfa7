"""Pictures on the disk: listed and checked, decoded as torchvision does, streamed alike however the work is shared."""

import io
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import encode_jpeg, encode_png
from torchvision.transforms import RandomResizedCrop, v2

import dfs_edu as dfs
from dfs_edu import cli
from dfs_edu.data import Batches, DataError, Split, folder, imagenet, places, streamed
from dfs_edu.data import images as images_module
from dfs_edu.data.images import Files, centred, decode
from dfs_edu.data.streamed import Streamed

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


def picture(n: int, height: int = 40, width: int = 48) -> torch.Tensor:
    """A smooth picture that no other n has, uint8 (3, H, W)."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(n))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return smooth.clamp(0, 1).mul(255).to(torch.uint8)


def write(path: Path, pixels: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = encode_png if path.suffix == ".png" else encode_jpeg
    path.write_bytes(encode(pixels).numpy().tobytes())


def make(root: Path, counts: dict[str, int], suffix: str = ".JPEG") -> Path:
    """counts: folder of a class, as "train/cat" -> pictures in it, of various sizes."""
    for c, (place, count) in enumerate(counts.items()):
        for n in range(count):
            write(root / place / f"{n:03}{suffix}", picture(1000 * c + n, 30 + 7 * (n % 3), 33 + 5 * (n % 4)))
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Two classes of 24 and 16 training pictures and 5 test pictures each."""
    return make(tmp_path_factory.mktemp("small"), {"train/a": 24, "train/b": 16, "val/a": 5, "val/b": 5})


@pytest.fixture(scope="module")
def dataset(small):
    return imagenet.load(small, pixels=32)


def sample() -> Path:
    """The real pictures of ImageNet, where there are some."""
    for place in places():
        if (place / "imagenet-sample" / "train").is_dir():
            return place / "imagenet-sample"
    pytest.skip("no imagenet-sample/ below $DFS_EDU_DATA or data/")


def collected(batches) -> list:
    return list(batches)


def same(a: list, b: list) -> bool:
    return len(a) == len(b) > 0 and all(
        torch.equal(x, y) and torch.equal(s, t) for (x, s), (y, t) in zip(a, b, strict=True)
    )


# decoding


@pytest.mark.parametrize("suffix", [".JPEG", ".png"])
def test_a_picture_is_decoded_as_it_was_encoded(tmp_path, suffix):
    write(tmp_path / f"x{suffix}", picture(1))
    found = decode(tmp_path / f"x{suffix}")
    assert found.shape == (3, 40, 48)
    assert found.dtype == torch.uint8
    assert (found.int() - picture(1).int()).abs().float().mean() < (0.01 if suffix == ".png" else 4)


def pil(kind: str, pixels: torch.Tensor) -> bytes:
    """The picture encoded as another kind of file."""
    mode, format = kind.split()
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.convert(mode).save(file, format, **({"lossless": True} if format == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize(
    "kind", ["L JPEG", "CMYK JPEG", "RGBA PNG", "P PNG", "L PNG", "LA PNG", "1 PNG", "RGB WEBP", "RGBA WEBP"]
)
def test_every_kind_of_picture_becomes_three_colours(tmp_path, kind):
    (tmp_path / "x.jpg").write_bytes(pil(kind, picture(2)))
    found = decode(tmp_path / "x.jpg")
    expected = np.array(Image.open(tmp_path / "x.jpg").convert("RGB"))
    assert found.shape == (3, 40, 48)
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 4


def test_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.full((4, 5), 0xAB12, np.uint16)).save(tmp_path / "x.png")
    assert torch.equal(decode(tmp_path / "x.png"), torch.full((3, 4, 5), 0xAB, dtype=torch.uint8))


def test_a_turned_picture_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.fromarray(picture(3).permute(1, 2, 0).numpy()).save(tmp_path / "x.jpg", exif=exif)
    assert decode(tmp_path / "x.jpg").shape == (3, 48, 40)


BROKEN = {
    "truncated": lambda good: good[: len(good) // 2],
    "text": lambda good: b"this is no picture\n" * 20,
    "empty": lambda good: b"",
    "end": lambda good: good[:-6],
    "header": lambda good: bytes(255 - byte for byte in good[:20]) + good[20:],
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_broken_picture_is_named(tmp_path, how, suffix):
    path = tmp_path / f"x{suffix}"
    write(path, picture(4))
    path.write_bytes(BROKEN[how](path.read_bytes()))
    with pytest.raises(DataError, match=rf"x\{suffix}: not a picture that can be read \(.+\)"):
        decode(path)


def test_a_missing_picture_and_a_film_are_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.jpg: not a picture that can be read \(.*No such file"):
        decode(tmp_path / "x.jpg")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.jpg", "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"x\.jpg: .*\(GIF, not JPEG, PNG, WEBP\)"):
        decode(tmp_path / "x.jpg")
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"x\.webp: .*\(2 moving pictures, not one\)"):
        decode(tmp_path / "x.webp")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_bytes_give_a_picture_or_an_error_that_is_ours(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write(path, picture(5))
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            found = decode(path)
        except DataError:
            continue
        assert found.dtype == torch.uint8
        assert found.shape[0] == 3


# cutting


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (256, 256), (20, 31), (1, 50), (50, 1), (1, 1)])
def test_the_middle_is_cut_as_torchvision_does(height, width):
    expected = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(picture(6, height, width))
    found = centred(picture(6, height, width), 224)
    assert found.shape == (3, 224, 224)
    if max(height, width) <= 4 * min(height, width):
        assert torch.equal(found, expected)
    else:  # cut before it is resized
        assert (found.int() - expected.int()).abs().float().mean() < 2


def test_a_long_strip_takes_little_memory():
    assert centred(picture(7, 1, 20_000), 224).shape == (3, 224, 224)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (33, 20), (1, 50), (50, 1), (1, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_random_crops_are_torchvisions_for_the_same_draws(height, width, flip):
    pixels = picture(8, height, width)
    mirrored = 0
    for seed in range(8):
        torch.manual_seed(seed)
        expected = v2.RandomResizedCrop(64, antialias=True)(pixels)
        if flip and torch.rand(()) < 0.5:
            expected, mirrored = v2.functional.horizontal_flip(expected), mirrored + 1
        torch.manual_seed(seed)
        assert torch.equal(streamed.crop(pixels, 64, flip), expected)
    assert not flip or 0 < mirrored < 8


def test_crops_have_the_areas_and_shapes_that_they_should():
    whole = picture(9, 300, 400)
    torch.manual_seed(0)
    shapes = torch.tensor([RandomResizedCrop.get_params(whole, streamed.AREA, streamed.RATIO)[2:] for _ in range(500)])
    area, ratio = shapes.prod(1) / 120_000, shapes[:, 1] / shapes[:, 0]
    assert 0.079 < area.min() < 0.15
    assert area.max() > 0.8
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35


# a split


def test_a_slice_shows_its_pictures(dataset):
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


def test_a_gigabyte_of_pictures_is_not_decoded_by_mistake(dataset, monkeypatch):
    monkeypatch.setattr(images_module, "RESIDENT", 3 * 32 * 32 * 6)
    assert len(dataset.train[:6].images) == 6
    with pytest.raises(DataError, match=r"38 pictures take .* GiB: take a slice"):
        _ = dataset.train.images


def test_a_label_tells_the_folder(dataset):
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


def test_a_split_with_wrong_labels_is_refused(dataset):
    wrong = replace(dataset.train, labels=dataset.train.labels[:-1])
    with pytest.raises(DataError, match=r"imagenet, train: labels are torch.int64 \(37,\) for 38 images"):
        replace(dataset, train=wrong)


# ImageNet


def test_validation_is_set_apart_from_train_and_val_is_the_test_split(dataset):
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [38, 2, 10]
    assert dataset.classes == ("a", "b")
    assert not set(dataset.train.paths) & set(dataset.validation.paths)
    assert all(path.startswith("train/") for path in dataset.train.paths + dataset.validation.paths)
    assert all(path.startswith("val/") for path in dataset.test.paths)


@pytest.mark.parametrize(("count", "apart"), [(1, 0), (2, 1), (10, 1), (50, 2), (732, 37), (1000, 50), (1300, 50)])
def test_pictures_set_apart_of_a_class(count, apart):
    assert imagenet.held_out(count) == apart


def test_the_first_pictures_of_a_split_are_of_many_classes(tmp_path):
    root = make(tmp_path, {f"{part}/{c}": 6 for part in ("train", "val") for c in "abcdef"})
    dataset = imagenet.load(root, 32)
    assert len(set(dataset.train[:12].labels.tolist())) > 3


def test_the_order_in_which_the_disk_lists_does_not_matter(small, dataset, monkeypatch):
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed(list(scandir(path))))
    again = imagenet.load(small, 32)
    assert again.train.paths == dataset.train.paths
    assert again.checksum == dataset.checksum


def test_what_is_no_picture_is_passed_over(tmp_path):
    root = make(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1})
    for name in ("notes.txt", ".hidden.jpg", "Thumbs.db"):
        (root / "train" / "a" / name).write_text("no picture")
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
        "train holds classes without an image (1): e",
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


def test_classes_of_one_picture_leave_nothing_to_validate(tmp_path):
    with pytest.raises(DataError, match="imagenet, validation: no pictures"):
        imagenet.load(make(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1}))


# a folder of pictures


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


def test_mean_and_deviation_are_of_the_training_pictures(tmp_path):
    dataset = folder.load(make(tmp_path, {"a": 12, "b": 12}), 16)
    values = dataset.train.images.numpy() / 255
    np.testing.assert_allclose(dataset.mean, values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, values.std((0, 2, 3)), rtol=1e-6)


def test_pictures_of_one_colour_can_be_normalised(tmp_path):
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
    with pytest.raises(DataError, match=r"few holds 2 classes of fewer than 3 pictures, .*: b \(2\), c \(1\)"):
        folder.load(tmp_path / "few")
    make(tmp_path / "half", {"train/a": 9, "train/b": 9})
    with pytest.raises(DataError, match="half/val is missing"):
        folder.load(tmp_path / "half")
    with pytest.raises(DataError, match="nowhere is missing"):
        folder.load(tmp_path / "nowhere")


def test_broken_pictures_of_a_folder_are_left_out_and_named(tmp_path):
    root = make(tmp_path, {"train/a": 9, "train/b": 9, "val/a": 3, "val/b": 3})
    (root / "val" / "a" / "001.JPEG").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"left out of test: .*val/a/001\.JPEG: not a picture"):
        dataset = folder.load(root, 16)
    assert len(dataset.test) == 5
    recipe = dfs.recipes.get("folder/vgg7-4", scale="smoke", pixels=16)
    with pytest.warns(UserWarning, match="left out of test"):
        run = dfs.train(recipe, None, root=root, progress=False)
    assert run.record["broken"] == ["val/a/001.JPEG"]
    (root / "val" / "b" / "001.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 pictures are broken, more than 0\.1 %"):
        folder.load(root, 16)


# streaming


def test_batches_as_they_lie_are_those_of_a_split_in_memory(dataset):
    split = dataset.test
    resident = Split("test", split.images, split.labels)
    found = collected(Streamed(split, dataset, 4, workers=0))
    assert same(found, collected(Batches(resident, dataset, 4)))
    assert [len(labels) for _, labels in found] == [4, 4, 2]
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in found)


def train(dataset, batch_size=8, **how) -> Streamed:
    return Streamed(dataset.train, dataset, batch_size, train=True, **{"workers": 0, "seed": 3} | how)


def test_workers_change_nothing(dataset):
    alone, shared = train(dataset), train(dataset, workers=2)
    expected = collected(alone) + collected(alone)
    assert same(collected(shared) + collected(shared), expected)
    assert shared.state_dict() == alone.state_dict() == {"seed": 3, "epoch": 2, "batch": 0}
    assert len(expected) == 2 * len(alone) == 8


@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_several_processes_are_the_batch_of_one(dataset, world):
    parts = [collected(train(dataset, rank=rank, world=world)) for rank in range(world)]
    joined = [  # picture by picture in turn
        tuple(torch.stack(some, 1).flatten(0, 1) for some in zip(*batch, strict=True))
        for batch in zip(*parts, strict=True)
    ]
    assert same(joined, collected(train(dataset)))


def test_each_process_reads_its_part_alone(dataset, monkeypatch):
    opened = [[], []]
    for rank in (0, 1):
        monkeypatch.setattr(streamed, "decode", lambda path, rank=rank: opened[rank].append(path) or decode(path))
        collected(train(dataset, rank=rank, world=2))
    assert [len(paths) for paths in opened] == [16, 16]
    assert not set(opened[0]) & set(opened[1])


def test_several_processes_share_a_ragged_batch_as_well(dataset):
    for world, parts in ((2, [2, 2, 1]), (4, [1, 1, 1])):
        found = [
            collected(Streamed(dataset.test, dataset, 4, rank=rank, world=world, workers=0)) for rank in range(world)
        ]
        labels = torch.cat([labels for batches in found for _, labels in batches])
        assert labels.sort().values.tolist() == [0] * 5 + [1] * 5
        assert [len(labels) for _, labels in found[0]] == parts


def test_an_epoch_shows_each_picture_once_in_a_new_order(dataset, monkeypatch):
    shown = []
    monkeypatch.setattr(streamed, "decode", lambda path: shown.append(path) or decode(path))
    batches = train(dataset, batch_size=19)
    collected(batches), collected(batches)
    first, second = shown[:38], shown[38:]
    assert sorted(first) == sorted(second) == sorted(str(dataset.train.root / p) for p in dataset.train.paths)
    assert first != second


def test_seeds_and_epochs_and_places_draw_differently(dataset):
    assert not same(collected(train(dataset)), collected(train(dataset, seed=4)))
    one = replace(dataset, train=dataset.train[torch.zeros(8, dtype=torch.int64)])  # the same picture eight times
    batches = train(one)
    images = torch.cat([images for _ in range(2) for images, _ in batches])
    assert len({image.numpy().tobytes() for image in images}) == 16


@pytest.mark.parametrize("position", range(9))
def test_a_saved_position_goes_on_as_if_it_had_never_stopped(dataset, position, monkeypatch):
    """Eight batches are two epochs; wherever it stops, what follows is what would have, and no more is read."""
    whole = train(dataset)
    expected = collected(whole) + collected(whole)
    stopped, seen = train(dataset), 0
    while seen < position:
        for _ in stopped:
            seen += 1
            if seen == position:
                break
    again, opened = train(dataset, seed=0), []
    again.load_state_dict(stopped.state_dict())
    monkeypatch.setattr(streamed, "decode", lambda path: opened.append(path) or decode(path))
    rest = []
    while len(rest) + position < 8:
        rest += collected(again)
    assert same(rest, expected[position:]) or position == 8
    assert len(opened) == 8 * (8 - position)


def test_random_state_outside_is_neither_used_nor_changed(dataset):
    before = torch.get_rng_state()
    runs = [collected(train(dataset, workers=workers)) for workers in (0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert same(runs[0], runs[1])
    assert same(runs[0], collected(train(dataset)))


def workers_alive() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if any("forkserver" in word for word in p.cmdline())]


@pytest.mark.parametrize("starting", [False, True])
def test_workers_go_when_the_epoch_is_abandoned_and_stay_when_ctrl_c_is_pressed(dataset, starting, monkeypatch):
    """Even one that has not come to its first line when the key is pressed."""
    if starting:
        monkeypatch.setattr(streamed, "_ignore_interrupts", None)
    batches = train(dataset, batch_size=2, workers=2)
    collected(train(dataset, workers=1))  # the server that starts workers stays
    resting = len(workers_alive())
    going = iter(batches)
    next(going)
    working = [p for p in workers_alive() if p.parent().pid != os.getpid()]
    assert len(working) == 2
    for process in working:
        process.send_signal(signal.SIGINT)
    assert len(list(going)) == len(batches) - 1
    going = iter(batches)
    next(going)
    del going
    deadline = time.monotonic() + 20
    while len(workers_alive()) > resting and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers_alive()) == resting


def test_what_workers_get_can_be_pickled(dataset):
    task = next(train(dataset)._tasks(np.arange(38), range(1)))
    images, shown = pickle.loads(pickle.dumps(streamed._Reader()))[pickle.loads(pickle.dumps(task))]
    assert images.shape == (8, 32, 32, 3)
    assert shown.tolist() == list(range(8))


def test_an_uneven_share_and_an_empty_batch_are_refused(dataset):
    with pytest.raises(ValueError, match="a batch of 8 pictures cannot be shared out evenly to 3 processes"):
        train(dataset, world=3)
    with pytest.raises(ValueError, match="batch_size=0"):
        train(dataset, batch_size=0)


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    assert streamed.default_workers() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert streamed.default_workers() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert streamed.default_workers() == 1


# broken pictures


@pytest.fixture
def spoilt(tmp_path):
    """A data set of 40 pictures, and what breaks the n-th training picture."""
    root = make(tmp_path, {"train/a": 24, "train/b": 16, "val/a": 5, "val/b": 5})
    dataset = imagenet.load(root, 32)

    def spoil(split, n: int, content: bytes = b"no picture") -> str:
        (root / split.paths[n]).write_bytes(content)
        return split.paths[n]

    return dataset, spoil


@pytest.mark.parametrize("workers", [0, 2])
def test_the_place_of_a_broken_picture_shows_a_good_one_of_its_batch(spoilt, workers):
    dataset, spoil = spoilt
    expected = collected(train(dataset))
    order = np.random.default_rng([3, 0]).permutation(38)
    place = 8 + 7  # the last of the second batch: the next good one is its first
    path = spoil(dataset.train, order[place])
    batches = train(dataset, workers=workers)
    found = collected(batches)
    assert batches.broken == [path]
    for (images, _), (_, labels) in zip(found, found, strict=True):
        assert images.shape == (8, 3, 32, 32)
        assert labels.shape == (8,)
    assert same([found[n] for n in (0, 2, 3)], [expected[n] for n in (0, 2, 3)])
    assert torch.equal(found[1][0][:7], expected[1][0][:7])
    assert torch.equal(found[1][0][7], expected[1][0][0])
    assert found[1][1][7] == expected[1][1][0]
    collected(batches)
    assert batches.broken == [path]  # each once


def test_a_broken_picture_is_left_out_of_an_evaluation(spoilt):
    dataset, spoil = spoilt
    expected = collected(Streamed(dataset.test, dataset, 3, workers=0))
    path = spoil(dataset.test, 9)  # alone in the last batch
    batches = Streamed(dataset.test, dataset, 3, workers=0)
    assert same(collected(batches), expected[:3])
    assert batches.broken == [path]
    assert batches.state_dict()["epoch"] == 1


def test_more_than_one_in_a_thousand_stop_the_run(spoilt):
    dataset, spoil = spoilt
    paths = sorted(spoil(dataset.test, n) for n in (1, 5))
    with pytest.raises(DataError, match=rf"2 of 10 pictures are broken, more than 0\.1 %: {paths[0]}, {paths[1]}"):
        collected(Streamed(dataset.test, dataset, 5, workers=0))


@pytest.mark.parametrize(("broken", "of", "stops"), [(1, 3, False), (2, 3, True), (5, 5_000, False), (6, 5_000, True)])
def test_how_many_are_many(broken, of, stops):
    names = {str(n) for n in range(broken)}
    if stops:
        with pytest.raises(DataError, match=f"{broken} of {of} pictures are broken"):
            images_module.stop_if_many(names, of)
    else:
        images_module.stop_if_many(names, of)


def test_a_batch_of_broken_pictures_alone_stops_the_training(spoilt):
    dataset, spoil = spoilt
    path = spoil(dataset.train, np.random.default_rng([3, 0]).permutation(38)[1])
    with pytest.raises(DataError, match=f"all pictures of a batch are broken, .*: {path}"):
        collected(train(dataset, batch_size=1))


def test_a_broken_picture_is_an_error_where_it_is_to_be_shown(spoilt):
    dataset, spoil = spoilt
    path = spoil(dataset.train, 2)
    with pytest.raises(DataError, match=f"{path}: not a picture that can be read"):
        _ = dataset.train[:4].images


def test_strange_pictures_are_read_like_others(spoilt):
    dataset, spoil = spoilt
    for n, kind in enumerate(("L JPEG", "CMYK JPEG", "RGBA PNG", "RGB WEBP")):
        spoil(dataset.train, n, pil(kind, picture(n)))
    spoil(dataset.train, 4, pil("RGB PNG", picture(4, 60, 1)))
    batches = train(dataset, batch_size=38)
    assert len(collected(batches)) == 1
    assert batches.broken == []


# the real thing


def test_real_pictures_of_imagenet():
    dataset = imagenet.load(sample(), 64)
    assert len(dataset.classes) == 1_000
    assert not set(dataset.train.paths) & set(dataset.validation.paths)
    part = dataset.first(train=96, held_out=24)
    batches = Streamed(part.train, part, 32, train=True, workers=0)
    found = collected(batches)
    assert batches.broken == []
    images = torch.cat([images for images, _ in found])
    assert images.mean().abs() < 0.3
    assert 0.7 < images.std() < 1.3  # ImageNet's mean and deviation are those of these pictures
    assert same(collected(Streamed(part.train, part, 32, train=True, workers=2)), found)


def test_real_pictures_are_cut_as_torchvisions_own_transforms_cut_them():
    dataset = imagenet.load(sample(), 224)
    some = dataset.test[:6]
    usual = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    for image, path in zip(some.images, some.paths, strict=True):
        whole = decode(some.root / path)
        assert torch.equal(image, usual(whole))
        pil_image = np.array(usual(Image.open(some.root / path).convert("RGB")))
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - pil_image).mean() < 1.5


# What strangers brought


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format_comes_out_upright(tmp_path, suffix, orientation):
    path, exif = tmp_path / f"x{suffix}", Image.Exif()
    exif[0x0112] = orientation
    lossless = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(picture(3, 48, 64).permute(1, 2, 0).numpy()).save(path, exif=exif, **lossless)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = decode(path)
    assert tuple(found.shape) == ((3, 64, 48) if orientation > 4 else (3, 48, 64))
    difference = np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= (2 if suffix == ".jpg" else 0)


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of 8 bits RGB whose chunks have right checksums, whatever is in them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


ROWS = b"".join(bytes(1 + 3 * 8) for _ in range(8))  # of 8x8 black pixels
WHOLE = zlib.compress(ROWS)
BAD_PIXELS = {
    "too few rows": zlib.compress(ROWS[:75]),
    "cut": WHOLE[:-6],
    "foreign": b"not a zlib stream",
    "wrong sum": WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]),
    "empty": b"",
    "unknown filter": zlib.compress(bytes([9]) + ROWS[1:]),
}


def test_no_png_takes_the_process_down(tmp_path):
    """In a process of its own, which torchvision's decoder would end by a signal."""
    for name, data in BAD_PIXELS.items():
        (tmp_path / f"{name}.png").write_bytes(png(8, 8, data))
    (tmp_path / "promises more.png").write_bytes(png(800, 800, WHOLE))
    (tmp_path / "healthy.png").write_bytes(png(8, 8, WHOLE))
    script = """
import sys
from pathlib import Path
from dfs_edu.data import DataError
from dfs_edu.data.images import decode
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.stem, tuple(decode(path).shape))
    except DataError as error:
        assert str(error).startswith(f"{path}: not a picture that can be read"), error
        print(path.stem, "refused")
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(BAD_PIXELS) + 2
    assert "healthy (3, 8, 8)" in lines
    for name in "too few rows", "cut", "foreign", "empty", "promises more":
        assert f"{name} refused" in lines


def test_sizes_are_looked_at_before_anything_is_decoded(tmp_path):
    small = io.BytesIO()
    Image.new("RGB", (64, 64)).save(small, "JPEG")
    bomb = bytearray(small.getvalue())
    at = bomb.index(b"\xff\xc0") + 5  # of the frame's header: height and width
    bomb[at : at + 4] = struct.pack(">HH", 65000, 65000)
    (tmp_path / "x.jpg").write_bytes(bomb)
    (tmp_path / "x.png").write_bytes(png(20_000, 20_000, zlib.compress(bytes(100))))
    before = psutil.Process().memory_info().rss
    with pytest.raises(DataError, match=r"x\.jpg: .*65000x65000 pixels|x\.jpg: .*decompression bomb"):
        decode(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"x\.png: .*(20000x20000 pixels|400000000 pixels)"):
        decode(tmp_path / "x.png")
    assert psutil.Process().memory_info().rss - before < 2**28


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


def test_names_in_two_unicode_forms_are_said_to_look_alike(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = make(tmp_path, {f"train/{composed}": 2, "train/b": 2, f"val/{decomposed}": 1, "val/b": 1})
    with pytest.raises(DataError, match=r"different Unicode forms, rename one of each: 'caf(e\\u0301|\\xe9)' and"):
        imagenet.load(root)


def test_names_in_two_unicode_forms_in_one_folder_too(tmp_path):
    names = ("caf\u00e9", "cafe\u0301", "b")
    root = make(tmp_path, {f"{split}/{name}": 2 for split in ("train", "val") for name in names})
    with pytest.raises(DataError, match="holds classes that look alike, in different Unicode forms"):
        imagenet.load(root)


@pytest.mark.parametrize("name", ["Train", "VAL"])
def test_folders_of_splits_in_capitals_are_named(tmp_path, name):
    root = make(tmp_path, {f"{name}/a": 3, f"{name}/b": 3})
    with pytest.raises(DataError, match=rf"holds {name}: the names train, val and test are written in small letters"):
        folder.load(root, 16)


def test_a_long_folder_of_temporary_files_stops_no_worker(small, tmp_path):
    """The sockets of multiprocessing would have paths that the system refuses."""
    long = tmp_path / ("t" * 91)
    long.mkdir()
    script = tmp_path / "read.py"
    script.write_text("""
import sys
from dfs_edu.data import imagenet
from dfs_edu.data.streamed import Streamed
dataset = imagenet.load(sys.argv[1], 16)
if __name__ == "__main__":
    print(sum(len(labels) for _, labels in Streamed(dataset.test, dataset, 4, workers=2)))
""")
    done = subprocess.run(
        [sys.executable, str(script), str(small)],
        env=os.environ | {"TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


# JPEGs that were cut, with an end marker after the cut


def jpeg(size: tuple[int, int], mode: str = "RGB", seed: int = 0, **options) -> bytes:
    """A JPEG of noise over a smooth ground: data of some length in every block."""
    noise = torch.randn(3, size[1], size[0], generator=torch.Generator().manual_seed(seed)).mul(12)
    pixels = (picture(seed, size[1], size[0]) + noise).clamp(0, 255).byte()
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def cut(whole: bytes, share: float) -> bytes:
    """The first part of the data behind the first scan's header, ended as if it were all."""
    start = whole.index(b"\xff\xda") + 16
    return whole[: start + int((len(whole) - start) * share)] + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(121, 113), (96, 80), (65, 129)])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}]
)
def test_a_cut_jpeg_with_an_end_marker_is_refused(tmp_path, mode, size, options):
    path, whole = tmp_path / "x.jpg", jpeg(size, mode, **options)
    path.write_bytes(whole)
    assert decode(path).shape == (3, size[1], size[0])
    for share in (0.05, 0.3, 0.5, 0.8):
        path.write_bytes(cut(whole, share))
        with pytest.raises(DataError, match=r"x\.jpg: not a picture that can be read \(image file is truncated"):
            decode(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_cut_jpeg_that_is_turned_upright_is_refused(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x.jpg").write_bytes(cut(jpeg((90, 70), exif=exif), 0.5))
    with pytest.raises(DataError, match="truncated"):
        decode(tmp_path / "x.jpg")


def test_a_progressive_jpeg_is_refused_unless_it_reaches_its_last_scan(tmp_path):
    path = tmp_path / "x.jpg"
    for mode in ("RGB", "L", "CMYK"):
        whole = jpeg((120, 110), mode, progressive=True)
        path.write_bytes(whole)
        decode(path)
        _, *starts = (found.start() for found in re.finditer(b"\xff\xda", whole))
        assert len(starts) >= 5
        for start in starts:
            path.write_bytes(whole[:start] + b"\xff\xd9")
            with pytest.raises(DataError, match="the JPEG ends early: some of its scans are missing"):
                decode(path)
        for end in range(starts[0], starts[-1], 97):  # within scans and tables, where a decoder may notice first
            path.write_bytes(whole[:end] + b"\xff\xd9")
            with pytest.raises(DataError, match="not a picture that can be read"):
                decode(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_healthy_jpegs_with_a_flat_bottom_are_never_refused(tmp_path, mode, options):
    """Medium grey, which a cut is filled with, white and black; below an image and alone; last blocks of many sizes."""
    path = tmp_path / "x.jpg"
    for n, level in enumerate((126, 127, 128, 129, 130, 255, 0)):
        for side in (1, 7, 8, 9, 16, 17, 40 + n):
            image = Image.fromarray(picture(n, side + 40, side).permute(1, 2, 0).numpy())
            image.paste((level,) * 3, (0, 20 if n % 2 else 0, side, side + 40))
            image.convert(mode).save(path, "JPEG", **options)
            assert decode(path).shape == (3, side + 40, side)


def test_a_cut_jpeg_is_left_out_of_a_folder_and_named(tmp_path):
    root = make(tmp_path, {"train/a": 9, "train/b": 9, "val/a": 3, "val/b": 3})
    (root / "val" / "a" / "001.JPEG").write_bytes(cut(jpeg((50, 40)), 0.5))
    with pytest.warns(UserWarning, match=r"left out of test: .*val/a/001\.JPEG: not a picture"):
        assert len(folder.load(root, 16).test) == 5


def test_real_jpegs_are_told_from_the_same_cut(tmp_path):
    paths = sorted(sample().glob("val/*/*"))[::25]
    assert len(paths) > 20
    for path in paths:
        decode(path)
        whole = path.read_bytes()
        (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
        with pytest.raises(DataError, match="truncated"):
            decode(tmp_path / "x.jpg")


# folders that hold more than images


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
    Image.fromarray(picture(0).permute(1, 2, 0).numpy()).save(file, format)
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
    with pytest.raises(DataError, match=r"files in folders of class folders, where none is read: cat/more \(1\)$"):
        folder.load(root, 16)
    (part / "cat" / "more" / "yet" / name).rename(part / name)
    with pytest.raises(DataError, match=f"1 files beside the folders of classes: {name}$"):
        folder.load(root, 16)
    (part / name).rename(part / f".{name}")
    folder.load(root, 16)


def test_a_linked_folder_in_a_deeper_folder_counts_and_a_circle_ends(root_and_part):
    root, part = root_and_part
    (part / "cat" / "more").mkdir()
    (part / "cat" / "more" / "all").symlink_to(part)
    with pytest.raises(DataError, match=r"where none is read: cat/more \(1\)$"):
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
    with pytest.raises(DataError, match=r"classes without an image \(1\): eel"):
        folder.load(root, 16)


@pytest.mark.parametrize("part", LAYOUTS.values(), ids=LAYOUTS)
def test_one_class_is_refused_by_name(tmp_path, part, trained):
    root = make(tmp_path / "pets", {f"{part}cat": 4} | ({"val/cat": 2} if part else {}))
    message = f"dfs-edu: {root} holds one class, cat: at least two are needed, each a folder of images\n"
    assert trained(root) == (1, message)


def test_what_is_beside_the_folders_of_splits_is_warned_of(tmp_path):
    root = make(tmp_path / "pets", {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2, "test": 2, "extra/deep": 1})
    write(root / "loose.jpg", picture(1))
    for name in ("README", "LICENSE", "labels.csv", ".hidden.jpg"):
        (root / name).write_text("passed over")
    (root / "docs").mkdir()
    with pytest.warns(UserWarning, match=r"left out: .*pets also holds extra, loose\.jpg, test, beside train, val$"):
        folder.load(root, 16)


def test_splits_without_folders_of_classes_are_not_taken_for_classes(tmp_path):
    with pytest.raises(DataError, match="train, val hold images, but no folders of classes"):
        folder.load(make(tmp_path, {"train": 4, "val": 4}), 16)
