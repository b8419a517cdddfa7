"""What things cost, in operations and in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

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
def gradient_work(costs: Mapping, title: str = "Work of a training step for one picture") -> go.Figure:
    """Name -> cost with .forward_flops and .backward_flops, as stacked bars in MFLOPs."""
    names = list(costs)
    parts = {
        part: [getattr(cost, f"{part}_flops") / 1e6 for cost in costs.values()] for part in ("forward", "backward")
    }
    bars = [
        go.Bar(
            name=part,
            y=names,
            x=rounded(values, 3),
            orientation="h",
            marker={
                "color": COLOURS[i],
                "pattern": {"shape": "/" if i else "", "bgcolor": COLOURS[i], "fgcolor": "#e08240"},
            },
            texttemplate="%{x:.4g}",
            textposition="inside",
            insidetextfont={"color": "white"},
        )
        for i, (part, values) in enumerate(parts.items())
    ]
    fig = figure(
        bars, title, "MFLOPs a picture", height=150 + 44 * len(names), barmode="stack", legend_traceorder="normal"
    )
    return fig.update_yaxes(autorange="reversed", showgrid=False)


@literal
def saved_by_beta(
    betas: Sequence[float], saved: Mapping, title: str = "What surgery saves of a training step, by beta"
) -> go.Figure:
    """Name -> the part of joint training's step that is saved at each beta (B,); below 0: it costs more."""
    fig = figure([], title, "beta, the shared part of the channels", "% of a joint step saved")
    fig.add_hline(0, line={"color": INK, "width": 1})
    for i, (name, parts) in enumerate(saved.items()):
        fig.add_scatter(x=rounded(betas), y=percent(parts), name=name, mode="lines+markers", **style(i))
    return fig.update_layout(legend=below())


@literal
def rates(rates: Mapping, title: str = "Pictures a second") -> go.Figure:
    """{pictures at once: {way: pictures a second}}, as bars side by side, one group for each way."""
    bars = [
        go.Bar(
            x=list(of),
            y=rounded(list(of.values()), 1),
            name=f"{size} at once" if size > 1 else "one by one",
            text=[f"{rate:,.0f}" for rate in of.values()],
            textposition="outside",
            cliponaxis=False,
        )
        for size, of in rates.items()
    ]
    return figure(bars, title, y="pictures a second", barmode="group", legend=below())


@literal
def speed_ups(measured: Mapping, title: str = "Times as fast as the whole network: promised and measured") -> go.Figure:
    """Name -> (times as fast by MACs (P,), times as fast by the clock (P,)). Below the diagonal, less than promised."""
    most = max((max(promised) for promised, _ in measured.values()), default=2)
    fig = figure([], title, "times as fast, by MACs", "times as fast, by the clock")
    rule = {"mode": "lines", "hoverinfo": "skip", "line": {"color": INK, "width": 1, "dash": "dot"}}
    fig.add_scatter(x=[1, rounded([most])[0]], y=[1, rounded([most])[0]], name="as promised", **rule)
    fig.add_hline(1, line={"color": INK, "width": 1})
    for i, (name, (promised, found)) in enumerate(measured.items()):
        fig.add_scatter(x=rounded(promised, 3), y=rounded(found, 3), name=name, mode="lines+markers", **style(i))
    return fig.update_layout(legend=below())


@literal
def parts_of_whole(costs: Mapping, title: str = "What it costs to come to each exit") -> go.Figure:
    """Name -> a cumulative cost (K,) in any unit, as a part of the last exit's."""
    fig = figure([], title, y="% of the last exit")
    for i, (name, cost) in enumerate(costs.items()):
        cost = np.asarray(cost, dtype=float)
        x = list(range(1, len(cost) + 1))
        fig.add_scatter(x=x, y=percent(cost / cost[-1]), name=name, mode="lines+markers", **style(i))
    exits = max((len(trace.x) for trace in fig.data), default=0)
    return fig.update_layout(xaxis=exit_ticks(exits), yaxis_rangemode="tozero", legend=below())


@literal
def waits(
    seconds: Mapping, title: str = "How many pictures are answered within a time", points: int = 200
) -> go.Figure:
    """Name -> seconds that each picture took (N,): the fraction that took no longer. At most `points` of each."""
    fig = figure([], title, "milliseconds", "pictures answered in %")
    for i, (name, times) in enumerate(seconds.items()):
        times = np.sort(np.asarray(times, dtype=float))
        shown = np.unique(np.linspace(0, len(times) - 1, min(points, len(times))).astype(int))
        x, y = rounded(1000 * times[shown], 3), percent((shown + 1) / len(times))
        fig.add_scatter(x=x, y=y, name=name, mode="lines", line={"shape": "hv"} | style(i)["line"])
    return fig.update_layout(legend=below())
