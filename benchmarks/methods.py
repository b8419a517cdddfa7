"""A training step of each method against the plain sum of the losses: time, and memory.

Time: the methods take turns. Memory: the peak of all tensors that a step makes and that are alive together, beyond the
network, its optimizer's state and the batch. Gradient equilibrium is a junction, and is here for comparison. Methods
with a step of their own are left out; their files say what they cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

import dfs_edu as dfs
from benchmarks.turns import arguments, prepared, taken
from dfs_edu import methods
from dfs_edu.losses import separate_losses
from dfs_edu.methods.method import Method
from dfs_edu.surgery import Junction
from dfs_edu.training import heap
from dfs_edu.training.machine import device_name
from dfs_edu.training.trainer import bf16_pays, pick_device

BATCHES = {"vgg7-64": 64, "resnet18": 32, "msdnet-cifar": 32}


def main() -> None:
    args = arguments(__doc__, BATCHES, rounds=3).parse_args()
    device = pick_device(args.device)
    if device.type == "cpu":
        heap.keep_freed()  # as train() does
    for backbone in args.backbone:
        compare(backbone, args.batch or BATCHES.get(backbone, 32), args.rounds, device)


def compare(backbone: str, batch: int, rounds: int, device: torch.device) -> None:
    bf16 = bf16_pays(device)
    kinds = {name: methods.find(name) for name in methods.METHODS}
    plain = [name for name, kind in kinds.items() if kind and kind.step is Method.step]  # one update per step
    pairs: dict[str, tuple[str, Junction]] = {name: (name, dfs.Joint()) for name in plain}
    pairs["equilibrium"] = ("sum", dfs.Equilibrium())
    made = {name: make_step(backbone, batch, *pair, device, bf16) for name, pair in pairs.items()}
    steps = {name: step for name, (step, _) in made.items()}
    seconds = dfs.probes.seconds(steps, rounds, warm_up=1, title=backbone)
    precision = "bf16" if bf16 else "fp32"
    print(f"\n{backbone}, batch {batch}, {precision}, {device_name(device)}, median of {rounds} rounds")
    first, least = statistics.median(seconds["sum"]), taken(*made["sum"])
    for name, values in seconds.items():
        median, memory = statistics.median(values), taken(*made[name])
        times = f"time {median / first:5.2f}, memory {memory / least:5.2f}"
        print(f"{name:12} {1000 * median:8.1f} ms, {memory:6.0f} MiB   of the sum: {times}")


def make_step(
    backbone: str, batch: int, method: str, junction: Junction, device: torch.device, bf16: bool
) -> tuple[Callable[[], None], list[Tensor]]:
    """A training step on random images (forward, the method's backward, optimizer), and the tensors before it."""
    net, images, labels = prepared(backbone, batch, device, junction)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True)
    trunk, heads = list(net.stages.parameters()), list(net.heads.parameters())
    rule = methods.make(method, len(net.heads))
    rule.begin([list(stage.parameters()) for stage in net.stages])

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = net(images)
            losses = separate_losses(logits, labels)
        rule.backward(losses, trunk, heads)
        optimizer.step()
        optimizer.zero_grad()

    step()  # creates the optimizer's state
    return step, [images, labels, *net.state_dict().values(), *optimizer.state.values()]


if __name__ == "__main__":
    main()
