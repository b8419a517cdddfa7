"""A training step, joint and with surgery: time and operations.

Surgery is timed twice: as this package does it, and with ``detach`` and ``cat``, as it is usually written, which
computes the whole input gradient and throws a part away. On a GPU the package splits no gradients (splitgrad.py): only
the junction cuts, and no operations are saved. The variants take turns in one run, since the speed of a shared machine
drifts; the ratio of the medians is what counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

import dfs_edu as dfs
from benchmarks.turns import arguments, prepared
from dfs_edu.backbones import pixels_of
from dfs_edu.losses import exit_losses
from dfs_edu.surgery import Junction, channel_dim
from dfs_edu.training import heap
from dfs_edu.training.machine import device_name
from dfs_edu.training.trainer import bf16_pays, pick_device


@dataclass(frozen=True)
class CatAndDetach(Junction):
    """Surgery, exit gradient own, as it is usually written; every channel counts as live, so nothing is skipped."""

    beta: float = 0.5

    def on_scale(self, i: int, scales: int) -> Junction:
        return self if i == scales - 1 else dfs.Joint()

    def split(self, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dim = channel_dim(f)
        shared = round(f.shape[dim] * self.beta)
        a, b = f.split([shared, f.shape[dim] - shared], dim)
        return torch.cat([a, b.detach()], dim), torch.cat([a.detach(), b], dim)


VARIANTS = {
    "joint": dfs.Joint(),
    "surgery, cat and detach": CatAndDetach(),
    "surgery, as built here": dfs.Surgery(),
}
# The paper's networks, and images per step: few, so that all of them take minutes on two cores
BATCHES = {"vgg7-64": 64, "resnet18": 32, "msdnet-cifar": 32, "vit-tiny": 8, "msdnet-imagenet": 4, "vgg16-64": 2}


def main() -> None:
    args = arguments(__doc__, BATCHES, rounds=7).parse_args()
    device = pick_device(args.device)
    if device.type == "cpu":
        heap.keep_freed()  # as train() does
    for backbone in args.backbone:
        splits = device.type == "cpu"
        flops = {name: step_flops(backbone, j if splits else dfs.Joint()) for name, j in VARIANTS.items()}
        batch = args.batch or BATCHES.get(backbone, 32)
        for bf16 in (False, True) if bf16_pays(device) else (False,):
            precision = "bf16" if bf16 else "fp32"
            steps = {name: make_step(backbone, batch, junction, device, bf16) for name, junction in VARIANTS.items()}
            seconds = dfs.probes.seconds(steps, args.rounds, title=f"{backbone} {precision}")
            print(f"\n{backbone}, batch {batch}, {precision}, {device_name(device)}, median of {args.rounds} rounds")
            report(seconds, flops)


def report(seconds: Mapping[str, list[float]], flops: dict[str, np.ndarray]) -> None:
    """Print each variant's median time, and its time and FLOPs relative to joint training."""
    joint = statistics.median(seconds["joint"])
    for name, values in seconds.items():
        median, (step, backward) = statistics.median(values), flops[name] / flops["joint"]
        print(
            f"{name:26} {1000 * median:8.1f} ms   of joint: time {median / joint:.3f}, FLOPs of the step {step:.3f}, "
            f"backward {backward:.3f}"
        )


def make_step(backbone: str, batch: int, junction: Junction, device: torch.device, bf16: bool) -> Callable[[], None]:
    """A training step on random images: forward, backward, optimizer."""
    net, images, labels = prepared(backbone, batch, device, junction)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True)

    def update() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = net(images)
        exit_losses(logits, labels).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


@cache
def step_flops(backbone: str, junction: Junction) -> np.ndarray:
    """FLOPs per image of a training step: of the whole step, and of its backward pass."""
    with torch.device("meta"):
        net = dfs.build(backbone, 100, junction)
    cost = dfs.probes.cost(net, (3, pixels_of(backbone), pixels_of(backbone)))
    return np.array([cost.forward_flops + cost.backward_flops, cost.backward_flops])


if __name__ == "__main__":
    main()
