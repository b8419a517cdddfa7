"""What the parts of a feature hold: how alike they are, what can be read from them, what is lost without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.grids import heatmaps, panels
from dfs_edu.figures.look import INK, below, exit_ticks, figure, literal, percent, rounded, style

ALIKE = [[0, "#f2f2f2"], [1, "#0072B2"]]  # from grey to blue: alike
LOST = [[0, "#f2f2f2"], [1, "#D55E00"]]  # from grey to vermilion: lost
NAMES = {"shared": "f+", "specific": "f-", "mixed": "half of each", "whole": "f+ and f-, all channels"}


@literal
def cka_heatmaps(
    matrices: Mapping, names: Sequence[str], title: str = "How alike are two parts? Linear CKA"
) -> go.Figure:
    """Name -> CKA (M, M) of M described parts with each other, from 0 to 1. Raises ValueError for no matrices."""
    if not matrices:
        raise ValueError("matrices={}: a heatmap shows one at least")
    labels = {name: list(names) for name in matrices}
    hover = "%{y} and %{x}: %{z:.2f}"
    fig = heatmaps(matrices, labels, labels, title, "", "CKA", ALIKE, 0, 1, hover, digits=2)
    return fig.update_xaxes(tickangle=-90)


@literal
def ablation_heatmaps(
    ablations: Mapping, title: str = "Points that each exit loses without a part of one exit's feature"
) -> go.Figure:
    """Name -> ablation, with .loss("shared") and .loss("specific") (K, K): two panels of each.

    A row an exit whose part is taken away, a column an exit that loses. Raises ValueError for no ablations.
    """
    if not ablations:
        raise ValueError("ablations={}: a heatmap shows one at least")
    losses, rows, columns = {}, {}, {}
    for name, ablation in ablations.items():
        for part in ("shared", "specific"):
            panel = f"{name}, without {NAMES[part]}".removeprefix(", ")
            loss = 100 * np.asarray(ablation.loss(part), dtype=float)
            cut = ~np.isnan(loss).all(1)
            losses[panel] = loss[cut]
            rows[panel] = [f"of exit {k + 1}" for k in np.flatnonzero(cut)]
            columns[panel] = [str(k + 1) for k in range(len(loss))]
    most = max(5, *(np.nanmax(loss) for loss in losses.values()))
    hover = "exit %{x} loses %{z:.1f} points"
    return heatmaps(
        losses, rows, columns, title, "exit", "points", LOST, 0, round(most), hover, digits=1, shown="%{z:.0f}"
    )


@literal
def probe_accuracies(
    probes: Mapping, title: str = "How many classes can a linear probe read? Held-out pictures"
) -> go.Figure:
    """Name -> linear probes, with .accuracy {what is read: (K,)} and .chance: a panel each, a line each way to read.

    Raises ValueError for no probes.
    """
    if not probes:
        raise ValueError("probes={}: one network at least")
    fig = panels(probes, title, height=400, bottom=90)
    for i, found in enumerate(probes.values()):
        panel = {"row": 1, "col": i + 1}
        exits = list(range(1, len(found.accuracy["whole"]) + 1))
        for j, (what, accuracy) in enumerate(found.accuracy.items()):
            line = {"mode": "lines+markers", "showlegend": i == 0, "legendgroup": what, **style(j)}
            fig.add_scatter(x=exits, y=percent(accuracy), name=NAMES[what], **line, **panel)
        rule = {"mode": "lines", "line": {"color": INK, "width": 1, "dash": "dot"}, "showlegend": i == 0}
        ends = [exits[0], exits[-1]]
        fig.add_scatter(x=ends, y=percent([found.chance] * 2), name="chance", legendgroup="chance", **rule, **panel)
    fig.update_xaxes(**exit_ticks(len(exits)))
    return fig.update_yaxes(title_text="right in %", col=1)


@literal
def selectivities(values: Mapping, title: str = "How much does a channel speak for one class alone?") -> go.Figure:
    """Name -> K lists of class selectivities, one for each channel: a mark a channel, a box around the middle half."""
    fig = figure([], title, "exit", "class selectivity", boxmode="group", legend=below())
    for i, (name, exits) in enumerate(values.items()):
        known = [np.asarray(v, dtype=float)[~np.isnan(np.asarray(v, dtype=float))] for v in exits]
        fig.add_box(
            x=[k for k, v in enumerate(known, start=1) for _ in v],
            y=rounded(np.concatenate(known), 3),
            name=name,
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            fillcolor="rgba(0,0,0,0)",
            line={"width": 1.5},
            marker=style(i)["marker"] | {"size": 4, "opacity": 0.6},
        )
    exits = max(map(len, values.values()), default=0)
    return fig.update_layout(xaxis=exit_ticks(exits), yaxis_rangemode="tozero")
