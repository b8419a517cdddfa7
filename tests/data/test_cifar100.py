"""CIFAR-100 is split once for all runs, and files that are not as they should be are refused."""

import hashlib
import os
import pickle
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from warm import python

from dfs_edu import data
from dfs_edu.data import DataError, cifar100


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


def test_cifar_images_keep_their_planes(cifar_folder):
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


def test_files_with_the_official_sums_are_read_by_torchvision_alike(cifar_folder, monkeypatch):
    expected = data.load("cifar100", cifar_folder.parent)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in cifar_folder.iterdir()}
    monkeypatch.setattr(cifar100.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(cifar100.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(cifar100.CIFAR100, "meta", cifar100.CIFAR100.meta | {"md5": sums["meta"]})
    monkeypatch.setattr(cifar100.pickles, "read", None)
    found = data.load("cifar100", cifar_folder.parent)
    assert (found.checksum, found.classes) == (expected.checksum, expected.classes)


def test_the_error_for_a_missing_folder_lists_the_searched_places_and_the_remedy(tmp_path, monkeypatch):
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
    for content, said in ((b"}r\x00\x00\x00\x08.", "not a whole pickle"), (harmful, "holds a _DType")):
        root = damaged(cifar_folder, tmp_path / str(len(content)), "train", content)
        done = subprocess.run([*python(), "-c", script, str(root)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
