"""The arrows, the temperatures and the frames in JupyterLab: keys and fingers reach them, and Python hears of it."""

from __future__ import annotations

import json

import nbformat
import pytest
from lab import PATIENCE, complaints, errors
from nbformat.v4 import new_code_cell, new_notebook

from dfs_edu.course import publish
from dfs_edu.course.browser import chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chrome or Chromium: install chromium or set BROWSER_PATH"),
]

CODE = """
import ipywidgets
import numpy as np
import torch
from dfs_edu import figures
from dfs_edu.inference import Outputs
from dfs_edu.widgets.arrows import TwoArrows
from dfs_edu.widgets.frames import FramePlayer
from dfs_edu.widgets.temperature import TemperatureExplorer

def outputs(split):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 200, 10, generator=generator)
    return Outputs.of(logits, torch.randint(10, (200,), generator=generator), split)

arrows, explorer = TwoArrows(((1.0, 0.5), (-0.7, 0.9))), TemperatureExplorer(outputs("validation"), outputs("test"))
step, cosine = np.arange(3), np.random.default_rng(0).uniform(-1, 1, (3, 3, 3))
player = FramePlayer(figures.conflict_through_training(step, cosine))
seen = ipywidgets.Label("nothing").add_class("dfs-seen")

def see(change):
    seen.value = f"{arrows.arrows[0]} {explorer.revealed} {player.frame}"

for widget, name in ((arrows, "arrows"), (explorer, "revealed"), (player, "frame")):
    widget.observe(see, name)
display(arrows, explorer, player, seen)
"""


def scratch():
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}  # without it, JupyterLab asks
    return new_notebook(cells=[new_code_cell(CODE)], metadata={"kernelspec": kernel})


def test_keys_move_them_in_jupyterlab_and_python_hears_of_it(run_all):
    page = run_all(scratch(), "arrows.ipynb", ready=".dfs-seen")
    found = complaints(page)
    page.locator(".dfs-map").wait_for()
    page.locator(".dfs-tip").first.focus()
    page.keyboard.press("ArrowDown")  # in command mode, JupyterLab would select the next cell
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_role("button", name="Show the fitted temperatures").click()
    page.locator(".dfs-frame").focus()
    page.keyboard.press("Home")
    expected = "[1.25, 0.45] True 0"
    page.wait_for_function(
        "text => document.querySelector('.dfs-seen').textContent.includes(text)",
        arg=expected,
        timeout=1000 * PATIENCE,
    )
    assert page.locator(".dfs-tip").first.get_attribute("aria-valuetext") == "1.25 right, 0.45 up"
    assert errors(page) == []
    assert found == []


def test_the_exported_page_starts_them_without_a_kernel(run_all, browser, tmp_path):
    page = run_all(scratch(), "exported.ipynb", ready=".dfs-seen")
    saved = page.evaluate("JSON.stringify(jupyterapp.shell.currentWidget.model.toJSON())")
    notebook = nbformat.from_dict(json.loads(saved))
    file = tmp_path / "exported.html"
    file.write_text(publish.page(notebook, "exported"), "utf-8")
    shown = browser.new_page()
    try:
        shown.goto(file.as_uri())
        shown.locator(".dfs-map").wait_for()
        shown.locator(".dfs-tip").first.focus()
        shown.keyboard.press("ArrowUp")
        assert shown.locator(".dfs-tip").first.get_attribute("aria-valuetext") == "1.00 right, 0.55 up"
        shown.get_by_role("button", name="Show the fitted temperatures").click()
        assert shown.locator(".dfs-answer").first.is_visible()
    finally:
        shown.close()
