"""The quiz: questions on every notebook, each with different options and one of them as its answer."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECTIONS = (ROOT / "docs" / "quiz.md").read_text("utf-8").split("\n## ")[1:]


def test_every_notebook_has_questions_in_its_order():
    titles = [nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ") for path in NOTEBOOKS]
    heads = [f"[{title}](../notebooks/{path.name})" for title, path in zip(titles, NOTEBOOKS, strict=True)]
    assert [section.splitlines()[0] for section in SECTIONS] == heads


def test_each_question_has_one_answer_with_a_reason():
    letters = []
    for section in SECTIONS:
        questions = re.split(r"^\*\*\d\.\*\* ", section, flags=re.MULTILINE)[1:]
        assert len(questions) in (2, 3), section.splitlines()[0]
        for question in questions:
            options = re.findall(r"^\* ([a-c])\) (.+)", question, re.MULTILINE)
            assert [letter for letter, _ in options] == ["a", "b", "c"][: len(options)], question
            assert len({text for _, text in options}) == len(options) == 3, question
            ((letter, reason),) = re.findall(r"^\*\*([a-c])\)\.\*\* (.+)", question, re.MULTILINE)
            assert len(reason) > 20, question
            letters.append(letter)
    assert max(map(letters.count, "abc")) < len(letters) / 2, "always the same letter"
