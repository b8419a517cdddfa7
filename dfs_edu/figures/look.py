"""How every figure looks: template, colours, numbers as they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import numpy as np
import plotly.graph_objects as go
import plotly.io

plotly.io.renderers.default = "plotly_mimetype"  # the others put all of plotly.js into every notebook

INK = "#7a7a7a"  # contrast of 4.3 on white and 4.4 on JupyterLab's dark ground
GRID = "rgba(128,128,128,0.25)"
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px,2px,2px,2px"]
MARKERS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"]
SHARED, SPECIFIC = {"color": COLOURS[0]}, {"color": COLOURS[1], "pattern": {"shape": "/"}}  # bars of f+ and f-
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


MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;"})


def literal(draw: Callable) -> Callable:
    """Decorates a function that draws: texts given to it are shown as they are, though plotly reads markup in texts.

    A folder of images may be called `<a href=...>`; in a legend it would become a link.
    """

    @wraps(draw)
    def drawn(*args, **options):
        return draw(*map(as_text, args), **{name: as_text(value) for name, value in options.items()})

    return drawn


def as_text(value):
    """A text without markup, also as a key, as a value, or in a list; anything else as it is."""
    if isinstance(value, str):
        return value.translate(MARKUP)
    if isinstance(value, Mapping):
        return {as_text(key): as_text(inside) for key, inside in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "UO":
        value = value.tolist()
    return type(value)(map(as_text, value)) if type(value) in (list, tuple) else value


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


def millions(macs) -> list:
    return rounded(np.asarray(macs, dtype=float) / 1e6, 3)


def exit_ticks(exits: int) -> dict:
    return {"tickvals": list(range(1, exits + 1)), "title": {"text": "exit"}}


def below() -> dict:
    """A legend under the plot and its axis, so that the plot keeps its full width."""
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}


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


def sliding(fig: go.Figure, frames: Mapping[str, list], shown: str, prefix: str) -> go.Figure:
    """The figure with a slider over frames, label -> its traces' data: it moves without a kernel.

    shown    label of the frame that the figure shows as it is
    prefix   stands before the label at the slider
    """
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": label, "method": "animate", "args": [[label], now]} for label in frames]
    slider = {"active": list(frames).index(shown), "steps": steps, "currentvalue": {"prefix": prefix}, "pad": {"t": 44}}
    slider |= {"bgcolor": INK, "bordercolor": INK, "activebgcolor": COLOURS[0], "tickcolor": INK}  # the theme's glare
    fig.frames = [{"name": label, "data": traces} for label, traces in frames.items()]
    return fig.update_layout(sliders=[slider | {"x": 0, "len": 1}])
