"""Arrays -> plotly figures, pure: nothing is computed here that a reader could want as a number.

Every figure has its own small template: colours of Okabe and Ito (2008), which colour-blind people can tell apart,
dashes and markers besides colour, a transparent ground and mid-grey ink, readable in light and dark JupyterLab.
Fractions come in, percent are shown; MACs come in, MMACs (millions) are shown.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import plotly.io
from PIL import Image
from plotly.subplots import make_subplots

from dfs_edu.results import interval

__all__ = [
    "accuracy_cost",
    "accuracy_over_time",
    "accuracy_per_exit",
    "budget_differences",
    "conflict_heatmap",
    "conflict_heatmaps",
    "cuts",
    "gradient_work",
    "learning_curves",
    "pictures",
    "rates",
    "reliability",
    "shares",
    "shares_by",
]

plotly.io.renderers.default = "plotly_mimetype"  # the others put all of plotly.js into every notebook

INK = "#7a7a7a"  # contrast of 4.3 on white and 4.4 on JupyterLab's dark ground
GRID = "rgba(128,128,128,0.25)"
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px,2px,2px,2px"]
MARKERS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"]
OPPOSED = [[0, "#D55E00"], [0.5, "#dddddd"], [1, "#0072B2"]]  # conflict is vermilion, agreement is blue

AXIS = {
    "gridcolor": GRID,
    "linecolor": INK,
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": INK,
    "automargin": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {"color": INK, "size": 13},
        "title": {
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "pad": {"b": 12},
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 16, "t": 48, "b": 48},
        "xaxis": AXIS,
        "yaxis": AXIS,
        "hovermode": "closest",
    }
)


def figure(traces: Sequence, title: str, x: str = "", y: str = "", height: int = 380, **layout) -> go.Figure:
    """A figure with the template, a title and titled axes."""
    fig = go.Figure(list(traces), {"template": TEMPLATE, "title": {"text": title}, "height": height})
    return fig.update_layout(xaxis_title_text=x, yaxis_title_text=y, **layout)


def style(i: int) -> dict:
    """Colour, dash and marker of the i-th line: 49 different ones."""
    other = (i + i // 7) % 7  # the second seven colours come with other dashes and markers
    return {
        "line": {"color": COLOURS[i % 7], "dash": DASHES[other], "width": 2},
        "marker": {"color": COLOURS[i % 7], "symbol": MARKERS[other], "size": 7},
    }


def rounded(values, digits: int = 4) -> list:
    """Plain numbers, None for NaN: short in a notebook's JSON."""
    return [None if np.isnan(v) else round(float(v), digits) for v in np.asarray(values, dtype=float)]


def percent(fractions) -> list:
    return rounded(np.asarray(fractions, dtype=float) * 100, 2)


def exit_ticks(exits: int) -> dict:
    return {"tickvals": list(range(1, exits + 1)), "title": {"text": "exit"}}


# Gradient conflict


def conflict_heatmap(report, title: str = "Cosine between the gradients of two exits") -> go.Figure:
    """report: .cosine (L, K, K) and .layers; one row a layer, one column a pair of exits, blank where there is none."""
    return conflict_heatmaps({"": report}, title)


def conflict_heatmaps(reports: Mapping, title: str = "Cosine between the gradients of two exits") -> go.Figure:
    """Name -> report, side by side on one colour scale with 0 in its middle. Raises ValueError for no reports."""
    if not reports:
        raise ValueError("reports={}: a heatmap shows one at least")
    cosines = [np.asarray(report.cosine, dtype=float) for report in reports.values()]
    limit = max(
        [0.1, *(np.nanmax(np.abs(off_diagonal(c)), initial=0, where=~np.isnan(off_diagonal(c))) for c in cosines)]
    )
    fig = figure([], title, height=140 + 24 * max(map(len, cosines)))
    fig.update_layout(title_pad_b=30 if any(reports) else 12, margin_t=70 if any(reports) else 48)
    width = 1 / len(cosines)
    for i, (name, report, cosine) in enumerate(zip(reports, reports.values(), cosines, strict=True)):
        K = cosine.shape[1]
        pairs = [f"{j + 1}·{k + 1}" for j, k in zip(*np.triu_indices(K, 1), strict=True)]
        axes = {"xaxis": f"x{i + 1}", "yaxis": f"y{i + 1}"}
        fig.add_heatmap(
            z=[rounded(row, 3) for row in off_diagonal(cosine)],
            x=pairs,
            y=list(report.layers),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate="%{y}, exits %{x}: %{z:.3f}<extra>" + name + "</extra>",
            **{side: axis.replace("1", "") if i == 0 else axis for side, axis in axes.items()},
        )
        place = [i * width + (0.02 if i else 0), (i + 1) * width - (0.02 if i < len(cosines) - 1 else 0)]
        fig.update_layout(
            {
                f"xaxis{i + 1}": {
                    "type": "category",
                    "domain": place,
                    "anchor": f"y{i + 1}",
                    "showgrid": False,
                    "title": {"text": "pair of exits"},
                },
                f"yaxis{i + 1}": {
                    "type": "category",
                    "autorange": "reversed",
                    "anchor": f"x{i + 1}",
                    "showgrid": False,
                    "showticklabels": i == 0,
                    "ticks": "outside" if i == 0 else "",
                },
            }
        )
        where = {"x": place[0], "y": 1, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        fig.add_annotation(text=name, showarrow=False, **where)
    bar = {"title": {"text": "cosine"}, "thickness": 14, "outlinewidth": 0, "len": 1}
    scale = {"colorscale": OPPOSED, "cmin": -round(limit, 2), "cmax": round(limit, 2), "colorbar": bar}
    return fig.update_layout(coloraxis=scale)


def off_diagonal(cosine: np.ndarray) -> np.ndarray:
    """(L, K, K) -> (L, K(K-1)/2): every pair of exits once."""
    return cosine[:, *np.triu_indices(cosine.shape[1], 1)]


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


# Accuracy


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


def area(x: list, low: list, high: list, colour: str) -> go.Scatter:
    """What lies between two lines over the same x, faint, without a name of its own in the legend."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        fill="toself",
        fillcolor=f"rgba({r},{g},{b},0.2)",
        mode="none",
        hoverinfo="skip",
        showlegend=False,
    )


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


def millions(macs) -> list:
    return rounded(np.asarray(macs, dtype=float) / 1e6, 3)


def below() -> dict:
    """A legend under the plot and its axis, so that the plot keeps its full width."""
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}


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


def parts_of_whole(costs: Mapping, title: str = "What it costs to come to each exit") -> go.Figure:
    """Name -> a cumulative cost (K,) in any unit, as a part of the last exit's."""
    fig = figure([], title, y="% of the last exit")
    for i, (name, cost) in enumerate(costs.items()):
        cost = np.asarray(cost, dtype=float)
        x = list(range(1, len(cost) + 1))
        fig.add_scatter(x=x, y=percent(cost / cost[-1]), name=name, mode="lines+markers", **style(i))
    exits = max((len(trace.x) for trace in fig.data), default=0)
    return fig.update_layout(xaxis=exit_ticks(exits), yaxis_rangemode="tozero", legend=below())


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


# Pictures


def pictures(
    images, titles: Sequence[str] | None = None, title: str = "", columns: int = 8, zoom: int = 3
) -> go.Figure:
    """uint8 pictures (N, 3, H, W) in a grid, each with its own short text below; `zoom` screen pixels a pixel.

    Raises ValueError for pictures of another kind, or a number of titles that is not N.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"images of shape {images.shape}, {images.dtype}: pictures are uint8 (N, 3, H, W), N at least 1"
        )
    N, _, H, W = images.shape
    if titles is not None and len(titles) != N:
        raise ValueError(f"{len(titles)} titles for {N} pictures: give one for each")
    columns = min(columns, N)
    rows = -(-N // columns)
    gap, text = 4, 0 if titles is None else -(-18 // zoom)  # pixels of the pictures; the text is 18 screen pixels high
    high, wide = H + gap + text, W + gap
    sheet = np.zeros((rows * high, columns * wide, 4), np.uint8)  # transparent between the pictures
    captions = []
    for n, image in enumerate(images):
        top, left = n // columns * high, n % columns * wide
        sheet[top : top + H, left : left + W] = np.dstack([*image, np.full((H, W), 255, np.uint8)])
        if titles is not None:
            where = {"x": left + W / 2 - 0.5, "y": top + H - 0.5, "xanchor": "center", "yanchor": "top"}
            captions.append({"text": str(titles[n]), "showarrow": False, "font": {"size": 11}, **where})
    margin = {"l": 8, "r": 8, "t": 44 if title else 8, "b": 4}
    fig = figure([], title, height=rows * high * zoom + margin["t"] + margin["b"], margin=margin, annotations=captions)
    fig.add_image(source=data_uri(sheet), hoverinfo="skip", zsmooth=False)
    fig.update_layout(width=columns * wide * zoom + margin["l"] + margin["r"])
    fig.update_xaxes(visible=False, range=[-0.5, columns * wide - 0.5])
    return fig.update_yaxes(visible=False, range=[rows * high - 0.5, -0.5])


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3 or 4) as a PNG inside an address, so that no page has to fetch it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
