"""Accuracy of exits, against cost, budget and time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.look import (
    COLOURS,
    INK,
    area,
    below,
    exit_ticks,
    figure,
    literal,
    millions,
    percent,
    rounded,
    style,
)
from dfs_edu.intervals import interval


@literal
def accuracy_per_exit(
    results: Mapping, published: Mapping | None = None, title: str = "Accuracy of each exit"
) -> go.Figure:
    """Name -> accuracies (seeds, K) or (K,), as fractions: the mean, with the 95 % t-interval of it where n > 1.

    published   name -> accuracies (K,): numbers that others report, dashed and hollow, and said to be published
    """
    fig = figure([], title, "exit", "accuracy in %")
    for i, (name, values) in enumerate(results.items()):
        values = np.atleast_2d(np.asarray(values, dtype=float))
        n, K = values.shape
        mean, half = interval(values)
        said = f"mean and 95 % interval, n = {n}" if n > 1 else "n = 1"
        fig.add_scatter(
            x=list(range(1, K + 1)),
            y=percent(mean),
            name=f"{name} ({said})",
            mode="lines+markers",
            error_y={"array": percent(half), "width": 6, "thickness": 1.5} if n > 1 else None,
            **style(i),
        )
    for i, (name, values) in enumerate((published or {}).items(), start=len(results)):
        look = style(i)
        look["line"]["dash"], look["marker"]["symbol"] = "dot", f"{look['marker']['symbol']}-open"
        x = list(range(1, len(values) + 1))
        fig.add_scatter(x=x, y=percent(values), name=f"{name} (published)", mode="lines+markers", **look)
    exits = max((len(trace.x) for trace in fig.data), default=0)
    return fig.update_layout(xaxis=exit_ticks(exits), legend=below())


@literal
def accuracy_cost(
    curves: Mapping,
    anytime: Mapping | None = None,
    point=None,
    title: str = "Accuracy against average cost",
    published: Mapping | None = None,
    bands: Mapping | None = None,
) -> go.Figure:
    """Name -> inference.Curve as lines.

    anytime     name -> (macs (K,), accuracy (K,)): every picture leaves at exit k; drawn as marks alone
    point       inference.Point: where a present choice of thresholds lies
    published   name -> (macs (K,), accuracy (K,)): numbers that others report, hollow, and said to be published
    bands       name of a curve -> (lowest (P,), highest (P,)) accuracy of its interval, as a faint area behind the line
    """
    fig = figure([], title, "average cost in MMACs a picture", "accuracy in %")
    for i, (name, curve) in enumerate(curves.items()):
        look = {"line": style(i)["line"]}
        if name in (bands or {}):
            fig.add_trace(area(millions(curve.macs), *map(percent, bands[name]), COLOURS[i % 7]))
        fig.add_scatter(x=millions(curve.macs), y=percent(curve.accuracy), name=name, mode="lines", **look)
    measured = {f"{name}, all at one exit": exits for name, exits in (anytime or {}).items()}
    reported = {f"{name} (published)": exits for name, exits in (published or {}).items()}
    for i, (name, (macs, accuracy)) in enumerate((measured | reported).items()):
        mark = style(i)["marker"]
        fig.add_scatter(
            x=millions(macs),
            y=percent(accuracy),
            name=name,
            mode="markers+text",
            text=[str(k) for k in range(1, len(macs) + 1)],
            textposition="top center" if i % 2 else "bottom center",  # neighbours' numbers do not cover each other
            cliponaxis=False,
            marker=mark | {"symbol": f"{mark['symbol']}-open"} if name in reported else mark,
        )
    if point is not None:
        mark = {"symbol": "circle-open-dot", "size": 15, "color": COLOURS[1], "line": {"width": 3}}
        fig.add_scatter(
            x=millions([point.macs]), y=percent([point.accuracy]), name="these thresholds", mode="markers", marker=mark
        )
    # Long names stand one under the other, and must not eat the plot.
    return fig.update_layout(legend=below(), height=380 + 20 * max(0, len(fig.data) - len(bands or {}) - 2))


@literal
def budget_differences(
    budgets, differences: Mapping, title: str = "Difference in accuracy at each budget, with its 95 % interval"
) -> go.Figure:
    """Name -> (difference, lowest, highest), fractions (P,) each, against P budgets in MACs.

    A line shows nothing where its band holds 0.
    """
    fig = figure([], title, "budget in MMACs a picture", "difference in points")
    fig.add_hline(0, line={"color": INK, "width": 1})
    x = millions(budgets)
    for i, (name, (difference, low, high)) in enumerate(differences.items()):
        fig.add_trace(area(x, percent(low), percent(high), COLOURS[i % 7]))
        fig.add_scatter(x=x, y=percent(difference), name=name, mode="lines", line=style(i)["line"])
    return fig.update_layout(legend=below())


@literal
def learning_curves(record: Mapping, title: str = "Validation accuracy while training") -> go.Figure:
    """record["epochs"]: a list of {"epoch", "validation_accuracy": K fractions}; one line an exit."""
    epochs = record["epochs"]
    accuracy = np.asarray([epoch["validation_accuracy"] for epoch in epochs], dtype=float)  # (epochs, K)
    lines = [
        go.Scatter(
            x=[epoch["epoch"] for epoch in epochs],
            y=percent(accuracy[:, k]),
            name=f"exit {k + 1}",
            mode="lines+markers" if len(epochs) <= 20 else "lines",
            **style(k),
        )
        for k in range(accuracy.shape[1])
    ]
    return figure(lines, title, "epoch", "accuracy in %")


@literal
def accuracy_over_time(
    records: Mapping, exit: int = -1, title: str = "Validation accuracy against wall-clock"
) -> go.Figure:
    """Name -> record of a run: one line each, a mark an epoch; the time is that of training, without validation.

    exit   index of the exit that is shown, from 0; -1: the last
    """
    fig = figure([], title, "minutes of training", "accuracy in %")
    for i, (name, record) in enumerate(records.items()):
        minutes = np.cumsum([row["seconds"] for row in record["epochs"]]) / 60
        accuracy = [row["validation_accuracy"][exit] for row in record["epochs"]]
        fig.add_scatter(x=rounded(minutes, 2), y=percent(accuracy), name=name, mode="lines+markers", **style(i))
    return fig.update_layout(legend=below())
