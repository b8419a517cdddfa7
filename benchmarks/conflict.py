"""The conflict probe against the usual ways: K backward passes, all K gradients kept and compared.

naive       each loss taken out of one stacked tensor: every pass goes through all stages, with zeros behind its exit
truncated   each loss a tensor of its own, so that autograd itself begins at its exit; all gradients kept
probe       all exits in step, stage by stage; the gradients of one stage kept

Time: the ways take turns. Stage passes: counted, one where a backward pass enters a stage; K (K + 1) / 2 are the least
that can tell the exits apart. Memory: what of all tensors that a way makes is alive at the same time, at most.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

import dfs_edu as dfs
from benchmarks.turns import MIB, arguments, prepared, taken
from dfs_edu.losses import exit_losses, separate_losses
from dfs_edu.training.machine import device_name
from dfs_edu.training.trainer import pick_device

BATCHES = {"vgg7-64": 128, "resnet18": 64, "msdnet-cifar": 64}


def main() -> None:
    args = arguments(__doc__, BATCHES, rounds=3).parse_args()
    device = pick_device(args.device)
    for backbone in args.backbone:
        compare(backbone, args.batch or BATCHES.get(backbone, 32), args.rounds, device)


def compare(backbone: str, batch: int, rounds: int, device: torch.device) -> None:
    net, images, labels = prepared(backbone, batch, device)
    apart = np.nanmax(np.abs(naive(net, images, labels) - dfs.probes.conflict(net, images, labels).cosine))
    if apart > 1e-3:
        raise RuntimeError(f"{backbone}: the two ways differ by {apart:.2g} in a cosine")
    ways = {name: partial(way, net, images, labels) for name, way in WAYS.items()}
    seconds = dfs.probes.seconds(ways, rounds, warm_up=1, title=backbone)
    trunk = sum(p.numel() * p.element_size() for p in net.stages.parameters()) / MIB
    print(f"\n{backbone}, batch {batch}, fp32, {device_name(device)}, median of {rounds} rounds")
    there, K = [*net.parameters(), *net.buffers(), images, labels], len(net.stages)
    activations = taken(partial(forward, net, images, labels), there)
    print(f"two gradients of the trunk: {2 * trunk:.0f} MiB; a forward pass: {activations:.0f} MiB at most")
    print(f"{K} exits: {K * (K + 1) // 2} stage passes tell them apart")
    first = statistics.median(seconds["naive"])
    for name, values in seconds.items():
        beyond = taken(ways[name], there) - activations
        passes = stage_passes(WAYS[name], net, images, labels)
        median = statistics.median(values)
        print(
            f"{name:9} {median:7.3f} s, {first / median:.2f} times as fast, {passes:3} stage passes, "
            f"{beyond:6.1f} MiB beyond the forward pass"
        )


def stage_passes(way: Callable, net: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How often a backward pass brings a gradient to what a stage has made."""
    entered = []

    def watch(_stage, _inputs, feature) -> None:
        tensors = [feature] if isinstance(feature, Tensor) else feature
        register_multi_grad_hook(tensors, lambda _: entered.append(1), mode="any")  # once a pass

    hooks = [stage.register_forward_hook(watch) for stage in net.stages]
    way(net, images, labels)
    for hook in hooks:
        hook.remove()
    return len(entered)


def forward(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    net.train()
    return exit_losses(net(images), labels)


def naive(net: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Cosines (L, K, K)."""
    return _kept(net, forward(net, images, labels))


def truncated(net: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Cosines (L, K, K)."""
    net.train()
    return _kept(net, separate_losses(net(images), labels))


def _kept(net: nn.Module, losses: Iterable[Tensor]) -> np.ndarray:
    found = []
    for loss in losses:
        net.zero_grad()
        loss.backward(retain_graph=True)
        found.append([p.grad for p in net.stages.parameters()])
    net.zero_grad()
    place = {p: i for i, p in enumerate(net.stages.parameters())}
    layers = [list(m.parameters(recurse=False)) for m in net.stages.modules()]
    return np.stack([_cosines([[row[place[p]] for p in layer] for row in found]) for layer in layers if layer])


def _cosines(rows: list[list[Tensor | None]]) -> np.ndarray:
    reached = [k for k, row in enumerate(rows) if any(g is not None and g.any() for g in row)]
    cosine = np.full((len(rows), len(rows)), np.nan)
    if reached:
        matrix = torch.stack([torch.cat([g.flatten() for g in rows[k] if g is not None]) for k in reached]).double()
        unit = matrix / matrix.norm(dim=1, keepdim=True)
        cosine[np.ix_(reached, reached)] = (unit @ unit.T).cpu()
    return cosine


WAYS: dict[str, Callable] = {"naive": naive, "truncated": truncated, "probe": dfs.probes.conflict}


if __name__ == "__main__":
    main()
