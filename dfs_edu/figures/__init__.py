"""Arrays -> plotly figures, pure: nothing is computed here that a reader could want as a number.

Every figure carries its own small template: the colours of Okabe and Ito (2008), which colour-blind readers can
distinguish; dashes and markers besides colour; a transparent background and mid-grey ink, readable in light and dark
JupyterLab. Fractions go in and percent are shown; MACs go in and MMACs (millions) are shown. Names and titles are shown
literally: markup in them is escaped (``look.literal``). Every figure takes a ``title``. ``network`` alone returns SVG.
"""

from dfs_edu.figures.accuracy import (
    accuracy_cost,
    accuracy_over_time,
    accuracy_per_exit,
    budget_differences,
    gain_per_exit,
    gaps,
    learning_curves,
)
from dfs_edu.figures.diagram import network, network_figure
from dfs_edu.figures.early_exit import cuts, parts_of_whole, rates, reliability, shares, shares_by, speed_ups, waits
from dfs_edu.figures.features import ablation_heatmaps, cka_heatmaps, conductances, probe_accuracies, selectivities
from dfs_edu.figures.gradients import (
    answers,
    arrows,
    channel_conflict,
    conflict_by_depth,
    conflict_heatmap,
    conflict_heatmaps,
    conflict_through_training,
    gradient_work,
    leakage,
    pulls,
    saved_by_beta,
    steps,
    weights_of_exits,
)
from dfs_edu.figures.images import data_uri, heat, looks, overlay, pictures, predictions, sprite
from dfs_edu.figures.look import COLOURS, figure, style

__all__ = [
    "COLOURS",
    "ablation_heatmaps",
    "accuracy_cost",
    "accuracy_over_time",
    "accuracy_per_exit",
    "answers",
    "arrows",
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
    "gain_per_exit",
    "gaps",
    "gradient_work",
    "heat",
    "leakage",
    "learning_curves",
    "looks",
    "network",
    "network_figure",
    "overlay",
    "parts_of_whole",
    "pictures",
    "predictions",
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
    "steps",
    "style",
    "waits",
    "weights_of_exits",
]
