"""Checks that exercises call: the learner's function is compared with the library's answer.

The inputs are fixed edge cases (ties, zeros, a single element), then random ones that are the same every time, so no
grade depends on chance.

A check never raises. It prints "not yet" for an exercise that has not been tried, "right" for a right answer, and what
is wrong with a wrong one. If the answer comes from a common mistake, the check says which.
"""

from dfs_edu.course.checks.answers import use
from dfs_edu.course.checks.confidence import calibration_error, margin, softmax
from dfs_edu.course.checks.conflict import conflicting, cosine, cosine_matrix
from dfs_edu.course.checks.features import ablation_loss, linear_cka, selectivity
from dfs_edu.course.checks.junctions import backward_saved, junction, partition, received, saved, silent, surgery
from dfs_edu.course.checks.leaving import average_macs, best_cut, early_exit, geometric_shares, leave
from dfs_edu.course.checks.methods import as_long, pcgrad, shortest
from dfs_edu.course.checks.networks import accuracy, conv_macs, cumulative_macs, evenly, exits, front
from dfs_edu.course.checks.serving import break_even, going_on, together, within
from dfs_edu.course.checks.statistics import at_least_one, bootstrap, chosen, interval, seeds_needed, shared_cost
from dfs_edu.course.checks.training import learning_rate, normalise, train, warm_up

__all__ = [
    "ablation_loss",
    "accuracy",
    "as_long",
    "at_least_one",
    "average_macs",
    "backward_saved",
    "best_cut",
    "bootstrap",
    "break_even",
    "calibration_error",
    "chosen",
    "conflicting",
    "conv_macs",
    "cosine",
    "cosine_matrix",
    "cumulative_macs",
    "early_exit",
    "evenly",
    "exits",
    "front",
    "geometric_shares",
    "going_on",
    "interval",
    "junction",
    "learning_rate",
    "leave",
    "linear_cka",
    "margin",
    "normalise",
    "partition",
    "pcgrad",
    "received",
    "saved",
    "seeds_needed",
    "selectivity",
    "shared_cost",
    "shortest",
    "silent",
    "softmax",
    "surgery",
    "together",
    "train",
    "use",
    "warm_up",
    "within",
]
