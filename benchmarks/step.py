"""A training step, joint and with surgery: time and operations.

Surgery is timed twice: with split gradients, as this package does it, and as `detach` and `cat`, as it is usually
written, which computes the whole input gradient and throws a part away. The contestants take turns in one run, since
the speed of a shared machine drifts; what counts is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

import dfs_edu as dfs
from dfs_edu.losses import exit_losses
from dfs_edu.surgery import Junction
from dfs_edu.train import bf16_pays, pick_device


@dataclass(frozen=True)
class CatAndDetach(Junction):
    """Surgery, exit gradient own, as it is usually written; every channel counts as live, so nothing is skipped."""

    beta: float = 0.5

    def split(self, f):
        shared = round(f.shape[1] * self.beta)
        a, b = f[:, :shared], f[:, shared:]
        return torch.cat([a, b.detach()], 1), torch.cat([a.detach(), b], 1)


CONTESTANTS = {
    "joint": dfs.Joint(),
    "surgery, cat and detach": CatAndDetach(),
    "surgery, split gradients": dfs.Surgery(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vgg7-64")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    for bf16 in (False, True) if bf16_pays(device) else (False,):
        seconds = measure(args.backbone, args.batch, args.rounds, device, bf16)
        precision = "bf16" if bf16 else "fp32"
        print(f"\n{args.backbone}, batch {args.batch}, {precision}, {device}, median of {args.rounds} rounds")
        joint = statistics.median(seconds["joint"])
        flops = {name: step_flops(args.backbone, junction) for name, junction in CONTESTANTS.items()}
        for name, values in seconds.items():
            median, ratio = statistics.median(values), flops[name] / flops["joint"]
            print(f"{name:26} {1000 * median:8.1f} ms   time {median / joint:.3f}   operations {ratio:.3f} of joint")


def measure(backbone: str, batch: int, rounds: int, device: torch.device, bf16: bool) -> dict[str, list[float]]:
    """Seconds of a step of each contestant, round by round."""
    steps = {name: make_step(backbone, batch, junction, device, bf16) for name, junction in CONTESTANTS.items()}
    seconds = {name: [] for name in steps}
    for _ in tqdm(range(rounds), desc="bf16" if bf16 else "fp32"):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def make_step(backbone: str, batch: int, junction: Junction, device: torch.device, bf16: bool):
    """A warm training step on random pictures: forward, backward, optimizer."""
    torch.manual_seed(0)
    net = dfs.build(backbone, 100, junction).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True)
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(100, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = net(images)
        exit_losses(logits, labels).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):
        step()
    return step


def step_flops(backbone: str, junction: Junction) -> int:
    cost = dfs.probes.cost(dfs.build(backbone, 100, junction))
    return cost.forward_flops + cost.backward_flops
