"""What methods make of several gradients."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfs_edu.figures.look import COLOURS, INK, below, figure, literal, percent, rounded, sliding, style


@literal
def answers(
    cases: Mapping, shown: str, title: str = "Two gradients, and what each method makes of them", prefix: str = ""
) -> go.Figure:
    """Label -> name -> vector (2,), drawn as arrows from the origin, with a slider over the labels.

    The first two of each case are the gradients, drawn in grey with their names; the others are answers to them.
    """
    frames = {label: _arrows(vectors) for label, vectors in cases.items()}
    fig = figure(frames[shown], title, height=520, legend=below())
    ends = np.array([[0, 0]] + [v for vectors in cases.values() for v in map(np.asarray, vectors.values())])
    low, high = ends.min(0), ends.max(0)
    room = 0.15 * (high - low).max()  # for the names, and so that no arrow ends at the frame
    for axis, a, b in zip((fig.update_xaxes, fig.update_yaxes), low - room, high + room, strict=True):
        axis(range=rounded([a, b], 3), zeroline=True, zerolinecolor=INK)
    fig.update_yaxes(scaleanchor="x")  # one scale, or angles would not be seen as they are
    fig.update_layout(margin_b=150)
    return sliding(fig, frames, shown, prefix)


def _arrows(vectors: Mapping) -> list[dict]:
    traces = []
    for i, (name, (x, y)) in enumerate(vectors.items()):
        given = i < 2
        line = {"color": INK, "width": 5} if given else style(i - 2)["line"]
        size = [1, 20 if given else 14]
        head = {
            "symbol": ["circle", "arrow"],
            "angleref": "previous",
            "size": size,
            "color": line["color"],
            "opacity": 1,
        }
        head["line"] = {"width": 0}  # the theme's would be white in the dark
        ends = {"x": rounded([0, x], 3), "y": rounded([0, y], 3)}
        look = {"mode": "lines+markers+text", "text": ["", name], "textposition": "top center", "showlegend": False}
        look = look if given else {"mode": "lines+markers"}
        traces.append({"type": "scatter", "name": name, "line": line, "marker": head} | ends | look)
    return traces


@literal
def weights_of_exits(weights: Mapping, title: str = "The weight that each method gives to each exit") -> go.Figure:
    """Name -> K weights, as grouped bars."""
    bars = [
        go.Bar(
            name=name,
            x=[f"exit {k + 1}" for k in range(len(values))],
            y=rounded(values, 3),
            marker={"color": COLOURS[i % 7], "pattern": {"shape": "/" if i >= 7 else ""}},
        )
        for i, (name, values) in enumerate(weights.items())
    ]
    return figure(bars, title, "", "weight", legend=below(), barmode="group")


@literal
def gaps(
    differences: Mapping, exits: int, title: str = "Difference to the first arm, with its 95 % interval"
) -> go.Figure:
    """Show differences as fractions, name -> (mean (E,), half the interval's width (E,)): one row per arm, one panel
    per exit.

    E is `exits`, or one more: the last is then the mean of the exits. A filled mark: the interval excludes 0. Long
    names and titles are broken into lines, so that the panels keep their share of a narrow page.
    """
    panels, columns = len(next(iter(differences.values()))[0]), 3
    names = [f"exit {k + 1}" if k < exits else "mean of exits" for k in range(panels)]
    rows = -(-panels // columns)
    arms = ["<br>".join(wrap(arm, 22, break_long_words=False)) for arm in differences]
    lines = 1 + max(arm.count("<br>") for arm in arms)
    height = 120 + rows * (70 + (4 + 12 * lines) * len(arms))
    title = wrap(title, 42)  # as wide as a page of 400 pixels
    fig = figure([], "<br>".join(title), height=height, margin_t=56 + 22 * len(title), showlegend=False)
    fig.update_layout(title={"xref": "container", "yref": "container", "yanchor": "top", "pad": {"t": 24, "l": 12}})
    spacing = {"horizontal_spacing": 0.03, "vertical_spacing": 60 / height}
    make_subplots(rows, columns, subplot_titles=names, figure=fig, shared_yaxes=True, **spacing)
    fig.update_annotations(font_size=13)
    for k in range(panels):
        mean, half = (np.array([differences[arm][side][k] for arm in differences], dtype=float) for side in (0, 1))
        certain = np.abs(mean) > half
        fig.add_scatter(
            x=percent(mean),
            y=arms,
            mode="markers",
            error_x={"array": percent(half), "width": 4, "thickness": 1.5, "color": INK},
            marker={
                "size": 9,
                "color": [COLOURS[0] if m > 0 else COLOURS[1] for m in mean],
                "symbol": ["circle" if sure else "circle-open" for sure in certain],
            },
            row=k // columns + 1,
            col=k % columns + 1,
        )
        fig.add_vline(0, line={"color": INK, "width": 1}, row=k // columns + 1, col=k % columns + 1)
    fig.update_xaxes(title_text="points", row=rows)
    fig.update_xaxes(nticks=4, tickangle=0)
    return fig.update_yaxes(autorange="reversed", type="category", showgrid=True, tickfont_size=11)
