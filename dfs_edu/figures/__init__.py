"""Arrays -> plotly figures, pure: nothing is computed here that a reader could want as a number.

Every figure has its own small template: colours of Okabe and Ito (2008), which colour-blind people can tell apart,
dashes and markers besides colour, a transparent ground and mid-grey ink, readable in light and dark JupyterLab.
Fractions come in, percent are shown; MACs come in, MMACs (millions) are shown.
"""

from dfs_edu.figures.accuracy import (
    accuracy_cost,
    accuracy_over_time,
    accuracy_per_exit,
    budget_differences,
    learning_curves,
)
from dfs_edu.figures.conflict import conflict_heatmap, conflict_heatmaps
from dfs_edu.figures.features import ablation_heatmaps, cka_heatmaps, probe_accuracies, selectivities
from dfs_edu.figures.leaving import cuts, reliability, shares, shares_by
from dfs_edu.figures.look import COLOURS, figure, style
from dfs_edu.figures.photos import data_uri, pictures
from dfs_edu.figures.work import gradient_work, parts_of_whole, rates, speed_ups, waits

__all__ = [
    "COLOURS",
    "ablation_heatmaps",
    "accuracy_cost",
    "accuracy_over_time",
    "accuracy_per_exit",
    "budget_differences",
    "cka_heatmaps",
    "conflict_heatmap",
    "conflict_heatmaps",
    "cuts",
    "data_uri",
    "figure",
    "gradient_work",
    "learning_curves",
    "parts_of_whole",
    "pictures",
    "probe_accuracies",
    "rates",
    "reliability",
    "selectivities",
    "shares",
    "shares_by",
    "speed_ups",
    "style",
    "waits",
]
