"""The memory probe against bytes counted by hand, torch's own tracker on a real step, and what a real pass keeps."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from dfs_edu.backbones import build
from dfs_edu.losses import exit_losses
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import Memory, peak_memory
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery

FLOAT, LONG = 4, 8  # bytes of a number
NETWORKS = {
    "vgg7-4": 32,
    "resnet18-width4-depth1": 16,
    "msdnet-cifar-blocks3-base2-step1-growth4-width4": 32,
    "vit-tiny-pixels32-patch8-depth4-width24-heads2": 32,
}
every_network = pytest.mark.parametrize("name", NETWORKS)


class Convolution(nn.Sequential):
    def __init__(self, channels, classes):
        conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        super().__init__(conv, nn.ReLU(), nn.BatchNorm2d(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classes = classes


def test_a_linear_network_by_hand():
    B, D, classes = 6, 3 * 2 * 2, 5
    found = peak_memory(MultiExit([nn.Flatten()], [nn.Linear(D, classes)]), (3, 2, 2), B)
    weight, bias = FLOAT * D * classes, FLOAT * classes
    whole = weight + bias
    batch = FLOAT * B * D + LONG * B
    logits = FLOAT * B * classes
    # After the forward pass: what the network said, cross-entropy's log-probabilities and the weight of all labels,
    # the loss.
    activations = 2 * logits + 2 * FLOAT
    # The most is held where SGD moves the weight: everything that lasts, logits and loss, and Nesterov's look ahead.
    peak = 3 * whole + batch + logits + FLOAT + weight
    assert found == Memory(whole, whole, whole, activations, peak)


def test_a_convolution_by_hand():
    B, C, size, classes = 4, 8, 16, 5
    stage = nn.Sequential(nn.Conv2d(3, C, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm2d(C))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, classes, bias=False))
    found = peak_memory(MultiExit([stage], [head]), (3, size, size), B)
    trained = FLOAT * (27 * C + 2 * C + C * classes)
    maps, logits = FLOAT * B * C * size**2, FLOAT * B * classes
    assert found.parameters == trained + FLOAT * 2 * C + LONG  # BatchNorm's means, variances, and number of batches
    assert found.gradients == found.optimizer == trained
    # ReLU's maps, which BatchNorm reads as well; its means and deviations; the pooled maps
    assert found.activations == maps + FLOAT * 2 * C + FLOAT * B * C + 2 * logits + 2 * FLOAT
    # The most is held where BatchNorm's gradient is computed from that of its output
    batch = FLOAT * B * 3 * size**2 + LONG * B
    head_is_done = FLOAT * C * classes + logits + FLOAT
    assert found.peak == 0


def real_step(net, images, labels):
    """Peak bytes of a real step as torch's MemTracker sees them, on its second step: SGD has its momentum."""
    sgd = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True)
    exit_losses(net(images), labels).sum().backward()
    sgd.step()
    sgd.zero_grad()
    tracker = MemTracker()
    tracker.track_external(net, sgd, images, labels)
    with tracker:
        logits = net(images)
        loss = exit_losses(logits, labels).sum()
        loss.backward()
        sgd.step()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@every_network
@pytest.mark.parametrize("junction", [Joint(), Detached(), Equilibrium(), Surgery(0.3), Surgery(0.3, False)], ids=str)
def test_the_peak_is_that_of_a_real_step(name, junction):
    net, size = build(name, 4, junction), NETWORKS[name]
    images, labels = torch.randn(3, 3, size, size), torch.tensor([0, 2, 3])
    assert peak_memory(net, (3, size, size), 3).peak == real_step(net, images, labels)
