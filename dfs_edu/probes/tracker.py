"""Conflict through training: the same pictures, probed every so many steps."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dfs_edu.multiexit import MultiExit
from dfs_edu.probes.cosines import conflict
from dfs_edu.values import plain

DIGITS = 3  # of what is recorded


class ConflictTracker:
    """Called after every step; every `every` steps, and before the first, it looks at the gradients of one batch.

    images, labels   the batch, the same at all times: what changes is the network
    every            steps from one look to the next

    A look is a dict of plain values for a record: "step"; "cosine" (K stages, K(K-1)/2 pairs) and "norm" (K stages,
    K exits) of the stages' gradients, as `Conflict.by_stage` has them, pairs as in `Conflict.pairs`; "conflicting"
    (L), the share of conflicting pairs in each layer; None where an exit does not reach. Read them with `history`.
    Raises ValueError for `every` below 1.
    """

    def __init__(self, images: Tensor, labels: Tensor, every: int):
        if type(every) is not int or every < 1:
            raise ValueError(f"every={every!r}: a whole number of steps above zero")
        self.images, self.labels, self.every = images, labels, every
        self.layers: list[str] = []  # of "conflicting", known from the first look on

    def due(self, step: int) -> bool:
        """Whether there is to be a look after so many steps."""
        return step % self.every == 0

    def __call__(self, step: int, net: MultiExit) -> dict | None:
        """The look after `step` steps, or None where none is due."""
        if not self.due(step):
            return None
        report = conflict(net, self.images, self.labels)
        self.layers = report.layers
        stages = report.by_stage()
        found = {"cosine": stages.pairs(), "norm": stages.norm, "conflicting": report.conflicting()}
        return {"step": step, **{name: plain(values, DIGITS) for name, values in found.items()}}


def history(looks: list[dict]) -> dict[str, np.ndarray]:
    """Looks as arrays, NaN for None: step (T,), cosine (T, K, pairs), norm (T, K, K), conflicting (T, L)."""
    return {name: np.array([look[name] for look in looks], dtype=float) for name in looks[0]} if looks else {}


def share_by_stage(found: dict) -> np.ndarray:
    """(T, K): the share of conflicting pairs in each stage, the mean of its layers, of a record's "conflict".

    A fraction; NaN where no two exits meet, as in the last stage.
    """
    looks = history(found["looks"])
    stage = np.array([int(name.split(".")[1]) for name in found["layers"]])
    shares = np.full(looks["norm"].shape[:2], np.nan)  # (T, K)
    for s in range(shares.shape[1]):
        layers = looks["conflicting"][:, stage == s]  # (T, L_s)
        met = ~np.isnan(layers)
        some = met.any(1)
        shares[some, s] = np.nansum(layers[some], 1) / met[some].sum(1)
    return shares
