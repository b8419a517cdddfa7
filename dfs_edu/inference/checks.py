"""Early, clear errors: what thresholds, costs and budgets must be, and which split may be used for what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dfs_edu.inference.outputs import Outputs


def checked_thresholds(thresholds: Sequence[float] | Tensor, exits: int) -> Tensor:
    """Return thresholds as float32 (K,), the precision of confidences.

    Raises:
        ValueError: not K numbers in [0, 1] of which the last is 0; the message names the value.
    """
    t = torch.as_tensor(thresholds, dtype=torch.float32).cpu()
    if t.shape != (exits,):
        raise ValueError(
            f"thresholds of shape {tuple(t.shape)} for {exits} exits: give {exits} numbers, the last one 0, since the "
            "last exit takes all images that are left"
        )
    for k, value in enumerate(t.tolist(), start=1):
        if not 0 <= value <= 1:  # NaN too
            raise ValueError(f"threshold {value:.6g} of exit {k}: a threshold is a number from 0 to 1")
    if t[-1] != 0:
        raise ValueError(
            f"threshold {t[-1].item():.6g} of exit {exits}: the last exit takes all images, its threshold is 0"
        )
    return t


def checked_macs(macs: Sequence[float] | np.ndarray | Tensor, exits: int) -> Tensor:
    """Return cumulative costs as float64 (K,).

    Raises:
        ValueError: not K positive, finite numbers, each larger than the one before; the message names the value.
    """
    m = torch.as_tensor(macs, dtype=torch.float64).cpu()
    if m.shape != (exits,):
        raise ValueError(f"macs of shape {tuple(m.shape)} for {exits} exits: give {exits} cumulative costs")
    if not (m > 0).all() or not m.isfinite().all() or not (m.diff() > 0).all():
        raise ValueError(
            f"macs={m.tolist()}: the cumulative costs of the exits are positive and rise from exit to exit"
        )
    return m


def checked_budgets(budgets: Sequence[float] | np.ndarray | Tensor, macs: Tensor) -> Tensor:
    """Return budgets, average costs, as float64 (P,).

    Raises:
        ValueError: not a list of numbers, or one below the first exit's cost, which no thresholds can meet.
    """
    b = torch.as_tensor(budgets, dtype=torch.float64).cpu()
    if b.ndim != 1 or not len(b):
        raise ValueError(f"budgets of shape {tuple(b.shape)}: give a list of average costs")
    for budget in b.tolist():
        if not budget >= macs[0]:
            raise ValueError(f"budget={budget!r}: every image pays for exit 1, which costs {macs[0].item():.6g} MACs")
    return b


def refuse_test(outputs: Outputs) -> None:
    """Raise ValueError if thresholds would be fitted on the test split."""
    if outputs.split == "test":
        raise ValueError("outputs of the test split: thresholds must be fitted on validation")


def check_pair(calibration: Outputs, test: Outputs) -> None:
    """Raise ValueError unless thresholds fitted on one may be tested on the other: another split, all else equal."""
    if calibration.split in ("test", test.split):
        raise ValueError(
            f"calibration on {calibration.split!r}, test on {test.split!r}: "
            "thresholds must be fitted on validation and tested on another split"
        )
    if len(calibration.confidence) != len(test.confidence):
        raise ValueError(f"calibration outputs of {len(calibration.confidence)} exits, test of {len(test.confidence)}")
    if calibration.criterion != test.criterion:
        raise ValueError(f"calibration by {calibration.criterion!r}, test by {test.criterion!r}")
    if calibration.source and test.source and calibration.source != test.source:
        raise ValueError(
            f"calibration outputs of network {calibration.source}, test outputs of network {test.source}: "
            "thresholds fit only the network, and the temperatures, that they were fitted for"
        )
