"""Every published network on a GPU that is not there: a tensor made on the wrong device is refused.

Fake CUDA tensors (torch's FakeTensorMode) have shapes, types and a device, no numbers, and refuse the company of CPU
tensors, as a GPU does; only indices they take from anywhere, so that is refused here. They need no GPU, but their
backward pass does: it is run on the meta device. What depends on numbers cannot run: the size of what `nonzero` finds
is given by hand.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dfs_edu import data, inference
from dfs_edu.backbones import BACKBONES, build
from dfs_edu.losses import exit_losses
from dfs_edu.modes import evaluating
from dfs_edu.multiexit import select
from dfs_edu.probes import cost, peak_memory
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery
from dfs_edu.training.trainer import bf16_pays

JUNCTIONS = [
    Joint(),
    Detached(),
    Equilibrium(),
    Surgery(0.5),
    Surgery(0.5, exit_gradient="all", scales="all"),
    Surgery(0.5, reference=False, scales="all"),
]
PUBLISHED = {backbone.published: backbone.pixels for backbone in BACKBONES.values()}
CLASSES, B = 100, 4

every_network = pytest.mark.parametrize("name", PUBLISHED)
every_junction = pytest.mark.parametrize("junction", JUNCTIONS, ids=str)


INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class IndicesNearby(TorchDispatchMode):
    """Refuses an index that does not lie where the indexed tensor lies: an error on a GPU, or a wait for a copy."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in INDEXING and len({t.device for t in [args[0], *args[1]] if t is not None}) > 1:
            raise RuntimeError(f"{func}: expected tensor and indices on the same device")
        return func(*args, **(kwargs or {}))


@contextmanager
def gpu():
    with FakeTensorMode(), IndicesNearby():
        yield


def on_meta(name, junction=Joint()):
    with torch.device("meta"):
        return build(name, CLASSES, junction)


def to_cuda(net):
    """Fake CUDA tensors in place of a network's own; inside `gpu()` only."""
    for module in net.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="cuda")))
        for name, b in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(b.shape, dtype=b.dtype, device="cuda"))
    return net


def batch(name):
    images = torch.empty(B, 3, PUBLISHED[name], PUBLISHED[name], device="cuda")
    return images, torch.zeros(B, dtype=torch.int64, device="cuda")


@contextmanager
def autocast():
    """What torch.autocast("cuda", torch.bfloat16) does, which without a GPU only warns."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def assert_on_cuda(*tensors):
    assert {t.device.type for t in tensors} == {"cuda"}


@every_network
@pytest.mark.parametrize("junction", [JUNCTIONS[3], JUNCTIONS[5]], ids=str)
def test_forward_and_losses(name, junction):
    net = on_meta(name, junction)
    with gpu():
        images, labels = batch(name)
        to_cuda(net)
        for training in (True, False):
            logits = net.train(training)(images)
            assert_on_cuda(*logits, exit_losses(logits, labels))
            assert {(logits_k.shape, logits_k.dtype) for logits_k in logits} == {((B, CLASSES), torch.float32)}
        with autocast():
            logits = net.train()(images.contiguous(memory_format=torch.channels_last))
        losses = exit_losses(logits, labels)
        assert_on_cuda(*logits, losses)
        assert {logits_k.dtype for logits_k in logits} == {torch.bfloat16}
        assert losses.dtype == torch.float32
        assert losses.shape == (len(net.heads),)
        assert_on_cuda(*net.parameters(), *net.buffers())


@every_network
def test_without_gradients(name):
    net = on_meta(name, Surgery(0.5))
    with gpu():
        images, _ = batch(name)
        to_cuda(net)
        with evaluating(net):
            assert_on_cuda(*net(images), *(t for pair in net.embed(images) for t in pair))


@every_network
def test_images_leave(name, monkeypatch):
    """All of early exit, where half of the images that reach an exit go on."""
    net = on_meta(name, Surgery(0.5))
    sizes, early_exit = [], inference.EarlyExit(net, [0.5] * (len(net.heads) - 1) + [0])

    def half(t):
        sizes.append(len(t))
        return torch.zeros(len(t) // 2, 1, dtype=torch.int64, device=t.device)

    with gpu():
        images, _ = batch(name)
        to_cuda(net)
        monkeypatch.setattr(torch.Tensor, "nonzero", half)
        monkeypatch.setattr(torch.Tensor, "item", lambda t: 1.0)  # the last one of four is sure
        assert_on_cuda(*early_exit(images))
        assert sizes == [4, 2]


@every_network
def test_what_exits_say_comes_back_to_the_cpu(name, monkeypatch):
    net = on_meta(name)
    monkeypatch.setattr(inference.outputs, "Outputs", lambda *said: said)  # it looks for NaN, so it needs numbers
    monkeypatch.setattr(inference.outputs, "_check_finite", lambda exits: None)
    monkeypatch.setattr(inference.outputs, "fingerprint", lambda net: "")  # and so does a digest
    with gpu():
        images, labels = batch(name)
        to_cuda(net)
        assert_on_cuda(*inference.Judge(1)(net(images)[0]))
        confidence, prediction, label, split, *_ = inference.collect(net, [(images, labels)] * 2, "test")
        assert {t.device.type for t in (confidence, prediction, label)} == {"cpu"}
        assert confidence.shape == prediction.shape == (len(net.heads), 2 * B)
        assert label.shape == (2 * B,)
        assert split == "test"


def test_select():
    with gpu():
        index = torch.zeros(2, dtype=torch.int64, device="cuda")
        scales = [torch.empty(B, 5, size, size, device="cuda") for size in (8, 4)]
        assert_on_cuda(select(scales[0], index), *select(scales, index))


def made_by(tensor):
    """Names of all operations in the graph behind a tensor."""
    names, rest = set(), [tensor.grad_fn]
    while rest:
        node = rest.pop()
        names.add(node.name())
        rest += [before for before, _ in node.next_functions if before is not None]
    return names


def test_on_a_gpu_no_convolution_is_split():
    """Skipping took longer there than what it saved."""
    split = "_SplitConv2dBackward"
    net = on_meta("vgg7-64", Surgery(0.5))
    assert split in made_by(
        exit_losses(net(torch.empty(B, 3, 32, 32, device="meta")), torch.zeros(B).long().to("meta"))
    )
    with gpu():
        images, labels = batch("vgg7-64")
        operations = made_by(exit_losses(to_cuda(net)(images), labels))
    assert split not in operations
    assert "_ViewsBackward" in operations  # the junction is there


# Data


@dataclass
class Pictures:
    """What Batches asks of a data set."""

    mean = std = (0.5, 0.4, 0.3)
    classes = ("cat", "dog")
    augmentation: data.Augmentation


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_batches(train, flip):
    """The split lies on the CPU first; random numbers are drawn there, and only indices move."""
    with gpu():
        images = torch.empty(10, 3, 32, 32, dtype=torch.uint8)
        split = data.Split("train", images, torch.zeros(10, dtype=torch.int64))
        batches = data.Batches(split, Pictures(data.Augmentation(flip=flip)), B, train, device="cuda")
        read = list(batches)
        assert [len(labels) for _, labels in read] == ([4, 4] if train else [4, 4, 2])
        for images, labels in read:
            assert_on_cuda(images, labels)
            assert images.dtype == torch.float32
            assert images.shape == (len(labels), 3, 32, 32)
            assert images.is_contiguous(memory_format=torch.channels_last)


def test_augment():
    with gpu():
        images = torch.empty(B, 3, 32, 32, dtype=torch.uint8, device="cuda")
        found = data.augment(images, data.Augmentation(), torch.Generator())
        assert_on_cuda(found)
        assert found.shape == images.shape
        assert found.dtype == torch.uint8


# Probes: of networks that lie elsewhere


def test_cost_and_memory_do_not_depend_on_the_networks_device():
    here, there = build("resnet18", CLASSES, Surgery(0.5)), on_meta("resnet18", Surgery(0.5))
    for a, b in zip(vars(cost(here)).values(), vars(cost(there)).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert peak_memory(here, (3, 32, 32), B) == peak_memory(there, (3, 32, 32), B)


# The backward pass


@every_network
@every_junction
def test_backward_on_the_meta_device(name, junction):
    """Every parameter has a gradient, of its own shape, type and device."""
    net = on_meta(name, junction)
    images = torch.empty(B, 3, PUBLISHED[name], PUBLISHED[name], device="meta")
    labels = torch.zeros(B, dtype=torch.int64, device="meta")
    exit_losses(net(images), labels).sum().backward()
    for parameter_name, p in net.named_parameters():
        assert (p.grad.shape, p.grad.dtype, p.grad.device) == (p.shape, p.dtype, p.device), parameter_name


# A GPU would have refused


class Shift(nn.Module):
    """Adds a constant, made on the CPU or where its input lies."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def forward(self, x):
        return x + torch.ones(x.shape[1], 1, 1, device=self.device or x.device)


def shifted(device):
    net = on_meta("vgg7-64", Surgery(0.5))
    net.stages[2].relu = Shift(device)
    return net


def test_a_constant_on_the_cpu_is_refused():
    right, wrong = shifted(None), shifted("cpu")
    with gpu():
        images, _ = batch("vgg7-64")
        assert_on_cuda(*to_cuda(right)(images))
        to_cuda(wrong)
        with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu"):
            wrong(images)


def test_so_are_images_labels_indices_and_weights_on_the_cpu():
    net = on_meta("vgg7-64", Surgery(0.5))
    with gpu():
        images, labels = batch("vgg7-64")
        to_cuda(net)
        with pytest.raises(RuntimeError, match="same device"):
            net(images.cpu())
        with pytest.raises(RuntimeError, match="same device"):
            exit_losses(net(images), labels.cpu())
        with pytest.raises(RuntimeError, match="same device"):
            select(images, torch.zeros(2, dtype=torch.int64))
        net.heads[0].fc.weight = nn.Parameter(net.heads[0].fc.weight.detach().cpu())
        with pytest.raises(RuntimeError, match="same device"):
            net(images)


@pytest.mark.parametrize(
    ("uses", "has", "pays"),
    [
        ("AVX512", {"avx512_bf16": True}, True),
        ("AVX512", {"avx512_f": True, "avx512_bf16": False}, False),
        ("AVX512", {"amx_bf16": True}, True),
        ("AVX2", {"avx512_bf16": True}, False),  # told to do without: there it is emulated, 30 times as slow as fp32
        ("SVE256", {"sve_bf16": True}, True),
        ("DEFAULT", {}, False),
    ],
)
def test_bf16_is_chosen_where_torch_uses_instructions_for_it(monkeypatch, uses, has, pays):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: uses)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert bf16_pays(torch.device("cpu")) is pays
