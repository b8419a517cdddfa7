"""What the widgets share: the source code for the page, a static figure for other readers, and checks."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import plotly.graph_objects as go
import traitlets

from dfs_edu.figures import look
from dfs_edu.inference import Outputs

STATIC = Path(__file__).parent / "static"
# What a page starts by itself: a list of widgets, beside each other, [{"widget": name, "state": {...}}]
STATE = "application/vnd.dfs.widgets+json"
NOTE = "<p>This interactive figure needs a browser with JavaScript.</p>"


class Widget(anywidget.AnyWidget):
    """A widget that the page computes. Subclasses name their files in static/, and what the page gets.

    Displayed, it leaves its state in the notebook, from which a page without a kernel starts it (course/publish.py),
    and a static figure, or a text, for readers that show neither.

    Attributes:
        setup: What the page needs and never changes. Widgets side by side get their "title" and their "group" there.
    """

    name: str  # of its script and its style sheet
    reads: tuple[str, ...]  # the traits that the page reads
    moved_by_page = False  # while traits take what the page has set

    setup = traitlets.Dict().tag(sync=True)

    def __init_subclass__(cls, **kwargs: Any):
        if "name" in vars(cls):  # not in the subclasses that traitlets makes
            cls._esm, cls._css = script(cls.name), style(cls.name)
        super().__init_subclass__(**kwargs)

    def static_figure(self) -> go.Figure:
        """Return the figure that shows the widget's present state."""
        raise NotImplementedError

    def static_bundle(self) -> dict[str, Any]:
        """Return the MIME bundle for readers that show no widgets: the static figure, unless the widget has a text."""
        return self.static_figure()._repr_mimebundle_()

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the page has set."""
        self.moved_by_page = True
        try:
            super().set_state(sync_data)
        finally:
            self.moved_by_page = False

    def page_state(self) -> dict[str, Any]:
        """Return the traits that the page reads, as JSON; bytes are {"base64": text}."""
        return {name: _json(getattr(self, name)) for name in self.reads}

    def _repr_mimebundle_(self, **kwargs: Any):
        """The widget, its state for a page without a kernel, and the static figure as plotly's renderer shows it."""
        return _readable(super()._repr_mimebundle_(**kwargs), [self], self.static_bundle())


class Row(ipywidgets.Box):
    """Widgets beside each other, or below each other where the page is narrow."""

    def __init__(self, children: Sequence[Widget]):
        super().__init__(children, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="24px"))

    def _repr_mimebundle_(self, **kwargs: Any):
        """The widgets, their states for a page without a kernel, and the first one's static figure."""
        first: Widget = self.children[0]
        return _readable(super()._repr_mimebundle_(**kwargs), self.children, first.static_bundle())


def side_by_side(widgets: Mapping[str, Widget], names: Sequence[str], follow: Callable[[Any, Any], None]) -> Row:
    """Place widgets of one kind beside each other, and let them follow each other.

    What the reader moves is passed on by the page (`linked` in static/shared.js), what Python sets is passed on here.

    Args:
        widgets: Title -> widget, two or more.
        names: Traits that lead.
        follow: Called with the widget that was set and another one, which it sets.

    Raises:
        ValueError: There are fewer than two.
    """
    if len(widgets) < 2:
        raise ValueError(f"{len(widgets)} widgets: give at least two")
    row = list(widgets.values())
    for title, widget in widgets.items():
        widget.setup = {**widget.setup, "title": title, "group": row[0].model_id or title}
        widget.layout = ipywidgets.Layout(flex="1 1 0", min_width="min(340px, 100%)")
    leading = []  # not empty while the others follow

    def lead(change) -> None:
        leader = change["owner"]
        if leading or leader.moved_by_page:
            return
        leading.append(leader)
        try:
            for other in row:
                if other is not leader:
                    follow(leader, other)
        finally:
            leading.clear()

    for widget in row:
        widget.observe(lead, list(names))
    return Row(row)


def _readable(bundle: Any, widgets: Sequence[Widget], static: Mapping[str, Any]) -> tuple[dict, dict]:
    """Add what readers without a running notebook need to a widget's MIME bundle."""
    data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
    states = [{"widget": widget.name, "state": widget.page_state()} for widget in widgets]
    return {**data, STATE: states, **static}, metadata


def _json(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def script(name: str) -> str:
    """Return the JavaScript module of a widget; it loads nothing else."""
    return "\n".join((STATIC / file).read_text("utf-8") for file in ("shared.js", "outputs.js", f"{name}.js"))


def style(name: str) -> str:
    """Return the style sheet of a widget. Forward, gradient, f+ and f- have the colours that they have in figures."""
    meanings = "".join(f"  --dfs-{meaning}: {colour};\n" for meaning, colour in look.MEANINGS.items())
    sheets = [(STATIC / file).read_text("utf-8") for file in ("shared.css", f"{name}.css")]
    return "\n".join([f".dfs-widget {{\n{meanings}}}", *sheets])


def place(states: Sequence[Mapping[str, Any]], instead: str = NOTE) -> str:
    """Return the HTML where a page starts widgets, from what a notebook holds under `STATE`.

    Args:
        states: The widgets' names and states.
        instead: HTML that is shown until they start, and where there is no JavaScript.
    """
    text = json.dumps(states).replace("<", "\\u003c")  # whatever a class is called, it cannot end the script
    return f'<div data-dfs-widgets><script type="application/json">{text}</script>{instead}</div>'


def starter(names: Collection[str]) -> str:
    """Return the HTML that starts the widgets of a page without a kernel, to stand below all of them.

    Args:
        names: The kinds of widgets on the page.
    """
    export = "export default { render };"
    modules = [
        f"dfsWidgets[{name!r}] = (() => {{\n{script(name).replace(export, 'return { render };')}\n}})();"
        for name in names
    ]
    host = (STATIC / "host.js").read_text("utf-8")
    code = "\n".join(["(() => {", "const dfsWidgets = {};", *modules, host, "})();"])
    styles = "\n".join(style(name) for name in names)
    return f"<style>\n{styles}</style>\n<script>\n{code}\n</script>"


def packed(arrays: Mapping[str, np.ndarray]) -> tuple[list, bytes]:
    """Return names, types and shapes of arrays, and their values compressed, for `unpacked` in static/outputs.js.

    Args:
        arrays: float32 ones before uint8 ones, so that the page finds each at a multiple of its size.
    """
    layout = [[name, str(values.dtype), list(values.shape)] for name, values in arrays.items()]
    values = b"".join(np.ascontiguousarray(values).tobytes() for values in arrays.values())
    return layout, zlib.compress(values, 9)


def check_classes(classes: Sequence[str], outputs: Outputs) -> None:
    """Raise ValueError unless every label and prediction of the outputs has a name."""
    if (least := int(max(outputs.label.max(), outputs.prediction.max())) + 1) > len(classes):
        raise ValueError(f"{len(classes)} class names: the outputs need {least}")
