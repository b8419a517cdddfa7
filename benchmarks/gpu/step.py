"""Part 2: a training step of the networks that use a GPU badly, with more and more of what should help.

Each variant takes turns with the plain loop, so that a variant alone can be measured again, and kept as soon as it is
done. FLOPs are those of a joint step, as `probes.cost` counts them.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dfs_edu as dfs
from benchmarks.augment import synchronise
from benchmarks.engine import plain_step
from benchmarks.gpu.graphs import captured
from benchmarks.gpu.kept import Kept
from benchmarks.step import step_flops
from benchmarks.turns import prepared
from dfs_edu.losses import Objective
from dfs_edu.training.optim import make_optimizer

BATCHES = {"msdnet-cifar": 256, "resnet18": 256}
SMOKE = {"vgg7-2": 4}
ROUNDS, WARM_UP = 21, 5
BESIDE = (2, 4, 8)  # runs side by side on one GPU
BACKEND = "inductor"


@dataclass(frozen=True)
class Variant:
    """How a step is computed.

    Attributes:
        bf16: In autocast.
        compiled: "stages" one by one, the "whole" objective, or as "graphs" the whole with CUDA graphs
            (mode reduce-overhead).
        captured: Record the whole step, optimizer and all, as one CUDA graph.
    """

    bf16: bool = True
    compiled: str | None = None
    captured: bool = False

    @property
    def needs_gpu(self) -> bool:
        return self.captured or self.compiled == "graphs"


VARIANTS = {
    "channels last": Variant(bf16=False),
    "bf16": Variant(),
    "bf16, stages compiled": Variant(compiled="stages"),
    "bf16, compiled": Variant(compiled="whole"),
    "bf16, compiled with CUDA graphs": Variant(compiled="graphs"),
    "bf16, step captured as a CUDA graph": Variant(captured=True),
}


def flops(smoke: bool) -> dict[str, float]:
    """FLOPs of the part, by network: every call of every variant, and the plain loop beside it."""
    steps = 2 * (ROUNDS + WARM_UP) * len(VARIANTS) + sum(count * (ROUNDS + WARM_UP) for count in BESIDE)
    return {name: steps * batch * float(step_flops(name, dfs.Joint())[0]) for name, batch in _networks(smoke).items()}


def run(out: Path, smoke: bool, device: torch.device) -> None:
    """Measure what is missing in step.json."""
    kept = Kept(out / "step.json", device)
    rounds, backend = (1, "eager") if smoke else (ROUNDS, BACKEND)
    for backbone, batch in _networks(smoke).items():
        work = batch * float(step_flops(backbone, dfs.Joint())[0])
        for name, variant in VARIANTS.items():
            row = f"{backbone}, {name}"
            if variant.needs_gpu and device.type != "cuda":
                print(f"{row}: skipped, it needs a GPU")
            elif row not in kept:
                ways = {
                    "plain": plain_step(backbone, batch, device),
                    row: make(backbone, batch, device, variant, backend),
                }
                seconds = dfs.probes.seconds(ways, rounds, 1 if smoke else WARM_UP)
                plain, median = (statistics.median(seconds[way]) for way in ways)
                values = _values(median, batch, work) | {"plain ms": 1000 * plain, "times as fast": plain / median}
                kept.add(row, "bf16" if variant.bf16 else "fp32", **values)
                torch.compiler.reset()  # the next variant has its graphs, and its memory, for itself
        for count in BESIDE[:1] if smoke else BESIDE:
            row = f"{backbone}, bf16, {count} runs side by side"
            if row not in kept:
                seconds = side_by_side(count, backbone, batch, device, rounds)
                kept.add(row, "bf16", count, **_values(seconds, count * batch, count * work))


def _networks(smoke: bool) -> dict[str, int]:
    return SMOKE if smoke else BATCHES


def _values(seconds: float, images: int, work: float) -> dict[str, float]:
    return {"ms": 1000 * seconds, "images per second": images / seconds, "TFLOP/s": work / seconds / 1e12}


def make(backbone: str, batch: int, device: torch.device, variant: Variant, backend: str) -> Callable[[], Any]:
    """Return a training step, with the parts of the trainer's (channels last, fused optimizer)."""
    net, images, labels = prepared(backbone, batch, device)
    objective = forward = Objective(net)
    if variant.compiled == "stages":
        for module in (*net.stages, *net.heads):
            module.compile(isolate_recompiles=True, backend=backend)
    elif variant.compiled:
        mode = {"mode": "reduce-overhead"} if variant.compiled == "graphs" else {"backend": backend}
        forward = torch.compile(objective, **mode)
    optimizer = make_optimizer(objective.parameters(), dfs.recipes.get("cifar100/vgg7-64", lr=0.01))

    def update() -> None:
        # A cast that was kept outside the graph would be gone when it is replayed
        cache = not variant.captured
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.bf16, cache_enabled=cache):
            losses, _ = forward(images, labels)
        torch.stack(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return captured(update) if variant.captured else update


def side_by_side(count: int, backbone: str, batch: int, device: torch.device, rounds: int) -> float:
    """Return the seconds per step of several processes that train at the same time, each a network of its own."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, _begin, (barrier,)) as pool:
        calls = [pool.submit(_steps, backbone, batch, device, rounds) for _ in range(count)]
        return max(call.result() for call in calls)


def _begin(barrier: Any) -> None:
    global _together
    _together = barrier
    torch.set_num_threads(1)


def _steps(backbone: str, batch: int, device: torch.device, rounds: int) -> float:
    step = make(backbone, batch, device, Variant(), BACKEND)
    for _ in range(WARM_UP if rounds > 1 else 1):
        step()
    synchronise(device)
    _together.wait(timeout=600)
    start = time.perf_counter()
    for _ in range(rounds):
        step()
    synchronise(device)
    return (time.perf_counter() - start) / rounds
