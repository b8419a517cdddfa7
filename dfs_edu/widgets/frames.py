"""A figure with frames, in the page: play it, or step through it with a slider, keys or a finger.

A plotly figure with a slider (``figures.conflict_through_training``, ``figures.answers``) answers to the mouse alone.
This small custom widget (anywidget) shows the same frames; static/frames.js draws them, so nothing needs a kernel.
Nothing moves until the reader presses play, and where the reader asked for less motion there is no play.
"""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go
import traitlets

from dfs_edu.widgets import page


class FramePlayer(page.Widget):
    """The frames of a figure, one at a time.

    Args:
        figure: Has frames and one slider, and shows one heatmap or arrows from the origin, as
            ``figures.conflict_through_training`` and ``figures.answers`` return it.

    Attributes:
        setup: What the page needs and never changes.
        frame: Index of the frame that is shown, from 0.

    Raises:
        ValueError: The figure is another one.
        traitlets.TraitError: There is no such frame; the trait keeps its value.
    """

    name, reads = "frames", ("setup", "frame")

    frame = traitlets.Int().tag(sync=True)

    def __init__(self, figure: go.Figure, **kwargs: Any):
        plain = figure.to_plotly_json()
        layout, frames = plain["layout"], plain.get("frames", ())
        if not frames or len(layout.get("sliders", ())) != 1:
            raise ValueError(f"a figure with {len(frames)} frames: give one with frames and a slider")
        kinds = {trace["type"] for trace in plain["data"]}
        if kinds not in ({"heatmap"}, {"scatter"}) or (kinds == {"heatmap"} and len(plain["data"]) > 1):
            raise ValueError(f"a figure with {sorted(kinds)}: give one with a heatmap, or with arrows")
        self.figure = figure
        slider = layout["sliders"][0]
        described = _heatmap(plain) if kinds == {"heatmap"} else _arrows(plain)
        fixed = {
            "title": _text(layout["title"]["text"]),
            "labels": [_text(frame["name"]) for frame in frames],
            "prefix": _text(slider["currentvalue"].get("prefix", "")),
        }
        super().__init__(setup={**fixed, **described}, frame=slider["active"], **kwargs)

    @traitlets.validate("frame")
    def _check_frame(self, proposal):
        if not 0 <= proposal["value"] < len(self.figure.frames):
            most = len(self.figure.frames) - 1
            raise traitlets.TraitError(f"frame={proposal['value']}: give an index from 0 to {most}")
        return proposal["value"]

    def static_figure(self) -> go.Figure:
        """Return the figure, with its slider at the present frame."""
        shown = go.Figure(self.figure)
        for trace, changed in zip(shown.data, shown.frames[self.frame].data, strict=True):
            trace.update(changed.to_plotly_json())
        return shown.update_layout(sliders=[{"active": self.frame}])


def _heatmap(plain: dict) -> dict[str, Any]:
    """What the page needs to draw a heatmap: names, values of each frame, and the scale of colours."""
    (trace,) = plain["data"]
    return {
        "kind": "heatmap",
        "across": _text(plain["layout"]["xaxis"]["title"]["text"]),
        "columns": list(map(_text, trace["x"])),
        "rows": list(map(_text, trace["y"])),
        "scale": [list(stop) for stop in trace["colorscale"]],
        "range": [trace["zmin"], trace["zmax"]],
        "values": [[list(row) for row in frame["data"][0]["z"]] for frame in plain["frames"]],
    }


def _arrows(plain: dict) -> dict[str, Any]:
    """What the page needs to draw arrows: the range of both axes, and the arrows of each frame."""
    return {
        "kind": "arrows",
        "range": [list(plain["layout"][axis]["range"]) for axis in ("xaxis", "yaxis")],
        "arrows": [[_arrow(trace) for trace in frame["data"]] for frame in plain["frames"]],
    }


def _arrow(trace: dict) -> dict[str, Any]:
    line = trace["line"]
    return {
        "name": _text(trace["name"]),
        "tip": [trace["x"][1], trace["y"][1]],
        "colour": line["color"],
        "dash": line.get("dash", "solid"),
        "given": "text" in trace,  # a gradient, with its name beside it
    }


def _text(shown: str) -> str:
    """A figure's text as it was given: figures escape markup for plotly."""
    return html.unescape(str(shown))
