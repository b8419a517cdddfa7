"""A training step of the engine against a plain loop of the same network: float32, eager, contiguous.

The engine's parts are added one by one, so that you see what each is worth: first those that change no numbers
(channels last, fused optimizer, our own backward pass for depthwise convolutions, memory that is kept). The variants
take turns.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable

import torch
from torch import nn

import dfs_edu as dfs
from benchmarks.turns import elsewhere, prepared
from dfs_edu.losses import Objective, exit_losses
from dfs_edu.splitgrad import Conv2d
from dfs_edu.training import heap
from dfs_edu.training.machine import device_name
from dfs_edu.training.optim import make_optimizer
from dfs_edu.training.trainer import bf16_pays, pick_device

BATCHES = {"vgg7-64": 128, "msdnet-cifar": 64, "resnet18": 64}
COMPILED = "... compiled"
# Groups of a profile: a part of a step, and a pattern in the names of its operations
PARTS = {
    "convolution": "convolution",
    "BatchNorm": "batch_norm",
    "ReLU": "threshold|clamp_min|relu",
    "pooling": "pool",
    "additions of gradients": "::add_?$",
    "casts and copies": "copy|cat|fill|zero",
    "optimizer": "fused|sgd",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", nargs="*", default=list(BATCHES))
    parser.add_argument("--batch", type=int, help="images per step (default: by network)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-compile", action="store_true", help="skip the compiled variant: it takes minutes")
    args = parser.parse_args()
    device = pick_device(args.device)
    for backbone in args.backbone:
        batch = args.batch or BATCHES.get(backbone, 64)
        steps = variants(backbone, batch, device, compiled=not args.no_compile)
        seconds = dfs.probes.seconds(steps, args.rounds, title=backbone)
        print(f"\n{backbone}, batch {batch}, {device_name(device)}, median of {args.rounds} rounds")
        plain = statistics.median(seconds["plain"])
        for name, values in seconds.items():
            median = statistics.median(values)
            print(f"{name:32} {1000 * median:8.1f} ms   {plain / median:5.2f} times as fast as plain")
        eager = [step for name, step in steps.items() if name not in ("plain", COMPILED)]
        parts = profiled(eager[-1])
        print("where the time goes, eager: " + ", ".join(f"{name} {part:.0%}" for name, part in parts.items()))


def variants(backbone: str, batch: int, device: torch.device, compiled: bool) -> dict[str, Callable[[], None]]:
    """Training steps by name: the plain loop, then the engine with more and more of its parts."""
    if device.type == "cpu":
        steps = {
            "plain": elsewhere(plain_step, backbone, batch, device)
        }  # a process whose memory settings are untouched
        heap.keep_freed()
    else:
        steps = {"plain": plain_step(backbone, batch, device)}
    steps["engine in fp32"] = engine_step(backbone, batch, device, bf16=False, compiled=False)
    if bf16_pays(device):
        steps["... in bf16"] = engine_step(backbone, batch, device, bf16=True, compiled=False)
    if compiled:
        steps[COMPILED] = engine_step(backbone, batch, device, bf16=bf16_pays(device), compiled=True)
    return steps


def profiled(step: Callable[[], None]) -> dict[str, float]:
    """Where a step's time goes, as fractions: PARTS, then the rest."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(3):
            step()
    spent = dict.fromkeys([*PARTS, "the rest"], 0.0)
    for event in profile.key_averages():
        part = next((part for part, names in PARTS.items() if re.search(names, event.key)), "the rest")
        spent[part] += event.self_device_time_total or event.self_cpu_time_total
    total = sum(spent.values())
    return {part: time / total for part, time in spent.items()}


def plain_step(backbone: str, batch: int, device: torch.device) -> Callable[[], None]:
    """A training step as a tutorial writes it."""
    net, images, labels = prepared(backbone, batch, device, memory_format=torch.contiguous_format)
    for module in net.modules():
        if type(module) is Conv2d:
            module.__class__ = nn.Conv2d  # torch's own: the backward pass of depthwise ones is part of the engine
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True, weight_decay=5e-4)

    def update() -> None:
        exit_losses(net(images), labels).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


def engine_step(backbone: str, batch: int, device: torch.device, bf16: bool, compiled: bool) -> Callable[[], None]:
    """A training step as in trainer.py."""
    net, images, labels = prepared(backbone, batch, device)
    objective = Objective(net)
    forward = torch.compile(objective) if compiled else objective
    optimizer = make_optimizer(objective.parameters(), dfs.recipes.get(f"cifar100/{backbone}", lr=0.01))

    def update() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            losses, _ = forward(images, labels)
        torch.stack(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


if __name__ == "__main__":
    main()
