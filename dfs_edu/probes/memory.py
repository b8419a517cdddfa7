"""How much memory a training step needs, told before it is run: nothing is computed, and nothing of it allocated.

The step runs on fake tensors, which have shapes, types and a device, but no numbers (torch's FakeTensorMode). Every
storage is counted from its first use until it is let go. (torch's private MemTracker says the same, and the tests hold
this count to it; but it takes ten times as long, and its hooks, which every module of the process gets, keep alive
what MSDNet's last stage makes and nobody reads.)
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


@dataclass(frozen=True)
class Memory:
    """What `peak_memory` counted, in bytes.

    parameters   the parameters, with BatchNorm's statistics
    gradients    of the parameters, once all are there
    optimizer    its state: SGD's momentum, as large as the parameters that it trains
    activations  what the forward pass leaves behind, for the backward pass above all
    peak         the most that is held at one time. Less than the sum of all: as the backward pass goes up the network,
                 gradients come and activations go; more than any part: the batch and what is under way count too
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


@in_any_mode
def peak_memory(net: MultiExit, input_shape: tuple[int, int, int], batch_size: int, bf16: bool = False) -> Memory:
    """Bytes that a training step holds at most: forward, the sum of the exits' losses, backward, SGD with momentum.

    input_shape   (channels, height, width) of a picture
    batch_size    pictures in a batch
    bf16          under autocast to bfloat16

    What a GPU adds is not in it: the CUDA context (some hundred MB), the work space of convolutions, the optimizer's
    temporaries where it updates all parameters at once, and gaps between blocks. Types under autocast are those of the
    CPU, which differ in attention and LayerNorm. A smaller batch than this one may thus be what fits.

    The network may lie on any device and is left alone. Raises TypeError for another network, and ValueError, naming
    the value, for a shape or batch size that are none, or that the network cannot train on.
    """
    if not isinstance(net, MultiExit):
        raise TypeError(f"net is a {type(net).__name__}: the memory of a training step is counted in a MultiExit")
    shape = checked_shape(input_shape)
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: at least one picture a batch")
    with torch.enable_grad(), torch.inference_mode(False), FakeTensorMode():
        net = _fake(net).train()
        dtype = next((p.dtype for p in net.parameters()), None)
        images, labels = torch.empty(batch_size, *shape, dtype=dtype), torch.zeros(batch_size, dtype=torch.int64)
        try:
            return _step(net, images, labels, bf16)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"input_shape={shape}, batch_size={batch_size}: no training step ({error})") from error


def _fake(net: MultiExit) -> MultiExit:
    """A copy of the network whose tensors are fake and lie on the CPU: where a backward pass needs no GPU."""

    def empty(t: Tensor) -> Tensor:
        made = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cpu")
        return nn.Parameter(made, t.requires_grad) if isinstance(t, nn.Parameter) else made

    return copy.deepcopy(net, {id(t): empty(t) for t in [*net.parameters(), *net.buffers()]})


def _step(net: MultiExit, images: Tensor, labels: Tensor, bf16: bool) -> Memory:
    trained = [p for p in net.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained or [torch.zeros(0)], 0.1, momentum=0.9, nesterov=True)
    if trained:
        _forward(net, images, labels, bf16)[1].backward()
    sgd.step()  # the first step makes the momentum; all others are like the second, which is counted
    sgd.zero_grad()
    with _Live() as live:
        parameters = live.follow(list(net.parameters()), list(net.buffers()))
        optimizer = live.follow(list(sgd.state.values()))
        before = live.follow(images, labels) + parameters + optimizer
        _logits, loss = _forward(net, images, labels, bf16)  # both stay: training looks at what was right
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


class _Live(TorchDispatchMode):
    """Sees the results of all operations, and follows their storages until these are let go."""

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.follow(results)
        return results

    def follow(self, *tensors) -> int:
        """Count the storages behind these tensors that are new; how many bytes they hold."""
        before = self.bytes
        tree_map_only(Tensor, self._follow, tensors)
        self.peak = max(self.peak, self.bytes)
        return self.bytes - before

    def _follow(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        if storage not in self.known:
            self.known.add(storage)
            self.bytes += storage.nbytes()
            weakref.finalize(storage, self._let_go, storage.nbytes())

    def _let_go(self, size: int) -> None:
        self.bytes -= size
