"""The wiring of a network, against torch.autograd on the whole network, against leakage, and by hand."""

import numpy as np
import pytest
import torch
from test_contract import batch, network
from tiny import FAMILIES

from dfs_edu import probes
from dfs_edu.losses import exit_losses
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery

JUNCTIONS = [
    Joint(),
    Detached(),
    Equilibrium(),
    Surgery(0.3),
    Surgery(1.0),
    Surgery(0.3, exit_gradient="all"),
    Surgery(0.3, reference=False),
]
every_family = pytest.mark.parametrize("family", FAMILIES)
every_junction = pytest.mark.parametrize("junction", JUNCTIONS, ids=str)


@every_family
@every_junction
def test_weights_are_counted_by_the_signs_of_separate_gradients(family, junction):
    images, labels = batch(family)
    found = probes.wiring(network(family, junction), images, labels)
    net = network(family, junction)
    losses = exit_losses(net.train()(images), labels)
    for s, stage in enumerate(net.stages):
        parameters = list(stage.parameters())
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        gradients = [torch.autograd.grad(loss, parameters, **options) for loss in losses]
        signs = torch.stack([torch.cat([g.flatten() for g in exit]).sign() for exit in gradients])  # (K, P)
        assert found.weights[s] == signs.shape[1]
        assert found.pulled[s].tolist() == (signs != 0).sum(1).tolist()
        assert found.several[s] == ((signs != 0).sum(0) > 1).sum()
        assert found.opposed[s] == ((signs > 0).any(0) & (signs < 0).any(0)).sum()


@every_family
@every_junction
def test_gradients_arrive_where_leakage_measures_them(family, junction):
    images, labels = batch(family)
    net = network(family, junction)
    found, measured = probes.wiring(net, images, labels), probes.leakage(net, images, labels)
    expected = measured.at_cut[:, :, -1] > 0  # of the last scale; NaN before the exit
    for k, shared in enumerate(found.shared[:-1]):
        parts = expected[k] if shared is not None else expected[k].any(1, keepdims=True)
        assert (found.reach[k] == parts).all()
    assert found.reach[-1].any(1).tolist() == [False] * (len(net.stages) - 1) + [True]


@every_family
def test_wiring_agrees_with_pulls(family):
    net = network(family, Surgery(0.3, reference=False))
    found = probes.wiring(net, *batch(family))
    for k, (views, junction) in enumerate(zip(found.views, net.junctions, strict=True)):
        np.testing.assert_array_equal(views, probes.pulls(junction, views.shape[1]))
        last = k == len(net.stages) - 1
        expected = np.arange(views.shape[1]) < round(0.3 * views.shape[1])
        assert found.shared[k] is None if last else found.shared[k].tolist() == expected.tolist()
    assert (found.scales > 1) == family.startswith("msdnet")


def test_surgery_leaves_fewer_weights_in_conflict_by_hand():
    """In a chain, at beta 0.5: stage 1 has half of its filters from exit 1, and the other half from exits 2 to 6."""
    images, labels = batch("vgg7", B=8)
    joint, cut = (probes.wiring(network("vgg7", junction), images, labels) for junction in (Joint(), Surgery(0.5)))
    assert (joint.several[:-1] == joint.weights[:-1]).all()
    assert cut.several[:-2].tolist() == (cut.weights[:-2] // 2).tolist()
    assert cut.several[-2:].tolist() == [0, 0]
    assert (cut.opposed <= cut.several).all()
    assert cut.reach[0].tolist() == [[False, True], *[[True, False]] * 5]
    # At beta 1 nothing of an exit's gradient enters the trunk, but the last one's
    whole = probes.wiring(network("vgg7", Surgery(1.0)), images, labels)
    assert whole.opposed.sum() == 0
    assert (whole.pulled[:, :-1] == 0).all()


def test_a_frozen_stage_has_no_weights():
    net, (images, labels) = network("vgg7", Joint()), batch("vgg7")
    for p in net.stages[0].parameters():
        p.requires_grad_(False)
    found = probes.wiring(net, images, labels)
    assert found.weights[0] == 0
    assert not found.pulled[0].any()
    assert not found.reach[0].any()
    assert found.reach[1, 1:].all()


def test_the_network_is_left_as_found():
    net, (images, labels) = network("vgg7", Surgery(0.5)).eval(), batch("vgg7")
    before = {name: t.clone() for name, t in net.state_dict().items()}
    probes.wiring(net, images, labels)
    assert not net.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(TypeError, match="Linear"):
        probes.wiring(torch.nn.Linear(2, 2), images, labels)
