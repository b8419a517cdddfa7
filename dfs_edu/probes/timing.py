"""How long calls take, compared with each other, on a machine that is not idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping

import torch
from tqdm import tqdm


def seconds(
    ways: Mapping[Hashable, Callable[[], object]], rounds: int = 5, warm_up: int = 2, title: str | None = None
) -> dict[Hashable, list[float]]:
    """Time calls: name -> seconds of each of its calls, one per round. Compare medians, and quote ratios.

    The variants take turns, so that other work on the machine slows all of them; each call waits for the GPU to finish.

    Args:
        ways: name -> the function to call.
        rounds: measured calls of each.
        warm_up: calls of each beforehand that are not measured: the first ones fill caches and choose kernels.
        title: of a progress bar; None: no bar.
    """
    for way in ways.values():
        for _ in range(warm_up):
            way()
    _wait()
    measured: dict[Hashable, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), desc=title, disable=title is None):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            _wait()
            measured[name].append(time.perf_counter() - start)
    return measured


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
