"""What a call takes, against another one, on a machine that others use too."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping

import torch
from tqdm import tqdm


def seconds(
    ways: Mapping[Hashable, Callable[[], object]], rounds: int = 5, warm_up: int = 2, title: str | None = None
) -> dict[Hashable, list[float]]:
    """Seconds of a call of each way, `rounds` of them: compare medians, and quote ratios.

    warm_up   calls of each way beforehand, not counted: the first ones fill caches and choose kernels
    title     of a progress bar; None: no bar

    The ways take turns, so that a machine that is busy now and then is so for all of them, and a GPU is waited for.
    """
    for way in ways.values():
        for _ in range(warm_up):
            way()
    _wait()
    found = {name: [] for name in ways}
    for _ in tqdm(range(rounds), desc=title, disable=title is None):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            _wait()
            found[name].append(time.perf_counter() - start)
    return found


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
