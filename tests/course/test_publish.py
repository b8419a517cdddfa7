"""Widgets in a published notebook: their data in git, and what they become in a page without a kernel."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from warm import python

from dfs_edu.course import publish
from dfs_edu.course.browser import chromium
from dfs_edu.widgets import page

ROOT = Path(__file__).parents[2]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
HIDDEN = 'figures.accuracy_per_exit({"joint": outputs("test", 1).accuracy[None]})'
CELLS = (
    """
import numpy as np, torch
from dfs_edu import figures
from dfs_edu.inference import Outputs
from dfs_edu.widgets import explorer, gallery

def outputs(split, seed, N=60):
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(N) % 3
    prediction = torch.randint(3, (4, N), generator=generator)
    return Outputs(torch.rand(4, N, generator=generator), prediction, label, split)

images = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
classes = ["ant", "bee", "</script><b>cat"]  # a name cannot end the data
""",
    'explorer.ThresholdExplorer(outputs("validation", 0), outputs("test", 1), [1e6, 2e6, 3e6, 4e6], images, classes)',
    HIDDEN,
    """
galleries = {name: gallery.ExitGallery(images, None, outputs("test", i), classes) for i, name in enumerate("ab")}
gallery.side_by_side(galleries)
""",
)
needs_chromium = pytest.mark.skipif(chromium() is None, reason="no Chrome or Chromium: install chromium")


@pytest.fixture(scope="module")
def executed():
    """A small notebook with an explorer, a figure and two galleries side by side, as a kernel leaves it."""
    from nbclient import NotebookClient

    notebook = new_notebook(cells=[new_code_cell(source) for source in CELLS], metadata={"kernelspec": KERNEL})
    notebook.cells[CELLS.index(HIDDEN)].metadata.tags = ["hide-input"]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def states(notebook) -> list:
    return [data[page.STATE] for data in publish._bundles(notebook) if page.STATE in data]


@needs_chromium
def test_committed_notebooks_keep_the_widgets_data(executed):
    once = publish.normalise(executed)
    nbformat.validate(once)
    assert publish.normalise(once) == once
    assert [[state["widget"] for state in row] for row in states(once)] == [["explorer"], ["gallery", "gallery"]]
    for data in publish._bundles(once):
        assert set(data) - {"text/plain"} <= {publish.PLOTLY, "image/png", page.STATE}
        assert "image/png" in data  # for GitHub
    assert [state["state"]["setup"]["group"] for state in states(once)[1]] == ["group 1", "group 1"]
    assert len(nbformat.writes(once)) < publish.LARGEST


def bundle(size: int) -> dict:
    """A widget's output whose state takes `size` characters."""
    state = [{"widget": "explorer", "state": {"setup": {"group": ""}, "outputs": {"base64": "A" * size}}}]
    return {"text/plain": "Explorer()", "image/png": "AAAA", page.STATE: state}


def test_a_widget_whose_data_do_not_fit_says_so():
    sizes = [300_000, 400_000, 100_000]
    cells = [new_code_cell("f()", outputs=[new_output("display_data", bundle(size))]) for size in sizes]
    once = publish.normalise(new_notebook(cells=cells))
    assert publish.normalise(once) == once
    assert len(nbformat.writes(once).encode()) < publish.LARGEST
    kept = [[page.STATE in output.data for output in cell.outputs] for cell in once.cells]
    assert kept == [[True], [False, False], [True]]
    figure, note = once.cells[1].outputs
    assert "image/png" in figure.data
    assert "(400 kB) would make this notebook too large. Run the cell" in note.data["text/markdown"]


def test_each_program_is_in_the_page_once(executed):
    html = publish.page(executed, "small")
    assert html.count("<div data-dfs-widgets") == 2
    for name in ("explorer", "gallery"):
        assert html.count(f"dfsWidgets['{name}'] =") == 1
    assert html.count("function thumbnail(") == 1
    assert html.count("function histogram(") == 1
    assert page.STATE not in html


def test_jupyterlab_folds_the_cells_tagged_for_it():
    cells = [new_code_cell("f()", metadata={"tags": ["hide-input"]}), new_code_cell("g()")]
    cells[1].metadata["jupyter"] = {"source_hidden": True}  # folded by hand
    once = publish.normalise(new_notebook(cells=cells))
    nbformat.validate(once)
    assert publish.normalise(once) == once
    assert [cell.metadata for cell in once.cells] == [
        {"tags": ["hide-input"], "jupyter": {"source_hidden": True}},
        {},
    ]


def watched(browser, **options):
    """A page, and a list of its complaints and of what it asks for."""
    shown, heard = browser.new_page(viewport={"width": 1200, "height": 1600}, **options), []
    shown.on("request", lambda request: heard.append(request.url))
    shown.on("console", lambda message: heard.append(message.text) if message.type in ("error", "warning") else None)
    shown.on("pageerror", lambda error: heard.append(str(error)))
    return shown, heard


def brightness(shown, selector: str, name: str) -> int:
    """Red, green and blue together, of the first ancestor that is painted."""
    return shown.locator(selector).first.evaluate(
        """(node, name) => {
            const of = () => getComputedStyle(node)[name];
            while (name !== "color" && /, 0\\)$/.test(of()) && node.parentElement) node = node.parentElement;
            return of().match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b);
        }""",
        name,
    )


def assert_folded(shown) -> None:
    """The source of one cell, and of no other, is folded until it is asked for; its figure is not."""
    assert shown.locator("details").count() == 1
    source = shown.locator("details pre")
    assert not source.is_visible()
    assert shown.locator("pre").get_by_text("np.random").first.is_visible()
    shown.get_by_text("Show code").click()
    assert source.inner_text().strip() == HIDDEN
    assert source.is_visible()
    assert shown.locator("details .js-plotly-plot").count() == 0


def assert_alive(shown) -> None:
    """Explorer and galleries answer to mouse and keys."""
    shown.locator(".dfs-exit-gallery").nth(1).wait_for()
    assert shown.locator(".dfs-explorer").count() == 1
    before = shown.locator(".dfs-accuracy").inner_text(), shown.locator(".dfs-macs").inner_text()
    shown.get_by_role("slider", name="budget").press("Home")
    assert (shown.locator(".dfs-accuracy").inner_text(), shown.locator(".dfs-macs").inner_text()) != before
    assert shown.locator(".dfs-macs").inner_text() == "1.000 MMACs"
    shown.get_by_role("button", name="image 9:").first.click()
    chosen = shown.locator(".dfs-thumbnail[aria-pressed=true]")
    assert [chosen.nth(i).get_attribute("aria-label") for i in range(2)] == ["image 9: </script><b>cat"] * 2
    assert shown.locator(".js-plotly-plot .main-svg").count() > 0
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_formulas_of_a_page_are_mathml():
    cells = [
        nbformat.v4.new_markdown_cell("So:\n\n$$\\cos(g, h) = \\frac{g \\cdot h}{|g|}$$"),
        nbformat.v4.new_code_cell("'$$'"),
    ]
    html = publish.page(nbformat.v4.new_notebook(cells=cells), "formulas")
    assert html.count("<math") == html.count('display="block"') == 1
    assert "<mfrac>" in html
    assert "\\frac" not in html
    assert "$$" in html  # of the code


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("committed", [False, True])
def test_widgets_start_in_exported_html(executed, browser, tmp_path, committed):
    notebook = publish.normalise(executed) if committed else executed
    (tmp_path / "small.html").write_text(publish.page(notebook, "small"), "utf-8")
    shown, heard = watched(browser, color_scheme="dark")  # the exported page is light all the same
    shown.goto((tmp_path / "small.html").as_uri())
    assert_alive(shown)
    assert_folded(shown)
    ink, paper = (brightness(shown, ".dfs-explorer", name) for name in ("color", "backgroundColor"))
    assert ink < paper
    assert [text for text in heard if not text.startswith(("file:", "data:", "blob:"))] == []
    shown.close()


@pytest.fixture(scope="module")
def small_site(executed, tmp_path_factory) -> Path:
    """The site's own settings, with the small notebook as its only page."""
    pytest.importorskip("sphinx", reason="no Sphinx: install the dev extras")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    (source / "notebooks").mkdir()
    notebook = json.loads(nbformat.writes(publish.normalise(executed)))
    notebook["cells"].insert(0, {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# Small"})
    (source / "notebooks" / "small.ipynb").write_text(json.dumps(notebook), "utf-8")
    settings = ["-D", "root_doc=notebooks/small", "-D", "include_patterns=notebooks/*"]
    command = [*python(), "-m", "sphinx", "--quiet", "--conf-dir", ROOT / "docs", *settings, source, built]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built / "notebooks" / "small.html"


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widgets_start_on_the_site(small_site, browser, scheme):
    shown, heard = watched(browser, color_scheme=scheme)
    shown.goto(small_site.as_uri())
    assert_alive(shown)
    assert_folded(shown)
    for _ in range(4):  # as the system says, and what the reader chooses
        theme = shown.locator("body").get_attribute("data-theme")
        dark = theme == "dark" or (theme == "auto" and scheme == "dark")
        for widget in (".dfs-explorer", ".dfs-exit-gallery"):
            ink, paper = (brightness(shown, widget, name) for name in ("color", "backgroundColor"))
            assert (ink > paper) == dark, (theme, widget)
        shown.locator(".theme-toggle:visible").first.click()
    assert [text for text in heard if not text.startswith(("file:", "data:", "blob:"))] == []
    shown.close()
