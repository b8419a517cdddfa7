"""Modes that a call switches for a while: training or evaluation, with or without gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from itertools import chain
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def evaluating(net: nn.Module) -> Generator[None, None, None]:
    """Put the network in eval mode, without gradients; afterwards every module is in the mode that it was in."""
    in_training = [module for module in net.modules() if module.training]
    if in_training:  # early exit enters here for every batch: a network already in eval mode costs nothing
        net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in in_training:
            module.training = True


@contextmanager
def as_found(net: nn.Module) -> Generator[None, None, None]:
    """Afterwards restore the network's modes and buffers and torch's random state, whatever happened inside.

    The random state is the CPU's and, if the network is on a CUDA device, that device's.
    """
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(m, name, b, b.clone()) for m in net.modules() for name, b in m.named_buffers(recurse=False)]
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    setattr(module, name, buffer.copy_(value))


def in_any_mode(probe: Callable[P, R]) -> Callable[P, R]:
    """Decorate a probe so that it answers the same under ``torch.inference_mode()`` or ``no_grad()`` as outside.

    It runs outside both. Tensors and networks that were made under inference mode cannot take part in gradients, so the
    probe gets copies of them.
    """

    @wraps(probe)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            args, kwargs = tree_map(_usable, (args, kwargs))
            return probe(*args, **kwargs)

    return run


def _usable(value):
    """The value, or a copy if it is a tensor or network that was made under inference mode."""
    if isinstance(value, Tensor) and value.is_inference():
        return value.clone()
    if isinstance(value, nn.Module) and any(t.is_inference() for t in chain(value.parameters(), value.buffers())):
        return copy.deepcopy(value)
    return value
