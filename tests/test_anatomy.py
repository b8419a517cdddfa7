"""The text of the course: every notebook has its parts, one leads to the next, terms are explained where they begin."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

from dfs_edu.course.solutions import stubs_in

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = [
    'SCALE = "lesson"  # smoke (a minute or less), lesson (minutes), full or paper (a GPU)',
    'DATASET = "digits"  # or ',
    "SEED = 0",
    'DEVICE = "auto"  # a GPU if there is one',
]
# Words of everyday language besides, and what notebook 0 shows ahead
EVERYDAY = {"shared", "own", "all", "front", "exit", "T", "activations", "conflict", "budget", "study", "onward"}
# Said in passing before, where the thing itself is on the page: an explorer, a widget
EVERYDAY |= {"confidence", "threshold", "PCGrad"}


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@cache
def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def number_of(path: Path) -> str:
    """A notebook's number as its title has it: "4" of 04_..., "4b" of 04b_..., an optional part."""
    return path.stem.split("_")[0].removeprefix("0") or "0"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_all_its_parts(path):
    text, number = prose(path), number_of(path)
    title, *_ = text.splitlines()
    assert re.fullmatch(rf"# {number}\. .+\?", title), "the title is the notebook's number and a question"
    for part in ("**You will learn**", "**Time** about ", "**You should know** ", "## Exercises", "## Recap"):
        assert text.count(part) >= 1, part
    assert text.count("## Recap\n") == text.count("**Next.**") == text.count("**Further reading.**") == 1
    assert (
        text.index("## Exercises") < text.index("## Recap") < text.index("**Next.**") < text.index("**Further reading")
    )
    _colab, parameters, *_, last = cells(path, "code")
    assert parameters.metadata.tags == ["parameters"]
    for line, start in zip(parameters.source.splitlines(), PARAMETERS, strict=True):
        assert line.startswith(start)
    assert "course.record(" in last.source
    if number[-1:].isalpha():
        assert "optional" in text[: text.index("**You will learn**")], "a part with a letter says that it is optional"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_are_few_numbered_and_checked(path):
    """Minutes, hints and answers are tested in test_lessons.py."""
    numbers = [int(number) for number in re.findall(r"^\*\*(\d)\. [^*]+\*\* \(", prose(path), re.MULTILINE)]
    assert 2 <= len(numbers) <= 5
    assert numbers == list(range(1, len(numbers) + 1))
    stubs = [cell.source for cell in cells(path, "code") if stubs_in(cell.source)]
    assert stubs, "at least one exercise is a function or a class to be written"
    for stub in stubs:
        (name, *_) = stubs_in(stub)
        assert re.search(rf"checks\.\w+\({name}\)", stub), f"{name} is checked in its own cell"
        assert "not yet" in str(committed(path, stub)), "committed without the answer"


def committed(path: Path, source: str) -> str:
    (cell,) = [cell for cell in cells(path, "code") if cell.source == source]
    return "".join(str(output) for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_executed_and_small(path):
    assert path.stat().st_size < 500_000
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            data = output.get("data", {})
            if "application/vnd.plotly.v1+json" in data:
                title = data["application/vnd.plotly.v1+json"]["layout"]["title"]["text"]
                widest = max(map(len, title.split("<br>")))
                assert 0 < widest <= 70, f"a figure says what it shows, and its picture holds 70 letters: {title}"
                assert "image/png" in data, "a fallback for readers without JavaScript"


def test_each_notebook_leads_to_the_next():
    for path, following in pairwise(NOTEBOOKS):
        text = prose(path)
        assert f"]({following.name})" in text[text.index("**Next.**") :].splitlines()[0]
    required = [path for path in NOTEBOOKS if number_of(path).isdigit()]
    for path, following in pairwise(required):  # also past an optional part
        assert f"]({following.name})" in prose(path)[prose(path).index("**Next.**") :].splitlines()[0]
    clues = [line for line in prose(NOTEBOOKS[0]).splitlines() if line.startswith("| [")]
    linked = [(number, name) for line in clues for number, name in re.findall(r"\[(\w+)\]\((\S+\.ipynb)\)", line)]
    assert linked == [(number_of(path), path.name) for path in NOTEBOOKS[1:]], "every notebook is a clue"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = prose(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#", "mailto")):
            assert (path.parent / target.split("#")[0]).exists(), target


def test_no_reference_to_a_later_notebook_as_known():
    for path in NOTEBOOKS:
        known = re.search(r"\*\*You should know\*\*(.*)", prose(path))[1]
        for number in re.findall(r"\d+", known.split("notebook", 1)[-1]) if "notebook" in known else []:
            assert int(number) < int(path.stem[:2]) + number_of(path)[-1].isalpha(), known


def terms() -> list[tuple[str, str]]:
    """Each word of the glossary, and the name of the notebook that explains it."""
    rows = [
        re.split(r"\s*\|\s*", line.strip("| \n"))
        for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| term", "| ---"))
    ]
    return [
        (word.strip(), re.search(r"notebooks/(\w+)\.ipynb", link)[1])
        for term, _, link in rows
        for word in re.split(r"[,()]", term)
        if word.strip()
    ]


def test_every_term_is_marked_where_the_glossary_says():
    for word, name in terms():
        text = prose(ROOT / "notebooks" / f"{name}.ipynb")
        marked = rf"\*[^*\n]*{re.escape(word)}[^*\n]*\*|`[^`\n]*{re.escape(word)}"
        assert re.search(marked, text, re.IGNORECASE), f"{word!r} is not explained in {name}"


def test_no_term_is_used_before_it_is_explained():
    for word, name in terms():
        if word in EVERYDAY:
            continue
        for path in NOTEBOOKS[1:]:
            if path.stem >= name:
                break
            used = re.search(rf"(?<![\w*-]){re.escape(word)}s?(?![\w-])", opening(prose(path)))
            assert not used, f"{word!r}, of {name}, in {path.stem}"


def opening(text: str) -> str:
    """What a student reads on the way: neither what leads on nor what to read further."""
    return text[: text.index("**Next.**")]
