"""Prepare a notebook to be committed (`normalise`) or to be read offline in a browser (`page`, `alive`).

Each execution leaves different traces: times, random cell ids, widget state, progress bars. They do not belong in git,
where they would drown the changes that matter.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import re

import nbformat
from latex2mathml.converter import convert
from nbformat import NotebookNode
from nbformat.v4 import new_output

from dfs_edu.course.browser import chromium
from dfs_edu.widgets.page import NOTE, STATE, place, starter

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"

_ADDED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}
_PROGRESS = re.compile(r"\[(?:\d+:)?\d+:\d\d[<,]")  # tqdm's "[00:01<00:09, 3.2it/s]"
_FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
HIDE = "hide-input"  # tag of a cell whose source is folded; the site's own program knows it as well
LARGEST = 500_000  # bytes of a committed notebook; widgets that would make it larger keep their static figure alone
_TOO_LARGE = (
    "*The figure above stands in for an interactive one, whose data ({kilobytes} kB) would make this notebook too "
    "large. Run the cell to use it.*"
)
# Of nbconvert's page: a cell tagged HIDE shows its source when asked
_FOLDED = f"""
{{%- block html_head_css -%}}<style>
.dfs-code > summary {{ padding: 2px 0 4px; margin-left: calc(var(--jp-cell-prompt-width) + 14px); cursor: pointer;
  color: var(--jp-ui-font-color2); font: var(--jp-ui-font-size1) var(--jp-ui-font-family); }}
</style>{{%- endblock -%}}
{{%- block input_group -%}}
{{%- if "{HIDE}" in cell.metadata.get("tags", []) -%}}
<details class="dfs-code"><summary>Show code</summary>{{{{ super() }}}}</details>
{{%- else -%}}{{{{ super() }}}}{{%- endif -%}}
{{%- endblock -%}}
"""
_COLOURS = 64  # of a PNG's palette: lines and text look the same at a third of the size


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Return an executed notebook in the form that is committed; normalising it again changes nothing.

    Times, progress bars and the metadata of papermill and widgets are removed. Cell ids and execution counts follow the
    order of the cells. JupyterLab folds the source of cells tagged "hide-input". A widget keeps its static figure or
    text and, while the notebook stays below ``LARGEST``, the data from which a page without a kernel starts it; one
    that has to do without them says so. A plotly figure gets a small PNG for readers without JavaScript, as on GitHub.

    Raises:
        FileNotFoundError: A PNG has to be drawn, and neither Chrome nor Chromium is installed.
    """
    notebook = _tidy(notebook)
    figures = [data for data in _bundles(notebook) if PLOTLY in data and "image/png" not in data]
    if figures:
        _add_pngs(figures)
    _rename_groups(notebook)
    _drop_large_states(notebook)
    return notebook


def page(notebook: NotebookNode, title: str) -> str:
    """Return an executed notebook as one HTML page with interactive plotly figures that needs no network.

    Formulas become MathML, which browsers show by themselves; MathJax would have to be fetched. The source of cells
    tagged "hide-input" is folded.

    Args:
        notebook: The executed notebook.
        title: Title of the page.
    """
    from nbconvert import HTMLExporter

    notebook = _with_widgets(_drawn_by_plotly(with_formulas(_tidy(notebook)), engine=True))
    blocks = ("html_head_js", "html_head_js_mathjax", "html_head_js_mermaidjs")  # each would load code from a CDN
    template = "{% extends 'lab/index.html.j2' %}" + "".join(f"{{% block {name} %}}{{% endblock %}}" for name in blocks)
    template += _FOLDED
    exporter = HTMLExporter(raw_template=template)
    html, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return html


def alive(text: str, engine: str) -> NotebookNode:
    """Read a committed notebook for a site whose pages share one plotly.js.

    Args:
        text: The notebook's JSON.
        engine: Address of plotly.js, ending in .js.
    """
    return _with_widgets(_drawn_by_plotly(nbformat.reads(text, as_version=4), engine))


def with_formulas(notebook: NotebookNode) -> NotebookNode:
    """Put MathML in place of the displayed formulas of a notebook, which stand between pairs of dollars."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _FORMULA.sub(lambda match: convert(match[1].strip(), display="block"), cell.source)
    return notebook


def _rename_groups(notebook: NotebookNode) -> None:
    """Number the groups of linked widgets, which are named after a kernel's widgets, in order."""
    numbers: dict[str, str] = {}
    for data in _bundles(notebook):
        for state in data.get(STATE, []):
            setup = state["state"].get("setup", {})
            if group := setup.get("group"):
                setup["group"] = numbers.setdefault(group, f"group {len(numbers) + 1}")


def _drop_large_states(notebook: NotebookNode) -> None:
    """Keep the widgets' data, in the order of the page, while the notebook stays small; else a sentence says so."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [(cell, output) for cell in cells for output in cell.outputs if STATE in output.get("data", {})]
    states = [output.data.pop(STATE) for _, output in outputs]
    for (cell, output), state in zip(outputs, states, strict=True):
        output.data[STATE] = state
        if len(nbformat.writes(notebook).encode()) < LARGEST:
            continue
        del output.data[STATE]
        says = _TOO_LARGE.format(kilobytes=len(json.dumps(state)) // 1000)
        note = new_output("display_data", {"text/markdown": says})
        cell.outputs.insert(cell.outputs.index(output) + 1, note)


def _with_widgets(notebook: NotebookNode) -> NotebookNode:
    """Its widgets as HTML that starts them without a kernel."""
    bundles = [data for data in _bundles(notebook) if STATE in data]
    names: dict[str, None] = {}
    for data in bundles:
        states = data[STATE]
        names |= {state["widget"]: None for state in states}
        last = starter(names) if data is bundles[-1] else ""
        instead = data.get("text/html", NOTE)  # of a widget whose static form is a text
        data.clear()
        data["text/html"] = place(states, instead) + last
    return notebook


def _drawn_by_plotly(notebook: NotebookNode, engine: bool | str) -> NotebookNode:
    """Its plotly figures as HTML. The first includes plotly.js (4.7 MB), whole (True) or as an address."""
    from plotly.io import to_html

    figures = [data for data in _bundles(notebook) if PLOTLY in data and STATE not in data]
    for number, data in enumerate(figures):
        figure = {key: data[PLOTLY].get(key, {}) for key in ("data", "layout")} | {
            "frames": data[PLOTLY].get("frames", [])  # of a figure with a slider, which waits for the reader
        }
        if title := figure["layout"].get("title"):  # at the left edge: a page's column may be narrow
            title |= {"xref": "container", "x": 0.01}
        options = {"full_html": False, "validate": False, "auto_play": False}
        html = to_html(figure, include_plotlyjs=number == 0 and engine, div_id=f"figure-{number}", **options)
        data.clear()
        data["text/html"] = html
    return notebook


def _tidy(notebook: NotebookNode) -> NotebookNode:
    """A copy without the traces of its execution, but for the outputs."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)  # the first version with cell ids
    notebook.cells = [cell for cell in notebook.cells if not _ADDED_BY_PAPERMILL & set(cell.metadata.get("tags", []))]

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _tidy_outputs(cell.outputs)
    number_cells(notebook)
    return notebook


def number_cells(notebook: NotebookNode) -> None:
    """Number the cells of a notebook, and the executed ones, in order. Of the metadata, tags and folding are kept."""
    executed = 0
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number:02}"
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        if HIDE in (tags or ()):
            cell.metadata.jupyter = NotebookNode(source_hidden=True)  # JupyterLab folds it
        if cell.execution_count is not None:
            executed += 1
            cell.execution_count = executed
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = cell.execution_count


def _tidy_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    tidy = []
    for output in _joined_streams(outputs):
        if output.output_type == "stream":
            output.text = _tidy_text(output.text)
            keep = bool(output.text.strip())
        elif "data" in output:
            _tidy_bundle(output.data)
            output.metadata = NotebookNode({k: v for k, v in output.metadata.items() if k in output.data})
            keep = bool(output.data)
        else:
            keep = True
        if keep:
            tidy.append(output)
    return _joined_streams(tidy)  # again: an output between two pieces of one stream may be gone


def _joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join consecutive pieces of one stream: where it was cut depends on the timing."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and last.output_type == output.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _tidy_text(text: str) -> str:
    """The text that a terminal would finally show, without progress bars."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(line for line in lines if not _PROGRESS.search(line))


def _tidy_bundle(data: NotebookNode) -> None:
    """Drop from one output what differs between executions or means nothing to a reader."""
    was_widget = data.pop(WIDGET, None) is not None
    if PLOTLY in data:
        data.pop("text/html", None)  # the "notebook" renderers put all of plotly.js in there
        data[PLOTLY].get("config", {}).pop("plotlyServerURL", None)
    text = data.get("text/plain")
    if text is None:
        return
    if (was_widget and len(data) == 1) or _PROGRESS.search(text):
        del data["text/plain"]  # "HBox(children=(...))" tells a reader nothing
    else:
        data["text/plain"] = _ADDRESS.sub("at 0x0", text)


def _bundles(notebook: NotebookNode) -> list[NotebookNode]:
    """The data of every rich output, in order."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output.data for cell in cells for output in cell.outputs if "data" in output]


def _add_pngs(bundles: list[NotebookNode]) -> None:
    browser = chromium()
    if browser is None:
        raise FileNotFoundError("no Chrome or Chromium to draw the figures' PNGs: install chromium or set BROWSER_PATH")
    os.environ["BROWSER_PATH"] = browser
    import kaleido

    kaleido.start_sync_server(silence_warnings=True)
    try:
        for data in bundles:
            figure = {key: data[PLOTLY].get(key, {}) for key in ("data", "layout")}
            data["image/png"] = _small_png(kaleido.calc_fig_sync(figure, opts={"format": "png"}))
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def _small_png(png: bytes) -> str:
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGBA")
    image = Image.alpha_composite(
        Image.new("RGBA", image.size, "white"), image
    )  # figures have a transparent background
    small = io.BytesIO()
    image.convert("RGB").quantize(_COLOURS).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()
