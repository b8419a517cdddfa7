"""Early exit at run time against the whole network: how much of the MACs that it saves comes back as time.

Thresholds are set so that chosen shares of the images leave at each exit; the variants take turns. At batch 1, and when
few images leave, launching operations and selecting images can cost more than early exit saves: that is shown, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import dfs_edu as dfs
from benchmarks.turns import prepared
from dfs_edu.backbones import pixels_of
from dfs_edu.inference import EarlyExit, Outputs, apply, fit_thresholds
from dfs_edu.modes import evaluating
from dfs_edu.training import heap
from dfs_edu.training.machine import device_name
from dfs_edu.training.trainer import pick_device

BACKBONES = ("vgg7-64", "resnet18", "msdnet-cifar")
CALLS = {1: 64, 32: 8, 256: 2}  # images per call, and calls per round
IMAGES = 512
WARM_UP = 2  # rounds that are not timed
LEAVE = {
    "none": 0.0,
    "a quarter": 0.25,
    "half": 0.5,
    "nearly all": 0.9,
}  # fraction of all images that leaves before the last exit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", nargs="*", default=list(BACKBONES))
    parser.add_argument("--batch", type=int, nargs="*", default=list(CALLS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="also with compiled stages, at batch 1: takes minutes")
    args = parser.parse_args()
    device = pick_device(args.device)
    if device.type == "cpu":
        heap.keep_freed()
    for backbone in args.backbone:
        for batch in args.batch:
            compare(backbone, batch, device, args.rounds, args.compile and batch == 1)


def compare(backbone: str, batch: int, device: torch.device, rounds: int, compiled: bool) -> None:
    net, images, _ = prepared(backbone, IMAGES, device)
    settle(net, images)
    macs = torch.as_tensor(dfs.probes.cost(net, (3, pixels_of(backbone), pixels_of(backbone))).macs).double()
    with evaluating(net):
        logits = torch.stack(net(images)).float().cpu()
    outputs = Outputs.of(logits, logits[0].argmax(1), "validation")  # the labels do not matter
    batches = images[: CALLS.get(batch, 3) * batch].split(batch)

    def whole(part: Tensor) -> None:
        with evaluating(net):
            net(part)

    ways: dict[str, Callable[[Tensor], object]] = {"whole network": whole}
    ratios = {"whole network": 1.0}
    for name, early in LEAVE.items():
        K = len(macs)
        share = torch.tensor([early / (K - 1)] * (K - 1) + [1 - early], dtype=torch.float64)
        thresholds = fit_thresholds(outputs, share)
        exits = apply(outputs, thresholds, macs).exit[: len(batches) * batch]
        for suffix in ("", ", compiled")[: 1 + compiled]:
            ways[f"{name} leave early{suffix}"] = EarlyExit(net, thresholds, compile=bool(suffix))
            ratios[f"{name} leave early{suffix}"] = (macs[-1] / macs[exits].mean()).item()
    calls = {name: Calls(way, batches, device) for name, way in ways.items()}
    dfs.probes.seconds(calls, rounds, WARM_UP, f"{backbone}, batch {batch}")
    print(f"\n{backbone}, batch {batch}, {device_name(device)}, {rounds} rounds of {len(batches)} calls")
    report({name: call.seconds[WARM_UP:] for name, call in calls.items()}, ratios)


class Calls:
    """One round of a variant: one call per batch. ``seconds`` lists those of every call, round by round."""

    def __init__(self, way: Callable[[Tensor], object], batches: Sequence[Tensor], device: torch.device):
        self.way, self.batches, self.device, self.seconds = way, batches, device, []

    def __call__(self) -> None:
        times = []
        for part in self.batches:
            start = time.perf_counter()
            self.way(part)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - start)
        self.seconds.append(times)


def settle(net: nn.Module, images: Tensor) -> None:
    """Set BatchNorm's statistics to those of these images, so that the exits' answers differ."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
    net.eval()


def report(seconds: dict[str, list[list[float]]], ratios: dict[str, float]) -> None:
    """Print times per call, speed-ups, and the speed-ups that the MACs promise."""
    rounds = {name: statistics.median(map(statistics.mean, times)) for name, times in seconds.items()}
    for name, mean in rounds.items():
        p50, p95 = torch.tensor(seconds[name]).flatten().quantile(torch.tensor([0.5, 0.95])).tolist()
        speed = rounds["whole network"] / mean
        print(
            f"{name:34} {1000 * mean:8.2f} ms per call (p50 {1000 * p50:.2f}, p95 {1000 * p95:.2f}), "
            f"{speed:5.2f} times as fast, {ratios[name]:5.2f} by MACs: {speed / ratios[name]:4.0%} of it"
        )


if __name__ == "__main__":
    main()
