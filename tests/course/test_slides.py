"""Slides: questions, figures and claims of a notebook, on slides that need no network."""

from __future__ import annotations

import re

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dfs_edu.cli import main
from dfs_edu.course.report import RESULT
from dfs_edu.course.slides import slideshow, write_slides


def figure(title):
    plain = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]), {"title": {"text": title}}).to_plotly_json()
    return new_output("display_data", {"application/vnd.plotly.v1+json": nbformat.from_dict(plain), "text/plain": "F"})


@pytest.fixture
def lesson():
    printed = new_output("stream", name="stdout", text="a printed number")
    found = new_output("display_data", {RESULT: {}, "text/html": "<p>Found: it</p>"})
    return new_notebook(
        cells=[
            new_markdown_cell("# Why several exits?\n\nThe story so far.\n\nA second paragraph."),
            new_code_cell("import torch", outputs=[]),
            new_markdown_cell("## The first question\n\nSome prose.\n\nAside."),
            new_code_cell("plot()", outputs=[figure("first figure"), printed]),
            new_markdown_cell("**What to notice.** It rises.\n\nMore prose."),
            new_code_cell("plot()", outputs=[figure("second figure")]),
            new_markdown_cell("## Exercises\n\n**1. Half** (3 minutes)."),
            new_code_cell("def my_half(x): ...", outputs=[figure("a plot of an exercise")]),
            new_markdown_cell("## Recap\n\n* One.\n* Two.\n\n**Next.** More."),
            new_code_cell("course.record()", outputs=[found]),
        ]
    )


def test_questions_figures_and_claims_are_shown(lesson):
    page = slideshow(lesson, "01")
    body = page[page.index('class="slides"') :]
    for shown in (
        "Why several exits?",
        "The first question",
        "first figure",
        "second figure",
        "It rises.",
        "One.",
        "The story so far",
    ):
        assert shown in body, shown
    for left_out in ("import torch", "a printed number", "Half", "a plot of an exercise", "Found: it", "plot()"):
        assert left_out not in body, left_out


def test_a_formula_is_mathml(lesson):
    lesson.cells[2].source += "\n\n$$\\frac{g}{h}$$"
    page = slideshow(lesson, "01")
    assert page.count("<mfrac>") == 1
    assert "$$" not in page


def test_prose_becomes_notes(lesson):
    notes = re.findall(r'<aside class="notes">(.*?)</aside>', slideshow(lesson, "01"), re.DOTALL)
    assert [any(text in note for note in notes) for text in ("A second paragraph", "Aside", "More prose")] == [True] * 3
    assert not any("It rises" in note for note in notes)


def test_a_section_is_a_column_and_a_second_figure_a_slide_of_its_own(lesson):
    page = slideshow(lesson, "01")
    columns = page.split("<section")[1:]
    assert len(columns) == 3 + 4  # title, question, recap; and in them 1 + 2 + 1 slides


def test_nothing_is_loaded_from_elsewhere(lesson):
    assert re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', slideshow(lesson, "01")) == []


def test_reveal_lies_beside_the_slides(lesson, tmp_path):
    nbformat.write(lesson, tmp_path / "01_why.ipynb")
    (page,) = write_slides([tmp_path / "01_why.ipynb"], tmp_path / "out")
    for source in re.findall(r'(?:src|href)="(reveal\.js/[^"]*)"', page.read_text()):
        assert (tmp_path / "out" / source).is_file(), source


def test_a_notebook_without_outputs_has_nothing_to_show(tmp_path, capsys):
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "01_why.ipynb")
    assert main(["course", str(tmp_path / "01_why.ipynb"), "--slides", str(tmp_path / "out")]) != 0
    assert "01_why.ipynb: it was not executed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
