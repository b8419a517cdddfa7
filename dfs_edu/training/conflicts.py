"""How the exits' gradients disagree during a run: after every epoch, and every few steps if asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu import data
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import ConflictTracker, conflict, history, share_by_stage
from dfs_edu.training import events, health

if TYPE_CHECKING:
    from dfs_edu.training.trainer import Trainer

IMAGES = 64  # training images, the same every time, on which the exits' gradients are compared


class Watch:
    """Compares the exits' gradients on the same few training images each time.

    Args:
        dataset: Its first training images are used.
        device: Where the network is.
        autocast: Makes the context in which training computes.
        every: Number of steps after which to compare as well; None: only after epochs.
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
        """The images and labels, read when they are first needed."""
        first = self.dataset.train[:IMAGES]
        return next(iter(data.batches(first, self.dataset, len(first), device=self.device)))

    def after_epoch(self, network: MultiExit, trunk: Sequence[nn.Parameter]) -> dict[str, list[float | None]]:
        """Measure how hard each exit pulls on the trunk, and how often against another exit.

        Returns:
            "gradient_norm" and "conflict" (a fraction), K values each.
        """
        with self.probing(trunk):
            report = conflict(network, *self.batch)
        pulls = {"gradient_norm": report.exit_norm(), "conflict": report.exit_conflict()}
        return {name: [float(f"{v:.4g}") if np.isfinite(v) else None for v in values] for name, values in pulls.items()}

    def compare(self, trainer: Trainer) -> float:
        """Take a snapshot for the record's "conflict", if one is due.

        Returns:
            The seconds that it took.
        """
        step = trainer.steps_taken
        if self.tracker is None or not self.tracker.due(step):
            return 0.0
        health.check_losses(trainer)  # waits for a GPU: the time of the steps under way is training's
        began = time.monotonic()
        health.check_weights(trainer)
        with self.probing(trainer.trunk):
            snapshot = self.tracker(step, trainer.network)
        tracked = trainer.record.setdefault("conflict", {"layers": self.tracker.layers, "looks": []})
        tracked["looks"].append(snapshot)
        return time.monotonic() - began

    @contextmanager
    def probing(self, trunk: Sequence[nn.Parameter]) -> Generator[None]:
        """Compute as in training, but without compiling anything for a few images.

        Frozen parameters of the trunk get gradients here, though no step follows.
        """
        needs_grad = [p.requires_grad for p in trunk]
        for p in trunk:
            p.requires_grad_()
        try:
            with self.autocast(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for p, needed in zip(trunk, needs_grad, strict=True):
                p.requires_grad_(needed)


def points(tracked: dict[str, Any] | None, since: int) -> list[events.Point]:
    """Return what ``track`` measured from a step onwards, for TensorBoard.

    Args:
        tracked: A record's "conflict", if it has one.
        since: The first step.

    Returns:
        For each stage the share of pairs of exits in conflict, the mean cosine of all pairs, and the norm of the
        gradient of each exit.
    """
    if not tracked or not (snapshots := [look for look in tracked["looks"] if look["step"] >= since]):
        return []
    curves, measured = [], history(snapshots)
    for t, shares in enumerate(share_by_stage(tracked | {"looks": snapshots})):
        step = snapshots[t]["step"]
        for s, share in enumerate(shares):
            cosines = measured["cosine"][t, s]
            cosines = cosines[~np.isnan(cosines)]
            curves.append((f"tracked_conflict/stage{s + 1}", step, share))
            curves.append((f"tracked_cosine/stage{s + 1}", step, cosines.mean() if len(cosines) else np.nan))
            norms = enumerate(measured["norm"][t, s], start=1)
            curves += [(f"tracked_norm/stage{s + 1}_exit{k}", step, norm) for k, norm in norms]
    return [(curve, step, None if np.isnan(value) else float(value)) for curve, step, value in curves]
