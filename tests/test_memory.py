"""The memory probe against bytes counted by hand, torch's own tracker, and what real steps keep and allocate."""

import dataclasses
import weakref

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile

from dfs_edu.backbones import build
from dfs_edu.losses import exit_losses
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import Memory, peak_memory
from dfs_edu.surgery import Detached, Surgery

FLOAT, LONG = 4, 8  # bytes of a number
NETWORKS = {
    "vgg7-4": 32,
    "resnet18-width4-depth1": 16,
    "msdnet-cifar-blocks3-base2-step1-growth4-width4": 32,
    "vit-tiny-pixels32-patch8-depth4-width24-heads2": 32,
}


def test_a_linear_network_by_hand():
    B, D, classes = 6, 3 * 2 * 2, 5
    found = peak_memory(MultiExit([nn.Flatten()], [nn.Linear(D, classes)]), (3, 2, 2), B)
    weight = FLOAT * D * classes
    whole = weight + FLOAT * classes
    batch = FLOAT * B * D + LONG * B
    logits = FLOAT * B * classes
    # What the network said; for cross-entropy the log-probabilities and the weight of all labels together; the loss
    activations = 2 * logits + 2 * FLOAT
    # The most is held where SGD moves the weight: all that lasts, logits, loss, and where Nesterov looks ahead
    peak = 3 * whole + batch + logits + FLOAT + weight
    assert found == Memory(whole, whole, whole, activations, peak)


def test_a_convolution_by_hand():
    B, C, size, classes = 4, 8, 16, 5
    stage = nn.Sequential(nn.Conv2d(3, C, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm2d(C))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, classes, bias=False))
    found = peak_memory(MultiExit([stage], [head]), (3, size, size), B)
    trained = FLOAT * (27 * C + 2 * C + classes * C)
    maps, logits = FLOAT * B * C * size**2, FLOAT * B * classes
    statistics = FLOAT * 2 * C  # mean and deviation of each channel
    assert found.parameters == trained + statistics + LONG  # BatchNorm keeps its own, and counts batches
    assert found.gradients == found.optimizer == trained
    pooled = FLOAT * B * C
    assert found.activations == maps + statistics + pooled + 2 * logits + 2 * FLOAT  # ReLU's maps serve BatchNorm too
    # The most is held where BatchNorm's backward pass has just begun: its input, its output's gradient, its input's
    lasting = found.parameters + found.optimizer + FLOAT * B * 3 * size**2 + LONG * B
    gradients = FLOAT * (classes * C + 2 * C + 1)  # of classifier, BatchNorm and the loss
    assert found.peak == lasting + gradients + 3 * maps + statistics + logits + FLOAT


def batch(name, B):
    size = NETWORKS[name]
    return torch.randn(B, 3, size, size), torch.arange(B) % 4


def stepper(net, images, labels):
    """A function that does one training step; the first is done, so SGD has its momentum."""
    sgd = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True)

    def step():
        logits = net(images)
        loss = exit_losses(logits, labels).sum()
        loss.backward()
        sgd.step()

    step()
    sgd.zero_grad()
    return step, sgd


@pytest.mark.parametrize("junction", [Detached(), Surgery(0.3)], ids=str)
@pytest.mark.parametrize("name", [name for name in NETWORKS if "msdnet" not in name])  # see probes/memory.py
def test_the_peak_is_what_torch_s_tracker_sees_of_a_real_step(name, junction):
    net, (images, labels) = build(name, 4, junction), batch(name, 3)
    step, sgd = stepper(net, images, labels)
    tracker = MemTracker()
    tracker.track_external(net, sgd, images, labels)
    with tracker:
        step()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert peak_memory(net, images.shape[1:], 3).peak == peak


@pytest.mark.parametrize("name", NETWORKS)
def test_a_real_step_allocates_that_and_some_work_space(name):
    net, (images, labels) = build(name, 4, Surgery(0.3)), batch(name, 16)
    step, _ = stepper(net, images, labels)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    found = peak_memory(net, images.shape[1:], 16)
    real = found.parameters + found.optimizer + images.nbytes + labels.nbytes + most
    assert found.peak <= real <= 1.35 * found.peak  # the CPU's convolutions sort their inputs into blocks


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_are_what_a_real_forward_pass_keeps(name):
    net, (images, labels) = build(name, 4, Surgery(0.3)), batch(name, 16)
    known = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers(), images, labels]}
    kept = weakref.WeakSet()  # weak: MSDNet's last stage makes finer scales that nobody reads, and that go at once

    def keep(t):
        kept.add(t.untyped_storage())
        return t.detach()  # a layer's own output would hold that layer, and itself, for ever

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        logits = net(images)
        loss = exit_losses(logits, labels).sum()
    real = sum(storage.nbytes() for storage in kept if storage.data_ptr() not in known)
    said = sum(logits_k.nbytes for logits_k in logits) + loss.nbytes  # held, but not by the graph
    assert peak_memory(net, images.shape[1:], 16).activations == real + said


@pytest.mark.parametrize("name", NETWORKS)
def test_a_larger_batch_needs_more_and_bf16_less(name):
    net, shape = build(name, 4, Surgery(0.5)), (3, NETWORKS[name], NETWORKS[name])
    one, two, four = (peak_memory(net, shape, B) for B in (8, 16, 32))
    assert one.peak < two.peak < four.peak
    # In proportion, but for the statistics of BatchNorm and the few numbers of the loss
    assert four.activations - two.activations == 2 * (two.activations - one.activations)
    half = peak_memory(net, shape, 32, bf16=True)
    assert half.peak < four.peak
    assert 0.45 * four.activations < half.activations < 0.75 * four.activations  # some numbers stay wide
    for other in (one, half):
        assert (other.parameters, other.gradients, other.optimizer) == (four.parameters, four.gradients, four.optimizer)


def test_a_full_recipe_is_answered_for_where_it_would_not_fit():
    with torch.device("meta"):
        net = build("vgg7-64", 100, Surgery(0.5))
    found = peak_memory(net, (3, 32, 32), 500_000)
    assert found.parameters == FLOAT * 1_235_968 + FLOAT * 2 * 896 + LONG * 6
    assert found.peak > 10**12


def test_what_is_frozen_has_no_gradient():
    net = build("vgg7-4", 4)
    free = peak_memory(net, (3, 32, 32), 8)
    net.stages[0].requires_grad_(False)
    part = peak_memory(net, (3, 32, 32), 8)
    assert free.gradients - part.gradients == FLOAT * sum(p.numel() for p in net.stages[0].parameters())
    assert part.optimizer == part.gradients
    assert part.activations < free.activations
    net.requires_grad_(False)
    none = peak_memory(net, (3, 32, 32), 8)
    assert (none.parameters, none.gradients, none.optimizer) == (free.parameters, 0, 0)
    assert none.activations < part.activations


def test_the_network_is_not_touched():
    net = build("msdnet-cifar-blocks2-base1-step1-growth4-width4", 4, Surgery(0.5), dropout=50)
    net.stages[0].eval()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    random = torch.get_rng_state()
    with torch.inference_mode():
        inside = peak_memory(net, (3, 32, 32), 8)
    assert inside == peak_memory(net, (3, 32, 32), 8)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert all(type(p) is nn.Parameter and p.grad is None for p in net.parameters())
    assert net.training
    assert not net.stages[0].training
    assert torch.equal(random, torch.get_rng_state())
    assert not torch.is_autocast_enabled("cpu")


def test_a_shared_head_is_counted_once():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    found = peak_memory(MultiExit([nn.Conv2d(3, 3, 1, bias=False) for _ in range(2)], [head, head]), (3, 4, 4), 2)
    assert found.parameters == found.gradients == found.optimizer == FLOAT * (2 * 9 + 20)


def test_memory_is_a_frozen_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Memory(1, 2, 3, 4, 5).peak = 6


@pytest.mark.parametrize(
    ("shape", "batch_size", "message"),
    [
        ((32, 32), 2, r"input_shape=\(32, 32\): give channels, height, width"),
        ((3, 0, 32), 2, r"input_shape=\(3, 0, 32\)"),
        (32, 2, "input_shape=32"),
        ((3, 4, 4), 2, r"input_shape=\(3, 4, 4\), batch_size=2: no training step \(pictures of 4x4 pixels"),
        ((1, 32, 32), 2, r"input_shape=\(1, 32, 32\), batch_size=2: no training step"),
        ((3, 32, 32), 0, "batch_size=0: at least one picture"),
        ((3, 32, 32), 2.0, "batch_size=2.0"),
        ((3, 32, 32), True, "batch_size=True"),
    ],
)
def test_bad_numbers_are_named(shape, batch_size, message):
    with pytest.raises(ValueError, match=message):
        peak_memory(build("vgg7-4", 10), shape, batch_size)


def test_another_network_is_named():
    with pytest.raises(TypeError, match="Linear"):
        peak_memory(nn.Linear(2, 2), (3, 2, 2), 1)
