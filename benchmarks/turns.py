"""What benchmarks of a training step share: arguments, pictures to train on, contestants that take turns, memory."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

import dfs_edu as dfs
from dfs_edu.backbones import pixels_of
from dfs_edu.probes.memory import LiveBytes
from dfs_edu.surgery import Joint, Junction

MIB = 2**20


def arguments(purpose: str, batches: Mapping[str, int], rounds: int) -> argparse.ArgumentParser:
    """Which networks, of how many pictures a step, how often and where."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--backbone", nargs="*", default=list(batches))
    parser.add_argument("--batch", type=int, help="pictures a step (default: a few, by network)")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device", default="auto")
    return parser


def taken(way: Callable[[], object], there: Iterable[Tensor]) -> float:
    """MiB of the tensors made by a call that are alive at most, beyond those that are there before."""
    with LiveBytes() as live:
        before = live.follow(list(there))
        way()
    return (live.peak - before) / MIB


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


def elsewhere(contestant: Callable, *args) -> Callable[[], None]:
    """A step taken by a process of its own, for what is set for a whole process: contestant(*args) makes the step."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there, contestant, args), daemon=True).start()
    there.close()  # so that the end of the process is noticed here
    here.recv()  # it is there

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
