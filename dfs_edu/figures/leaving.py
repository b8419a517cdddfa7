"""Where pictures leave, and how sure is sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfs_edu.figures.look import (
    COLOURS,
    INK,
    below,
    exit_ticks,
    figure,
    literal,
    percent,
    rounded,
    style,
)


@literal
def cuts(
    values: Mapping, title: str = "What is right if so many leave here", y: str = "right answers", points: int = 100
) -> go.Figure:
    """Name -> a number for each cut of one exit (N + 1,): entry n if the n surest leave there; a star at its highest.

    Of a longer line `points` entries are drawn, and the highest.
    """
    fig = figure([], title, "how many leave here", y)
    for i, (name, value) in enumerate(values.items()):
        value = np.asarray(value, dtype=float)
        best = int(value.argmax())
        shown = np.unique(np.r_[np.linspace(0, len(value) - 1, min(points, len(value))).astype(int), best])
        x = shown.tolist()
        fig.add_scatter(x=x, y=rounded(value[shown], 1), name=name, mode="lines", line=style(i)["line"])
        star = {"symbol": "star", "size": 13, "color": COLOURS[i % 7]}
        fig.add_scatter(x=[best], y=rounded(value[[best]], 1), mode="markers", marker=star, showlegend=False)
    return fig.update_layout(legend=below())


@literal
def reliability(
    diagrams: Mapping, exits: Sequence[int] | None = None, title: str = "Right as often as sure? Accuracy by confidence"
) -> go.Figure:
    """Name -> inference.Reliability: a panel an exit; a mark a bin, the larger the more of the pictures are in it.

    exits   indices from 0 of the exits that are shown; None: all

    On the diagonal, an exit is right as often as it is sure; below, it is too sure. Raises ValueError for no diagrams.
    """
    if not diagrams:
        raise ValueError("diagrams={}: a reliability diagram shows one at least")
    K = len(next(iter(diagrams.values())).count)
    exits = list(range(K)) if exits is None else list(exits)
    columns = min(3, len(exits))
    rows = -(-len(exits) // columns)
    fig = figure([], title, height=140 + 210 * rows, legend=below(), title_pad_b=30, margin={"t": 70, "b": 90})
    names = [f"exit {k + 1}" for k in exits]
    spacing = {"horizontal_spacing": 0.07, "vertical_spacing": 0.32 / rows}
    make_subplots(rows, columns, subplot_titles=names, figure=fig, **spacing)
    fig.update_annotations(font_size=13)
    ideal = {"mode": "lines", "line": {"color": INK, "dash": "dot", "width": 1.5}, "hoverinfo": "skip"}
    for i, k in enumerate(exits):
        panel = {"row": i // columns + 1, "col": i % columns + 1}
        fig.add_scatter(x=[0, 100], y=[0, 100], name="right as often as sure", showlegend=i == 0, **ideal, **panel)
        for j, (name, diagram) in enumerate(diagrams.items()):
            count = np.asarray(diagram.count[k])
            some = count > 0
            look = style(j)
            share = count[some] / count.sum()
            look["marker"] |= {"size": rounded(5 + 22 * np.sqrt(share), 1), "opacity": 0.75, "line": {"width": 0}}
            fig.add_scatter(
                x=percent(np.asarray(diagram.confidence[k])[some]),
                y=percent(np.asarray(diagram.accuracy[k])[some]),
                customdata=count[some].tolist(),
                hovertemplate="%{x} % sure: %{y} % right<br>%{customdata} pictures<extra>%{fullData.name}</extra>",
                name=name,
                legendgroup=name,
                showlegend=i == 0,
                mode="lines+markers",
                cliponaxis=False,
                **look,
                **panel,
            )
    fig.update_xaxes(range=[-3, 103], tickvals=[0, 50, 100])
    fig.update_yaxes(range=[-3, 103], tickvals=[0, 50, 100])
    fig.update_xaxes(title_text="confidence in %", row=rows)
    return fig.update_yaxes(title_text="right in %", col=1)


@literal
def shares(point, title: str = "Where pictures leave") -> go.Figure:
    """inference.Point: the share of pictures that leaves at each exit, and how many of them are classified right."""
    K = len(point.share)
    right = [
        f"{s:.1f} %" + ("" if a is None else f"<br>{a:.1f} % right")
        for s, a in zip(percent(point.share), percent(point.exit_accuracy), strict=True)
    ]
    bars = go.Bar(x=list(range(1, K + 1)), y=percent(point.share), text=right, textposition="outside", cliponaxis=False)
    fig = figure([bars], title, "exit", "share of pictures in %", height=320)
    return fig.update_layout(xaxis=exit_ticks(K))


@literal
def shares_by(points: Mapping, title: str = "Where pictures leave, by each method") -> go.Figure:
    """Name -> inference.Point: side by side, the share of pictures that leaves at each exit."""
    fig = figure([], title, "exit", "share of pictures in %", height=360, barmode="group")
    for i, (name, point) in enumerate(points.items()):
        look = {"color": COLOURS[i % 7], "pattern": {"shape": ["", "/", "."][i % 3], "size": 6}}
        look["pattern"] |= {"bgcolor": COLOURS[i % 7], "fgcolor": "white"}  # else nothing lies behind the pattern
        share = percent(point.share)
        # A number above each bar: none where nobody leaves, so that an empty place is seen to be empty.
        text = [f"{s:.0f}" if s >= 0.5 else "" for s in share]
        x = list(range(1, len(share) + 1))
        fig.add_bar(x=x, y=share, name=name, text=text, textposition="outside", cliponaxis=False, marker=look)
    exits = max((len(trace.x) for trace in fig.data), default=0)
    return fig.update_layout(xaxis=exit_ticks(exits), legend=below())
