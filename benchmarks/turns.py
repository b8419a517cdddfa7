"""What benchmarks of a training step share: pictures to train on, and contestants that take turns."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from tqdm import tqdm

import dfs_edu as dfs
from dfs_edu.backbones import pixels_of
from dfs_edu.surgery import Joint, Junction


def prepared(
    backbone: str,
    batch: int,
    device: torch.device,
    junction: Junction = Joint(),
    memory_format: torch.memory_format = torch.channels_last,
) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of 100 classes, random pictures and labels; the same ones every time."""
    torch.manual_seed(0)
    net = dfs.build(backbone, 100, junction).to(device, memory_format=memory_format)
    images = torch.randn(batch, 3, *[pixels_of(backbone)] * 2, device=device).contiguous(memory_format=memory_format)
    return net, images, torch.randint(100, (batch,), device=device)


def warm(update: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A step that waits until the device is done; it has been taken twice."""

    def step() -> None:
        update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(2):
        step()
    return step


def elsewhere(contestant: Callable, *args) -> Callable[[], None]:
    """A step taken by a process of its own, for what is set for a whole process: contestant(*args) makes the step."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there, contestant, args), daemon=True).start()
    there.close()  # so that the end of the process is noticed here
    here.recv()  # it is warm

    def step() -> None:
        here.send("go")
        here.recv()

    return step


def _serve(pipe, contestant: Callable, args: tuple) -> None:
    step = contestant(*args)
    with suppress(EOFError):
        while True:
            pipe.send("done")
            pipe.recv()
            step()


def measure(steps: dict[str, Callable[[], None]], rounds: int, title: str = "") -> dict[str, list[float]]:
    """Seconds of a step of each contestant, round by round."""
    seconds = {name: [] for name in steps}
    for _ in tqdm(range(rounds), desc=title):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds
