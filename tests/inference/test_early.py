"""Early exit against its simulation on collected outputs, and against torch's own count of operations."""

import pytest
import torch
from exits import float64_net, spread_thresholds, varied
from torch.utils.flop_counter import FlopCounterMode

from dfs_edu import inference
from dfs_edu.backbones import build
from dfs_edu.inference import EarlyExit, Outputs


def simulated(net, images, thresholds, *how):
    with torch.no_grad():
        logits = net(images)
    outputs = Outputs.of(torch.stack(logits), torch.zeros(len(images), dtype=torch.int64), "test", *how)
    exits = inference.apply(outputs, thresholds, range(1, len(logits) + 1)).exit
    return outputs.prediction.gather(0, exits[None])[0], exits


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pictures", [1, 33])
def test_early_exit_equals_the_simulation(seed, pictures):
    net = float64_net(seed)
    images = varied(33)
    thresholds = spread_thresholds(net, images)
    images = images[:pictures]
    labels, exits = EarlyExit(net, thresholds)(images)
    expected_labels, expected_exits = simulated(net, images, thresholds)
    assert torch.equal(labels, expected_labels)
    assert torch.equal(exits, expected_exits)
    assert pictures == 1 or len(exits.unique()) >= 3


@pytest.mark.parametrize("criterion", inference.CRITERIA)
@pytest.mark.parametrize("pictures", [1, 33])
def test_every_criterion_and_temperature_equals_its_simulation(criterion, pictures):
    net = float64_net(3)
    images = varied(33)
    how = criterion, [2.0, 0.5, 1.0, 3.0, 1.5, 0.7]
    with torch.no_grad():
        scores = Outputs.of(torch.stack(net(images)), torch.zeros(33).long(), "validation", *how).confidence
    thresholds = [*scores[:-1].quantile(0.7, dim=1).tolist(), 0]
    if criterion == "patience":
        thresholds = [2 / 5] * 5 + [0]  # two agreements in a row
    images = images[:pictures]
    labels, exits = EarlyExit(net, thresholds, *how)(images)
    expected_labels, expected_exits = simulated(net, images, thresholds, *how)
    assert torch.equal(labels, expected_labels)
    assert torch.equal(exits, expected_exits)
    assert pictures == 1 or len(exits.unique()) >= 3


@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_the_compiled_network_gives_the_same_answers():
    net = float64_net(2)
    images = varied(33)
    thresholds = spread_thresholds(net, images)
    fast = EarlyExit(net, thresholds, compile=True)
    for some in (images[:1], images, images[:7]):
        for ours, theirs in zip(fast(some), EarlyExit(net, thresholds)(some), strict=True):
            assert torch.equal(ours, theirs)
    assert not [name for name, _ in net.named_modules() if "_orig_mod" in name]  # the network itself is not compiled


@pytest.mark.parametrize("broken", ["weights", "pictures"])
def test_what_is_not_finite_is_an_error_and_no_answer(broken):
    net, images = build("vgg7-2", 5).eval(), torch.randn(4, 3, 32, 32)
    if broken == "pictures":
        images[2, 0, 0, 0] = torch.nan
    else:
        net.stages[1].conv.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        EarlyExit(net, [0.999] * 5 + [0])(images)
    with pytest.raises(FloatingPointError, match="not finite"):
        inference.collect(net, [(images, torch.zeros(4).long())], "test")


@pytest.mark.parametrize(("thresholds", "exit"), [([0] * 6, 0), ([1] * 5 + [0], 5), ([1, 1, 0, 1, 1, 0], 2)])
def test_all_leave_together(thresholds, exit):
    net = float64_net(0)
    images = varied(9)
    labels, exits = EarlyExit(net, thresholds)(images)
    assert exits.tolist() == [exit] * 9
    assert torch.equal(labels, net(images)[exit].argmax(1))


def vgg7_macs(width, classes):
    """Cumulative MACs of VGG7 by hand: 9 * C_in * C * H * W a convolution, C * classes a head."""
    total, channels_in, macs = 0, 3, []
    for channels, side in [(width, 32)] * 2 + [(2 * width, 16)] * 2 + [(4 * width, 8)] * 2:
        total += 9 * channels_in * channels * side * side + channels * classes
        macs.append(total)
        channels_in = channels
    return macs


@pytest.mark.parametrize("thresholds", [[0] * 6, "spread", [1] * 5 + [0]])
def test_images_that_left_cost_nothing_further(thresholds):
    net = float64_net(1)
    images = varied(40)
    spread = thresholds == "spread"
    thresholds = spread_thresholds(net, images) if spread else thresholds
    with FlopCounterMode(display=False) as counter:
        _, exits = EarlyExit(net, thresholds)(images)
    assert len(exits.unique()) >= 4 or not spread
    macs = vgg7_macs(2, 5)
    assert counter.get_total_flops() == sum(2 * macs[k] for k in exits.tolist())


def test_early_exit_leaves_the_network_as_found_and_its_answers_usable():
    net = build("vgg7-1", classes=2).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    labels, _ = EarlyExit(net, [0.5] * 5 + [0])(torch.randn(3, 3, 32, 32))
    labels += 1  # an ordinary tensor, not one of inference mode
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one is needed"):
        EarlyExit(build("vgg7-1", classes=2), [0.5] * 5 + [0])(torch.empty(0, 3, 32, 32))
