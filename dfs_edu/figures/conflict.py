"""How far the exits agree, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.grids import heatmaps
from dfs_edu.figures.look import OPPOSED, as_text, literal


def conflict_heatmap(report, title: str = "Cosine between the gradients of two exits") -> go.Figure:
    """report: .cosine (L, K, K) and .layers; one row a layer, one column a pair of exits, blank where there is none."""
    return conflict_heatmaps({"": report}, title)


@literal
def conflict_heatmaps(reports: Mapping, title: str = "Cosine between the gradients of two exits") -> go.Figure:
    """Name -> report, side by side on one colour scale with 0 in its middle. Raises ValueError for no reports."""
    if not reports:
        raise ValueError("reports={}: a heatmap shows one at least")
    cosines = {name: off_diagonal(np.asarray(report.cosine, dtype=float)) for name, report in reports.items()}
    limit = max([0.1, *(np.nanmax(np.abs(c), initial=0, where=~np.isnan(c)) for c in cosines.values())])
    exits = {name: np.asarray(report.cosine).shape[1] for name, report in reports.items()}
    pairs = {
        name: [f"{j + 1}·{k + 1}" for j, k in zip(*np.triu_indices(K, 1), strict=True)] for name, K in exits.items()
    }
    return heatmaps(
        cosines,
        rows={name: as_text(list(report.layers)) for name, report in reports.items()},
        columns=pairs,
        title=title,
        x="pair of exits",
        unit="cosine",
        scale=OPPOSED,
        low=-round(limit, 2),
        high=round(limit, 2),
        hover="%{y}, exits %{x}: %{z:.3f}",
    )


def off_diagonal(cosine: np.ndarray) -> np.ndarray:
    """(L, K, K) -> (L, K(K-1)/2): every pair of exits once."""
    return cosine[:, *np.triu_indices(cosine.shape[1], 1)]
