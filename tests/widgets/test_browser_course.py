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


@pytest.mark.parametrize(("number", "wanted"), [("00", "recorded.explorer("), ("08", "ThresholdExplorer(")])
def test_the_threshold_explorer(opened, number, wanted):
    page = opened(number, wanted, ready=EXPLORER)
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


PLAYER = ".dfs-frames"


def frame_at(player, key: str) -> str:
    """Press a key on the player's slider; the name of the frame that is shown then."""
    from playwright.sync_api import expect

    shown = player.locator(".dfs-number")
    before = shown.inner_text()
    player.locator(".dfs-frame").press(key)
    expect(shown).not_to_have_text(before, timeout=1000 * PATIENCE)
    return shown.inner_text()


def test_conflict_through_training_slides(opened):
    """Notebook 2's recorded run of photographs, the last of its players; the reader's own run has one like it."""
    page = opened("02", 'history(photographs["vgg7-64"]', ready=PLAYER)
    all_ran(page)
    player = page.locator(PLAYER).last
    values = player.locator("td .dfs-sr")
    last, late = player.locator(".dfs-number").inner_text(), values.all_inner_texts()
    assert frame_at(player, "Home") == "step 0"
    assert values.all_inner_texts() != late
    assert frame_at(player, "End") == last
    assert values.all_inner_texts() == late


def test_two_gradients_slide(opened):
    page = opened("11", "figures.answers(", ready=PLAYER)
    all_ran(page)
    player = page.locator(PLAYER)
    for key, angle in (("Home", 30), ("End", 170), ("ArrowLeft", 160)):
        assert frame_at(player, key).endswith(f"{angle}°")
        spoken = player.locator("svg[role=img]").get_attribute("aria-label")
        x, y = map(float, re.search(r"\bh \((\S+), (\S+)\)", spoken).groups())
        assert math.degrees(math.atan2(y, x)) == pytest.approx(angle, abs=1)


@pytest.mark.parametrize(
    ("number", "wanted", "epochs"), [("13", ["follow.watch("], [2]), ("14", ["follow.watch("], [2])]
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
