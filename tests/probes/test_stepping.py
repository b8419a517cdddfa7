"""Steps: the Gramian against the conflict probe, the prediction against the losses, and nothing is left behind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import dfs_edu as dfs
from dfs_edu import methods, probes
from dfs_edu.losses import separate_losses


def network(junction=None, seed=0):
    torch.manual_seed(seed)
    net = dfs.build("vgg7-16", classes=10, junction=junction or dfs.Joint())
    return net, torch.rand(16, 3, 32, 32), torch.arange(16) % 10


def test_the_gramian_is_that_of_the_conflict_probe():
    net, images, labels = network()
    report = probes.steps(net, images, labels, (1, -1), lengths=[0.0])
    conflict = probes.conflict(net, images, labels)
    dots = np.nan_to_num(conflict.cosine * conflict.norm[:, :, None] * conflict.norm[:, None]).sum(0)
    assert report.exits == (1, 5)
    np.testing.assert_allclose(report.gramian, dots[np.ix_([1, 5], [1, 5])], rtol=1e-4, atol=1e-9)
    root = np.sqrt(dots[1, 1] * dots[5, 5])
    assert report.cosine == pytest.approx(dots[1, 5] / root, abs=1e-4)


@pytest.mark.parametrize(
    "junction", [None, dfs.Surgery(0.5), dfs.Surgery(0.5, reference=False), dfs.Equilibrium()], ids=str
)
def test_short_steps_are_as_predicted_whatever_the_junction_cuts(junction):
    """The slope is that of the whole loss, though a cut lets the exit train on a part of it."""
    net, images, labels = network(junction)
    report = probes.steps(net.double(), images.double(), labels, lengths=[0, 1e-6, 2e-6])
    np.testing.assert_allclose(report.measured[:, 0], np.tile(report.loss, (3, 1)), rtol=1e-6)
    fell = report.measured - report.loss
    assert (fell[:, 1:].sum(2) < -1e-6).all()
    np.testing.assert_allclose(report.predicted(1) - report.loss, fell, rtol=0.01, atol=2e-8)  # slopes reach 50


def test_the_curvature_is_that_of_the_losses():
    """A network with smooth activations, so that a parabola fits further."""
    net, images, labels = network()
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU | torch.nn.MaxPool2d):
                pool = torch.nn.AvgPool2d(2)
                setattr(module, name, torch.nn.Softplus() if isinstance(child, torch.nn.ReLU) else pool)
    report = probes.steps(net.double(), images.double(), labels, (3, -1), lengths=[0, 1e-4])
    bent = report.measured[:, 1] - report.predicted(1)[:, 1]
    np.testing.assert_allclose(report.predicted(2)[:, 1] - report.predicted(1)[:, 1], bent, rtol=0.1)


def test_a_longer_step_is_what_the_method_would_do_to_the_trunk():
    net, images, labels = network()
    report = probes.steps(net, images, labels, lengths=[0.1], length="own")
    for m, name in enumerate(("pcgrad", "upgrad"), start=1):
        other = copy.deepcopy(net).train()
        losses = separate_losses(other(images), labels)
        trunk = list(other.stages.parameters())
        methods.make(name, 2, length="own").backward([losses[0], losses[-1]], trunk, [])
        with torch.no_grad():
            for p in trunk:
                p -= 0.1 * (p.grad if p.grad is not None else 0)
            after = separate_losses(other(images), labels)
        np.testing.assert_allclose(report.measured[m, 0], [after[0].item(), after[-1].item()], rtol=1e-3)


def test_the_network_is_left_as_it_was():
    net, images, labels = network()
    net.eval()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    probes.steps(net, images, labels, lengths=[0.1, 10.0])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert all(p.grad is None for p in net.parameters())
    assert not any(module.training for module in net.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_the_default_lengths_end_where_a_straight_line_brings_a_loss_to_zero():
    net, images, labels = network()
    report = probes.steps(net, images[:4], labels[:4])
    assert report.lengths[0] == 0
    assert report.lengths[-1] == pytest.approx((report.loss / np.diagonal(report.gramian)).min())
    assert report.measured.shape == report.predicted().shape == (3, len(report.lengths), 2)


def test_what_cannot_be_stepped():
    net, images, labels = network()
    with pytest.raises(ValueError, match=r"exits=\(0, 0\): give two different exits"):
        probes.steps(net, images, labels, (0, 0))
    with pytest.raises(ValueError, match=r"exits=\(0, 6\)"):
        probes.steps(net, images, labels, (0, 6))
    with pytest.raises(ValueError, match="lengths="):
        probes.steps(net, images, labels, lengths=[-1.0])
    with pytest.raises(ValueError, match="order=3"):
        probes.steps(net, images, labels, lengths=[0.0]).predicted(3)
    with pytest.raises(ValueError, match="neither of them trains the trunk"):
        probes.steps(network(dfs.Detached())[0], images, labels, (0, 1))
    net.stages.requires_grad_(False)
    with pytest.raises(ValueError, match="the trunk is frozen"):
        probes.steps(net, images, labels)
