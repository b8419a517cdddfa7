"""Widgets of the recorded networks, on a machine without CIFAR-100 and on one with it."""

from __future__ import annotations

import json

import pytest

from dfs_edu import data
from dfs_edu.data import DataError, cifar100
from dfs_edu.inference import Outputs
from dfs_edu.training import results
from dfs_edu.widgets import gallery, recorded

JOINT, OWN = (f"cifar100-vgg7-64-lesson-{arm}-seed0" for arm in ("joint", "surgery-own-0.5"))


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data set is found."""

    def load(name):
        raise DataError(f"{name} is not here")

    monkeypatch.setattr(data, "load", load)


def test_the_explorer_of_a_recorded_network(nowhere):
    explorer = recorded.explorer(JOINT, "joint")
    test = Outputs.load(results.RECORDED / JOINT / "test.npz")
    assert explorer.setup["splits"] == [["validation", 5000], ["test", 10_000]]
    assert explorer.setup["anytime"] == pytest.approx(test.accuracy.tolist(), abs=1e-4)
    assert explorer.setup["sprite"] == ""
    assert len(json.dumps(explorer.page_state())) < 500_000


def test_the_explorer_of_the_first_images_only(nowhere):
    all_of_it, few = recorded.explorer(JOINT), recorded.explorer(JOINT, first=500)
    few.thresholds = all_of_it.thresholds = [0.5] * (len(few.thresholds) - 1) + [0.0]
    assert few.setup["splits"] == [["validation", 500], ["test", 500]]
    assert few.point.right.equal(all_of_it.point.right[:500])
    assert len(few.outputs) < len(all_of_it.outputs) / 4


def test_galleries_of_recorded_networks_without_their_images(nowhere):
    joint, own = recorded.gallery(JOINT, range(5, 15)), recorded.gallery(OWN, range(5, 15))
    test = Outputs.load(results.RECORDED / JOINT / "test.npz")
    assert joint.setup["prediction"] == test.prediction[:, 5:15].tolist()
    assert joint.setup["label"] == own.setup["label"] == test.label[5:15].tolist()
    assert "CIFAR-100 was not on the computer" in joint.setup["missing"]
    assert joint.method == ""
    assert len(gallery.side_by_side({"joint": joint, "surgery": own}).children) == 2


def test_with_the_data_set_images_and_maps_are_shown():
    try:
        photographs = data.load("cifar100")
    except DataError:
        pytest.skip("CIFAR-100 is not here")
    assert photographs.classes == cifar100.CLASSES
    shown = recorded.gallery(JOINT, range(3))
    assert shown.setup["images"].startswith("data:image/jpeg")
    assert list(shown.setup["maps"]) == ["Grad-CAM"]
    assert photographs.test.labels[:3].tolist() == shown.setup["label"]
    assert recorded.gallery(JOINT.replace("seed0", "seed1"), range(3)).setup["maps"] == {}  # its weights were not kept


def test_missing_runs():
    with pytest.raises(FileNotFoundError, match="no-such-run"):
        recorded.explorer("no-such-run")
