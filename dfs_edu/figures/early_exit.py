"""Early exit: where images leave, how far confidence can be trusted, and what time it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.look import (
    COLOURS,
    DOTTED,
    RULE,
    below,
    divide,
    exit_axis,
    exit_numbers,
    figure,
    lines,
    literal,
    panelled,
    percent,
    require,
    rounded,
    row_count,
    style,
)


@literal
def cuts(
    values: Mapping, title: str = "Right answers if n images leave here", y: str = "right answers", points: int = 100
) -> go.Figure:
    """Draw a value over every possible cut of one exit's images; a star marks the highest.

    Args:
        values: name -> (N + 1,); entry n is the value if the n most confident images leave here.
        y: title of the vertical axis.
        points: at most this many entries of a line are drawn, and the highest.
    """
    fig = figure([], title, "number of images that leave here", y)
    for i, (name, value) in enumerate(values.items()):
        value = np.asarray(value, dtype=float)
        best = int(value.argmax())
        drawn = np.unique(np.r_[np.linspace(0, len(value) - 1, min(points, len(value))).astype(int), best])
        x = drawn.tolist()
        fig.add_scatter(x=x, y=rounded(value[drawn], 1), name=name, mode="lines", line=style(i)["line"])
        star = {"symbol": "star", "size": 13, "color": COLOURS[i % 7]}
        fig.add_scatter(x=[best], y=rounded(value[[best]], 1), mode="markers", marker=star, showlegend=False)
    return fig.update_layout(legend=below())


@literal
def reliability(
    diagrams: Mapping,
    exits: Sequence[int] | None = None,
    title: str = "Is an exit right as often as it is confident? Accuracy by confidence",
) -> go.Figure:
    """Draw one panel per exit and one mark per bin of confidence, larger the more images are in it.

    On the diagonal, an exit is right as often as it is confident; below, it is overconfident.

    Args:
        diagrams: name -> ``inference.Reliability``.
        exits: indices from 0 of the exits that are shown; None: all.

    Raises:
        ValueError: if there are no diagrams.
    """
    require(diagrams=diagrams)
    K = len(next(iter(diagrams.values())).count)
    exits = list(range(K)) if exits is None else list(exits)
    columns = min(3, len(exits))
    rows = row_count(exits, columns)
    fig = panelled(title, height=140 + 210 * rows, bottom=90)
    places = divide(fig, [f"exit {k + 1}" for k in exits], columns, 0.07, 0.32 / rows, shared_yaxes=False)
    ideal = {"mode": "lines", "line": DOTTED | {"width": 1.5}, "hoverinfo": "skip"}
    for i, (k, place) in enumerate(zip(exits, places, strict=True)):
        fig.add_scatter(x=[0, 100], y=[0, 100], name="right as often as confident", showlegend=i == 0, **ideal, **place)
        for j, (name, diagram) in enumerate(diagrams.items()):
            count = np.asarray(diagram.count[k])
            filled = count > 0  # the bins with images
            look, share = style(j), count[filled] / count.sum()
            look["marker"] |= {"size": rounded(5 + 22 * np.sqrt(share), 1), "opacity": 0.75, "line": {"width": 0}}
            fig.add_scatter(
                x=percent(np.asarray(diagram.confidence[k])[filled]),
                y=percent(np.asarray(diagram.accuracy[k])[filled]),
                customdata=count[filled].tolist(),
                hovertemplate="%{x} % confident: %{y} % right<br>%{customdata} images<extra>%{fullData.name}</extra>",
                name=name,
                legendgroup=name,
                showlegend=i == 0,
                mode="lines+markers",
                cliponaxis=False,
                **look,
                **place,
            )
    fig.update_xaxes(range=[-3, 103], tickvals=[0, 50, 100])
    fig.update_yaxes(range=[-3, 103], tickvals=[0, 50, 100])
    fig.update_xaxes(title_text="confidence in %", row=rows)
    return fig.update_yaxes(title_text="right in %", col=1)


@literal
def shares(point, title: str = "Where images leave") -> go.Figure:
    """Draw what share of the images leaves at each exit, and what fraction of those is right (``inference.Point``)."""
    text = [
        f"{share:.1f} %" + ("" if right is None else f"<br>{right:.1f} % right")
        for share, right in zip(percent(point.share), percent(point.exit_accuracy), strict=True)
    ]
    x, y = exit_numbers(point.share), percent(point.share)
    bars = go.Bar(x=x, y=y, text=text, textposition="outside", cliponaxis=False)
    return exit_axis(figure([bars], title, "exit", "share of images in %", height=320))


@literal
def shares_by(points: Mapping, title: str = "Where images leave, by each method") -> go.Figure:
    """Draw side by side what share of the images leaves at each exit: name -> ``inference.Point``."""
    fig = figure([], title, "exit", "share of images in %", height=360, barmode="group")
    for i, (name, point) in enumerate(points.items()):
        colour, share = COLOURS[i % 7], percent(point.share)
        pattern = {"shape": ["", "/", "."][i % 3], "size": 6, "bgcolor": colour, "fgcolor": "white"}
        # A number above each bar, but none where no image leaves: an empty place should look empty.
        text = [f"{s:.0f}" if s >= 0.5 else "" for s in share]
        marker = {"color": colour, "pattern": pattern}
        x = exit_numbers(share)
        fig.add_bar(x=x, y=share, name=name, text=text, textposition="outside", cliponaxis=False, marker=marker)
    return exit_axis(fig, legend=below())


# Time


@literal
def rates(rates: Mapping, title: str = "Images per second") -> go.Figure:
    """Draw {batch size: {name: images per second}} as bars, one group per name."""
    bars = [
        go.Bar(
            x=list(by_name),
            y=rounded(list(by_name.values()), 1),
            name=f"{size} at once" if size > 1 else "one by one",
            text=[f"{rate:,.0f}" for rate in by_name.values()],
            textposition="outside",
            cliponaxis=False,
        )
        for size, by_name in rates.items()
    ]
    return figure(bars, title, y="images per second", barmode="group", legend=below())


@literal
def speed_ups(measured: Mapping, title: str = "Speed-up over the whole network: promised and measured") -> go.Figure:
    """Draw name -> (speed-up by MACs (P,), measured speed-up (P,)); below the diagonal, it is less than promised."""
    most = max((max(promised) for promised, _ in measured.values()), default=2)
    ends = [1, *rounded([most])]
    fig = figure([], title, "speed-up by MACs", "measured speed-up")
    fig.add_scatter(x=ends, y=ends, name="as promised", mode="lines", hoverinfo="skip", line=DOTTED)
    fig.add_hline(1, line=RULE)
    return lines(fig, {name: (rounded(promised, 3), rounded(real, 3)) for name, (promised, real) in measured.items()})


@literal
def parts_of_whole(costs: Mapping, title: str = "What it costs to reach each exit") -> go.Figure:
    """Draw cumulative costs (K,), name -> cost in any unit, as fractions of the last exit's."""
    values = {name: np.asarray(cost, dtype=float) for name, cost in costs.items()}
    curves = {name: (exit_numbers(cost), percent(cost / cost[-1])) for name, cost in values.items()}
    return exit_axis(lines(figure([], title, y="% of the last exit"), curves), yaxis_rangemode="tozero")


@literal
def waits(
    seconds: Mapping, title: str = "What fraction of the images is answered within a time?", points: int = 200
) -> go.Figure:
    """Draw the fraction of images that took no longer than a time: name -> seconds per image (N,).

    At most ``points`` values of each are drawn.
    """
    fig = figure([], title, "milliseconds", "images answered in %")
    for i, (name, times) in enumerate(seconds.items()):
        times = np.sort(np.asarray(times, dtype=float))
        drawn = np.unique(np.linspace(0, len(times) - 1, min(points, len(times))).astype(int))
        x, y = rounded(1000 * times[drawn], 3), percent((drawn + 1) / len(times))
        fig.add_scatter(x=x, y=y, name=name, mode="lines", line={"shape": "hv"} | style(i)["line"])
    return fig.update_layout(legend=below())
