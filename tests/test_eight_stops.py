"""From an image file to logits, as CONTRIBUTING.md describes it: its lines are run and compared with its table."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from operator import attrgetter
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import dfs_edu as dfs

GUIDE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
SECTION = GUIDE.split("## From an image file to logits: eight stops\n")[1].split("\n## ")[0]
SUFFIXES = (".jpg", ".png", ".webp")


class Stop(NamedTuple):
    """A row of the table."""

    title: str
    file: str
    function: str
    returned: str  # in words; `names` at its start say which attribute is meant
    dtype: str
    shape: str
    range: str

    @property
    def code(self) -> CodeType:
        module = importlib.import_module("dfs_edu." + self.file.removesuffix(".py").replace("/", "."))
        return attrgetter(self.function)(module).__code__

    def tensors(self, returned: object) -> list[torch.Tensor]:
        """What the row describes: the returned tensors, or an attribute of the returned object."""
        attribute = re.match(r"`([\w.]+)`:", self.returned)
        value = attrgetter(attribute[1])(returned) if attribute else returned
        return list(value) if isinstance(value, tuple) else [value]


ROW = r"^\| \d \| (\w+) \| \[(.+?)\]\(dfs_edu/\2\) `(.+?)` \| (.+?) \| (\w+) \((.+?)\) \| (.+?) \|$"
STOPS = [Stop(*row) for row in re.findall(ROW, SECTION, re.MULTILINE)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three classes of six images each: 4 to train, 1 to validate, 1 to test."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name in ("bird", "cat", "dog"):
        (folder / name).mkdir()
        for i in range(6):
            height, width = generator.integers(30, 60, 2)
            pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}{SUFFIXES[i % 3]}")
    return folder


@pytest.fixture(scope="module")
def walk(root):
    """What the guide's lines define, and the first return value of each stop, in the order in which they came."""
    returned: dict[CodeType, object] = {}
    wanted = {stop.code for stop in STOPS}

    def record(frame: FrameType, event: str, value: object) -> None:
        if event == "return" and frame.f_code in wanted:
            returned.setdefault(frame.f_code, value)

    (lines,) = re.findall(r"```py\n(.*?)```", SECTION, re.DOTALL)
    names = {"dfs": dfs, "root": root}
    torch.manual_seed(0)
    threading.setprofile(record)  # images are decoded in threads
    sys.setprofile(record)
    try:
        exec(lines, names)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return names, returned


def test_the_lines_pass_the_eight_stops_in_order(walk):
    assert len(STOPS) == 8, "a row of the table cannot be read"
    _, returned = walk
    assert list(returned) == [stop.code for stop in STOPS]


def in_range(tensor: torch.Tensor, words: str) -> bool:
    """Whether the values of a tensor are as a row says, and make use of the range."""
    low, high = tensor.min().item(), tensor.max().item()
    match words:
        case "0 to classes - 1":
            return (low, high) == (0, 2)
        case "0 to 255":
            return 0 <= low < 100 and 150 < high <= 255
        case "around 0":
            return low < 0 < high and abs(tensor.mean().item()) < 1
        case "any real number":
            return bool(tensor.isfinite().all())
    raise ValueError(f"{words!r}: a range that this test does not know")


@pytest.mark.parametrize("number", range(8), ids=lambda number: f"stop {number + 1}")
def test_each_stop_returns_what_the_table_lists(walk, number):
    _, returned = walk
    sizes = {"N": 12, "B": 8, "S": 32, "classes": 3}
    sizes |= dict(zip("Chw", returned[STOPS[5].code].shape[1:], strict=True))  # a stage's feature is the junction's
    stop = STOPS[number]
    tensors = stop.tensors(returned[stop.code])
    assert len(tensors) == (2 if stop.title == "Junction" else 1)
    for tensor in tensors:
        assert str(tensor.dtype) == f"torch.{stop.dtype}"
        axes = [axis.strip() for axis in stop.shape.split(",") if axis.strip()]
        assert tensor.ndim == len(axes)
        for size, axis in zip(tensor.shape, axes, strict=True):
            assert size == (int(axis) if axis.isdigit() else sizes.get(axis, size)), axis
        assert in_range(tensor, stop.range)


def test_what_the_table_describes_in_words(walk):
    names, returned = walk
    files, _, dataset, _, images, feature, views, logits = (returned[stop.code] for stop in STOPS)
    assert [Path(path).parts[0] for path in files.paths] == [dataset.classes[label] for label in files.labels]
    assert torch.equal(dataset.train.labels, files.labels)
    normalised = dfs.data.Batches(dataset.train, dataset, 8).normalise(dataset.train.images)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert images is names["images"]
    onward, seen = views
    assert torch.equal(onward, seen)
    relu = torch.relu(feature)
    norm = (relu - relu.mean((0, 2, 3), keepdim=True)) / (relu.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(onward, norm, rtol=1e-3, atol=1e-3)
    assert logits is names["logits"][0]
