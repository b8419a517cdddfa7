"""The conflict probe against the usual implementations: K backward passes, all K gradients kept and compared.

naive       each loss is taken out of one stacked tensor: every pass goes through all stages, with zeros beyond its exit
truncated   each loss is a tensor of its own, so that autograd starts at its exit; all gradients are kept
probe       all exits in step, stage by stage; only the gradients of one stage are kept

Time: the variants take turns. Stage passes: counted, one whenever a backward pass enters a stage; distinguishing the
exits takes at least K (K + 1) / 2. Memory: the peak of all tensors that a variant makes and that are alive together.
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
from dfs_edu.multiexit import MultiExit, State
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
    gap = np.nanmax(np.abs(naive(net, images, labels) - dfs.probes.conflict(net, images, labels).cosine))
    if gap > 1e-3:
        raise RuntimeError(f"{backbone}: the two differ by {gap:.2g} in a cosine")
    ways = {name: partial(way, net, images, labels) for name, way in WAYS.items()}
    seconds = dfs.probes.seconds(ways, rounds, warm_up=1, title=backbone)
    trunk = sum(p.numel() * p.element_size() for p in net.stages.parameters()) / MIB
    print(f"\n{backbone}, batch {batch}, fp32, {device_name(device)}, median of {rounds} rounds")
    existing, K = [*net.parameters(), *net.buffers(), images, labels], len(net.stages)
    activations = taken(partial(forward, net, images, labels), existing)
    print(f"two gradients of the trunk: {2 * trunk:.0f} MiB; a forward pass: {activations:.0f} MiB at most")
    print(f"{K} exits: at least {K * (K + 1) // 2} stage passes")
    first = statistics.median(seconds["naive"])
    for name, values in seconds.items():
        beyond = taken(ways[name], existing) - activations
        passes = stage_passes(WAYS[name], net, images, labels)
        median = statistics.median(values)
        print(
            f"{name:9} {median:7.3f} s, {first / median:.2f} times as fast, {passes:3} stage passes, "
            f"{beyond:6.1f} MiB beyond the forward pass"
        )


def stage_passes(way: Callable, net: MultiExit, images: Tensor, labels: Tensor) -> int:
    """How often a backward pass brings a gradient to the output of a stage."""
    entered = []

    def watch(_stage: nn.Module, _inputs: tuple, feature: State) -> None:
        tensors = [feature] if isinstance(feature, Tensor) else feature
        register_multi_grad_hook(tensors, lambda _: entered.append(1), mode="any")  # once per pass

    hooks = [stage.register_forward_hook(watch) for stage in net.stages]
    way(net, images, labels)
    for hook in hooks:
        hook.remove()
    return len(entered)


def forward(net: MultiExit, images: Tensor, labels: Tensor) -> Tensor:
    """Losses (K,)."""
    net.train()
    return exit_losses(net(images), labels)


def naive(net: MultiExit, images: Tensor, labels: Tensor) -> np.ndarray:
    """Cosines (L, K, K)."""
    return _kept(net, forward(net, images, labels))


def truncated(net: MultiExit, images: Tensor, labels: Tensor) -> np.ndarray:
    """Cosines (L, K, K)."""
    net.train()
    return _kept(net, separate_losses(net(images), labels))


def _kept(net: MultiExit, losses: Iterable[Tensor]) -> np.ndarray:
    """Cosines (L, K, K) from K whole gradients, kept together."""
    gradients = []
    for loss in losses:
        net.zero_grad()
        loss.backward(retain_graph=True)
        gradients.append([p.grad for p in net.stages.parameters()])
    net.zero_grad()
    place = {p: i for i, p in enumerate(net.stages.parameters())}
    layers = [list(m.parameters(recurse=False)) for m in net.stages.modules()]
    return np.stack([_cosines([[row[place[p]] for p in layer] for row in gradients]) for layer in layers if layer])


def _cosines(rows: list[list[Tensor | None]]) -> np.ndarray:
    """Cosines (K, K) of one layer's gradients, NaN where an exit does not reach it."""
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
