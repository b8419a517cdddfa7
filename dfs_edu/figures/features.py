"""What the parts of a feature hold: how alike they are, what can be read from them, what is lost without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.look import (
    DOTTED,
    RULE,
    SHARED,
    SPECIFIC,
    below,
    divide,
    exit_numbers,
    exit_ticks,
    figure,
    heatmaps,
    literal,
    panelled,
    panels,
    percent,
    require,
    rounded,
    row_count,
    style,
)

UNIT = [-0.04, 1.04]  # a vertical axis from 0 to 1, with room for the marks
ALIKE = [[0, "#f2f2f2"], [1, "#0072B2"]]  # from grey to blue
LOST = [[0, "#f2f2f2"], [1, "#D55E00"]]  # from grey to vermilion
NAMES = {"shared": "f+", "specific": "f-", "mixed": "half of each", "whole": "f+ and f-, all channels"}


@literal
def by_exit(values: Mapping, title: str, y: str, unit: bool = False) -> go.Figure:
    """Draw one panel per network and one line per quantity over the exits: network -> name -> K values.

    Args:
        values: a name in several panels keeps its colour.
        title: title of the figure.
        y: title of the vertical axis.
        unit: whether the axis shows all of 0 to 1.

    Raises:
        ValueError: if there are no panels.
    """
    require(values=values)
    names = list(dict.fromkeys(name for curves in values.values() for name in curves))
    fig, places = panels(values, title, height=380, bottom=70 + 22 * row_count(names, 2))
    named, exits = set(), 0
    for place, curves in zip(places, values.values(), strict=True):
        for name, curve in curves.items():
            x, look = exit_numbers(curve), style(names.index(name))
            once = {"name": name, "legendgroup": name, "showlegend": name not in named}
            fig.add_scatter(x=x, y=rounded(curve), mode="lines+markers", **once, **look, **place)
            named.add(name)
            exits = max(exits, len(x))
    fig.update_xaxes(**exit_ticks(exits))
    if unit:
        fig.update_yaxes(range=UNIT)
    return fig.update_yaxes(title_text=y, col=1)


@literal
def cka_heatmaps(
    matrices: Mapping, names: Sequence[str], title: str = "How similar are two parts? Linear CKA"
) -> go.Figure:
    """Draw CKA matrices (M, M), by name, side by side, from 0 to 1; ``names`` are those of the M parts.

    Raises:
        ValueError: if there are no matrices.
    """
    require(matrices=matrices)
    labels = {name: list(names) for name in matrices}
    hover = "%{y} and %{x}: %{z:.2f}"
    fig = heatmaps(matrices, labels, labels, title, "", "CKA", ALIKE, 0, 1, hover, digits=2)
    return fig.update_xaxes(tickangle=-90)


@literal
def ablation_heatmaps(
    ablations: Mapping, title: str = "Points that each exit loses without a part of one exit's feature"
) -> go.Figure:
    """Draw what exits lose, name -> ``probes.Ablation``, two panels each.

    There is one row per exit whose part is removed, and one column per exit that loses.

    Raises:
        ValueError: if there are no ablations.
    """
    require(ablations=ablations)
    losses, rows, columns = {}, {}, {}
    for name, ablation in ablations.items():
        for part in ("shared", "specific"):
            panel = f"{name}, without {NAMES[part]}".removeprefix(", ")
            loss = 100 * np.asarray(ablation.loss(part), dtype=float)
            cut = ~np.isnan(loss).all(1)  # the exits whose feature is cut in two
            losses[panel] = loss[cut]
            rows[panel] = [f"of exit {k + 1}" for k in np.flatnonzero(cut)]
            columns[panel] = list(map(str, exit_numbers(loss)))
    most = round(max(5, *(np.nanmax(loss) for loss in losses.values())))
    hover, shown = "exit %{x} loses %{z:.1f} points", "%{z:.0f}"
    return heatmaps(losses, rows, columns, title, "exit", "points", LOST, 0, most, hover, digits=1, shown=shown)


@literal
def probe_accuracies(
    probes: Mapping, title: str = "How many classes can a linear probe read? Held-out images"
) -> go.Figure:
    """Draw accuracies over exits, name -> ``probes.LinearProbes``: one panel per network, one line per part it reads.

    Raises:
        ValueError: if there are no probes.
    """
    require(probes=probes)
    fig, places = panels(probes, title, height=400, bottom=90)
    for i, (place, probe) in enumerate(zip(places, probes.values(), strict=True)):
        exits = exit_numbers(probe.accuracy["whole"])
        once = {"mode": "lines+markers", "showlegend": i == 0, **place}
        for j, (part, accuracy) in enumerate(probe.accuracy.items()):
            fig.add_scatter(x=exits, y=percent(accuracy), name=NAMES[part], legendgroup=part, **once, **style(j))
        once |= {"mode": "lines", "line": DOTTED, "name": "chance", "legendgroup": "chance"}
        fig.add_scatter(x=[exits[0], exits[-1]], y=percent([probe.chance] * 2), **once)
    fig.update_xaxes(**exit_ticks(len(exits)))
    return fig.update_yaxes(title_text="right in %", col=1)


@literal
def selectivities(values: Mapping, title: str = "How much does a channel respond to one class alone?") -> go.Figure:
    """Draw one mark per channel, name -> K lists of class selectivities, and a box around the middle half."""
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


@literal
def conductances(reports: Mapping, title: str = "What flows through f+ and f-") -> go.Figure:
    """Draw bars for f+ and f- of exits 1 to K - 1, in logits, one row per network, name -> ``probes.Conductance``.

    On the left is what flows to the exit's own logit, on the right to the last exit's. If the next stages read nothing
    but the feature, its two bars add up to what the logit gains from the baseline to the image.

    Raises:
        ValueError: if there are no reports.
    """
    require(reports=reports)
    columns = ("to the exit itself", "to the last exit")
    titles = [f"{name}: {column}" if name else column for name in reports for column in columns]
    fig = panelled(title, height=130 + 210 * len(reports), bottom=84)
    places = divide(fig, titles, len(columns), 0.1, 0.34 / len(reports), shared_yaxes="all")
    for row, report in enumerate(reports.values()):
        looks = (("f+ (shared)", SHARED), ("f- (specific)", SPECIFIC))
        for (part, look), values in zip(looks, report.parts(), strict=True):
            for column, flow in enumerate((np.diagonal(values), values[:, -1])):
                fig.add_bar(
                    x=exit_numbers(flow),
                    y=rounded(flow, 3),
                    name=part,
                    legendgroup=part,
                    showlegend=row == column == 0,
                    marker={"pattern": {"shape": ""}} | look,  # plotly's default, explicit as in committed figures
                    hovertemplate="exit %{x}: %{y} logits<extra>" + part + "</extra>",
                    **places[2 * row + column],
                )
    fig.add_hline(0, line=RULE)
    fig.update_xaxes(dtick=1, showgrid=False)
    fig.update_xaxes(title_text="feature of exit", row=len(reports))
    return fig.update_yaxes(title_text="logits, mean", col=1)
