"""Part 5: early exit whose batches shrink, with every stage a CUDA graph.

A graph has one size. So each stage is captured at a few sizes, powers of two, and the images that go on are copied into
the smallest one that holds them; the rest of it is computed for nothing. What is measured is whether launching one
graph instead of some dozens of kernels is worth that.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import dfs_edu as dfs
from benchmarks.early_exit import settle
from benchmarks.gpu.graphs import captured
from benchmarks.gpu.kept import Kept
from benchmarks.turns import prepared
from dfs_edu.backbones import pixels_of
from dfs_edu.inference import EarlyExit, Outputs, apply, fit_thresholds
from dfs_edu.modes import evaluating
from dfs_edu.multiexit import MultiExit
from dfs_edu.surgery import State

BACKBONES = ("vgg7-64", "resnet18", "msdnet-cifar")
SMOKE = ("vgg7-4",)
BATCHES = (1, 32, 256)
ROUNDS, WARM_UP, CALLS = 11, 3, 8
IMAGES = 512  # at most, per round
LEAVE = {"a quarter": 0.25, "half": 0.5, "nearly all": 0.9}  # fraction that leaves before the last exit


def flops(smoke: bool) -> dict[str, float]:
    """FLOPs of the part, by network, as if no image left early: whole, eager and captured, for each setting."""
    images = sum(min(IMAGES, CALLS * batch) for batch in BATCHES) * (ROUNDS + WARM_UP) * 3 * len(LEAVE)
    return {name: 2.0 * images * float(_macs(name)[-1]) for name in (SMOKE if smoke else BACKBONES)}


def _macs(backbone: str) -> Tensor:
    with torch.device("meta"):
        net = dfs.build(backbone, 100)
    return torch.from_numpy(dfs.probes.cost(net, (3, *[pixels_of(backbone)] * 2)).macs).double()


def run(out: Path, smoke: bool, device: torch.device) -> None:
    """Measure what is missing in exits.json."""
    kept = Kept(out / "exits.json", device)
    for backbone in SMOKE if smoke else BACKBONES:
        for batch in BATCHES[:2] if smoke else BATCHES:
            for name, early in LEAVE.items():
                row = f"{backbone}, batch {batch}, {name} leave early"
                if row not in kept:
                    kept.add(row, **compare(backbone, batch, early, device, 1 if smoke else ROUNDS))
    if device.type != "cuda":
        print("exits: CUDA graphs are skipped, they need a GPU; stages were called one by one")


def compare(backbone: str, batch: int, early: float, device: torch.device, rounds: int) -> dict[str, float]:
    """Return milliseconds per call of the whole network, of `EarlyExit` and of `GraphedExit`, and how they agree."""
    net, images, _ = prepared(backbone, IMAGES if rounds > 1 else 64, device)
    settle(net, images)
    with evaluating(net):
        logits = torch.stack(net(images)).float().cpu()
    K = len(net.heads)
    share = torch.tensor([early / (K - 1)] * (K - 1) + [1 - early], dtype=torch.float64)
    outputs = Outputs.of(logits, logits[0].argmax(1), "validation")  # the labels do not matter
    thresholds = fit_thresholds(outputs, share)
    parts = images[: CALLS * batch].split(batch)

    def whole(part: Tensor) -> None:
        with evaluating(net):
            net(part)

    eager, graphed = EarlyExit(net, thresholds), GraphedExit(net, thresholds, parts[0])
    agree = [a == b for part in parts for a, b in zip(eager(part)[1].tolist(), graphed(part)[1].tolist(), strict=True)]
    ways = {"whole ms": whole, "early exit ms": eager, "early exit, graphs ms": graphed}
    calls = {name: _over(way, parts) for name, way in ways.items()}
    seconds = dfs.probes.seconds(calls, rounds, WARM_UP if rounds > 1 else 1)
    macs = _macs(backbone)
    exits = apply(outputs, thresholds, macs).exit[: len(agree)]
    times = {name: 1000 * statistics.median(values) / len(parts) for name, values in seconds.items()}
    return times | {"by MACs": (macs[-1] / macs[exits].mean()).item(), "same exit": sum(agree) / len(agree)}


def _over(way: Callable[[Tensor], object], parts: Sequence[Tensor]) -> Callable[[], None]:
    def call() -> None:
        for part in parts:
            way(part)

    return call


class GraphedExit:
    """Early exit by confidence, as `EarlyExit`, with a graph of each stage and its head at a few sizes of batch.

    Calling it with images (B, ...), at most as many as the example, returns labels (B,) and exits (B,). Its graphs read
    the weights where they are now. On a CPU, stages are called instead.

    Args:
        net: The network, in eval mode.
        thresholds: K numbers; an image leaves at the first exit whose confidence reaches its number.
        example: The largest batch.
    """

    def __init__(self, net: MultiExit, thresholds: Sequence[float] | Tensor, example: Tensor):
        self.thresholds = torch.as_tensor(thresholds).tolist()
        most = len(example)
        self.sizes = sorted({min(2**power, most) for power in range(most.bit_length() + 1)})
        self.stages: list[dict[int, Stage]] = []
        with evaluating(net):
            for k in range(len(net.heads)):
                inputs = {size: example[:size] if k == 0 else self.stages[-1][size].onward for size in self.sizes}
                self.stages.append({size: Stage(net, k, state) for size, state in inputs.items()})

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.empty(len(images), dtype=torch.int64, device=images.device)
        exits = torch.empty_like(labels)
        active = torch.arange(len(images), device=images.device)  # images that are still in the network
        state, staying = images, active  # what the next stage reads, and which rows of it
        for k, threshold in enumerate(self.thresholds):
            stage = self.stages[k][next(size for size in self.sizes if size >= len(staying))]
            state, confidence, prediction = stage(state, staying)
            labels[active], exits[active] = prediction[: len(active)], k
            staying = (~(confidence[: len(active)] >= threshold)).nonzero()[:, 0]  # the one wait for the GPU
            if k == len(self.thresholds) - 1 or not len(staying):
                break
            active = active[staying]
        return labels, exits


class Stage:
    """A stage and its head at one size of batch.

    Attributes:
        state: What it reads; (size, ...), or a list of such.
        onward: What the next stage reads.
        confidence: (size,).
        prediction: (size,).
    """

    def __init__(self, net: MultiExit, k: int, example: State):
        self.state = [t.clone() for t in _tensors(example)]
        single = isinstance(example, Tensor)
        stage, junction, head = net.stages[k], net.junctions[k], net.heads[k]

        def compute() -> None:
            onward, seen = junction(stage(self.state[0] if single else self.state))
            self.onward = onward
            self.confidence, self.prediction = head(seen).softmax(1).max(1)

        compute()
        self.replay = captured(compute) if self.state[0].is_cuda else compute

    def __call__(self, state: State, rows: Tensor) -> tuple[State, Tensor, Tensor]:
        """Compute the given rows of a state; what comes out stays until the next call."""
        for own, other in zip(self.state, _tensors(state), strict=True):
            own[: len(rows)] = other[rows]
        self.replay()
        return self.onward, self.confidence, self.prediction


def _tensors(state: State) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(state)
