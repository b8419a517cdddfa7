"""Junctions, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.grids import heatmaps
from dfs_edu.figures.look import COLOURS, literal
from dfs_edu.probes.pulling import SIDES

FREE, (HEARD, TORN) = "rgba(128,128,128,0.18)", COLOURS[:2]


@literal
def pulls(junctions: Mapping, title: str = "Who sees a channel, and who pulls on it") -> go.Figure:
    """Name -> what `probes.pulls` found (4, C): blue where a side sees or pulls, orange where both sides pull."""
    shown = {name: _torn(np.asarray(found)) for name, found in junctions.items()}
    rows = dict.fromkeys(shown, SIDES)
    columns = {name: list(range(1, found.shape[1] + 1)) for name, found in shown.items()}
    third = [[0, FREE], [1 / 3, FREE], [1 / 3, HEARD], [2 / 3, HEARD], [2 / 3, TORN], [1, TORN]]
    look = {"unit": "", "scale": third, "low": 0, "high": 2, "hover": "channel %{x}: %{y}"}
    fig = heatmaps(shown, rows, columns, title, "channel", **look)
    return fig.update_layout(coloraxis_showscale=False, height=270)


def _torn(found: np.ndarray) -> np.ndarray:
    """0 nothing, 1 seen or pulled, 2 pulled by both sides."""
    marks = (found > 0).astype(int)
    marks[2:, marks[2:].all(0)] = 2
    return marks
