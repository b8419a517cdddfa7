"""Early exit: what each exit says, when a picture may leave, what that costs, and an inference that really stops.

A picture leaves at the first exit whose score, by default the largest softmax probability, reaches its threshold; the
last exit takes all. **Thresholds are K numbers in [0, 1], one for each exit, the last one 0.** At 0 everybody leaves,
at 1 only who is as good as certain. Exits are counted from 0 in arrays and from 1 in what people read.

Thresholds and temperatures are fitted on the validation split and their effect is reported on the test split, never
the reverse: outputs know their split, and the functions that fit refuse the test split.

Budgeted batch classification with geometric shares: MSDNet, Huang et al., ICLR 2018, section 4. Costs are MACs
(multiply-accumulates), cumulative: what a picture that leaves at exit k has cost, earlier heads included.
"""

from dfs_edu.inference.calibration import Reliability, calibration_error, fit_temperatures, reliability
from dfs_edu.inference.criteria import CRITERIA, Judge
from dfs_edu.inference.early import EarlyExit
from dfs_edu.inference.outputs import Outputs, collect, evaluating
from dfs_edu.inference.policy import Policy, fit_policies
from dfs_edu.inference.solver import best_thresholds
from dfs_edu.inference.thresholds import (
    Curve,
    Point,
    apply,
    bootstrap,
    budget_curve,
    checked_macs,
    checked_thresholds,
    fit_thresholds,
    geometric_shares,
    thresholds_for_budget,
)

__all__ = [
    "CRITERIA",
    "Curve",
    "EarlyExit",
    "Judge",
    "Outputs",
    "Point",
    "Policy",
    "Reliability",
    "apply",
    "best_thresholds",
    "bootstrap",
    "budget_curve",
    "calibration_error",
    "checked_macs",
    "checked_thresholds",
    "collect",
    "evaluating",
    "fit_policies",
    "fit_temperatures",
    "fit_thresholds",
    "geometric_shares",
    "reliability",
    "thresholds_for_budget",
]
