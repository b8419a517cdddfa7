"""Ablation by hand, and against networks whose stages put the fill in themselves."""

import numpy as np
import pytest
import torch
from test_cosines import scales_network
from test_extraction import every_family, network, pictures
from torch import nn

from dfs_edu import inference
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import ablation
from dfs_edu.surgery import Joint, Surgery


@every_family
@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_ablating_nothing_changes_nothing(family, fill):
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
