"""The look of every figure: template, colours, how numbers are written, and the layouts that figures share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import wraps
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfs_edu.extras import hidden

# Plotly imports nbformat, and that jsonschema, which with this module would compile 38 grammars, in a second, to check
# addresses that no notebook has
with hidden("rfc3987_syntax"):
    import plotly.io

    plotly.io.renderers.default = "plotly_mimetype"  # the others put all of plotly.js into every notebook

INK = "#7a7a7a"  # contrast of 4.3 on white and 4.4 on JupyterLab's dark background
GRID = "rgba(128,128,128,0.25)"
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px,2px,2px,2px"]
MARKERS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"]
# One meaning each in all figures, and in all widgets as --dfs-forward and so on (widgets/page.py)
MEANINGS = {"forward": COLOURS[2], "gradient": COLOURS[3], "shared": COLOURS[0], "specific": COLOURS[1]}
FORWARD, GRADIENT = MEANINGS["forward"], MEANINGS["gradient"]
SHARED, SPECIFIC = {"color": MEANINGS["shared"]}, {"color": MEANINGS["specific"], "pattern": {"shape": "/"}}  # bars
# Cosines, from -1 to 1 in every figure: conflict is red, agreement is blue. Small ones can be seen as well as large
# ones, and exactly 0, where the gradients share nothing, is grey
ZERO, OUTLINE, TINY = "#8c8c8c", "#1a1a1a", 1e-6  # no cosine that is not 0 is drawn as smaller than this
COSINES = [
    *[[0, "#4a0014"], [0.35, "#b3122f"], [0.475, "#e9939c"], [0.5 - TINY / 4, "#fbe3e4"], [0.5 - TINY / 4, ZERO]],
    *[[0.5 + TINY / 4, ZERO], [0.5 + TINY / 4, "#dcebf7"], [0.525, "#8abfe8"], [0.65, "#0072B2"], [1, "#003353"]],
]
RULE = {"color": INK, "width": 1}  # a thin line, such as the one at zero
DOTTED = RULE | {"dash": "dot"}

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

# Texts

MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;"})


def literal(draw: Callable[..., go.Figure]) -> Callable[..., go.Figure]:
    """Decorate a function that draws: the texts passed to it are shown literally, though plotly reads markup in texts.

    A folder of images may be called ``<a href=...>``; in a legend it would become a link.
    """

    @wraps(draw)
    def drawn(*args, **options):
        return draw(*map(as_text, args), **{name: as_text(value) for name, value in options.items()})

    return drawn


def as_text(value):
    """Escape the markup of a text, also as a key, as a value or in a list; return anything else unchanged."""
    if isinstance(value, str):
        return value.translate(MARKUP)
    if isinstance(value, Mapping):
        return {as_text(key): as_text(inside) for key, inside in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "UO":
        value = value.tolist()
    return type(value)(map(as_text, value)) if type(value) in (list, tuple) else value


def require(**arguments: Sized) -> None:
    """Raise ValueError, naming the argument, if it is empty."""
    for name, value in arguments.items():
        if not len(value):
            raise ValueError(f"{name}={value!r}: there is nothing to draw; give at least one")


# Numbers


def rounded(values, digits: int = 4) -> list:
    """Return plain numbers, None for NaN: short in a notebook's JSON."""
    return [None if np.isnan(v) else round(float(v), digits) for v in np.asarray(values, dtype=float)]


def cosines(values, digits: int = 2) -> list:
    """Return plain numbers with as many significant digits, None for NaN; only an exact zero becomes 0."""
    kept = [None if np.isnan(v) else float(f"{v:.{digits}g}") for v in np.asarray(values, dtype=float)]
    return [v if not v or abs(v) >= TINY else TINY * np.sign(v) for v in kept]


def percent(fractions) -> list:
    return rounded(np.asarray(fractions, dtype=float) * 100, 2)


def millions(macs) -> list:
    return rounded(np.asarray(macs, dtype=float) / 1e6, 3)


# Lines, axes, legends


def figure(traces: Iterable, title: str, x: str = "", y: str = "", height: int = 380, **layout) -> go.Figure:
    """Make a figure with the template, a title and titled axes."""
    fig = go.Figure(list(traces), {"template": TEMPLATE, "title": {"text": title}, "height": height})
    return fig.update_layout(xaxis_title_text=x, yaxis_title_text=y, **layout)


def style(i: int) -> dict[str, dict]:
    """Return colour, dash and marker of the i-th line: 49 different ones."""
    other = (i + i // 7) % 7  # the second seven colours come with other dashes and markers
    return {
        "line": {"color": COLOURS[i % 7], "dash": DASHES[other], "width": 2},
        "marker": {"color": COLOURS[i % 7], "symbol": MARKERS[other], "size": 7},
    }


def lines(fig: go.Figure, curves: Mapping) -> go.Figure:
    """Add one line per curve, name -> (x, y) as they are shown, and a legend below."""
    for i, (name, (x, y)) in enumerate(curves.items()):
        fig.add_scatter(x=x, y=y, name=name, mode="lines+markers", **style(i))
    return fig.update_layout(legend=below())


def exit_numbers(values: Sized) -> list[int]:
    """Return the exits' numbers, from 1, given one value per exit."""
    return list(range(1, len(values) + 1))


def exit_axis(fig: go.Figure, **layout) -> go.Figure:
    """Put one tick per exit on the horizontal axis, as many as the longest trace has values."""
    exits = max((len(trace.x) for trace in fig.data), default=0)
    return fig.update_layout(xaxis=exit_ticks(exits), **layout)


def exit_ticks(exits: int) -> dict[str, Any]:
    return {"tickvals": list(range(1, exits + 1)), "title": {"text": "exit"}}


def below() -> dict[str, Any]:
    """Return a legend under the plot and its axis, so that the plot keeps its full width."""
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}


def area(x: list, low: list, high: list, colour: str) -> go.Scatter:
    """Return the faint area between two lines over the same x, without an entry in the legend."""
    return go.Scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        fill="toself",
        fillcolor=faint(colour, 0.2),
        mode="none",
        hoverinfo="skip",
        showlegend=False,
    )


def faint(colour: str, opacity: float = 0.0) -> str:
    """Return a colour, given as "#rrggbb", of this opacity."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{opacity})"


def every_column(names: Sequence[str]) -> dict[str, Any]:
    """Return a horizontal axis of categories on which each has its label: plotly leaves some out where they crowd."""
    crowded = len(names) > 12
    ticks = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": list(names)}
    return {
        "type": "category",
        **ticks,
        "tickangle": -90 if crowded else 0,
        "tickfont": {"size": 10 if crowded else 12},
    }


def cosine_bar() -> dict[str, Any]:
    """Return the colour bar of cosines."""
    ticks = {"tickvals": [-1, -0.5, 0, 0.5, 1], "ticktext": ["-1", "-0.5", "0", "0.5", "1"]}
    return colour_bar("cosine<br>(0: grey)") | ticks


def colour_bar(unit: str) -> dict[str, Any]:
    return {"title": {"text": unit}, "thickness": 14, "outlinewidth": 0, "len": 1}


# Panels


def panels(names: Iterable[str], title: str, height: int, bottom: int, **layout) -> tuple[go.Figure, list[dict]]:
    """Make a figure with one empty panel per name, side by side on one vertical axis, and a legend at the bottom.

    Returns:
        The figure, and the row and column of each panel.
    """
    fig = panelled(title, height, bottom, **layout)
    names = list(names)
    return fig, divide(fig, names, len(names), 0.04)


def panelled(title: str, height: int, bottom: int, **layout) -> go.Figure:
    """Make a figure that leaves room for the panels' names under its title, and for a legend at the bottom."""
    margin = {"t": 70, "b": bottom}
    return figure([], title, height=height, legend=below(), title_pad_b=30, margin=margin, **layout)


def divide(
    fig: go.Figure,
    names: Sequence[str],
    columns: int,
    horizontal: float,
    vertical: float | None = None,
    shared_yaxes: bool | str = True,
) -> list[dict[str, int]]:
    """Divide a figure into panels, one per name, row by row; return the row and column of each, for ``add_trace``.

    Args:
        fig: the figure to divide.
        names: the panels' titles.
        columns: how many panels stand side by side.
        horizontal: space between columns, as a fraction of the plot's width.
        vertical: space between rows, as a fraction of its height.
        shared_yaxes: as for ``plotly.subplots.make_subplots``.
    """
    spacing = {"horizontal_spacing": horizontal, "vertical_spacing": vertical}
    rows = row_count(names, columns)
    make_subplots(rows, columns, subplot_titles=names, figure=fig, shared_yaxes=shared_yaxes, **spacing)
    fig.update_annotations(font_size=13)
    return [{"row": i // columns + 1, "col": i % columns + 1} for i in range(len(names))]


def row_count(items: Sized, columns: int) -> int:
    """Return how many rows hold the items."""
    return -(-len(items) // columns)


def heatmaps(
    values: Mapping,
    rows: Mapping,
    columns: Mapping,
    title: str,
    x: str,
    unit: str,
    scale: list,
    low: float,
    high: float,
    hover: str,
    digits: int = 3,
    shown: str | None = None,
) -> go.Figure:
    """Draw matrices side by side on one colour scale, blank where NaN.

    Args:
        values: name -> matrix (R, C).
        rows: name -> the names of its rows.
        columns: name -> the names of its columns.
        x: title of the horizontal axes.
        unit: title of the colour bar.
        scale: colours from ``low`` to ``high``.
        low: value of the first colour.
        high: value of the last colour.
        hover: what the pointer shows; the panel's name follows.
        digits: decimals that are kept.
        shown: plotly's template of a number written into each cell; None: colours alone.
    """
    named = any(values)
    fig = figure([], title, height=140 + 24 * max(map(len, rows.values())))
    fig.update_layout(title_pad_b=30 if named else 12, margin_t=70 if named else 48)
    for i, (name, matrix) in enumerate(values.items()):
        fig.add_heatmap(
            z=[rounded(row, digits) for row in np.asarray(matrix, dtype=float)],
            x=list(columns[name]),
            y=list(rows[name]),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate=hover + "<extra>" + name + "</extra>",
            texttemplate=shown,
        )
        _place_heatmap(fig, i, len(values), name, x)
    return fig.update_layout(coloraxis={"colorscale": scale, "cmin": low, "cmax": high, "colorbar": colour_bar(unit)})


def outline_zeros(fig: go.Figure, colour: str = INK) -> go.Figure:
    """Outline the cells of a figure's heatmaps that are exactly 0, a rectangle of cells as one."""
    inset = 0.06  # of a cell, so that the line is within the cell's colour
    for trace in fig.data:
        for top, bottom, left, right in _rectangles([[value == 0 for value in row] for row in trace.z]):
            across, down = (left - 0.5 + inset, right + 0.5 - inset), (top - 0.5 + inset, bottom + 0.5 - inset)
            place = {"xref": trace.xaxis or "x", "yref": trace.yaxis or "y"}
            box = {"x0": across[0], "x1": across[1], "y0": down[0], "y1": down[1]}
            fig.add_shape(type="rect", line={"color": colour, "width": 1.5}, **box, **place)
    return fig


def _rectangles(mask: Sequence[Sequence[bool]]) -> list[tuple[int, int, int, int]]:
    """Cover the true cells with rectangles (top, bottom, left, right): a run in a row joins the same run above it."""
    done, growing = [], {}  # (left, right) of the runs of the row above -> the row in which their rectangle begins
    for r, row in enumerate([*mask, []]):
        edges = np.flatnonzero(np.diff([0, *map(int, row), 0]))
        runs = {(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)}
        done += [(top, r - 1, *run) for run, top in growing.items() if run not in runs]
        growing = {run: growing.get(run, r) for run in sorted(runs)}
    return done


def _place_heatmap(fig: go.Figure, i: int, panels: int, name: str, x: str) -> None:
    """Give the last trace, heatmap i of several side by side, its own axes, and write its name above them."""
    number = i + 1 if i else ""  # plotly calls the first axis x, and the second x2
    fig.data[i].update(xaxis=f"x{number}", yaxis=f"y{number}")
    left, right = i / panels + (0.02 if i else 0), (i + 1) / panels - (0.02 if i < panels - 1 else 0)
    across = {"domain": [left, right], "anchor": f"y{i + 1}", "title": {"text": x}}
    down = {"autorange": "reversed", "anchor": f"x{i + 1}", "showticklabels": i == 0, "ticks": "" if i else "outside"}
    for axis, layout in ((f"xaxis{i + 1}", across), (f"yaxis{i + 1}", down)):
        fig.update_layout({axis: {"type": "category", "showgrid": False} | layout})
    corner = {"x": left, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    fig.add_annotation(text=name, showarrow=False, **corner)


def sliding(fig: go.Figure, frames: Mapping[str, list], shown: str, prefix: str) -> go.Figure:
    """Add a slider over frames, label -> its traces' data: it moves without a kernel.

    Args:
        fig: shows one of the frames.
        frames: label -> the data of its traces.
        shown: label of the frame that the figure shows.
        prefix: stands before the label at the slider.
    """
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    slider = {
        "active": list(frames).index(shown),
        "steps": [{"label": label, "method": "animate", "args": [[label], now]} for label in frames],
        "currentvalue": {"prefix": prefix},
        "pad": {"t": 44},
        "x": 0,
        "len": 1,
        # Plotly's own colours glare on a dark page.
        **{"bgcolor": INK, "bordercolor": INK, "activebgcolor": COLOURS[0], "tickcolor": INK},
    }
    fig.frames = [{"name": label, "data": traces} for label, traces in frames.items()]
    return fig.update_layout(sliders=[slider])
