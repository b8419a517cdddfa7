"""How the exits' gradients disagree while a run is under way: after every epoch, and every so many steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu import data
from dfs_edu.probes import ConflictTracker, conflict, history, share_by_stage
from dfs_edu.training import events, health

if TYPE_CHECKING:
    from dfs_edu.training.trainer import Trainer

IMAGES = 64  # training images, the same every time, on which the exits' gradients are compared


class Watch:
    """Compares the exits' gradients on the same few training images each time.

    Args:
        dataset: its first training images are probed with.
        device: where the network is.
        autocast: makes the context in which training computes.
        every: compare after this many steps as well; None: only after epochs.
    """

    def __init__(
        self,
        dataset: data.Dataset,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        every: int | None = None,
    ):
        self.dataset, self.device, self.autocast = dataset, device, autocast
        self.tracker = None if every is None else ConflictTracker(*self.batch, every)

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The images and labels that are probed with, read when they are first needed."""
        first = self.dataset.train[:IMAGES]
        return next(iter(data.batches(first, self.dataset, len(first), device=self.device)))

    def after_epoch(self, network: nn.Module, trunk: Sequence[nn.Parameter]) -> dict[str, list[float | None]]:
        """How hard each exit pulls on the trunk, and how often it pulls against another one: two lists of K."""
        with self.probing(trunk):
            report = conflict(network, *self.batch)
        found = {"gradient_norm": report.exit_norm(), "conflict": report.exit_conflict()}
        return {name: [float(f"{v:.4g}") if np.isfinite(v) else None for v in values] for name, values in found.items()}

    def compare(self, trainer: Trainer) -> float:
        """Compare the exits if it is time to, for the record's "conflict". Returns the seconds that it took."""
        step = trainer.steps_taken
        if self.tracker is None or not self.tracker.due(step):
            return 0.0
        health.check_losses(trainer)  # waits for a GPU: the steps under way are training's
        began = time.monotonic()
        health.check_weights(trainer)
        with self.probing(trainer.trunk):
            found = self.tracker(step, trainer.network)
        seen = trainer.record.setdefault("conflict", {"layers": self.tracker.layers, "looks": []})
        seen["looks"].append(found)
        return time.monotonic() - began

    @contextmanager
    def probing(self, trunk: Sequence[nn.Parameter]) -> Iterator[None]:
        """Compute as in training, but without compiling anything for a few images.

        Parameters of the trunk that are frozen get gradients here, though no step follows.
        """
        needed = [p.requires_grad for p in trunk]
        for p in trunk:
            p.requires_grad_()
        try:
            with self.autocast(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for p, requires_grad in zip(trunk, needed, strict=True):
                p.requires_grad_(requires_grad)


def points(found: dict | None, since: int) -> list[events.Point]:
    """What `track` saw from a step on, for TensorBoard, of a record's "conflict".

    For each stage the share of pairs of exits in conflict and the mean cosine of all pairs, and each exit's length.
    """
    looks = [look for look in found["looks"] if look["step"] >= since] if found else []
    if not looks:
        return []
    curves, seen = [], history(looks)
    for t, shares in enumerate(share_by_stage(found | {"looks": looks})):
        step = looks[t]["step"]
        for s, share in enumerate(shares):
            cosines = seen["cosine"][t, s]
            curves.append((f"tracked_conflict/stage{s + 1}", step, share))
            cosines = cosines[~np.isnan(cosines)]
            curves.append((f"tracked_cosine/stage{s + 1}", step, cosines.mean() if len(cosines) else np.nan))
            lengths = enumerate(seen["norm"][t, s], start=1)
            curves += [(f"tracked_norm/stage{s + 1}_exit{k}", step, length) for k, length in lengths]
    return [(curve, step, None if np.isnan(value) else float(value)) for curve, step, value in curves]
