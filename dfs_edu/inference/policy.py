"""The one way in which a trained network is set to leave early: what is evaluated is what is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dfs_edu.inference.calibration import fit_temperatures
from dfs_edu.inference.outputs import Outputs
from dfs_edu.inference.solver import best_thresholds


@dataclass(frozen=True)
class Policy:
    """When images leave, for one budget: the arguments of `EarlyExit` and of `export.export`.

    criterion     what is compared with the thresholds, a key of `CRITERIA`
    temperatures  float32 (K,), by which the exits' logits are divided first
    thresholds    float32 (K,)
    """

    criterion: str
    temperatures: Tensor
    thresholds: Tensor

    @property
    def name(self) -> str:
        """How the thresholds were found, in words."""
        cooled = " ".join(f"{t:.3g}" for t in self.temperatures.tolist())
        return f"best_thresholds by {self.criterion} at the temperatures {cooled}"


def fit_policies(
    validation: Outputs,
    macs: Sequence[float] | Tensor,
    budgets: Sequence[float] | Tensor,
    criterion: str = "confidence",
) -> list[Policy]:
    """One policy for each average cost of `budgets`, in MACs: temperatures first, then the search for thresholds.

    A policy is the same whatever other budgets it is fitted with.

    Args:
        validation: outputs of the validation split, collected with logits=True.
        macs: K cumulative costs of leaving at each exit.
        budgets: average costs, from the first exit's on.
        criterion: a key of `CRITERIA`.

    Raises:
        ValueError: outputs of the test split or without logits, or a budget below the first exit's cost.
    """
    temperatures = fit_temperatures(validation)
    scored = validation.again(criterion, temperatures)
    found = [best_thresholds(scored, macs, [budget])[0] for budget in budgets]
    return [Policy(criterion, temperatures, thresholds) for thresholds in found]
