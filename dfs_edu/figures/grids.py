"""Panels side by side: lines or bars on one vertical axis, heatmaps on one colour scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfs_edu.figures.look import below, figure, rounded


def panels(names: Iterable[str], title: str, height: int, bottom: int, **layout) -> go.Figure:
    """A figure with an empty panel for each name; `bottom` pixels hold axis and legend."""
    names = list(names)
    fig = figure([], title, height=height, legend=below(), title_pad_b=30, margin={"t": 70, "b": bottom}, **layout)
    make_subplots(1, len(names), subplot_titles=names, figure=fig, shared_yaxes=True, horizontal_spacing=0.04)
    return fig.update_annotations(font_size=13)


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
    """Name -> matrix (R, C), with the names of its rows and columns; blank where there is NaN.

    x           title of the horizontal axes; unit: of the colour bar
    scale       colours from `low` to `high`
    hover       what the pointer tells; the panel's name comes behind
    shown       plotly's template of a number written into each cell; None: colours alone
    """
    fig = figure([], title, height=140 + 24 * max(map(len, rows.values())))
    named = any(values)
    fig.update_layout(title_pad_b=30 if named else 12, margin_t=70 if named else 48)
    width = 1 / len(values)
    for i, (name, matrix) in enumerate(values.items()):
        axes = {"xaxis": f"x{i + 1}", "yaxis": f"y{i + 1}"}
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
            **{side: axis.replace("1", "") if i == 0 else axis for side, axis in axes.items()},
        )
        place = [i * width + (0.02 if i else 0), (i + 1) * width - (0.02 if i < len(values) - 1 else 0)]
        fig.update_layout(
            {
                f"xaxis{i + 1}": {
                    "type": "category",
                    "domain": place,
                    "anchor": f"y{i + 1}",
                    "showgrid": False,
                    "title": {"text": x},
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
    bar = {"title": {"text": unit}, "thickness": 14, "outlinewidth": 0, "len": 1}
    return fig.update_layout(coloraxis={"colorscale": scale, "cmin": low, "cmax": high, "colorbar": bar})
