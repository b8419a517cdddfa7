"""The cost probe against counts made by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from dfs_edu.backbones import build
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import cost
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery

VGG7 = [64, 64, 128, 128, 256, 256]
VGG7_SIZES = [32, 32, 16, 16, 8, 8]  # the picture's side where each convolution runs
VGG16 = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
VGG16_SIZES = [224] * 2 + [112] * 2 + [56] * 3 + [28] * 3 + [14] * 3


def conv_macs(channels, sizes):
    """MACs of each 3x3 convolution: 9 C_in for every number that it puts out."""
    inputs = [3, *channels[:-1]]
    return np.array([9 * a * b * size**2 for a, b, size in zip(inputs, channels, sizes, strict=True)])


def vgg_params(channels, classes):
    """Of each exit: convolution (a bias in the first only), BatchNorm and classifier without bias."""
    inputs = [3, *channels[:-1]]
    counts = [9 * a * b + 2 * b + classes * b for a, b in zip(inputs, channels, strict=True)]
    counts[0] += channels[0]
    return np.cumsum(counts)


@pytest.mark.parametrize(
    ("name", "classes", "shape", "channels", "sizes", "params"),
    [
        ("vgg7-64", 100, (3, 32, 32), VGG7, VGG7_SIZES, 1_235_968),
        ("vgg16-64", 1000, (3, 224, 224), VGG16, VGG16_SIZES, 18_942_976),
        ("vgg7-64", 10, (3, 64, 64), VGG7, [2 * size for size in VGG7_SIZES], None),
    ],
)
def test_vgg_by_hand(name, classes, shape, channels, sizes, params):
    found = cost(build(name, classes), input_shape=shape)
    np.testing.assert_array_equal(found.macs, np.cumsum(conv_macs(channels, sizes) + classes * np.array(channels)))
    np.testing.assert_array_equal(found.params, vgg_params(channels, classes))
    assert params is None or found.params[-1] == params  # as published (Gong et al., ECCV 2024, their code)
    assert found.macs.dtype == found.params.dtype == np.int64
    assert found.forward_flops == 2 * found.macs[-1]


def expected_backward(junction_channels, heads_pass_on=True, classes=100):
    """FLOPs of vgg7-64's backward pass where the convolution behind exit k passes on junction_channels(C) channels.

    A convolution costs a weight gradient and an input gradient as dear as its forward pass; nobody asks for the
    picture's gradient. A head costs a weight gradient, and an input gradient unless its junction detaches it.
    """
    conv = conv_macs(VGG7, VGG7_SIZES)
    macs = int(conv.sum())
    for read, full in zip(VGG7[:-1], conv[1:], strict=True):
        macs += int(full) // read * junction_channels(read)
    macs += classes * sum(VGG7)
    macs += classes * (sum(VGG7) if heads_pass_on else VGG7[-1])
    return 2 * macs


@pytest.mark.parametrize(
    ("junction", "expected"),
    [
        (Joint(), expected_backward(lambda C: C)),
        (Equilibrium(), expected_backward(lambda C: C)),
        (Detached(), expected_backward(lambda C: C, heads_pass_on=False)),
    ],
    ids=str,
)
def test_backward_flops(junction, expected):
    assert cost(build("vgg7-64", 100, junction)).backward_flops == expected


@pytest.mark.parametrize("exit_gradient", ["own", "all"])
@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.7, 1])
def test_backward_flops_of_surgery_are_the_theory_s(beta, reference, exit_gradient):
    found = cost(build("vgg7-64", 100, Surgery(beta, reference, exit_gradient)))
    assert found.backward_flops == expected_backward(lambda C: round(C * beta))
    joint = cost(build("vgg7-64", 100))
    assert found.forward_flops == joint.forward_flops
    np.testing.assert_array_equal(found.macs, joint.macs)
    np.testing.assert_array_equal(found.params, joint.params)


def test_the_network_is_not_touched():
    net = build("vgg7-4", 10, Surgery(0.5))
    net.stages[0].eval()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    random = torch.get_rng_state()
    cost(net)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in net.parameters())
    assert net.training
    assert not net.stages[0].training
    assert torch.equal(random, torch.get_rng_state())


def test_later_exits_are_asked_for_one_by_one_and_shared_parameters_counted_once():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    found = cost(MultiExit([nn.Conv2d(3, 3, 1, bias=False) for _ in range(2)], [head, head]), (3, 4, 4))
    np.testing.assert_array_equal(found.macs, [9 * 16 + 15, 2 * (9 * 16 + 15)])
    np.testing.assert_array_equal(found.params, [9 + 20, 2 * 9 + 20])


def test_a_frozen_network_has_no_backward_pass_and_no_grad_does_not_hide_one():
    net = build("vgg7-4", 10).half()
    with torch.no_grad():
        assert cost(net).backward_flops > 0
    assert cost(net.requires_grad_(False)).backward_flops == 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 32), r"input_shape=\(32, 32\): give channels, height, width"),
        ((1, 3, 32, 32), r"input_shape=\(1, 3, 32, 32\)"),
        ((3, 0, 32), r"input_shape=\(3, 0, 32\)"),
        ((3, 32.0, 32), r"input_shape=\(3, 32.0, 32\)"),
        (32, "input_shape=32"),
        ((3, 4, 4), r"input_shape=\(3, 4, 4\): the network cannot read such a picture \(pictures of 4x4 pixels.*8x8"),
        ((1, 32, 32), r"input_shape=\(1, 32, 32\): the network cannot read such a picture"),
    ],
)
def test_a_bad_input_shape_is_named(shape, message):
    with pytest.raises(ValueError, match=message):
        cost(build("vgg7-4", 10), shape)


def test_another_network_is_named():
    with pytest.raises(TypeError, match="Linear"):
        cost(nn.Linear(2, 2))
