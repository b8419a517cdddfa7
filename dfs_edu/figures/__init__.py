"""Arrays -> plotly figures, pure: nothing is computed here that a reader could want as a number.

Every figure has its own small template: colours of Okabe and Ito (2008), which colour-blind people can tell apart,
dashes and markers besides colour, a transparent ground and mid-grey ink, readable in light and dark JupyterLab.
Fractions come in, percent are shown; MACs come in, MMACs (millions) are shown. Names and titles are shown as they are
given: markup in them is escaped (`look.literal`).
"""

from dfs_edu.figures.accuracy import (
    accuracy_cost,
    accuracy_over_time,
    accuracy_per_exit,
    budget_differences,
    learning_curves,
)
from dfs_edu.figures.attribution import conductances, heat, looks, overlay
from dfs_edu.figures.channels import channel_conflict, leakage
from dfs_edu.figures.conflict import conflict_heatmap, conflict_heatmaps
from dfs_edu.figures.features import ablation_heatmaps, cka_heatmaps, probe_accuracies, selectivities
from dfs_edu.figures.leaving import cuts, reliability, shares, shares_by
from dfs_edu.figures.look import COLOURS, figure, style
from dfs_edu.figures.methods import answers, gaps, weights_of_exits
from dfs_edu.figures.photos import data_uri, pictures, sprite
from dfs_edu.figures.pulling import pulls
from dfs_edu.figures.tracking import conflict_by_depth, conflict_through_training
from dfs_edu.figures.work import gradient_work, parts_of_whole, rates, saved_by_beta, speed_ups, waits

__all__ = [
    "COLOURS",
    "ablation_heatmaps",
    "accuracy_cost",
    "accuracy_over_time",
    "accuracy_per_exit",
    "answers",
    "budget_differences",
    "channel_conflict",
    "cka_heatmaps",
    "conductances",
    "conflict_by_depth",
    "conflict_heatmap",
    "conflict_heatmaps",
    "conflict_through_training",
    "cuts",
    "data_uri",
    "figure",
    "gaps",
    "gradient_work",
    "heat",
    "leakage",
    "learning_curves",
    "looks",
    "overlay",
    "parts_of_whole",
    "pictures",
    "probe_accuracies",
    "pulls",
    "rates",
    "reliability",
    "saved_by_beta",
    "selectivities",
    "shares",
    "shares_by",
    "speed_ups",
    "sprite",
    "style",
    "waits",
    "weights_of_exits",
]
