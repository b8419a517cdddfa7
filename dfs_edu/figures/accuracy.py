"""Accuracy of exits, against cost, budget and time, and what an arm of a study gains or loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.look import (
    COLOURS,
    DOTTED,
    FORWARD,
    INK,
    RULE,
    area,
    below,
    divide,
    exit_axis,
    exit_numbers,
    figure,
    lines,
    literal,
    millions,
    panels,
    percent,
    rounded,
    row_count,
    style,
)
from dfs_edu.intervals import interval


@literal
def accuracy_per_exit(
    results: Mapping, published: Mapping | None = None, title: str = "Accuracy of each exit"
) -> go.Figure:
    """Draw accuracy over exits: the mean over seeds, with its 95 % t-interval.

    Args:
        results: name -> accuracies (seeds, K) or (K,), as fractions.
        published: name -> accuracies (K,) that others report: dashed, hollow and labelled as published.
    """
    return _per_exit(results, published or {}, title, "accuracy in %")


@literal
def gain_per_exit(
    gains: Mapping, published: Mapping | None = None, title: str = "Accuracy gained at each exit"
) -> go.Figure:
    """Draw gains in accuracy over exits, with a line at zero: the mean over seeds, with its 95 % t-interval.

    Args:
        gains: name -> gains (seeds, K) or (K,), as fractions.
        published: name -> gains (K,) that others report: dashed, hollow and labelled as published.
    """
    fig = _per_exit(gains, published or {}, title, "gain in points")
    fig.add_hline(0, line=RULE)
    return fig


def _per_exit(results: Mapping, published: Mapping, title: str, unit: str) -> go.Figure:
    """One line per result over exits, of one value per exit or of one per seed and exit, and then the published."""
    fig = figure([], title, "exit", unit)
    for i, (name, values) in enumerate(results.items()):
        seeds = np.atleast_2d(np.asarray(values, dtype=float)).tolist()
        n, (mean, half) = len(seeds), interval(seeds)
        note = f"mean and 95 % interval, n = {n}" if n > 1 else "n = 1"
        fig.add_scatter(
            x=exit_numbers(mean),
            y=percent(mean),
            name=f"{name} ({note})",
            mode="lines+markers",
            error_y={"array": percent(half), "width": 6, "thickness": 1.5} if n > 1 else None,
            **style(i),
        )
    for i, (name, values) in enumerate(published.items(), start=len(results)):
        look = style(i)
        look["line"]["dash"], look["marker"]["symbol"] = "dot", f"{look['marker']['symbol']}-open"
        x, y = exit_numbers(values), percent(values)
        fig.add_scatter(x=x, y=y, name=f"{name} (published)", mode="lines+markers", **look)
    return exit_axis(fig, legend=below())


@literal
def accuracy_cost(
    curves: Mapping,
    anytime: Mapping | None = None,
    point=None,
    title: str = "Accuracy against average cost",
    published: Mapping | None = None,
    bands: Mapping | None = None,
) -> go.Figure:
    """Draw accuracy against average cost: curves as lines, single exits as marks.

    Args:
        curves: name -> ``inference.Curve``.
        anytime: name -> (macs (K,), accuracy (K,)) if every image leaves at exit k.
        point: ``inference.Point`` of the thresholds that are chosen now.
        published: name -> (macs (K,), accuracy (K,)) that others report: hollow and labelled as published.
        bands: name of a curve -> (lowest (P,), highest (P,)) accuracy of its interval: a faint area behind the line.
    """
    bands = bands or {}
    fig = figure([], title, "average cost in MMACs per image", "accuracy in %")
    for i, (name, curve) in enumerate(curves.items()):
        x, y = millions(curve.macs), percent(curve.accuracy)
        if name in bands:
            fig.add_trace(area(x, *map(percent, bands[name]), COLOURS[i % 7]))
        fig.add_scatter(x=x, y=y, name=name, mode="lines", line=style(i)["line"])

    measured = {f"{name}, all at one exit": exits for name, exits in (anytime or {}).items()}
    reported = {f"{name} (published)": exits for name, exits in (published or {}).items()}
    for i, (name, (macs, accuracy)) in enumerate((measured | reported).items()):
        mark = style(i)["marker"]
        fig.add_scatter(
            x=millions(macs),
            y=percent(accuracy),
            name=name,
            mode="markers+text",
            text=[str(k) for k in exit_numbers(macs)],
            textposition="top center" if i % 2 else "bottom center",  # neighbours' numbers do not cover each other
            cliponaxis=False,
            marker=mark | {"symbol": f"{mark['symbol']}-open"} if name in reported else mark,
        )
    if point is not None:
        mark = {"symbol": "circle-open-dot", "size": 15, "color": COLOURS[1], "line": {"width": 3}}
        x, y = millions([point.macs]), percent([point.accuracy])
        fig.add_scatter(x=x, y=y, name="these thresholds", mode="markers", marker=mark)
    # Long names are stacked in the legend, and must not take their room from the plot.
    return fig.update_layout(legend=below(), height=380 + 20 * max(0, len(fig.data) - len(bands) - 2))


@literal
def budget_differences(
    budgets, differences: Mapping, title: str = "Difference in accuracy at each budget, with its 95 % interval"
) -> go.Figure:
    """Draw differences in accuracy over budgets; where the band contains 0, a line shows no difference.

    Args:
        budgets: (P,), MACs.
        differences: name -> (difference, lowest, highest), fractions (P,) each.
    """
    fig = figure([], title, "budget in MMACs per image", "difference in points")
    fig.add_hline(0, line=RULE)
    x = millions(budgets)
    for i, (name, (difference, low, high)) in enumerate(differences.items()):
        fig.add_trace(area(x, percent(low), percent(high), COLOURS[i % 7]))
        fig.add_scatter(x=x, y=percent(difference), name=name, mode="lines", line=style(i)["line"])
    return fig.update_layout(legend=below())


@literal
def costs(networks: Mapping, title: str = "What it costs to leave at each exit") -> go.Figure:
    """Draw one bar per network, made of the trunk up to each exit and the exit's head, and a mark at each exit.

    Args:
        networks: name -> (``probes.Cost``, accuracy (K,) of the exits as fractions, or None: the mark then has the
            exit's number).
    """
    names = list(networks)
    fig = figure([], title, "MMACs per image", height=130 + 74 * len(names), barmode="overlay", legend=below())
    heads: dict[str, list] = {"x": [], "base": [], "y": []}
    trunks: dict[str, list] = {"x": [], "base": [], "y": []}
    marks: dict[str, list] = {"x": [], "y": [], "text": [], "customdata": []}
    for name, (cost, accuracy) in networks.items():
        leaving, head = np.asarray(cost.macs, dtype=float), np.asarray(cost.head_macs, dtype=float)
        reached = leaving - head  # what the trunk and the earlier heads have cost
        for parts, start, end in ((trunks, np.r_[0, leaving[:-1]], reached), (heads, reached, leaving)):
            parts["x"] += millions(end - start)
            parts["base"] += millions(start)
            parts["y"] += [name] * len(leaving)
        marks["x"] += millions(leaving)
        marks["y"] += [name] * len(leaving)
        marks["customdata"] += exit_numbers(leaving)
        marks["text"] += exit_numbers(leaving) if accuracy is None else [f"{a:.0f}" for a in percent(accuracy)]

    look = {"orientation": "h", "width": 0.36, "hovertemplate": "%{y}: %{x} MMACs<extra>%{fullData.name}</extra>"}
    pattern = {"shape": "/", "size": 5, "bgcolor": COLOURS[4], "fgcolor": "white"}
    fig.add_bar(name="trunk", marker={"color": FORWARD}, **trunks, **look)
    fig.add_bar(name="heads", marker={"color": COLOURS[4], "pattern": pattern}, **heads, **look)
    fig.add_scatter(
        name="an exit"
        + ("" if all(accuracy is None for _, accuracy in networks.values()) else ", and its accuracy in %"),
        mode="markers+text",
        textposition="top center",
        cliponaxis=False,
        hovertemplate="%{y}, exit %{customdata}: %{x} MMACs<extra>%{text}</extra>",
        marker={"symbol": "line-ns-open", "size": 30, "line": {"width": 2, "color": INK}, "color": INK},
        **marks,
    )
    return fig.update_yaxes(range=[len(names) - 0.5, -0.7], type="category", showgrid=False)


@literal
def gaps_by_cost(
    gaps: Mapping, title: str = "Difference in accuracy at each exit: mean, lowest and highest seed"
) -> go.Figure:
    """Draw differences in accuracy over the cost of leaving there, for networks of different size and depth.

    Args:
        gaps: name -> (macs (K,), differences (seeds, K), fractions): a line of means, from lowest to highest seed.
    """
    fig = figure([], title, "cost of the exit, % of the whole network", "difference in points")
    fig.add_hline(0, line=RULE)
    for i, (name, (macs, seeds)) in enumerate(gaps.items()):
        seeds, macs = np.atleast_2d(np.asarray(seeds, dtype=float)), np.asarray(macs, dtype=float)
        mean = seeds.mean(0)
        above, below_ = percent(seeds.max(0) - mean), percent(mean - seeds.min(0))
        spread = {"array": above, "arrayminus": below_, "width": 6, "thickness": 1.5} if len(seeds) > 1 else None
        fig.add_scatter(
            x=percent(macs / macs[-1]),
            y=percent(mean),
            name=f"{name} (n = {len(seeds)})",
            mode="lines+markers",
            error_y=spread,
            **style(i),
        )
    return fig.update_layout(legend=below())


@literal
def learning_curves(record: Mapping, title: str = "Validation accuracy while training") -> go.Figure:
    """Draw one line per exit over the epochs of a record: {"epoch", "validation_accuracy": K fractions} each."""
    epochs = record["epochs"]
    accuracy = np.asarray([epoch["validation_accuracy"] for epoch in epochs], dtype=float)  # (epochs, K)
    traces = [
        go.Scatter(
            x=[epoch["epoch"] for epoch in epochs],
            y=percent(accuracy[:, k]),
            name=f"exit {k + 1}",
            mode="lines+markers" if len(epochs) <= 20 else "lines",
            **style(k),
        )
        for k in range(accuracy.shape[1])
    ]
    return figure(traces, title, "epoch", "accuracy in %")


@literal
def accuracy_over_time(
    records: Mapping, exit: int = -1, title: str = "Validation accuracy against wall-clock time"
) -> go.Figure:
    """Draw one line per run, name -> record, with one mark per epoch; time is that of training, without validation.

    ``exit`` is the index of the exit that is shown, from 0; -1: the last.
    """
    curves = {}
    for name, record in records.items():
        minutes = np.cumsum([row["seconds"] for row in record["epochs"]]) / 60
        accuracy = [row["validation_accuracy"][exit] for row in record["epochs"]]
        curves[name] = rounded(minutes, 2), percent(accuracy)
    return lines(figure([], title, "minutes of training", "accuracy in %"), curves)


@literal
def seeds_needed(
    widths: Mapping, gains: Mapping, title: str = "How many seeds does it take to show a gain?"
) -> go.Figure:
    """Draw half the interval's width over the number of seeds, with a level line for each gain to be shown.

    Args:
        widths: name -> {number of seeds: half the width in points}.
        gains: name -> gain in points, drawn as a dashed line; where a curve is below it, its interval excludes 0.
    """
    fig = figure([], title, "number of seeds", "± points")
    for name, gain in gains.items():
        fig.add_hline(gain, line=DOTTED, annotation_text=f"{name}: {gain:+.1f}", annotation_position="top right")
    most = max(gains.values())
    fig.update_yaxes(range=[0, 1.25 * most]).update_xaxes(dtick=1)
    return lines(fig, {name: (list(by_n), rounded(list(by_n.values()), 2)) for name, by_n in widths.items()})


@literal
def gaps(
    differences: Mapping, exits: int, title: str = "Difference to the first arm, with its 95 % interval"
) -> go.Figure:
    """Draw differences in accuracy, one row per arm and one panel per exit. A filled mark: the interval excludes 0.

    Long names and titles are broken into lines, so that the panels keep their share of a narrow page.

    Args:
        differences: name -> (mean (E,), half the interval's width (E,)), fractions. E is ``exits``, or one more: the
            last entry is then the mean of the exits.
        exits: how many exits there are.
    """
    width, columns = len(next(iter(differences.values()))[0]), 3
    names = [f"exit {k + 1}" if k < exits else "mean of exits" for k in range(width)]
    arms = ["<br>".join(wrap(arm, 22, break_long_words=False)) for arm in differences]

    # Room for the longest name in every row, and for the title as wide as a page of 400 pixels.
    rows, longest = row_count(names, columns), 1 + max(arm.count("<br>") for arm in arms)
    height = 120 + rows * (90 + (4 + 12 * longest) * len(arms))
    title_lines = wrap(title, 42)
    top = 56 + 22 * len(title_lines)
    fig = figure([], "<br>".join(title_lines), height=height, margin_t=top, showlegend=False)
    fig.update_layout(title={"xref": "container", "yref": "container", "yanchor": "top", "pad": {"t": 24, "l": 12}})

    for k, place in enumerate(divide(fig, names, columns, 0.03, 80 / height)):
        mean, half = (np.array([values[side][k] for values in differences.values()], dtype=float) for side in (0, 1))
        fig.add_scatter(
            x=percent(mean),
            y=arms,
            mode="markers",
            error_x={"array": percent(half), "width": 4, "thickness": 1.5, "color": INK},
            marker={
                "size": 9,
                "color": [COLOURS[0] if m > 0 else COLOURS[1] for m in mean],
                "symbol": ["circle" if certain else "circle-open" for certain in np.abs(mean) > half],
            },
            **place,
        )
        fig.add_vline(0, line=RULE, **place)
    fig.update_xaxes(title_text="points", row=rows)
    fig.update_xaxes(nticks=4, tickangle=0)
    return fig.update_yaxes(autorange="reversed", type="category", showgrid=True, tickfont_size=11)


@literal
def seed_by_seed(pairs: Mapping, arms: Sequence[str], title: str = "The same seeds under two arms") -> go.Figure:
    """Draw one panel per pair of arms and one line per seed: steep lines that are parallel are a sure difference.

    Args:
        pairs: name -> (accuracies (n,) of one arm, accuracies (n,) of the other), fractions, in the order of the seeds.
        arms: what the left and the right end of a line are called; two names.
        title: of the figure.
    """
    fig, places = panels(pairs, title, height=380, bottom=110)
    for i, (place, (first, second)) in enumerate(zip(places, pairs.values(), strict=True)):
        for seed, values in enumerate(zip(first, second, strict=True)):
            name = {"name": f"seed {seed}", "legendgroup": f"seed {seed}", "showlegend": i == 0}
            fig.add_scatter(x=list(arms), y=percent(values), mode="lines+markers", **name, **style(seed), **place)
    fig.update_xaxes(type="category", range=[-0.3, 1.3], showgrid=False)
    return fig.update_yaxes(title_text="accuracy in %", col=1)


@literal
def trade_off(
    differences: Mapping, x: str, y: str, title: str = "What an arm gains here, and loses there"
) -> go.Figure:
    """Draw two differences of each arm against each other, with their intervals; the reference is at the crossing.

    Args:
        differences: name -> ((mean, half the interval's width) across, the same down), fractions.
        x: title of the horizontal axis.
        y: title of the vertical axis.
        title: of the figure.
    """
    fig = figure([], title, x, y, height=440 + 12 * len(differences), legend=below())
    fig.add_hline(0, line=RULE)
    fig.add_vline(0, line=RULE)
    for i, (name, (across, down)) in enumerate(differences.items()):
        (px, hx), (py, hy) = percent(across), percent(down)
        whisker = {"width": 4, "thickness": 1, "color": COLOURS[i % 7]}
        fig.add_scatter(
            x=[px],
            y=[py],
            name=name,
            mode="markers",
            marker=style(i)["marker"] | {"size": 11},
            error_x={"array": [hx], **whisker},
            error_y={"array": [hy], **whisker},
        )
    return fig
