"""How far the exits agree, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.look import (
    OPPOSED,
    figure,
    rounded,
)


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
