"""Conflict channel by channel, and leakage, against torch.autograd on the whole network and against what must be 0."""

import numpy as np
import pytest
import torch
from test_contract import batch, channels_and_dim, network, scales_of
from tiny import FAMILIES
from torch import nn

from dfs_edu.backbones import build
from dfs_edu.losses import exit_losses
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import Channels, Leakage, channels, leakage
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery

JUNCTIONS = [
    Joint(),
    Detached(),
    Equilibrium(),
    Surgery(0.3),
    Surgery(0.3, exit_gradient="all", scales="all"),
    Surgery(0.3, reference=False),
]
BETA = 0.3  # of the cut that is asked for where there is none
every_family = pytest.mark.parametrize("family", FAMILIES)
every_junction = pytest.mark.parametrize("junction", JUNCTIONS, ids=str)


def at_features(net, images, labels):
    """Entry [k][j]: the gradient of exit j's loss of each scale of the feature of exit k, by the whole network."""
    features = []
    hooks = [s.register_forward_hook(lambda _, inputs, f: features.append(scales_of(f))) for s in net.stages]
    losses = exit_losses(net.train()(images), labels)
    for hook in hooks:
        hook.remove()
    return features, [
        [torch.autograd.grad(loss, f, retain_graph=True, allow_unused=True, materialize_grads=True) for loss in losses]
        for f in features
    ]


def by_channel(t):
    """(B, C, ...) or (B, N, C) -> (C, everything else)."""
    return t.movedim(channels_and_dim(t)[1], 0).flatten(1)


@every_family
@every_junction
def test_channels_are_those_of_separate_gradients(family, junction):
    images, labels = batch(family)
    found = channels(network(family, junction), images, labels, beta=BETA)
    features, expected = at_features(network(family, junction), images, labels)
    assert len(found) == len(features) - 1
    for k, mine in enumerate(found):
        own = by_channel(expected[k][k][-1])
        deeper = by_channel(sum(expected[k][j][-1] for j in range(k + 1, len(features))))
        np.testing.assert_allclose(mine.own, own.norm(dim=1), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(mine.deeper, deeper.norm(dim=1), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(mine.dot, (own * deeper).sum(1), rtol=1e-9, atol=1e-15)
        assert mine.shared.tolist() == (np.arange(len(own)) < round(len(own) * BETA)).tolist()


@every_family
def test_no_channel_is_pulled_by_both_where_the_cut_is_the_paper_s(family):
    for k in channels(network(family, Surgery(0.3)), *batch(family)):
        assert (k.dot == 0).all()
        assert (k.own[k.shared] == 0).all()
        assert (k.deeper[~k.shared] == 0).all()
        assert np.isnan(k.cosine()).all()
        assert k.deeper[k.shared].any() == k.shared.any()
    for k in channels(network(family, Surgery(0.3, exit_gradient="all")), *batch(family)):
        assert (k.dot[~k.shared] == 0).all()
        assert k.own[k.shared].any() == k.shared.any()


def test_contributions_add_up_to_the_cosine_of_the_feature():
    net, (images, labels) = network("vgg7", Joint()), batch("vgg7")
    _, expected = at_features(net, images, labels)
    for k, mine in enumerate(channels(net, images, labels)):
        own, deeper = expected[k][k][0], sum(g for (g,) in expected[k][k + 1 :])
        whole = torch.cosine_similarity(own.flatten(), deeper.flatten(), dim=0)
        np.testing.assert_allclose(mine.contribution().sum(), whole)
        lengths = mine.own * mine.deeper / np.linalg.norm(mine.own) / np.linalg.norm(mine.deeper)
        np.testing.assert_allclose(mine.cosine() * lengths, mine.contribution())


def test_channels_by_hand():
    shared = np.array([True, True, False])
    found = Channels(np.array([-6.0, 0, 4]), np.array([3.0, 0, 4]), np.array([4.0, 1, 1]), shared)
    np.testing.assert_allclose(found.cosine(), [-0.5, np.nan, 1])
    np.testing.assert_allclose(found.contribution(), np.array([-6, 0, 4]) / (5 * 18**0.5))
    assert np.isnan(Channels(*np.zeros((3, 3)), shared).contribution()).all()


# Leakage


@every_family
@every_junction
def test_leakage_at_the_cut_is_that_of_separate_gradients(family, junction):
    images, labels = batch(family)
    found = leakage(network(family, junction), images, labels, beta=BETA)
    features, expected = at_features(network(family, junction), images, labels)
    K, S = len(features), max(map(len, features))
    assert found.at_cut.shape == (K - 1, K, S, 2)
    for k, j, s in np.ndindex(K - 1, K, S):
        place = s - (S - len(features[k]))  # the coarsest scale, which all stages have, is the last
        if j < k or place < 0:
            assert np.isnan(found.at_cut[k, j, s]).all()
            continue
        g = by_channel(expected[k][j][place])
        shared = round(len(g) * BETA)
        lengths = [g[:shared].norm(), g[shared:].norm()]
        np.testing.assert_allclose(found.at_cut[k, j, s], lengths, rtol=1e-9, atol=1e-15)


@every_family
@every_junction
def test_all_paths_together_bring_the_deeper_exits_gradient(family, junction):
    """And one path alone brings no more than there is: by the triangle's sides."""
    images, labels = batch(family)
    found = leakage(network(family, junction), images, labels, beta=BETA)
    net = network(family, junction)
    features, at = at_features(net, images, labels)
    for k, stage in enumerate(list(net.stages)[:-1]):
        weights = list(stage.parameters())

        def arrives(gradients, k=k, weights=weights):
            found = torch.autograd.grad(features[k], weights, gradients, retain_graph=True, materialize_grads=True)
            return torch.cat([g.flatten() for g in found])

        own = at[k][k][-1].movedim(channels_and_dim(features[k][-1])[1], 0).clone()
        own[: round(len(own) * BETA)] = 0
        own = own.movedim(0, channels_and_dim(features[k][-1])[1])
        write = arrives([*map(torch.zeros_like, features[k][:-1]), own]) != 0
        deeper = [sum(parts) for parts in zip(*at[k][k + 1 :], strict=True)]
        np.testing.assert_allclose(found.own[k], arrives(at[k][k])[write].norm(), rtol=1e-9, atol=1e-15)
        whole = arrives(deeper)[write].norm().item()
        paths = found.through[k][~np.isnan(found.through[k])]
        assert paths.sum() >= whole * (1 - 1e-9)
        assert 2 * paths.max(initial=0) <= (whole + paths.sum()) * (1 + 1e-9)


@pytest.mark.parametrize("junction", [Surgery(0.5), Surgery(0.5, exit_gradient="all")], ids=str)
def test_nothing_leaks_where_a_stage_is_one_convolution(junction):
    found = leakage(network("vgg7", junction), *batch("vgg7"))
    assert (found.through == 0).all()
    assert (found.own > 0).all()
    assert (found.ratio() == 0).all()


def test_joint_training_leaks_through_the_channels_themselves():
    found = leakage(network("vgg7", Joint()), *batch("vgg7"))
    assert (found.through[..., 0] == 0).all()  # filters of f+ write nothing of f-
    assert (found.through[..., 1] > 0).all()


def test_msdnet_leaks_through_its_finer_scales():
    """Exit 1 of a network whose coarsest scale alone is cut, and of one whose scales all are."""
    images, labels = batch("msdnet-cifar")
    last, every = (
        leakage(network("msdnet-cifar", Surgery(0.5, scales=scales)), images, labels) for scales in ("last", "all")
    )
    for found in (last, every):
        assert (found.through[:, -1, 1] == 0).all()  # through f- itself
        assert (np.nan_to_num(found.at_cut[0, 1:, -1, 1]) == 0).all()
    assert (last.through[0, :-1] > 0).all()  # through either part of the finer scales
    assert (last.at_cut[0, 2, :-1] > 0).all()
    assert (every.through[0, :-1, 1] == 0).all()
    assert (every.at_cut[0, 2, :-1, 1] == 0).all()
    assert (every.through[0, :, 0] > 0).all()  # weights further up in the stage serve f+ and f- at once


def test_ratio_by_hand():
    found = Leakage(np.zeros((2, 3, 1, 2)), np.array([[[1.0, 0]], [[0, 0]]]), np.array([4.0, 0]))
    np.testing.assert_array_equal(found.ratio(), [[[0.25, 0]], [[np.nan, np.nan]]])


# Both


@pytest.mark.parametrize("probe", [channels, leakage])
def test_frozen_stages_receive_no_gradient(probe):
    net, (images, labels) = network("vgg7", Joint()), batch("vgg7")
    for p in [*net.stages[0].parameters(), *net.stages[1].parameters()]:
        p.requires_grad_(False)
    found = probe(net, images, labels)
    if probe is channels:
        assert [k.own.any() for k in found] == [False, False, True, True, True]
    else:
        assert (np.nan_to_num(found.at_cut[:2]) == 0).all()
        assert (found.own[:2] == 0).all()
        assert (found.own[2:] > 0).all()


@pytest.mark.parametrize("probe", [channels, leakage])
def test_the_network_is_left_as_found(probe):
    net = build(FAMILIES["vgg7"][0], 3, Surgery(0.5)).eval()
    images, labels = batch("vgg7", dtype=torch.float32)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    probe(net, images, labels)
    assert not net.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("probe", [channels, leakage])
def test_under_autocast(probe):
    images, labels = batch("msdnet-cifar", dtype=torch.float32)
    net = network("msdnet-cifar", Surgery(0.5), torch.float32)
    exact = probe(net, images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = probe(net, images, labels)
    if probe is channels:
        for a, b in zip(found, exact, strict=True):
            assert np.isfinite(a.deeper).all()
            assert abs(np.linalg.norm(a.deeper) / np.linalg.norm(b.deeper) - 1) < 0.1
            assert (a.dot == 0).all()
    else:
        some = exact.at_cut > 0
        np.testing.assert_allclose(found.at_cut[some], exact.at_cut[some], rtol=0.3)
        assert (found.through[:, -1, 1] == 0).all()


@pytest.mark.parametrize("probe", [channels, leakage])
def test_bad_inputs_are_named(probe):
    images, labels = batch("vgg7", dtype=torch.float32)
    with pytest.raises(TypeError, match="Linear"):
        probe(nn.Linear(2, 2), images, labels)
    with pytest.raises(ValueError, match="beta=2"):
        probe(build(FAMILIES["vgg7"][0], 3), images, labels, beta=2)


def test_one_exit_has_no_deeper_ones():
    net = MultiExit([nn.Conv2d(3, 3, 1)], [nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 3))])
    images, labels = batch("vgg7", dtype=torch.float32)
    assert channels(net, images, labels) == []
    assert leakage(net, images, labels).through.shape == (0, 1, 2)
