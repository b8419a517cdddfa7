"""Data sets are what they say, augmentation is what torchvision does, order is reproducible, bad files are refused."""

import os
import pickle
import re
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as TF

from dfs_edu import cli, data
from dfs_edu.data import Augmentation, Batches, DataError, Dataset, Split, augment, cifar100, digits, folder

batches_module = sys.modules[Batches.__module__]


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    return data.load("digits")


# digits


def test_digits_have_three_splits_of_ten_balanced_classes(scenes):
    for split, count in ((scenes.train, 12_000), (scenes.validation, 3_000), (scenes.test, 3_000)):
        assert split.images.shape == (count, 3, 32, 32)
        assert split.images.dtype == torch.uint8
        assert split.difficulty.shape == (count,)
        assert split.labels.bincount(minlength=10).min() > 0.08 * count
    assert scenes.classes == tuple("0123456789")


def test_digits_are_a_function_of_their_seed(scenes):
    digits.load.cache_clear()
    assert digits.load().checksum == scenes.checksum


def test_splits_are_made_from_disjoint_digits(monkeypatch):
    """Each split is given its own scans: what `_scenes` receives has no scan in common."""
    given = {}
    plain = digits._scenes

    def watched(name, scans, labels, generator):
        given[name] = {scan.numpy().tobytes() for scan in scans}
        return plain(name, scans[:8], labels[:8], generator)

    monkeypatch.setattr(digits, "_scenes", watched)
    monkeypatch.setattr(digits, "SIZES", {"train": 16, "validation": 16, "test": 16})
    digits.load.__wrapped__()
    assert sum(map(len, given.values())) == len(set().union(*given.values())) > 1_700


def test_difficult_scenes_are_fainter(scenes):
    deviation = scenes.train.images.float().std((1, 2, 3))
    easy, hard = scenes.train.difficulty < 0.2, scenes.train.difficulty > 0.8
    assert deviation[easy].mean() > 1.25 * deviation[hard].mean()


def test_mean_and_deviation_are_those_of_the_training_pictures(scenes):
    pixels = scenes.train.images.numpy() / 255
    np.testing.assert_allclose(scenes.mean, pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(scenes.std, pixels.std((0, 2, 3)), rtol=1e-4)


# batches


def small(n=50, flip=True) -> tuple[Split, Dataset]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    parts = [Split(name, images, torch.arange(n) % 5) for name in ("train", "validation", "test")]
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    return parts[0], Dataset("small", *parts, tuple("abcde"), mean, std, Augmentation(2, 128, flip))


def test_batches_as_they_lie_are_the_normalised_pictures():
    split, dataset = small()
    batches = Batches(split, dataset, batch_size=16)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = TF.normalize(split.images / 255, dataset.mean, dataset.std)
    torch.testing.assert_close(images, expected)
    assert torch.equal(batches.pictures(images), split.images)
    assert torch.equal(labels, split.labels)
    assert len(batches) == 4
    assert next(iter(batches))[0].is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_of_training_shows_each_picture_once_in_a_new_order():
    split, dataset = small(n=48)
    numbered = Split("train", split.images, torch.arange(48) % 5, torch.arange(48.0))
    batches = Batches(numbered, dataset, 16, train=True)
    batches.labels = torch.arange(48)
    first, second = ([label for _, labels in batches for label in labels.tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(48))
    assert first != second != list(range(48))
    assert batches.epoch == 2


def test_the_ragged_last_batch_is_dropped_in_training_only():
    split, dataset = small(n=50)
    assert [len(labels) for _, labels in Batches(split, dataset, 16, train=True)] == [16, 16, 16]
    assert [len(labels) for _, labels in Batches(split, dataset, 16)] == [16, 16, 16, 2]


def collected(batches) -> list:
    return [(images.clone(), labels.clone()) for images, labels in batches]


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) and torch.equal(s, t) for (x, s), (y, t) in zip(a, b, strict=True)
    )


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    split, dataset = small()
    runs = [collected(Batches(split, dataset, 16, train=True, seed=seed)) for seed in (3, 3, 4)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("position", range(6))
def test_a_saved_position_goes_on_as_if_it_had_never_stopped(position):
    """Six batches are two epochs; wherever it stops, what follows is what would have followed."""
    split, dataset = small()
    whole = Batches(split, dataset, 16, train=True, seed=7)
    expected = collected(whole) + collected(whole)

    stopped = Batches(split, dataset, 16, train=True, seed=7)
    seen = 0
    while seen < position:
        for _ in stopped:
            seen += 1
            if seen == position:
                break
    again = Batches(split, dataset, 16, train=True)
    again.load_state_dict(stopped.state_dict())
    rest = collected(again)
    rest += collected(again) if len(rest) + position < 6 else []
    assert same(rest, expected[position:])


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("at_once", [32, 40, 2048])
def test_batches_that_are_augmented_together_are_what_they_are_alone(at_once, train, flip, monkeypatch):
    split, dataset = small(n=90, flip=flip)
    how = Augmentation(2, 128, flip, autoaugment=True, cutout=3)
    options = {"train": train, "seed": 7, "augmentation": how}
    monkeypatch.setattr(batches_module, "AT_ONCE", 1)
    alone = Batches(split, dataset, 16, **options)
    expected = collected(alone) + collected(alone)
    calls = []
    monkeypatch.setattr(batches_module, "augment", lambda *given: (calls.append(1), augment(*given))[1])
    monkeypatch.setattr(batches_module, "AT_ONCE", at_once * 8 * 8)
    together = Batches(split, dataset, 16, **options)
    assert same(collected(together) + collected(together), expected)
    assert len(calls) == (2 * -(-5 // min(at_once // 16, 5)) if train else 0)  # of five whole batches an epoch
    second = Batches(split, dataset, 16, rank=1, world=2, **options)
    halves = [(images[1::2], labels[1::2]) for images, labels in expected[: len(second)]]
    assert same(collected(second), halves)


def test_random_state_outside_is_neither_used_nor_changed():
    split, dataset = small()
    before = torch.get_rng_state()
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(collected(Batches(split, dataset, 16, train=True)))
    assert same(*runs)
    torch.set_rng_state(before)
    collected(Batches(split, dataset, 16, train=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_is_torchvisions_for_the_same_draws(flip):
    split, _ = small()
    how = Augmentation(pad=3, fill=77, flip=flip)
    found = augment(split.images, how, torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(5)
    top, left = torch.randint(0, 7, (2, 50, 1), generator=draw)
    mirrored = torch.rand(50, 1, generator=draw) < 0.5 if flip else torch.zeros(50, 1)
    for n, image in enumerate(split.images):
        expected = TF.crop(TF.pad(image, [3], fill=77), int(top[n]), int(left[n]), 8, 8)
        expected = TF.hflip(expected) if mirrored[n] else expected
        assert torch.equal(found[n], expected)
    assert found.dtype == torch.uint8


def test_batches_refuse_no_pictures_a_batch():
    split, dataset = small()
    with pytest.raises(ValueError, match="batch_size=0"):
        Batches(split, dataset, 0)


# CIFAR-100


def cifar_files(folder, **changes):
    """A data set of CIFAR-100's form, made of random pixels; `changes` replace what train holds."""
    rng = np.random.default_rng(0)
    folder = folder / cifar100.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 50_000), ("test", 10_000)):
        labels = [i % 100 for i in range(count)]
        content = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "fine_labels": labels}
        content |= changes if name == "train" else {}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class_{i}" for i in range(100)]}, protocol=2))
    return folder


@pytest.fixture(scope="module")
def cifar_folder(tmp_path_factory):
    return cifar_files(tmp_path_factory.mktemp("cifar"))


def test_cifar_is_split_stratified_and_always_alike(cifar_folder):
    first, second = (data.load("cifar100", cifar_folder.parent) for _ in range(2))
    assert first.checksum == second.checksum
    assert [len(s) for s in (first.train, first.validation, first.test)] == [45_000, 5_000, 10_000]
    assert first.train.labels.bincount().tolist() == [450] * 100
    assert first.validation.labels.bincount().tolist() == [50] * 100
    assert first.classes[3] == "class 3"
    rows = lambda split: {image.numpy().tobytes() for image in split.images}  # noqa: E731
    assert not rows(first.train) & rows(first.validation)


def test_cifar_pictures_keep_their_planes(cifar_folder):
    content = pickle.loads((cifar_folder / "test").read_bytes())
    dataset = data.load("cifar100", cifar_folder.parent)
    row = content["data"][17]
    assert dataset.test.images[17, 1, 4, 9] == row[1024 + 4 * 32 + 9]  # green, row 4, column 9


def test_real_cifar_where_it_is_present():
    try:
        dataset = data.load("cifar100")
    except DataError as error:
        pytest.skip(str(error))
    pixels = torch.cat([dataset.train.images, dataset.validation.images]).double() / 255
    np.testing.assert_allclose(pixels.mean((0, 2, 3)), cifar100.MEAN, atol=5e-5)
    np.testing.assert_allclose(pixels.std((0, 2, 3)), cifar100.STD, atol=5e-5)
    assert dataset.classes[:2] == ("apple", "aquarium fish")


def test_a_missing_folder_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"looked for .*nowhere/cifar-100-python.*dfs-edu download cifar100"):
        data.load("cifar100", tmp_path / "nowhere")
    monkeypatch.setenv("DFS_EDU_DATA", str(tmp_path / "named"))
    assert data.places()[0] == tmp_path / "named"
    assert data.places("here") == [data.Path("here")]


def damaged(cifar_folder, tmp_path, name, content: bytes):
    """The folder with one file replaced."""
    folder = tmp_path / cifar100.FOLDER
    folder.mkdir(parents=True)
    for file in cifar_folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    return tmp_path


def test_a_missing_file_is_named(cifar_folder, tmp_path):
    with pytest.raises(DataError, match=r"cifar-100-python/test is missing"):
        data.load("cifar100", damaged(cifar_folder, tmp_path, "test", None))


def test_a_truncated_pickle_is_refused(cifar_folder, tmp_path):
    content = (cifar_folder / "train").read_bytes()
    with pytest.raises(DataError, match=r"/train: not a whole pickle"):
        data.load("cifar100", damaged(cifar_folder, tmp_path, "train", content[: len(content) // 2]))


@pytest.mark.parametrize("content", [b"", b"not a pickle at all", pickle.dumps([1, 2, 3])])
def test_a_file_that_is_no_such_pickle_is_refused(cifar_folder, tmp_path, content):
    with pytest.raises(DataError, match=r"/meta: (not a whole pickle|holds a list)"):
        data.load("cifar100", damaged(cifar_folder, tmp_path, "meta", content))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    "value", [Harmful(), SimpleNamespace(a=1), np.float64, print], ids=["mkdir", "class", "type", "print"]
)
def test_a_pickle_that_names_anything_but_arrays_is_refused_unexecuted(cifar_folder, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": value, "fine_labels": []}, protocol=2)
    with pytest.raises(DataError, match=r"/train: the pickle names .*refused"):
        data.load("cifar100", damaged(cifar_folder, tmp_path, "train", content))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((50_000, 3071), np.uint8)}, r"uint8 \(50000, 3071\), not uint8 \(50000, 3072\)"),
        ({"data": np.zeros((10, 3072), np.float32)}, r"an array of type 'f4' and shape \(10, 3072\), not of bytes"),
        ({"data": "pixels"}, "data is str"),
        ({"fine_labels": [0] * 49_999}, "not a list of 50000 whole numbers"),
        ({"fine_labels": [0.5] * 50_000}, "not a list of 50000 whole numbers"),
        ({"fine_labels": [100] + [0] * 49_999}, "from 0 to 100, not from 0 to 99"),
        ({"fine_labels": [-1] + [0] * 49_999}, "from -1 to 0, not from 0 to 99"),
    ],
)
def test_wrong_shapes_and_labels_are_refused(tmp_path, changes, message):
    content = {"data": np.zeros((50_000, 3072), np.uint8), "fine_labels": [0] * 50_000} | changes
    folder = tmp_path / cifar100.FOLDER
    folder.mkdir(parents=True)
    (folder / "train").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=message):
        data.load("cifar100", tmp_path)


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
        (torch.zeros(0, 3, 4, 4).byte(), torch.zeros(0).long(), "no pictures"),
    ],
)
def test_a_split_that_is_none_is_refused(images, labels, message):
    good, dataset = small()
    with pytest.raises(DataError, match=message):
        Dataset("x", Split("train", images, labels), good, good, dataset.classes, (0, 0, 0), (1, 1, 1), Augmentation())


def test_a_pickle_that_asks_for_memory_or_builds_on_numpy_is_refused_by_a_process_that_lives(cifar_folder, tmp_path):
    """Nine bytes that make Python remember at place 2**27; a state put upon numpy's own type, whose flags it clears."""
    harmful = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb."
    script = """
import resource, sys
from dfs_edu import cli, data
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    data.load("cifar100", sys.argv[1])
except data.DataError as error:
    print(error)
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "half a gigabyte"
"""
    for content, said in ((b"}r\x00\x00\x00\x08.", "not a whole pickle"), (harmful, "holds a _Type")):
        root = damaged(cifar_folder, tmp_path / str(len(content)), "train", content)
        done = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def tuples(depth: int) -> bytes:
    return b"}(" + b"N" + b"\x85" * depth + b"Nu."  # a dictionary with deep tuples as a key, which Python hashes


def encodings(times: int, length: int) -> bytes:
    """A long text, encoded again and again."""
    text = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", length) + b"x" * length + b"q\x01X\x06\0\0\0latin1q\x02"
    return text + b"h\x00h\x01h\x02\x86R" * times + b"."


def shaped(*shape: bytes) -> bytes:
    """`data` is an array whose shape has these parts, each as a pickle writes it."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n)R(I1\n(" + b"".join(shape) + b"tcnumpy\ndtype\n(S'u1'\ntRI00\nS''\ntb"
    )
    return b"}(S'data'\n" + array + b"S'fine_labels'\n]u."


BOTTOMLESS = {
    f"{name} {length:#x}": code + struct.pack(form, length) + b"ab."
    for name, code, form, lengths in (
        ("BINBYTES", b"B", "<I", (2**31 - 1, 2**32 - 1)),
        ("BINBYTES8", b"\x8e", "<Q", (2**31 - 1, 2**40, 2**62, 2**64 - 1)),
        ("BYTEARRAY8", b"\x96", "<Q", (2**31 - 1, 2**62, 2**64 - 1)),
        ("BINUNICODE", b"X", "<I", (2**31 - 1, 2**32 - 1)),
        ("BINUNICODE8", b"\x8d", "<Q", (2**31 - 1, 2**40, 2**62, 2**64 - 1)),
        ("BINSTRING", b"T", "<i", (2**31 - 1, -1)),
        ("LONG4", b"\x8b", "<i", (2**31 - 1, -1)),
        ("FRAME", b"\x80\x04\x95", "<Q", (2**31 - 1, 2**62, 2**64 - 1)),
        ("LONG_BINPUT", b"Nr", "<I", (2**20, 2**31 - 1, 2**32 - 1)),
    )
    for length in lengths
} | {
    "PUT": b"Np4611686018427387904\n.",
    "PUT below 0": b"Np-1\n.",
    "long number": b"L" + b"9" * 100_000 + b"L\n.",
    "marks": b"(" * 900_000 + b".",
    "sets": b"\x8f" * 900_000 + b".",
    "more sets": b"\x8f" * 50_000_000 + b".",
    "deep lists": b"]" * 450_000 + b"a" * 449_999 + b".",
    "deep tuples": tuples(300_000),
    "nested tuples of marks": b"}" + b"(" * 300_000 + b"t" * 299_999 + b"Ns.",
    "text encoded": encodings(20_000, 2**20),
    "text as a side": shaped(b"I1073741824\n", b"I16\n", b"S'xx'\n"),
    "long shape": shaped(*[b"I2147483647\n"] * 50_000),
    "long name": b"c" + b"x" * 10**6 + b"\ny\n.",
}


def test_no_pickle_takes_memory_or_the_process_down(tmp_path):
    """In a process that may have a GiB more than it needs; each is refused in a line that names the file."""
    for n, (name, content) in enumerate(BOTTOMLESS.items()):
        (tmp_path / f"{n:02} {name.replace(' ', '-')}").write_bytes(content)
    script = """
import resource, sys
from pathlib import Path
from dfs_edu.data import DataError, cifar100
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        cifar100._read(path, 10)
    except DataError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < len(str(path)) + 250, str(error)[:1000]
        print("refused", path, flush=True)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert used < 2**19, f"{used} KiB for {path}"
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.returncode, done.stdout[-200:], done.stderr)
    assert done.stdout.count("refused") == len(BOTTOMLESS)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_mutations_of_a_pickle_give_data_or_an_error_that_is_ours(tmp_path, protocol):
    content = {"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "fine_labels": [3, 99], "names": ["a.png"]}
    good, rng = pickle.dumps(content, protocol=protocol), np.random.default_rng(protocol)
    at = good.index(b"\x00" if protocol == 4 else b"fine_labels")
    structure = [*range(min(at, 400)), *range(len(good) - 150, len(good))]  # rather than pixels
    path, read = tmp_path / "train", 0
    path.write_bytes(good)
    assert torch.equal(cifar100._read(path, 2)[1], torch.tensor([3, 99]))
    for _ in range(1_000):
        bad = bytearray(good)
        for place in rng.choice(structure, int(rng.integers(1, 4))):
            bad[place] = rng.integers(256)
        path.write_bytes(bad[: len(bad) if rng.random() < 0.9 else int(rng.integers(len(bad)))])
        try:
            images, labels = cifar100._read(path, 2)
        except DataError:  # and nothing else
            continue
        read += 1
        assert images.shape == (2, 3, 32, 32)
        assert labels.min() >= 0
        assert labels.max() <= 99
    assert read < 500


def test_a_pipe_in_place_of_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "train")
    with pytest.raises(DataError, match=r"train: not a regular file"):
        cifar100._read(tmp_path / "train", 2)


# what is asked for


@pytest.mark.parametrize("pixels", [0, -3, 32.0, "32", 10**9, True, float("nan"), [32]])
@pytest.mark.parametrize("name", data.DATASETS)
def test_a_size_that_no_image_can_have_is_refused_before_anything_is_read(tmp_path, name, pixels):
    with pytest.raises(ValueError, match=rf"^pixels={re.escape(repr(pixels))}: a whole number from 1 to 4096$"):
        data.load(name, tmp_path / "nowhere", pixels)


@pytest.mark.parametrize("name", [None, 3, "", "Digits", ["digits"]])
def test_a_name_that_no_data_set_has_is_refused(name):
    with pytest.raises(ValueError, match=rf"data set {re.escape(repr(name))} is not known; use one of digits"):
        data.load(name)


@pytest.mark.parametrize("count", [0, -1, 2.0, "2", True])
@pytest.mark.parametrize("which", ["train", "held_out"])
def test_counts_of_images_are_whole_numbers_above_zero(which, count):
    _, dataset = small()
    with pytest.raises(ValueError, match=rf"^{which}={re.escape(repr(count))}: a whole number of images above zero"):
        dataset.first(**{which: count})
    assert len(dataset.first(train=10**20).train) == len(dataset.train)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True])
def test_a_seed_of_a_folder_is_a_whole_number(tmp_path, seed):
    with pytest.raises(ValueError, match=rf"^seed={re.escape(repr(seed))}: a whole number from 0$"):
        folder.load(tmp_path, seed=seed)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--image-size", "0", "pixels=0: a whole number above zero"),
        ("--image-size", "-3", "pixels=-3: a whole number above zero"),
        ("--image-size", "1000000000", "pixels=1000000000: at most 4096"),
        ("--train-images", "0", "train_images=0: a whole number above zero"),
        ("--held-out-images", "-1", "held_out_images=-1: a whole number above zero"),
        ("--seed", "12345678901234567890", "seed=12345678901234567890: a whole number from 0, below 2**63"),
    ],
)
def test_the_command_refuses_such_numbers_in_a_line(tmp_path, capsys, option, value, message):
    assert cli.main(["train", "digits/vgg7-4", "--scale", "smoke", "--out", str(tmp_path / "runs"), option, value]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"dfs-edu: {message}\n")
    assert not (tmp_path / "runs").exists()
