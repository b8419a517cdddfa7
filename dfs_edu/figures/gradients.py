"""Gradients: where exits disagree, what junctions and methods do about it, and the work that this saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.look import (
    COLOURS,
    COSINES,
    FORWARD,
    GRADIENT,
    INK,
    OUTLINE,
    RULE,
    SHARED,
    SPECIFIC,
    as_text,
    below,
    cosine_bar,
    cosines,
    divide,
    every_column,
    exit_numbers,
    faint,
    figure,
    heatmaps,
    lines,
    literal,
    outline_zeros,
    panelled,
    panels,
    percent,
    require,
    rounded,
    row_count,
    sliding,
    style,
)
from dfs_edu.probes.pulling import SIDES

PARTS = (("f+, shared", True, SHARED), ("f-, specific", False, SPECIFIC))
DIGITS = 2  # significant ones of a cosine in a frame: what a colour can show
NOTHING = "rgba(0,0,0,0)"
CELLS = 24  # at most, in which numbers are written side by side
FRAMES = 30  # at most, in one slider

# Conflict


def conflict_heatmap(report, title: str = "Cosine between the gradients of two exits") -> go.Figure:
    """Draw one report as ``conflict_heatmaps`` does: one row per layer, one column per pair of exits."""
    return conflict_heatmaps({"": report}, title)


@literal
def conflict_heatmaps(reports: Mapping, title: str = "Cosine between the gradients of two exits") -> go.Figure:
    """Draw reports, by name, side by side on one colour scale from -1 to 1, blank where a pair does not meet.

    Exactly 0, where two gradients share nothing, is grey and outlined. A report has .cosine (L, K, K) and .layers, as
    ``probes.conflict`` returns it.

    Raises:
        ValueError: if there are no reports.
    """
    require(reports=reports)
    full = {name: np.asarray(report.cosine, dtype=float) for name, report in reports.items()}
    pairs = {name: cosine[:, *np.triu_indices(cosine.shape[1], 1)] for name, cosine in full.items()}
    columns = {name: _pairs(cosine.shape[1]) for name, cosine in full.items()}
    fig = heatmaps(
        {name: [[np.nan if v is None else v for v in cosines(row, 3)] for row in rows] for name, rows in pairs.items()},
        rows={name: as_text(list(report.layers)) for name, report in reports.items()},
        columns=columns,
        title=title,
        x="pair of exits",
        unit="cosine",
        scale=COSINES,
        low=-1,
        high=1,
        hover="%{y}, exits %{x}: %{z}",
        digits=8,
    )
    fig.update_layout(coloraxis_colorbar=cosine_bar())
    together = [name for names in columns.values() for name in names]  # panels share the width
    for i, names in enumerate(columns.values()):
        angle = every_column(together)
        labels = every_column(names) | {key: angle[key] for key in ("tickangle", "tickfont")}
        fig.update_layout({f"xaxis{i + 1 if i else ''}": labels})
    return outline_zeros(fig, OUTLINE)


def _pairs(exits: int) -> list[str]:
    return [f"{j + 1}·{k + 1}" for j, k in zip(*np.triu_indices(exits, 1), strict=True)]


@literal
def conflict_through_training(
    step, cosine, title: str = "Cosine between the gradients of two exits, through training"
) -> go.Figure:
    """Draw a heatmap with a slider over T snapshots, on one colour scale from -1 to 1; it moves without a kernel.

    The last snapshot is shown first. Of more than 30 snapshots, 30 are shown, evenly spaced, with the first and last.

    Args:
        step: (T,) steps of training.
        cosine: (T, K stages, K(K-1)/2 pairs), as ``probes.history`` has it; NaN, where a pair does not meet, is blank.

    Raises:
        ValueError: if there are no snapshots.
    """
    require(step=step)
    shown = np.linspace(0, len(step) - 1, min(FRAMES, len(step))).round().astype(int)
    step, cosine = np.asarray(step)[shown], np.asarray(cosine, dtype=float)[shown]
    K = cosine.shape[1]
    matrices = [[cosines(row, DIGITS) for row in snapshot] for snapshot in cosine]
    names = [str(int(s)) for s in step]
    heatmap = go.Heatmap(
        z=matrices[-1],
        x=_pairs(K),
        y=[f"stage {s + 1}" for s in range(K)],
        colorscale=COSINES,
        zmin=-1,
        zmax=1,
        colorbar=cosine_bar(),
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate="%{y}, exits %{x}: %{z}<extra></extra>",
    )
    fig = figure([heatmap], title, "pair of exits", height=240 + 26 * K, margin_b=110)
    fig.update_xaxes(**every_column(_pairs(K)), showgrid=False)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    frames = {name: [{"type": "heatmap", "z": z}] for name, z in zip(names, matrices, strict=True)}
    return sliding(fig, frames, names[-1], "step ")


@literal
def conflict_by_depth(runs: Mapping, title: str = "Pairs of exits in conflict, through training") -> go.Figure:
    """Draw the share of conflicting pairs over steps, name -> (step (T,), fraction (T, K stages)): one panel per stage.

    A stage in which no two exits meet, such as the last, has no panel.

    Raises:
        ValueError: if no two exits meet in any stage.
    """
    shares = {name: np.asarray(share, dtype=float) for name, (_, share) in runs.items()}
    depth = max((share.shape[1] for share in shares.values()), default=0)
    stages = [s for s in range(depth) if any(not np.isnan(share[:, s : s + 1]).all() for share in shares.values())]
    if not stages:
        raise ValueError(f"runs={list(runs)}: no two exits meet in any of them")

    columns, legend = min(3, len(stages)), 22 * row_count(runs, 2)
    rows = row_count(stages, columns)
    fig = panelled(title, height=150 + 190 * rows + legend, bottom=70 + legend)
    places = divide(fig, [f"stage {s + 1}" for s in stages], columns, 0.06, 0.28 / rows)
    for i, (name, (step, _)) in enumerate(runs.items()):
        for n, (s, place) in enumerate(zip(stages, places, strict=True)):
            if s < shares[name].shape[1]:
                fig.add_scatter(
                    x=np.asarray(step).astype(int).tolist(),
                    y=percent(shares[name][:, s]),
                    name=name,
                    legendgroup=name,
                    showlegend=n == 0,
                    mode="lines",
                    line=style(i)["line"],
                    **place,
                )
    fig.update_xaxes(title_text="step", row=rows)
    fig.update_yaxes(range=[-4, 104], tickvals=[0, 50, 100])
    return fig.update_yaxes(title_text="in conflict, %", col=1)


# Channels and junctions


@literal
def channel_conflict(
    reports: Mapping, title: str = "What each channel adds to the cosine of two gradients"
) -> go.Figure:
    """Draw one panel per network, name -> ``probes.Channels``, and one bar per channel; below 0 it is pulled both ways.

    Raises:
        ValueError: if there are no reports.
    """
    require(reports=reports)
    fig, places = panels(reports, title, height=340, bottom=90, bargap=0.1)
    for i, (place, report) in enumerate(zip(places, reports.values(), strict=True)):
        added, shared = np.nan_to_num(report.contribution()), np.asarray(report.shared)
        for name, is_shared, look in PARTS:
            channels = np.flatnonzero(shared == is_shared)
            fig.add_bar(
                x=(channels + 1).tolist(),
                y=rounded(added[channels], 5),
                name=name,
                legendgroup=name,
                showlegend=i == 0,
                marker=look,
                **place,
            )
    fig.update_yaxes(zeroline=True, zerolinecolor=INK)
    fig.update_xaxes(title_text="channel", showgrid=False)
    return fig.update_yaxes(title_text="part of the cosine", col=1)


@literal
def leakage(reports: Mapping, title: str = "What reaches the weights that write an exit's own channels") -> go.Figure:
    """Draw how strongly deeper exits pull, path by path: one panel per network, name -> ``probes.Leakage``.

    The height of a bar is the length of the deeper exits' gradient over that of the exit's own, in the same weights.

    Raises:
        ValueError: if there are no reports.
    """
    require(reports=reports)
    ratios = [np.asarray(report.ratio(), dtype=float) for report in reports.values()]
    S = max(ratio.shape[1] for ratio in ratios)
    fig, places = panels(reports, title, height=380, bottom=110, barmode="group")
    named = set()  # the paths that the legend names already
    for place, ratio in zip(places, ratios, strict=True):
        for s in range(S - ratio.shape[1], S):  # a network with fewer scales has the coarsest
            for name, is_shared, look in PARTS:
                path = f"{name}, {_scale(s, S)}" if S > 1 else name
                fig.add_bar(
                    x=exit_numbers(ratio),
                    y=rounded(ratio[:, s - S, 0 if is_shared else 1], 3),
                    name=path,
                    legendgroup=path,
                    showlegend=path not in named,
                    marker=look,
                    opacity=round(1 - 0.6 * (S - 1 - s) / max(1, S - 1), 2),  # the finer, the paler
                    **place,
                )
                named.add(path)
    fig.update_xaxes(title_text="exit", showgrid=False, dtick=1)
    return fig.update_yaxes(title_text="times its own gradient", col=1)


def _scale(s: int, scales: int) -> str:
    return "coarsest scale" if s == scales - 1 else "finest scale" if s == 0 else f"scale {s + 1}"


@literal
def pulls(junctions: Mapping, title: str = "Which exits see a channel, and how hard they pull on it") -> go.Figure:
    """Draw results (4, C) of ``probes.pulls``, by name: the larger a share, from 0 to 1, the stronger its colour.

    What is seen has the colour of forward, what is pulled that of gradients; exactly 0 is empty and outlined. Shares
    are written into the cells if these are few.

    Raises:
        ValueError: if there are no junctions.
    """
    require(junctions=junctions)
    shares = {name: np.asarray(values, dtype=float) for name, values in junctions.items()}
    columns = {name: list(range(1, values.shape[1] + 1)) for name, values in shares.items()}
    # Shares seen are drawn from 0 to 1, shares pulled from -1 to 0
    marks = {name: values * [[1], [1], [-1], [-1]] for name, values in shares.items()}
    # Opaque, so that numbers are readable on it on light and dark pages; exactly 0 is transparent
    scale = [[0, GRADIENT], [0.499, "#f8ebf3"], [0.499, NOTHING], [0.501, NOTHING], [0.501, "#e2f5ee"], [1, FORWARD]]
    hover = "channel %{x}, %{y} %{text}"
    fig = heatmaps(marks, dict.fromkeys(marks, SIDES), columns, title, "channel", "", scale, -1, 1, hover)
    few = sum(map(len, columns.values())) <= CELLS
    for trace, values in zip(fig.data, shares.values(), strict=True):
        trace.update(
            text=[[f"{v:.2g}" if v else "" for v in row] for row in values], texttemplate="%{text}" if few else None
        )
    return outline_zeros(fig).update_layout(coloraxis_showscale=False, height=290)


@literal
def weight_gradients(
    gradients: Mapping, title: str = "How strongly each filter's weights are pulled, by the channel they read"
) -> go.Figure:
    """Draw the gradients of weights, name -> (C_out, C_in, ...), as lengths; what is exactly 0 is empty and outlined.

    Raises:
        ValueError: if there are no gradients.
    """
    require(gradients=gradients)
    lengths = {name: np.asarray(g, dtype=float) for name, g in gradients.items()}
    lengths = {name: np.sqrt((g.reshape(*g.shape[:2], -1) ** 2).sum(-1)) for name, g in lengths.items()}
    lengths = {name: length / (length.max() or 1) for name, length in lengths.items()}
    rows = {name: list(range(1, len(length) + 1)) for name, length in lengths.items()}
    columns = {name: list(range(1, length.shape[1] + 1)) for name, length in lengths.items()}
    hover, scale = "filter %{y}, input channel %{x}: %{z}", [[0, faint(GRADIENT)], [1, GRADIENT]]
    unit = "length, of<br>the longest"
    fig = heatmaps(lengths, rows, columns, title, "input channel", unit, scale, 0, 1, hover, digits=8)
    fig.update_layout(yaxis_title_text="filter", height=190 + 12 * max(map(len, rows.values())))
    return outline_zeros(fig)


# Methods


@literal
def answers(
    cases: Mapping, shown: str, title: str = "Two gradients, and what each method makes of them", prefix: str = ""
) -> go.Figure:
    """Draw vectors as arrows from the origin, with a slider over cases.

    Args:
        cases: label -> name -> vector (2,). The first two of each case are the gradients, drawn in grey with their
            names; the others are what methods make of them.
        shown: label of the case that is shown first.
        prefix: stands before the label at the slider.
    """
    frames = {label: _arrows(vectors) for label, vectors in cases.items()}
    fig = _plane(frames[shown], [v for vectors in cases.values() for v in vectors.values()], title)
    fig.update_layout(margin_b=150)
    return sliding(fig, frames, shown, prefix)


@literal
def arrows(vectors: Mapping, title: str = "Two gradients, and what each method makes of them") -> go.Figure:
    """Draw vectors, name -> vector (2,), as arrows from the origin; the first two, the gradients, are grey."""
    return _plane(_arrows(vectors), list(vectors.values()), title)


def _plane(traces: list[dict], vectors: Sequence, title: str) -> go.Figure:
    """A figure of arrows with one scale for both axes, which keeps the angles true, and room for all the vectors."""
    fig = figure(traces, title, height=520, legend=below())
    ends = np.array([[0, 0], *map(np.asarray, vectors)])
    low, high = ends.min(0), ends.max(0)
    room = 0.15 * (high - low).max() or 1  # for the names, and so that no arrow ends at the frame
    for axis, a, b in zip((fig.update_xaxes, fig.update_yaxes), low - room, high + room, strict=True):
        axis(range=rounded([a, b], 3), zeroline=True, zerolinecolor=INK)
    return fig.update_yaxes(scaleanchor="x")


@literal
def steps(report, method: int = 0, title: str = "Two losses after one step of the trunk") -> go.Figure:
    """Draw one panel per exit: its loss by the length of a step, as predicted and as measured.

    Args:
        report: As ``probes.steps`` returns it.
        method: Index of one of ``report.methods``, from 0.
    """
    fig, places = panels([f"exit {k + 1}" for k in report.exits], title, height=360, bottom=100)
    kinds = {"by the slope": report.predicted(1), "by slope and curvature": report.predicted(2)}
    for i, place in enumerate(places):
        for j, (name, losses) in enumerate((kinds | {"measured": report.measured}).items()):
            look = {"dash": ["dash", "dot", "solid"][j], "color": COLOURS[[4, 5, 0][j]], "width": 2}
            drawn = {"name": name, "legendgroup": name, "showlegend": i == 0, "line": look}
            mode = "lines+markers" if name == "measured" else "lines"
            fig.add_scatter(x=rounded(report.lengths), y=rounded(losses[method, :, i]), mode=mode, **drawn, **place)
    fig.update_xaxes(title_text="length of the step")
    fig.update_yaxes(matches=None, showticklabels=True)
    return fig.update_yaxes(title_text="loss", col=1)


def _arrows(vectors: Mapping) -> list[dict]:
    traces = []
    for i, (name, (x, y)) in enumerate(vectors.items()):
        given = i < 2  # a gradient, not what a method makes of it
        line = {"color": INK, "width": 5} if given else style(i - 2)["line"]
        head = {
            "symbol": ["circle", "arrow"],
            "angleref": "previous",
            "size": [1, 20 if given else 14],
            "color": line["color"],
            "opacity": 1,
            "line": {"width": 0},  # the theme's would be white in the dark
        }
        trace = {"type": "scatter", "name": name, "x": rounded([0, x], 3), "y": rounded([0, y], 3)}
        trace |= {"mode": "lines+markers", "line": line, "marker": head}
        if given:
            labels = {"text": ["", name], "textposition": "top center"}
            trace |= {"mode": "lines+markers+text", "showlegend": False, **labels}
        traces.append(trace)
    return traces


@literal
def weights_of_exits(weights: Mapping, title: str = "The weight that each method gives to each exit") -> go.Figure:
    """Draw K weights per method, name -> weights, as grouped bars."""
    bars = [
        go.Bar(
            name=name,
            x=[f"exit {k}" for k in exit_numbers(values)],
            y=rounded(values, 3),
            marker={"color": COLOURS[i % 7], "pattern": {"shape": "/" if i >= 7 else ""}},
        )
        for i, (name, values) in enumerate(weights.items())
    ]
    return figure(bars, title, "", "weight", legend=below(), barmode="group")


@literal
def agreements(
    cosine: Mapping, rows: Sequence[str], title: str = "Cosine between a step and each exit's own gradient"
) -> go.Figure:
    """Draw how well steps suit exits, on the colour scale of all cosines: below 0 a step makes that exit worse.

    Args:
        cosine: name -> (R, K), one row per step: a batch, or a method. One panel each.
        rows: R names.
        title: of the figure.

    Raises:
        ValueError: if there are no panels.
    """
    require(cosine=cosine)
    fig = heatmaps(
        cosine,
        rows=dict.fromkeys(cosine, rows),
        columns={name: [str(k) for k in exit_numbers(matrix[0])] for name, matrix in cosine.items()},
        title=title,
        x="exit",
        unit="cosine",
        scale=COSINES,
        low=-1,
        high=1,
        hover="%{y}, exit %{x}: %{z}",
        shown="%{z:.2f}",
    )
    return fig.update_layout(coloraxis_colorbar=cosine_bar())


# Work


@literal
def layer_work(
    computed: Mapping, title: str = "One layer in a training step: three products of equal cost"
) -> go.Figure:
    """Draw the products that a layer computes in a training step, one bar per case, in units of its forward pass.

    Args:
        computed: name -> what fraction of the input gradient is computed, from 0 to 1.

    Raises:
        ValueError: if there are no cases.
    """
    require(computed=computed)
    fractions = np.asarray(list(computed.values()), dtype=float)
    products = {
        "forward": ("y = W x", np.ones(len(fractions)), FORWARD, ""),
        "weight gradient": ("dW = dy xᵀ", np.ones(len(fractions)), GRADIENT, ""),
        "input gradient": ("dx = Wᵀ dy", fractions, GRADIENT, "/"),
        "input gradient that nobody uses": ("not computed", 1 - fractions, "rgba(0,0,0,0)", ""),
    }
    fig = figure([], title, "forward passes of this layer", height=150 + 56 * len(computed), barmode="stack")
    for name, (formula, units, colour, shape) in products.items():
        fig.add_bar(
            name=name,
            y=list(computed),
            x=rounded(units),
            orientation="h",
            marker={"color": colour, "pattern": {"shape": shape, "bgcolor": colour, "fgcolor": "#dca0c2"}},
            marker_line={"color": INK, "width": 1},
            text=[formula if u >= 0.2 else "" for u in units],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont={"color": INK if colour.startswith("rgba") else "#111111"},
            hovertemplate="%{y}: %{x} of a forward pass<extra>" + name + "</extra>",
        )
    fig.update_xaxes(range=[0, 3.01], dtick=1)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return fig.update_layout(legend=below() | {"traceorder": "normal"}, margin_b=90)


@literal
def gradient_work(costs: Mapping, title: str = "Work of a training step for one image") -> go.Figure:
    """Draw forward and backward work in MFLOPs as stacked bars: name -> cost, as ``probes.cost`` returns it."""
    parts = {"forward": (FORWARD, ""), "backward": (GRADIENT, "/")}
    bars = [
        go.Bar(
            name=part,
            y=list(costs),
            x=rounded([getattr(cost, f"{part}_flops") / 1e6 for cost in costs.values()], 3),
            orientation="h",
            marker={"color": colour, "pattern": {"shape": shape, "bgcolor": colour, "fgcolor": "#dca0c2"}},
            texttemplate="%{x:.4g}",
            textposition="inside",
            insidetextfont={"color": "#111111"},
        )
        for part, (colour, shape) in parts.items()
    ]
    height = 150 + 44 * len(costs)
    fig = figure(bars, title, "MFLOPs per image", height=height, barmode="stack", legend_traceorder="normal")
    return fig.update_yaxes(autorange="reversed", showgrid=False)


@literal
def saved_by_beta(
    betas: Sequence[float], saved: Mapping, title: str = "What surgery saves of a training step, by beta"
) -> go.Figure:
    """Draw what fraction of joint training's step is saved at each beta; below 0 the step costs more.

    Args:
        betas: (B,).
        saved: name -> fractions (B,).
    """
    fig = figure([], title, "beta, the shared part of the channels", "% of a joint step saved")
    fig.add_hline(0, line=RULE)
    return lines(fig, {name: (rounded(betas), percent(fractions)) for name, fractions in saved.items()})


@literal
def saved_by_network(saved: Mapping, title: str = "What surgery saves of a joint training step") -> go.Figure:
    """Draw one bar per network: name -> fraction of a joint training step that is saved."""
    fractions = percent(list(saved.values()))
    text = [f"{value:.1f} %" for value in fractions]
    look = {"color": GRADIENT, "pattern": {"shape": ""}}
    bars = go.Bar(x=fractions, y=list(saved), orientation="h", text=text, textposition="outside", marker=look)
    fig = figure([bars], title, "% of a joint step saved", height=130 + 40 * len(saved))
    fig.update_xaxes(range=[min(0, *fractions), 1.2 * max(1, *fractions)])
    return fig.update_yaxes(autorange="reversed", showgrid=False)
