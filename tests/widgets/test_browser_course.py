"""The interactive notebooks of the course in JupyterLab and Voila: no errors, and what can be moved moves the page.

At scale smoke, and only with the cells that the interactive one needs: test_notebooks.py runs the rest of them.
"""

from __future__ import annotations

import math
import re

import nbformat
import pytest
from lab import PATIENCE, TOKEN, complaints, course_notebook, errors, run_all_cells, shut_down
from test_browser import first_slider, moved, place, shown

from dfs_edu.course.browser import chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.notebook,
    pytest.mark.skipif(chromium() is None, reason="no Chrome or Chromium: install chromium or set BROWSER_PATH"),
]
# Voila's own template asks other servers for icons and MathJax, and does without them where there is no network.
VOILA_ASKS = re.compile(
    r"ERR_\S+ https://(cdn\.jsdelivr\.net/npm/@fortawesome|cdnjs\.cloudflare\.com/ajax/libs/mathjax)/"
)
EXPLORER = ".dfs-explorer .dfs-accuracy"


@pytest.fixture
def opened(lab, browser):
    """A function that runs a notebook of the course and returns the page; at the end, nothing may have gone wrong."""
    pages = []

    def run(number: str, *wanted: str, ready: str):
        page = browser.new_page(viewport={"width": 1400, "height": 6000})  # JupyterLab renders what is in view
        pages.append((page, complaints(page)))
        run_all_cells(lab, page, course_notebook(number, *wanted), f"{number}.ipynb", ready)
        return page

    yield run
    for page, messages in pages:
        wrong = errors(page)
        shut_down(page)
        assert wrong == []
        assert messages == []


def until(page, condition: str, argument=None) -> None:
    """Until a JavaScript function of the argument says yes."""
    page.wait_for_function(condition, arg=argument, timeout=1000 * PATIENCE)


def all_ran(page) -> None:
    """Until the last cell has run; the kernel is idle between cells, too."""
    until(
        page,
        """() => jupyterapp.shell.currentWidget.model.toJSON().cells
            .filter(cell => cell.cell_type == "code").every(cell => cell.execution_count)""",
    )


def explore(page) -> None:
    """The first slider by keyboard and by mouse: cheaper, more expensive, cheaper."""
    slider = first_slider(page)
    start, cost = place(page), shown(page, "macs")
    slider.press("Home")  # all leave at exit 1
    cheap = moved(page, since=start)
    assert cheap[0] < start[0]
    assert shown(page, "macs") < cost
    slider.press("End")  # only full confidence leaves at exit 1
    expensive = moved(page, since=cheap)
    assert expensive[0] > cheap[0]
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.01 * box["width"], box["y"] + box["height"] / 2)
    assert moved(page, since=expensive)[0] < expensive[0]


@pytest.mark.parametrize("number", ["00", "08"])
def test_the_threshold_explorer(opened, number):
    page = opened(number, "ThresholdExplorer(", ready=EXPLORER)
    explore(page)
    all_ran(page)


def test_a_notebook_as_a_page_in_voila(lab, browser):
    nbformat.write(course_notebook("08", "ThresholdExplorer("), lab.folder / "voila08.ipynb")
    page = browser.new_page(viewport={"width": 1200, "height": 6000})
    messages = complaints(page)
    try:
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{lab.address}voila/render/voila08.ipynb?token={TOKEN}")
        page.locator(EXPLORER).wait_for()
        explore(page)
        text = page.locator("body").inner_text()
        assert "import torch" not in text
        assert "Traceback" not in text
        assert [text for text in messages if not VOILA_ASKS.search(text)] == []
    finally:
        page.close()


def test_the_galleries_of_two_networks(opened):
    """With or without the photographs: an image chosen in one gallery is chosen in both."""
    page = opened("06", "side_by_side(", ready=".dfs-exit-gallery >> nth=1")
    chosen = page.locator(".dfs-thumbnail[aria-pressed=true]")
    levels = page.locator(".dfs-exit-gallery .dfs-confidence")
    before = levels.all_inner_texts()
    for gallery, image in ((0, "image 9"), (1, "image 4")):
        page.get_by_role("button", name=f"{image}:").nth(gallery).click()
        assert [chosen.nth(i).get_attribute("aria-label").split(":")[0] for i in range(2)] == [image] * 2
    assert len(before) == 12  # six exits each
    assert levels.all_inner_texts() != before
    all_ran(page)


SLIDING = ".js-plotly-plot:has(.slider-container)"
# The traces' numbers, and the label that the slider shows.
STATE = """plot => [
    plot.data.map(trace => trace.z ?? [trace.x, trace.y]),
    plot.querySelector(".slider-container text.slider-label").textContent,
]"""
MOVED = f"""([plot, before]) => {{
    const now = ({STATE})(plot);
    return now.every((part, i) => JSON.stringify(part) != JSON.stringify(before[i]));
}}"""


def slide(page, plot, to: float):
    """Press the mouse on the slider, at a part of its length; what the figure shows then."""
    handle, before = plot.element_handle(), plot.evaluate(STATE)
    box = plot.locator(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(box["x"] + to * box["width"], box["y"] + box["height"] / 2)
    until(page, MOVED, [handle, before])
    return plot.evaluate(STATE)


def drag(page, plot, start: float, to: float):
    """The same by pulling the slider's grip from one place to another."""
    handle, before = plot.element_handle(), plot.evaluate(STATE)
    box = plot.locator(".slider-rail-touch-rect").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + to * box["width"], y, steps=8)
    page.mouse.up()
    until(page, MOVED, [handle, before])
    return plot.evaluate(STATE)


def test_conflict_through_training_slides(opened):
    """Notebook 2's figures of recorded runs; that of the reader's own run is made by the same function."""
    page = opened("02", "backbone, record in photographs", ready=SLIDING)
    all_ran(page)
    plots = page.locator(SLIDING)
    until(page, f"() => document.querySelectorAll('{SLIDING}').length == 2")
    for plot in plots.all():
        frames = plot.evaluate("plot => plot._transitionData._frames.map(frame => [frame.name, frame.data[0].z])")
        (z,), label = plot.evaluate(STATE)
        assert (label, z) == (f"step {frames[-1][0]}", frames[-1][1])
        (z,), label = slide(page, plot, 0.0)
        assert (label, z) == (f"step {frames[0][0]}", frames[0][1])
        (z,), label = drag(page, plot, 0.0, 0.5)
        assert z == dict(frames)[label.removeprefix("step ")]


def test_two_gradients_slide(opened):
    page = opened("11", "figures.answers(", ready=SLIDING)
    all_ran(page)
    plot = page.locator(SLIDING)
    for move in (lambda: slide(page, plot, 0.0), lambda: drag(page, plot, 0.0, 0.6), lambda: slide(page, plot, 1.0)):
        traces, label = move()
        (_, x), (_, y) = traces[1]  # the second gradient turns, the first stays
        assert f"{math.degrees(math.atan2(y, x)):.0f}°" == re.search(r"\d+°", label)[0]
        assert traces[0] == [[0, 1], [0, 0]]
    assert label.endswith("170°")


@pytest.mark.parametrize(
    ("number", "wanted", "epochs"), [("13", ["follow.Live()", "follow.watch("], [1, 4]), ("14", ["follow.watch("], [2])]
)
def test_a_run_is_followed(opened, number, wanted, epochs):
    """At the end each run has one figure, of all its epochs: it grew in its place."""
    page = opened(number, *wanted, ready=".js-plotly-plot:has(.scatterlayer .trace)")
    all_ran(page)
    curves = """() => [...document.querySelectorAll(".js-plotly-plot")]
        .filter(plot => plot.layout.title.text.startsWith("Validation accuracy, epoch"))"""
    titles = [f"Validation accuracy, epoch {count} of {count}" for count in epochs]
    same = f"titles => JSON.stringify(({curves})().map(plot => plot.layout.title.text)) == JSON.stringify(titles)"
    until(page, same, titles)
    found = page.evaluate(f"() => ({curves})().map(plot => plot.data.map(trace => [trace.x, trace.y.length]))")
    for count, traces in zip(epochs, found, strict=True):
        assert len(traces) > 1
        assert all(trace == [list(range(1, count + 1)), count] for trace in traces)
