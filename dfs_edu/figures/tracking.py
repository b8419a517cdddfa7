"""Conflict through training: a heatmap with a slider, and lines by depth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dfs_edu.figures.look import OPPOSED, below, figure, literal, percent, rounded, sliding, style

DIGITS = 2  # of a cosine in a frame: what a colour can show
LOOKS = 30  # in one slider


@literal
def conflict_through_training(
    step, cosine, title: str = "Cosine between the gradients of two exits, through training"
) -> go.Figure:
    """A heatmap of T looks with a slider, plotly frames: it moves without a kernel. The last look is shown first.

    step     (T,) steps of training at each look
    cosine   (T, K stages, K(K-1)/2 pairs), as `probes.history` has it; NaN, where a pair does not meet, is blank

    One colour scale serves all looks. Of more than 30 as many are shown, evenly chosen, the first and the last among
    them. Raises ValueError where there is no look.
    """
    if not len(step):
        raise ValueError("step=[]: a slider has one look at least")
    shown = np.linspace(0, len(step) - 1, min(LOOKS, len(step))).round().astype(int)
    step, cosine = np.asarray(step)[shown], np.asarray(cosine, dtype=float)[shown]
    K = cosine.shape[1]
    limit = round(max(0.1, np.nanmax(np.abs(cosine), initial=0, where=~np.isnan(cosine))), 2)
    looks = [[rounded(row, DIGITS) for row in look] for look in cosine]
    names = [str(int(s)) for s in step]
    bar = {"title": {"text": "cosine"}, "thickness": 14, "outlinewidth": 0, "len": 1}
    heatmap = go.Heatmap(
        z=looks[-1],
        x=[f"{i + 1}·{j + 1}" for i, j in zip(*np.triu_indices(K, 1), strict=True)],
        y=[f"stage {s + 1}" for s in range(K)],
        colorscale=OPPOSED,
        zmin=-limit,
        zmax=limit,
        colorbar=bar,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate="%{y}, exits %{x}: %{z}<extra></extra>",
    )
    fig = figure([heatmap], title, "pair of exits", height=240 + 26 * K, margin_b=110)
    fig.update_xaxes(type="category", showgrid=False)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    frames = {name: [{"type": "heatmap", "z": z}] for name, z in zip(names, looks, strict=True)}
    return sliding(fig, frames, names[-1], "step ")


@literal
def conflict_by_depth(runs: Mapping, title: str = "Pairs of exits in conflict, through training") -> go.Figure:
    """Name -> (step (T,), share (T, K stages)), fractions: a panel a stage, the runs on the same axes.

    A stage in which no two exits meet, as the last, has no panel. Raises ValueError where no pair meets at all.
    """
    shares = {name: np.asarray(share, dtype=float) for name, (_, share) in runs.items()}
    stages = [s for s in range(max((x.shape[1] for x in shares.values()), default=0)) if _some(shares, s)]
    if not stages:
        raise ValueError(f"runs={list(runs)}: no two exits meet in any of them")
    columns = min(3, len(stages))
    rows = -(-len(stages) // columns)
    legend = 22 * -(-len(runs) // 2)
    fig = figure([], title, height=150 + 190 * rows + legend, legend=below(), title_pad_b=30)
    fig.update_layout(margin={"t": 70, "b": 70 + legend})
    names = [f"stage {s + 1}" for s in stages]
    spacing = {"horizontal_spacing": 0.06, "vertical_spacing": 0.28 / rows}
    make_subplots(rows, columns, subplot_titles=names, figure=fig, shared_yaxes=True, **spacing)
    fig.update_annotations(font_size=13)
    for i, (name, (step, _)) in enumerate(runs.items()):
        for n, s in enumerate(stages):
            if s < shares[name].shape[1]:
                fig.add_scatter(
                    x=np.asarray(step).astype(int).tolist(),
                    y=percent(shares[name][:, s]),
                    name=name,
                    legendgroup=name,
                    showlegend=n == 0,
                    mode="lines",
                    line=style(i)["line"],
                    row=n // columns + 1,
                    col=n % columns + 1,
                )
    fig.update_xaxes(title_text="step", row=rows)
    fig.update_yaxes(range=[-4, 104], tickvals=[0, 50, 100])
    return fig.update_yaxes(title_text="in conflict, %", col=1)


def _some(shares: Mapping, stage: int) -> bool:
    """Whether a pair of exits meets in a stage in any of the runs."""
    return any(stage < share.shape[1] and not np.isnan(share[:, stage]).all() for share in shares.values())
