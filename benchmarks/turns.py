"""What benchmarks of a training step share: arguments, a network and a batch, a process apart, memory."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection

import torch
from torch import Tensor

import dfs_edu as dfs
from dfs_edu.backbones import pixels_of
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes.memory import LiveBytes
from dfs_edu.surgery import Joint, Junction

MIB = 2**20


def arguments(purpose: str, batches: Mapping[str, int], rounds: int) -> argparse.ArgumentParser:
    """A parser of which networks to run, with how many images per step, how often and where."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--backbone", nargs="*", default=list(batches))
    parser.add_argument("--batch", type=int, help="images per step (default: a few, by network)")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device", default="auto")
    return parser


def taken(way: Callable[[], object], existing: Iterable[Tensor]) -> float:
    """Peak MiB of the tensors that a call makes, beyond those that exist before."""
    with LiveBytes() as live:
        before = live.follow(list(existing))
        way()
    return (live.peak - before) / MIB


def prepared(
    backbone: str,
    batch: int,
    device: torch.device,
    junction: Junction = Joint(),
    memory_format: torch.memory_format = torch.channels_last,
) -> tuple[MultiExit, Tensor, Tensor]:
    """A network of 100 classes, random images and labels; the same ones every time."""
    torch.manual_seed(0)
    net = dfs.build(backbone, 100, junction).to(device).to(memory_format=memory_format)
    images = torch.randn(batch, 3, *[pixels_of(backbone)] * 2, device=device).contiguous(memory_format=memory_format)
    return net, images, torch.randint(100, (batch,), device=device)


def elsewhere(make_step: Callable, *args) -> Callable[[], None]:
    """Run a step in a process of its own, for settings of whole processes: make_step(*args) makes the step there."""
    context = multiprocessing.get_context("spawn")
    pipe, other_end = context.Pipe()
    context.Process(target=_serve, args=(other_end, make_step, args), daemon=True).start()
    other_end.close()  # so that the end of the process is noticed here
    pipe.recv()  # it is ready

    def step() -> None:
        pipe.send("go")
        pipe.recv()

    return step


def _serve(pipe: Connection, make_step: Callable, args: tuple) -> None:
    """The other process: one step per message."""
    step = make_step(*args)
    with suppress(EOFError):
        while True:
            pipe.send("done")
            pipe.recv()
            step()
