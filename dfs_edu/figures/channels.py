"""Conflict channel by channel, and what leaks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.grids import panels
from dfs_edu.figures.look import INK, SHARED, SPECIFIC, literal, rounded

PARTS = (("f+, shared", True, SHARED), ("f-, specific", False, SPECIFIC))


@literal
def channel_conflict(
    reports: Mapping, title: str = "What each channel adds to the cosine of two gradients"
) -> go.Figure:
    """Name -> probes.Channels: a panel each, a bar a channel; below 0 the channel is pulled both ways.

    Raises ValueError for no reports.
    """
    if not reports:
        raise ValueError("reports={}: one at least")
    fig = panels(reports, title, height=340, bottom=90, bargap=0.1)
    for i, report in enumerate(reports.values()):
        added, shared = np.nan_to_num(report.contribution()), np.asarray(report.shared)
        for name, part, look in PARTS:
            mine = np.flatnonzero(shared == part)
            fig.add_bar(
                x=(mine + 1).tolist(),
                y=rounded(added[mine], 5),
                name=name,
                legendgroup=name,
                showlegend=i == 0,
                marker=look,
                row=1,
                col=i + 1,
            )
    fig.update_yaxes(zeroline=True, zerolinecolor=INK)
    fig.update_xaxes(title_text="channel", showgrid=False)
    return fig.update_yaxes(title_text="part of the cosine", col=1)


@literal
def leakage(reports: Mapping, title: str = "What reaches the weights that write an exit's own channels") -> go.Figure:
    """Name -> probes.Leakage: a panel each; a group of bars an exit, a bar a path of the deeper exits' gradient.

    The height is its length over that of the exit's own gradient in the same weights. Raises ValueError for no reports.
    """
    if not reports:
        raise ValueError("reports={}: one at least")
    ratios = [np.asarray(report.ratio(), dtype=float) for report in reports.values()]
    S = max(ratio.shape[1] for ratio in ratios)
    fig = panels(reports, title, height=380, bottom=110, barmode="group")
    named = set()
    for i, ratio in enumerate(ratios):
        for s in range(S - ratio.shape[1], S):  # who has fewer scales has the coarsest
            for name, part, look in PARTS:
                path = f"{name}, {_scale(s, S)}" if S > 1 else name
                fig.add_bar(
                    x=list(range(1, len(ratio) + 1)),
                    y=rounded(ratio[:, s - S, 0 if part else 1], 3),
                    name=path,
                    legendgroup=path,
                    showlegend=path not in named,
                    marker=look,
                    opacity=round(1 - 0.6 * (S - 1 - s) / max(1, S - 1), 2),  # the finer, the paler
                    row=1,
                    col=i + 1,
                )
                named.add(path)
    fig.update_xaxes(title_text="exit", showgrid=False, dtick=1)
    return fig.update_yaxes(title_text="times its own gradient", col=1)


def _scale(s: int, scales: int) -> str:
    return "coarsest scale" if s == scales - 1 else "finest scale" if s == 0 else f"scale {s + 1}"
