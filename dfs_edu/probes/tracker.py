"""Conflict through training: the same images, probed at regular intervals."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dfs_edu.multiexit import MultiExit
from dfs_edu.probes.checks import check_count
from dfs_edu.probes.cosines import conflict
from dfs_edu.values import plain

DIGITS = 3  # significant ones, of what is recorded


class ConflictTracker:
    """Compares the gradients of one batch before the first step, and then every few steps. Call it after every step.

    A snapshot is a dict of plain values for a record: "step"; "cosine" (K stages, K(K-1)/2 pairs) and "norm" (K stages,
    K exits) of the stages' gradients, as in ``Conflict.by_stage``, with pairs as in ``Conflict.pairs``; "conflicting"
    (L), the share of conflicting pairs in each layer; None where an exit does not reach. Read them with ``history``.

    Args:
        images: of the batch, always the same: only the network changes.
        labels: of the batch.
        every: steps from one snapshot to the next.

    Raises:
        ValueError: for ``every`` below 1.
    """

    def __init__(self, images: Tensor, labels: Tensor, every: int):
        check_count(every=every)
        self.images, self.labels, self.every = images, labels, every
        self.layers: list[str] = []  # of "conflicting", known from the first snapshot onwards

    def due(self, step: int) -> bool:
        """Whether a snapshot is due after this step."""
        return step % self.every == 0

    def __call__(self, step: int, net: MultiExit) -> dict | None:
        """Return the snapshot after this step, or None if none is due."""
        if not self.due(step):
            return None
        report = conflict(net, self.images, self.labels)
        self.layers = report.layers
        stages = report.by_stage()
        arrays = {"cosine": stages.pairs(), "norm": stages.norm, "conflicting": report.conflicting()}
        return {"step": step} | plain(arrays, DIGITS)


def history(snapshots: list[dict]) -> dict[str, np.ndarray]:
    """Return snapshots as arrays, NaN for None: step (T,), cosine (T, K, pairs), norm (T, K, K), conflicting (T, L)."""
    return {name: np.array([s[name] for s in snapshots], dtype=float) for name in (snapshots or [{}])[0]}


def share_by_stage(tracked: dict) -> np.ndarray:
    """Return the share of conflicting pairs in each stage, (T, K): the mean of its layers, of a record's "conflict".

    It is a fraction; NaN where no two exits meet, as in the last stage.
    """
    arrays = history(tracked["looks"])
    stage = np.array([int(name.split(".")[1]) for name in tracked["layers"]])
    shares = np.full(arrays["norm"].shape[:2], np.nan)  # (T, K)
    for s in range(shares.shape[1]):  # the mean over layers in which exits meet
        layers = arrays["conflicting"][:, stage == s]  # (T, L_s)
        met = ~np.isnan(layers)
        rows = met.any(1)
        shares[rows, s] = np.nansum(layers[rows], 1) / met[rows].sum(1)
    return shares
