"""Linear probes of features whose classes are known."""

import numpy as np
import pytest
import torch
from test_similarity import gaussian

from dfs_edu.probes import linear_probe, linear_probes
from dfs_edu.probes.extraction import Features


def blobs(N, noise=0.1, seed=0, classes=4, channels=6):
    """Features whose first channels tell the class, and whose others are noise."""
    labels = torch.arange(N) % classes
    f = noise * gaussian(N, channels, seed=seed).float()
    f[:, : channels // 2] += torch.eye(classes)[labels][:, : channels // 2] * 3
    return f, labels


def test_separable_classes_are_read_and_shuffled_labels_are_not():
    (X, y), (Z, t) = blobs(200, classes=3), blobs(100, seed=1, classes=3)
    assert linear_probe(X, y, Z, t) == 1
    assert linear_probe(1000 * X + 50, y, 1000 * Z + 50, t) == 1  # whatever the channels' scales
    shuffled = y[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    many, labels = blobs(3000, seed=2, classes=3)
    assert linear_probe(X[:, 3:], shuffled, many[:, 3:], labels) == pytest.approx(1 / 3, abs=0.05)


def test_probes_of_parts_know_where_the_class_is():
    train, held_out = (Features([f, f], y, [3, None]) for f, y in (blobs(300, classes=3), blobs(150, 0.1, 1, 3)))
    found = linear_probes(train, held_out)
    assert found.accuracy["shared"][0] == 1
    assert found.accuracy["specific"][0] < 0.6
    assert found.accuracy["whole"].tolist() == [1, 1]
    assert all(np.isnan(found.accuracy[what][1]) for what in ("shared", "specific", "mixed"))
    assert found.channels == [3, 0]
    assert found.chance == pytest.approx(1 / 3)


def test_unequal_parts_read_equally_many_channels(monkeypatch):
    from dfs_edu.probes import linear

    widths = []
    monkeypatch.setattr(linear, "linear_probe", lambda X, *_: widths.append(X) or 0.5)
    f = torch.arange(10).expand(8, 10).float()  # each channel holds its own number
    data = Features([f, f, f], torch.arange(8) % 2, [7, 0, None])
    found = linear.linear_probes(data, data)
    shared, specific, mixed, whole = (X[0].tolist() for X in widths[:4])
    assert found.channels == [3, 0, 0]
    assert len(set(shared)) == 3
    assert max(shared) < 7
    assert sorted(specific) == [7, 8, 9]
    assert [sum(c < 7 for c in mixed), len(set(mixed))] == [1, 3]
    assert whole == list(range(10))
    assert np.isnan(found.accuracy["specific"][1])  # nothing to compare with a part of no channels
    linear.linear_probes(data, data, seed=1)
    assert sorted(widths[6][0].tolist()) != sorted(shared)  # another draw


def test_chance_is_the_most_frequent_class_of_training():
    from dfs_edu.probes.linear import chance

    assert chance(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 0])) == 0.25


def test_bad_probes_are_named():
    X, y = blobs(20)
    with pytest.raises(ValueError, match=r"shapes \[\(20, 6\), \(19,\)"):
        linear_probe(X, y[1:], X, y)
    with pytest.raises(ValueError, match=r"shapes .*\(20, 5\)"):
        linear_probe(X, y, X[:, 1:], y)
    with pytest.raises(ValueError, match=r"cut at \[3\], \[2\]"):
        linear_probes(Features([X], y, [3]), Features([X], y, [2]))
