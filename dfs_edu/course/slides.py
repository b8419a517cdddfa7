"""Slides of a notebook: its questions, figures and claims, with the rest of the text as speaker's notes.

nbconvert makes reveal.js slides from them. reveal.js itself (from the package sphinx-revealjs) lies beside the slides,
so that a lecture needs no network. Widgets and figures are as alive on a slide as on the site.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dfs_edu.course.publish import PLOTLY, alive, with_formulas
from dfs_edu.course.report import RESULT
from dfs_edu.extras import need
from dfs_edu.files import write_whole
from dfs_edu.widgets.page import STATE

REVEAL = "reveal.js"  # the folder beside the slides
CLAIM = re.compile(r"\*\*(What to notice|How to read it|Why)[^*]*\*\*")
SHOWN = ("image/png", "text/html", "text/markdown", PLOTLY, STATE)  # outputs that belong on a slide
RECAP = "Recap"  # its list is the last slide
LEFT_OUT = ("Exercise", "Further reading", RECAP)
_BLOCKS = {  # each of nbconvert's would load code from a network
    "html_head_js": "",
    "html_head_js_mathjax": "",
    "footer_js": f"""<script src="{REVEAL}/dist/reveal.js"></script>
<script src="{REVEAL}/plugin/notes/notes.js"></script>
<script>
Reveal.initialize({{ controls: true, progress: true, hash: true, slideNumber: "c/t", width: 1180, height: 760,
  margin: 0.03, center: false, plugins: [RevealNotes] }});
const resized = () => window.dispatchEvent(new Event("resize"));
Reveal.on("slidechanged", resized);
Reveal.on("ready", resized);
</script>""",
    "html_head_css": """<style>
.reveal .slides { text-align: left; }
.reveal .slides section { overflow-y: auto; max-height: 100%; }
.reveal h1, .reveal h2 { text-transform: none; }
.reveal h1 { font-size: 2.2em; } .reveal h2 { font-size: 1.5em; } .reveal p, .reveal li { font-size: 0.8em; }
.reveal .jp-Cell-inputWrapper .jp-InputPrompt, .reveal .jp-OutputPrompt { display: none; }
.reveal .dfs-widget { font-size: 16px; }
</style>""",
}


def slideshow(notebook: NotebookNode, title: str) -> str:
    """Return an executed notebook as an HTML page of slides, which expects reveal.js in the folder `REVEAL` beside it.

    Every section of the notebook is a column of slides: its question, then each figure with what to notice in it. The
    exercises are left out. What else is said becomes speaker's notes (key S).

    Args:
        notebook: As committed, with outputs.
        title: Title of the page.
    """
    from nbconvert import SlidesExporter

    shown = new_notebook(cells=list(_cells(notebook)), metadata=notebook.metadata)
    engine = f"{REVEAL}/plotly.min.js"
    shown = with_formulas(alive(nbformat.writes(shown), engine))
    blocks = "".join(f"{{% block {name} %}}{text}{{% endblock %}}" for name, text in _BLOCKS.items())
    exporter = SlidesExporter(raw_template="{% extends 'reveal/index.html.j2' %}" + blocks)
    exporter.exclude_input = exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.reveal_url_prefix, exporter.reveal_theme = REVEAL, "white"  # its fonts lie beside it
    html, _ = exporter.from_notebook_node(shown, resources={"metadata": {"name": title}})
    return html


def _cells(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """The cells of the slides, each with its kind of slide."""
    section, figures = "", 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for part in _sections(cell.source):
                heading, text = _heading(part)
                section, figures = (heading, 0) if heading else (section, figures)
                yield from _text(section, text, "# " if part.startswith("# ") else "## " if heading else "")
        elif not section.startswith(LEFT_OUT) and (outputs := _outputs(cell)):
            kind = "subslide" if figures else "-"
            figures += 1
            yield new_code_cell("", outputs=outputs, metadata={"slideshow": {"slide_type": kind}})


def _text(section: str, text: str, level: str) -> Iterator[NotebookNode]:
    """The heading as a new slide, with its first paragraph; claims below, the rest as notes; of a recap the list."""
    recap = section.startswith(RECAP)
    if section.startswith(LEFT_OUT) and not recap:
        return
    if level:
        yield _slide(f"{level}{section}", "slide")
    claims, notes = (_bullets(text), "") if recap else _split(text, opening=bool(level))
    if claims:
        yield _slide(claims, "-")
    if notes:
        yield _slide(notes, "notes")


def _outputs(cell: NotebookNode) -> list[NotebookNode]:
    """The outputs that belong on a slide: figures, widgets and computed claims, but not the record."""
    bundles = [output for output in cell.outputs if "data" in output and RESULT not in output.data]
    return [output for output in bundles if any(kind in output.data for kind in SHOWN)]


def _sections(source: str) -> list[str]:
    """A Markdown cell, cut before each heading of the first two levels."""
    return [part for part in re.split(r"(?m)^(?=##? )", source) if part.strip()]


def _heading(part: str) -> tuple[str, str]:
    """The heading of a part, if it begins with one, and the rest."""
    match = re.match(r"##? (.*)\n?", part)
    return (match.group(1).strip(), part[match.end() :].strip()) if match else ("", part.strip())


def _split(text: str, opening: bool) -> tuple[str, str]:
    """Paragraphs that make a claim, with the opening one if asked, and all others."""
    paragraphs = re.split(r"\n\s*\n", text)
    claims = [p for i, p in enumerate(paragraphs) if CLAIM.match(p) or (opening and i == 0)]
    return "\n\n".join(claims), "\n\n".join(p for p in paragraphs if p not in claims)


def _bullets(text: str) -> str:
    """The list of a recap."""
    return "\n".join(line for line in text.splitlines() if line.startswith(("* ", "- ", "  ")))


def _slide(source: str, kind: str) -> NotebookNode:
    return new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})


def write_slides(notebooks: Sequence[Path], folder: str | Path) -> list[Path]:
    """Write the slides of each notebook, ``NAME.slides.html``, and reveal.js beside them; return the pages.

    Raises:
        MissingExtra: The package that brings reveal.js is missing.
        ValueError: A notebook has no outputs to show; the message names it.
    """
    from plotly.offline import get_plotlyjs

    reveal = Path(need("sphinx_revealjs").__path__[0]) / "_static" / "revealjs"
    pages: dict[Path, str] = {}
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        if not any(cell.get("outputs") for cell in notebook.cells):
            raise ValueError(f"{path.name}: it was not executed, so that there is nothing to show")
        pages[Path(folder) / f"{path.stem}.slides.html"] = slideshow(notebook, path.stem)
    for part in ("dist", "plugin"):
        shutil.copytree(reveal / part, Path(folder) / REVEAL / part, dirs_exist_ok=True)
    write_whole(Path(folder) / REVEAL / "plotly.min.js", lambda file: file.write(get_plotlyjs().encode()))
    for page, html in pages.items():
        write_whole(page, lambda file, html=html: file.write(html.encode()))
    return list(pages)
