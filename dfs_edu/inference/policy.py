"""How a trained network is set to leave early, in one way only: what is evaluated is what is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dfs_edu.inference.calibration import fit_temperatures
from dfs_edu.inference.outputs import Outputs
from dfs_edu.inference.solver import best_thresholds


@dataclass(frozen=True)
class Policy:
    """When images leave, for one budget: the arguments of ``EarlyExit`` and of ``exporting.export``.

    Attributes:
        criterion: what is compared with the thresholds, a key of ``CRITERIA``.
        temperatures: float32 (K,), by which the exits' logits are divided first.
        thresholds: float32 (K,).
    """

    criterion: str
    temperatures: Tensor
    thresholds: Tensor

    @property
    def name(self) -> str:
        """How the thresholds were found, in words."""
        temperatures = " ".join(f"{t:.3g}" for t in self.temperatures.tolist())
        return f"best_thresholds by {self.criterion} at the temperatures {temperatures}"


def fit_policies(
    validation: Outputs,
    macs: Sequence[float] | np.ndarray | Tensor,
    budgets: Sequence[float] | np.ndarray | Tensor,
    criterion: str = "confidence",
) -> list[Policy]:
    """Fit one policy per average cost in ``budgets``, in MACs: temperatures first, then the search for thresholds.

    A policy does not depend on the other budgets that it is fitted with.

    Args:
        validation: outputs of the validation split, collected with logits=True.
        macs: K cumulative costs of leaving at each exit.
        budgets: average costs, from the first exit's cost onwards.
        criterion: a key of ``CRITERIA``.

    Raises:
        ValueError: outputs of the test split or without logits, or a budget below the first exit's cost.
    """
    temperatures = fit_temperatures(validation)
    scored = validation.again(criterion, temperatures)
    return [Policy(criterion, temperatures, best_thresholds(scored, macs, [budget])[0]) for budget in budgets]
