"""Several processes train one network, started by torchrun; a single process is the plain case of the same code.

Every process holds the whole network and sees its own part of each global batch. Gradients are averaged, and BatchNorm
normalises over the global batch, so that N processes compute what one would: the same losses, gradients and running
averages, up to the order in which sums are taken.
"""

from __future__ import annotations

import builtins
import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Team:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: Index of this process. Rank 0 leads: it alone writes.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process, rank 0, is the one that writes and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.world > 1:
            dist.barrier()

    def sum(self, t: Tensor) -> Tensor:
        """Return the sum over all processes; the tensor itself is not changed."""
        if self.world == 1:
            return t
        total = t.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list:
        """Return every process's value, ordered by rank; for plain values and CPU tensors."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def slice(self, count: int) -> builtins.slice:
        """Return this process's part of ``count`` items in order; the sizes of the parts differ by at most one."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)


def join(device: torch.device) -> tuple[Team, torch.device]:
    """Join the other processes if torchrun started several, and return the team and this process's device.

    With GPUs, each process of a machine has its own.

    Raises:
        ValueError: The machine has fewer GPUs than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return Team(), device
    if device.type == "cuda":
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise ValueError(f"{os.environ['LOCAL_WORLD_SIZE']} processes for {count} GPUs: start one for each GPU")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        store, rank, world = next(iter(dist.rendezvous("env://")))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps one store for all attempts, so restarted processes would look for the addresses of the dead
            # (pytorch issue 135712). Several machines count attempts separately: docs/training.md.
            store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return Team(dist.get_rank(), world), device


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in place; a single process has nothing to do."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()


def mean(t: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, with gradients of any order; ``average`` has none."""
    return _Sum.apply(t) / dist.get_world_size() if dist.is_initialized() else t


def whole(t: Tensor) -> Tensor:
    """Return the values of all images of a batch, (..., world * n) in its order, given those of this process, (..., n).

    Gradients do not pass.
    """
    if not dist.is_initialized():
        return t.detach()
    parts = [torch.empty_like(t) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, t.detach().contiguous())
    return torch.stack(parts, -1).flatten(-2)  # process r has every world-th image, from image r


def part(t: Tensor) -> Tensor:
    """Return the values of this process's images, given those of the whole batch: the inverse of ``whole``."""
    return t[..., dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else t


def broadcast(value: Any) -> Any:
    """Return the first process's value in every process, as for random draws; for plain values and CPU tensors."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def leave() -> None:
    """Leave the other processes, so that none waits for this one."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of the gradients that they have for it."""

    @staticmethod
    def forward(ctx, t: Tensor) -> Tensor:
        total = t.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> Tensor:
        return _Sum.apply(*grad_outputs)


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the images of all processes, on any device; torch's SyncBatchNorm needs a GPU.

    Mean, variance and their gradients are those of the global batch. Sums are taken in float32 at least.
    """

    @torch.compiler.disable  # a collective operation splits a compiled graph: the compiler continues behind it
    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W) by the statistics of all processes' images together."""
        if not self.training:
            return super().forward(x)
        wide, over = x.to(torch.promote_types(x.dtype, torch.float32)), (0, 2, 3)

        # Mean and variance of the global batch; every process has the same number of images
        count = dist.get_world_size() * x.numel() // x.shape[1]
        mean = _Sum.apply(wide.sum(over)) / count  # (C,)
        centred = wide - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(over)) / count

        # Running averages, with the unbiased variance, as torch keeps them
        with torch.no_grad():
            seen = self.get_buffer("num_batches_tracked").add_(1)
            momentum = 1 / seen.item() if self.momentum is None else self.momentum
            self.get_buffer("running_mean").lerp_(mean, momentum)
            self.get_buffer("running_var").lerp_(variance * count / (count - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise(net: nn.Module) -> None:
    """Make every BatchNorm of a network normalise over the global batch, in place; names and values stay.

    Raises:
        ValueError: A BatchNorm is not a plain nn.BatchNorm2d. It may do more, as timm's does, which ends in an
            activation, and that would be lost.
    """
    on_gpu = next(net.parameters()).is_cuda
    for parent in list(net.modules()):
        for name, module in parent.named_children():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                continue
            if type(module) is not nn.BatchNorm2d:
                kind = f"{type(module).__module__}.{type(module).__qualname__}"
                raise ValueError(f"{name} is a {kind}: several processes share the statistics of nn.BatchNorm2d")
            if on_gpu:
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
            else:
                module.__class__ = BatchNorm2d


def has_idle(net: nn.Module, pixels: int) -> bool:
    """Return whether a parameter feeds no exit, as when MSDNet's last layers compute a scale that nothing reads.

    DistributedDataParallel has to look for such parameters in every step, so it must be told. The answer is found on
    the meta device, where nothing is computed.
    """
    twin = copy.deepcopy(net).to("meta").train()
    logits = twin(torch.empty(2, 3, pixels, pixels, device="meta"))
    sum(logits_k.sum() for logits_k in logits).backward()
    return any(p.grad is None for p in twin.parameters() if p.requires_grad)


def norm(t: Tensor) -> Tensor:
    """Return the L2 norm of a tensor whose rows are spread over all processes.

    Every process has this norm in its loss, and gradients are averaged over the N processes. The gradient of the sum,
    N times too large where it is computed, is therefore right where it arrives.
    """
    if not dist.is_initialized():
        return t.norm()
    return _Sum.apply(t.square().sum()).sqrt()
