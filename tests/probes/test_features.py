"""What features hold: probes against closed forms, hand-computed cases, and networks that must not notice."""

import numpy as np
import pytest
import torch
from test_cosines import assert_untouched, scales_network, snapshot
from tiny import FAMILIES
from torch import nn

from dfs_edu import inference
from dfs_edu.backbones import build
from dfs_edu.cuts import Interleaved
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import ablation, cka, cka_matrix, class_selectivity, features, linear_probe, linear_probes
from dfs_edu.probes.extraction import Features
from dfs_edu.surgery import Joint, Surgery

CLASSES = 3
every_family = pytest.mark.parametrize("family", FAMILIES)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(D, seed=0):
    return torch.linalg.qr(gaussian(D, D, seed=seed)).Q


def pictures(family, batches=2, B=3):
    """Batches of unequal size."""
    side, generator = FAMILIES[family][1], torch.Generator().manual_seed(1)
    sizes = [B + i for i in range(batches)]
    return [(torch.randn(b, 3, side, side, generator=generator), torch.arange(b) % CLASSES) for b in sizes]


def network(family, junction):
    torch.manual_seed(0)
    net = build(FAMILIES[family][0], CLASSES, junction)
    for images, _ in pictures(family):
        net.train()(images)  # BatchNorm knows some pictures
    return net.eval()


# CKA


def hsic_by_definition(X, Y):
    """Song et al., JMLR 2012, equation 5, term by term."""
    N = len(X)
    K, L = X @ X.T, Y @ Y.T
    K, L = K - K.diag().diag(), L - L.diag().diag()
    one = torch.ones(N, dtype=X.dtype)
    terms = (
        (K @ L).trace() + (one @ K @ one) * (one @ L @ one) / ((N - 1) * (N - 2)) - 2 / (N - 2) * (one @ K @ L @ one)
    )
    return terms / (N * (N - 3))


@pytest.mark.parametrize(("N", "D1", "D2"), [(4, 2, 3), (12, 5, 2), (9, 30, 40), (200, 3, 50)])  # both forms
def test_unbiased_cka_is_its_definition(N, D1, D2):
    X = gaussian(N, D1) + 3
    Y = X[:, :1] + gaussian(N, D2, seed=1)
    lengths = (hsic_by_definition(X, X) * hsic_by_definition(Y, Y)).sqrt()
    assert cka(X, Y) == pytest.approx((hsic_by_definition(X, Y) / lengths).item(), abs=1e-9)


@pytest.mark.parametrize(("N", "D1", "D2"), [(12, 5, 2), (9, 30, 40)])
def test_biased_cka_is_its_definition(N, D1, D2):
    X, Y = gaussian(N, D1) + 3, gaussian(N, D2, seed=1)
    H = torch.eye(N, dtype=X.dtype) - 1 / N
    K, L = H @ X @ X.T @ H, H @ Y @ Y.T @ H
    expected = (K * L).sum() / (K.norm() * L.norm())
    assert cka(X, Y, unbiased=False) == pytest.approx(expected.item(), abs=1e-9)


def test_cka_by_hand():
    """Centred (-1, 0, 1) and (1, -2, 1) are at right angles; with (-2, 1, 1) the inner product is 3, of 2 and 6."""
    X, Y = torch.tensor([[4.0], [5], [6]]), torch.tensor([[1.0, 2], [-2, 2], [1, 2]])
    assert cka(X, Y, unbiased=False) == pytest.approx(0, abs=1e-12)
    assert cka(X, torch.tensor([[-2.0], [1], [1]]), unbiased=False) == pytest.approx(9 / 12)


def test_cka_of_single_channels_is_their_squared_correlation():
    x, y = gaussian(50, 1), gaussian(50, 1, seed=1)
    r = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    assert cka(x, y, unbiased=False) == pytest.approx(r**2)


@pytest.mark.parametrize("unbiased", [True, False])
def test_what_cka_does_not_see_and_what_it_does(unbiased):
    X = gaussian(100, 6) * torch.arange(1, 7)
    assert cka(X, X, unbiased) == pytest.approx(1)
    assert cka(X, 1e-8 * X @ rotation(6) + 5, unbiased) == pytest.approx(1)
    Y = X @ gaussian(6, 4, seed=2)
    assert cka(X @ rotation(6), Y, unbiased) == pytest.approx(cka(X, Y, unbiased))
    assert cka(X, Y, unbiased) == pytest.approx(cka(Y, X, unbiased))
    stretched = gaussian(100, 6) * torch.tensor([1, 1, 1, 1, 1, 100])  # linear, and can be undone, but no rotation
    assert cka(gaussian(100, 6), stretched, unbiased) < 0.6


def test_unrelated_features_are_unlike_only_to_the_unbiased_one():
    N, D1, D2 = 200, 150, 300
    X, Y = gaussian(N, D1), gaussian(N, D2, seed=1)
    assert abs(cka(X, Y)) < 0.02
    expected = (D1 * D2 / ((N + D1) * (N + D2))) ** 0.5
    assert cka(X, Y, unbiased=False) == pytest.approx(expected, abs=0.02)
    assert expected > 0.5


def test_a_matrix_of_cka():
    X, Y, Z = gaussian(30, 3), gaussian(30, 4, seed=1), gaussian(30, 2, seed=2)
    matrix = cka_matrix([X, Y, Z])
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(matrix.diagonal(), 1)
    assert matrix[0, 2] == pytest.approx(cka(X, Z))
    np.testing.assert_allclose(cka_matrix([X, Y], [Z]), matrix[:2, 2:])


def test_what_is_the_same_for_all_pictures_is_like_nothing():
    X = gaussian(10, 3)
    for unbiased in (True, False):
        assert np.isnan(cka(X, torch.full((10, 2), 0.1), unbiased))
        assert np.isnan(cka(X[:, :0], X, unbiased))  # a part of no channels


@pytest.mark.parametrize(
    ("X", "Y", "unbiased", "message"),
    [
        (gaussian(5, 2), gaussian(6, 2), True, r"shapes \[\(5, 2\), \(6, 2\)\]"),
        (gaussian(5), gaussian(5, 2), True, r"shapes \[\(5,\)"),
        (gaussian(3, 2), gaussian(3, 2), True, "3 images: .* at least 4"),
        (gaussian(1, 2), gaussian(1, 2), False, "1 images: .* at least 2"),
        (gaussian(5, 2), gaussian(5, 2) / 0, True, "infinite"),
    ],
)
def test_bad_features_are_named(X, Y, unbiased, message):
    with pytest.raises(ValueError, match=message):
        cka(X, Y, unbiased)


# Collecting


@every_family
@pytest.mark.parametrize("junction", [Joint(), Surgery(0.3), Surgery(0.3, reference=False)], ids=str)
def test_probes_leave_the_network_as_found(family, junction):
    net, batches = network(family, junction), pictures(family)
    nn.functional.cross_entropy(net(batches[0][0])[0], batches[0][1]).backward()
    net.train()
    net.stages[0].eval()
    junctions, before = list(net.junctions), snapshot(net)
    features(net, batches, beta=0.5)
    ablation(net, batches, beta=0.5)
    ablation(net, batches, beta=0.5, fill="zero")
    assert_untouched(before, snapshot(net))
    assert net.junctions == junctions
    with pytest.raises(RuntimeError):
        features(net, [(torch.zeros(2, 5, 32, 32), torch.zeros(2).long())])  # in the midst of a pass
    assert_untouched(before, snapshot(net))


@every_family
def test_features_are_what_the_stages_make(family):
    net, batches = network(family, Surgery(0.3)), pictures(family)
    found = features(net, batches)
    hooked = [[] for _ in net.stages]
    for k, stage in enumerate(net.stages):
        stage.register_forward_hook(lambda module, given, f, k=k: hooked[k].append(f))
    with torch.no_grad():
        for images, _ in batches:
            net(images)
    for k, seen in enumerate(hooked):
        coarsest = [f if isinstance(f, torch.Tensor) else f[-1] for f in seen]
        whole = torch.cat(coarsest)
        expected = whole.mean(1) if whole.ndim == 3 else whole.mean((2, 3))  # tokens, or positions
        torch.testing.assert_close(found.pooled[k], expected)
    assert found.label.tolist() == [0, 1, 2, 0, 1, 2, 0]
    widths = [f.shape[1] for f in found.pooled]
    assert found.shared == [*(round(0.3 * C) for C in widths[:-1]), None]


def test_a_cut_that_takes_other_channels_has_its_own_parts():
    batches = pictures("vgg7")
    leading, spread = (features(network("vgg7", rule), batches) for rule in (Surgery(0.5), Interleaved(0.5)))
    whole = leading.part(4, "whole")
    mask = Interleaved(0.5).is_shared(whole)
    assert torch.equal(spread.part(4, "shared"), whole[:, mask])
    assert torch.equal(spread.part(4, "specific"), whole[:, ~mask])


def test_parts_are_the_junctions_own_or_asked_for():
    batches = pictures("vgg7")
    cut, joint = (features(network("vgg7", junction), batches) for junction in (Surgery(0.25), Joint()))
    assert cut.shared == [1, 1, 2, 2, 4, None]
    assert torch.equal(torch.cat([cut.part(4, "shared"), cut.part(4, "specific")], 1), cut.part(4, "whole"))
    assert cut.part(4, "shared").shape == (7, 4)
    assert joint.shared == [None] * 6
    asked = features(network("vgg7", Joint()), batches, beta=0.5)
    assert asked.shared == [2, 2, 4, 4, 8, None]
    with pytest.raises(ValueError, match="exit 6 is not cut: it has no shared part"):
        cut.part(5, "shared")
    with pytest.raises(ValueError, match="part='both': use one of shared, specific, whole"):
        cut.part(0, "both")


def test_partition_without_reference_hides_what_follows_not_what_leaves():
    """The feature is what the stage makes; only onward is zeroed, so the first exits of both networks agree."""
    batches = pictures("vgg7")
    whole, hidden = (features(network("vgg7", Surgery(0.5, reference=r)), batches) for r in (True, False))
    assert hidden.part(0, "specific").abs().sum() > 0
    assert torch.equal(whole.pooled[0], hidden.pooled[0])
    assert not torch.equal(whole.pooled[1], hidden.pooled[1])


def test_bad_calls_are_named():
    net = network("vgg7", Joint())
    with pytest.raises(TypeError, match="Linear"):
        features(nn.Linear(2, 2), [])
    for probe in (features, ablation):
        with pytest.raises(ValueError, match="batches holds no images"):
            probe(net, [], beta=0.5)
        with pytest.raises(ValueError, match="beta=2"):
            probe(net, pictures("vgg7"), beta=2)
    with pytest.raises(ValueError, match="exit 1 holds nan"):
        features(net, [(torch.full((2, 3, 16, 16), float("nan")), torch.zeros(2).long())])
    with pytest.raises(ValueError, match="fill='median': use one of mean, zero"):
        ablation(net, pictures("vgg7"), beta=0.5, fill="median")
    with pytest.raises(ValueError, match="nothing is cut"):
        ablation(net, pictures("vgg7"))
    with pytest.raises(ValueError, match="a second time"):
        ablation(net, iter(pictures("vgg7")), beta=0.5)


# Ablation


@every_family
@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_nothing_taken_away_is_what_the_network_does(family, fill):
    net, batches = network(family, Joint()), pictures(family)
    found = ablation(net, batches, beta=0, fill=fill)
    np.testing.assert_allclose(found.whole, inference.collect(net, batches, "test").accuracy)
    loss, K = found.loss("shared"), len(found.whole)  # of no channels
    for k in range(K - 1):
        assert (loss[k, k:] == 0).all()
        assert np.isnan(loss[k, :k]).all()
    assert np.isnan(loss[-1]).all()  # nothing is cut at the last exit


def two_exits_of_one_channel_each():
    """Two exits on a feature f = (a, b) that is the picture itself; exit 1 tells the class by a, exit 2 by b."""
    stages = [nn.Identity(), nn.Identity()]
    heads = [nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)) for _ in range(2)]
    net = MultiExit(stages, heads, Surgery(0.5))
    for head, channel in zip(heads, (0, 1), strict=True):
        head[1].weight.data = torch.zeros(2, 2)
        head[1].weight.data[1, channel] = 1  # class 1 where the channel is positive
    return net.eval()


def test_ablation_by_hand():
    """Four pictures of classes 0, 0, 0, 1; a = b = -1, -1, -1, 2; their mean is -1/4, which says class 0."""
    values = torch.tensor([-1.0, -1, -1, 2])
    images, labels = values.view(4, 1, 1, 1).expand(4, 2, 1, 1), torch.tensor([0, 0, 0, 1])
    for batches in ([(images, labels)], [(images[:1], labels[:1]), (images[1:], labels[1:])]):
        net = two_exits_of_one_channel_each()
        found = ablation(net, batches)
        assert found.whole.tolist() == [1, 1]
        np.testing.assert_array_equal(found.loss("shared"), [[0.25, 0], [np.nan, np.nan]])  # a: exit 1 alone needs it
        np.testing.assert_array_equal(found.loss("specific"), [[0, 0.25], [np.nan, np.nan]])
    up = ablation(two_exits_of_one_channel_each(), [(images + 0.5, labels)])  # the mean, 1/4, says class 1
    assert up.loss("shared")[0, 0] == 0.75
    assert ablation(two_exits_of_one_channel_each(), [(images + 0.5, labels)], fill="zero").loss("shared")[0, 0] == 0.25


def test_with_partition_each_side_loses_its_own_part_alone():
    """Without reference, onward never held f-, and the exit never held f+."""
    net, batches = network("vgg7", Surgery(0.5, reference=False)), pictures("vgg7", B=20)
    found = ablation(net, batches, fill="zero")
    for k in range(5):
        assert found.loss("shared")[k, k] == 0
        assert (found.loss("specific")[k, k + 1 :] == 0).all()


@pytest.mark.parametrize("fill", ["mean", "zero"])
@pytest.mark.parametrize("scales", ["last", "all"])
def test_ablation_is_a_feature_with_other_channels(fill, scales):
    """Against a network whose stage itself puts the fill in, at every exit and of every scale that is cut."""
    torch.manual_seed(0)
    junction = Surgery(0.5, scales=scales)
    net = scales_network(junction).eval()
    images, labels = torch.randn(40, 3, 8, 8), torch.arange(40) % 4
    found = ablation(net, [(images[:15], labels[:15]), (images[15:], labels[15:])], fill=fill)

    class Spoilt(nn.Module):
        def __init__(self, stage, channels):
            super().__init__()
            self.stage, self.channels = stage, channels

        def forward(self, x):
            f = [scale.clone() for scale in self.stage(x)]
            for scale in f if scales == "all" else f[-1:]:
                mean = scale.mean(0, keepdim=True) * (fill == "mean")
                scale[:, self.channels] = mean[:, self.channels]
            return f

    for k in range(2):
        for part, channels in (("shared", slice(0, 3)), ("specific", slice(3, 6))):
            stages = [Spoilt(stage, channels) if j == k else stage for j, stage in enumerate(net.stages)]
            spoilt = MultiExit(stages, list(net.heads), junction).eval()
            with torch.no_grad():
                expected = [(z.argmax(1) == labels).double().mean().item() for z in spoilt(images)]
            np.testing.assert_allclose(found.without[part][k, k:], expected[k:])
            np.testing.assert_allclose(found.whole[:k], expected[:k])  # exits before lose nothing


# Linear probes


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


# Selectivity


def test_selectivity_by_hand():
    """Class means of channel 0: 3, 1, 0, of the others of its highest (1 + 0) / 2; channel 1 silent but for class 2."""
    activations = torch.tensor([[2.0, 0, 5, 0], [4, 0, 5, 0], [1, 0, 5, 0], [0, 7, 5, 0]])
    labels = torch.tensor([0, 0, 1, 2])
    found = class_selectivity(activations, labels)
    assert found[:3].tolist() == pytest.approx([2.5 / 3.5, 1, 0])
    assert found[3].isnan()  # always silent
    assert class_selectivity(10 * activations, labels + 5)[0] == pytest.approx(2.5 / 3.5)


@pytest.mark.parametrize(
    ("activations", "labels", "message"),
    [
        (torch.tensor([[1.0], [-0.5]]), torch.tensor([0, 1]), "activations down to -0.5"),
        (torch.tensor([[1.0], [float("nan")]]), torch.tensor([0, 1]), "activations down to nan"),
        (torch.ones(2, 1), torch.tensor([1, 1]), r"class \[1\] alone"),
        (torch.ones(2, 1), torch.tensor([1]), r"shapes \(2, 1\), \(1,\)"),
    ],
)
def test_bad_activations_are_named(activations, labels, message):
    with pytest.raises(ValueError, match=message):
        class_selectivity(activations, labels)
