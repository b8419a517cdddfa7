"""What the widgets share: the source code for the page, a static figure for other readers, and checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anywidget
import plotly.graph_objects as go

from dfs_edu.inference import Outputs

STATIC = Path(__file__).parent / "static"


class Widget(anywidget.AnyWidget):
    """A widget whose static figure takes its place for readers without a running notebook."""

    def static_figure(self) -> go.Figure:
        """Return the figure that shows the widget's present state."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        """The widget and, for readers who cannot display it, the static figure as plotly's renderer shows it."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**self.static_figure()._repr_mimebundle_(), **data}, metadata


def sources(name: str) -> tuple[str, str]:
    """Return the JavaScript module and the style sheet of a widget, such as "gallery"; the page loads nothing else."""
    return _joined(f"{name}.js"), _joined(f"{name}.css")


def _joined(file: str) -> str:
    shared = STATIC / f"shared{Path(file).suffix}"
    return shared.read_text("utf-8") + "\n" + (STATIC / file).read_text("utf-8")


def check_classes(classes: Sequence[str], outputs: Outputs) -> None:
    """Raise ValueError unless every label and prediction of the outputs has a name."""
    if (least := int(max(outputs.label.max(), outputs.prediction.max())) + 1) > len(classes):
        raise ValueError(f"{len(classes)} class names: the outputs need {least}")
