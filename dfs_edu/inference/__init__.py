"""Early exit: confidence and prediction of every exit, thresholds, their cost, and an inference that really stops.

An image leaves at the first exit whose score, by default the largest softmax probability, reaches the exit's
threshold; the last exit takes every image that is left. **Thresholds are K numbers in [0, 1], one per exit, the last
one 0.** At threshold 0 every image leaves, at 1 only an image that the exit is as good as certain of. Exits are counted
from 0 in arrays and from 1 in what people read.

Thresholds and temperatures are fitted on the validation split and their effect is reported on the test split, never
the reverse: outputs know their split, and the functions that fit refuse the test split.

Costs are MACs (multiply-accumulates), cumulative: the cost of exit k is what an image that leaves there has cost,
earlier heads included.

Source:
    Budgeted batch classification with geometric shares: Huang et al., MSDNet, ICLR 2018, section 4.
"""

from dfs_edu.inference.calibration import Reliability, calibration_error, fit_temperatures, reliability
from dfs_edu.inference.checks import checked_macs, checked_thresholds
from dfs_edu.inference.criteria import CRITERIA, Judge
from dfs_edu.inference.curves import Curve, Point, apply, bootstrap, budget_curve
from dfs_edu.inference.early import EarlyExit
from dfs_edu.inference.ensembles import Tally
from dfs_edu.inference.outputs import Outputs, collect
from dfs_edu.inference.policy import Policy, fit_policies
from dfs_edu.inference.solver import best_thresholds
from dfs_edu.inference.thresholds import fit_thresholds, geometric_shares, thresholds_for_budget

__all__ = [
    "CRITERIA",
    "Curve",
    "EarlyExit",
    "Judge",
    "Outputs",
    "Point",
    "Policy",
    "Reliability",
    "Tally",
    "apply",
    "best_thresholds",
    "bootstrap",
    "budget_curve",
    "calibration_error",
    "checked_macs",
    "checked_thresholds",
    "collect",
    "fit_policies",
    "fit_temperatures",
    "fit_thresholds",
    "geometric_shares",
    "reliability",
    "thresholds_for_budget",
]
