"""Several processes train one network, started by torchrun; one process alone is the plain case of the same code.

Every process holds the whole network and sees its own slice of each global batch. Gradients are averaged, and BatchNorm
normalises over the global batch, so that N processes compute what one would: the same losses, gradients and running
averages, up to the order in which sums are taken.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Team:
    """This process among those that train together. rank 0 leads: it alone writes."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints: rank 0."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            dist.barrier()

    def sum(self, t: Tensor) -> Tensor:
        """The sum over all processes; the tensor itself is left alone."""
        if self.world == 1:
            return t
        total = t.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, value) -> list:
        """What each process holds, by rank; plain values and CPU tensors."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def slice(self, count: int) -> slice:
        """This process's part of `count` things, in order; the parts differ by one at the most."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)


def join(device: torch.device) -> tuple[Team, torch.device]:
    """Meet the other processes that torchrun started, if it did; with GPUs, each process of a machine has its own.

    Raises ValueError where a machine has fewer GPUs than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return Team(), device
    if device.type == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise ValueError(f"{os.environ['LOCAL_WORLD_SIZE']} processes for {there} GPUs: start one for each GPU")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        store, rank, world = next(iter(dist.rendezvous("env://")))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps one store for all attempts, and processes that are started again would look for the
            # addresses of the dead (pytorch issue 135712). Several machines count attempts apart: docs/training.md.
            store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    return Team(dist.get_rank(), world), device


def average(tensors: Iterable[Tensor]) -> None:
    """Each tensor becomes its mean over all processes, in place; nothing to do for one alone."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()


def as_the_first(value):
    """The first process's value, for all: where each would draw its own lots. Plain values and CPU tensors."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def leave() -> None:
    """Say goodbye, so that nobody waits for this process."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is what all of them make of it, summed."""

    @staticmethod
    def forward(ctx, t: Tensor) -> Tensor:
        total = t.clone()
        dist.all_reduce(total)
        return total

    backward = staticmethod(lambda ctx, g: _Sum.apply(g))


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the pictures of all processes, on any device; torch's SyncBatchNorm needs a GPU.

    Mean and variance are of the global batch, and so is their gradient. Sums are taken in float32 at least.
    """

    @torch.compiler.disable  # a collective inside a compiled graph: the compiler stops before and goes on behind it
    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), normalised by the statistics of all processes' pictures together."""
        if not self.training:
            return super().forward(x)
        wide, over = x.to(torch.promote_types(x.dtype, torch.float32)), (0, 2, 3)
        count = dist.get_world_size() * x.numel() // x.shape[1]  # every process has as many pictures
        mean = _Sum.apply(wide.sum(over)) / count  # (C,)
        centred = wide - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise(net: nn.Module) -> None:
    """Let every BatchNorm of a network look at the global batch, in place; names and values stay.

    Raises ValueError for a BatchNorm that is no plain nn.BatchNorm2d: it may do more, as timm's does, which ends in an
    activation, and that would be lost.
    """
    on_gpu = next(net.parameters()).is_cuda
    for parent in list(net.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if type(module) is not nn.BatchNorm2d:
                    kind = f"{type(module).__module__}.{type(module).__qualname__}"
                    raise ValueError(f"{name} is a {kind}: several processes share the statistics of nn.BatchNorm2d")
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(module) if on_gpu else _as_ours(module))


def _as_ours(norm: nn.BatchNorm2d) -> BatchNorm2d:
    norm.__class__ = BatchNorm2d
    return norm


def has_idle(net: nn.Module, pixels: int) -> bool:
    """Whether a parameter feeds no exit, as where MSDNet's last layers make a scale that nobody reads.

    DistributedDataParallel has to look for those in every step, so it must know. Found on the meta device, where
    nothing is computed.
    """
    twin = copy.deepcopy(net).to("meta").train()
    logits = twin(torch.empty(2, 3, pixels, pixels, device="meta"))
    sum(logits_k.sum() for logits_k in logits).backward()
    return any(p.grad is None for p in twin.parameters() if p.requires_grad)


def norm(t: Tensor) -> Tensor:
    """L2 norm of a tensor whose rows are spread over all processes.

    Every process has it in its loss, and gradients are averaged: the gradient of the sum is N times too large where it
    is made, and right where it arrives.
    """
    if not dist.is_initialized():
        return t.norm()
    return _Sum.apply(t.square().sum()).sqrt()
