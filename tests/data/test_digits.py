"""The composed digits are what they say, and a function of one seed."""

import numpy as np
import pytest
import torch

from dfs_edu import data
from dfs_edu.data import Dataset, digits


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    return data.load("digits")


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


def test_mean_and_deviation_are_those_of_the_training_images(scenes):
    pixels = scenes.train.images.numpy() / 255
    np.testing.assert_allclose(scenes.mean, pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(scenes.std, pixels.std((0, 2, 3)), rtol=1e-4)
