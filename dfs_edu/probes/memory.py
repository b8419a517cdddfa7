"""How much memory a training step needs, before it is run: nothing is computed and none of it is allocated.

The step runs on fake tensors, which have shapes, types and a device but no numbers (torch's FakeTensorMode). Every
storage is counted from its first use until it is freed. (torch's private MemTracker gives the same count, which the
tests confirm. But it takes ten times as long, and the hooks that it puts on every module of the process keep alive the
outputs of MSDNet's last stage that nothing reads.)
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from dfs_edu.losses import exit_losses
from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit, checked_shape
from dfs_edu.probes.checks import check_count, check_network


@dataclass(frozen=True)
class Memory:
    """The memory of a training step, in bytes, as ``peak_memory`` counts it.

    Attributes:
        parameters: the parameters, with BatchNorm's statistics.
        gradients: all gradients of the parameters.
        optimizer: the optimizer's state: SGD's momentum, as large as the parameters that it trains.
        activations: what the forward pass leaves behind, mostly for the backward pass.
        peak: the most that is held at one time. Less than the sum of all, since gradients replace activations as the
            backward pass goes up the network; more than any part, since the batch and intermediate results count too.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


@in_any_mode
def peak_memory(net: MultiExit, input_shape: tuple[int, int, int], batch_size: int, bf16: bool = False) -> Memory:
    """Count the bytes that a training step holds: forward, the sum of the exits' losses, backward, SGD with momentum.

    What a GPU adds is not included: the CUDA context (several hundred MB), the work space of convolutions, the
    optimizer's temporaries if it updates all parameters at once, and gaps between blocks. Types under autocast are
    those of the CPU, which differ in attention and LayerNorm. So the batch that fits may be smaller than this one.

    Args:
        net: the network, on any device; it is not touched.
        input_shape: (channels, height, width) of an image.
        batch_size: images in a batch.
        bf16: whether the step runs under autocast to bfloat16.

    Raises:
        TypeError: for another kind of network.
        ValueError: naming the value, for an invalid shape or batch size, or one that the network cannot train on.
    """
    check_network(net)
    shape = checked_shape(input_shape)
    check_count(batch_size=batch_size)
    with FakeTensorMode():
        net = _fake(net).train()
        dtype = next((p.dtype for p in net.parameters()), None)
        images, labels = torch.empty(batch_size, *shape, dtype=dtype), torch.zeros(batch_size, dtype=torch.int64)
        try:
            return _step(net, images, labels, bf16)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"input_shape={shape}, batch_size={batch_size}: no training step ({error})") from error


def _fake(net: MultiExit) -> MultiExit:
    """A copy of the network with fake tensors on the CPU, so that a backward pass needs no GPU."""

    def empty(t: Tensor) -> Tensor:
        fake = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cpu")
        return nn.Parameter(fake, t.requires_grad) if isinstance(t, nn.Parameter) else fake

    return copy.deepcopy(net, {id(t): empty(t) for t in [*net.parameters(), *net.buffers()]})


def _step(net: MultiExit, images: Tensor, labels: Tensor, bf16: bool) -> Memory:
    trained = [p for p in net.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained or [torch.zeros(0)], 0.1, momentum=0.9, nesterov=True)
    if trained:
        _forward(net, images, labels, bf16)[1].backward()
    sgd.step()  # the first step creates the momentum; all others are like the second, which is counted
    sgd.zero_grad()
    with LiveBytes() as live:
        parameters = live.follow(list(net.parameters()), list(net.buffers()))
        optimizer = live.follow(list(sgd.state.values()))
        before = live.follow(images, labels) + parameters + optimizer
        _logits, loss = _forward(net, images, labels, bf16)  # both stay: training counts the right answers
        activations = live.bytes - before
        if trained:
            loss.backward()
        gradients = sum(p.grad.nbytes for p in trained if p.grad is not None)
        sgd.step()
    return Memory(parameters, gradients, optimizer, activations, live.peak)


def _forward(net: MultiExit, images: Tensor, labels: Tensor, bf16: bool) -> tuple[list[Tensor], Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = net(images)
    return logits, exit_losses(logits, labels).sum()


class LiveBytes(TorchDispatchMode):
    """Sees the results of all operations, and counts their storages until they are freed."""

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.follow(results)
        return results

    def follow(self, *tensors) -> int:
        """Count the storages behind these tensors that are new, and return how many bytes they hold."""
        before = self.bytes
        tree_map_only(Tensor, self._follow, tensors)
        self.peak = max(self.peak, self.bytes)
        return self.bytes - before

    def _follow(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        if storage not in self.known:
            self.known.add(storage)
            self.bytes += storage.nbytes()
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.bytes -= size
