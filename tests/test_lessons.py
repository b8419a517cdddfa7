"""The structure of a lesson: a question, short sections, folded prose, exercises whose folded answers are right.

Every rule is a function that returns what is wrong with a notebook; each is seen to fail below, on a small notebook
that is good but for one fault.
"""

from __future__ import annotations

import ast
import copy
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dfs_edu.course.checks.answers import SIGNS
from dfs_edu.course.publish import HIDE, PLOTLY
from dfs_edu.course.report import PASSED
from dfs_edu.course.solutions import answer_below, solved, stubs_in
from dfs_edu.widgets.page import STATE

ROOT = Path(__file__).parents[1]
NOTEBOOKS = [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "docs" / "template.ipynb"]

CELLS = 40  # in a notebook
CODE_CELLS = 9  # in a section
FIGURES = 6  # in a notebook, widgets among them, outside optional sections
MINUTES = range(3, 31)  # of an exercise
BULLETS = range(3, 6)  # of the recap

# What readers called translated: pattern, and what to write instead
WORDS = {
    r"\b(?:a|an|one) (?:row|number|mark|line|bar|point|curve|step|column) an? \w+": "one row per image",
    r"\bpictures\b|(?<!\ba )(?<!\bthe )(?<!\bin )\bpicture\b": "image; or figure, diagram",
    r"\b(?:what is|that are|where there is) none\b": "invalid; missing; if there is no ...",
    r"\ban own\b": "your own; a small custom",
    r"\breckon\w*": "compute, estimate",
    r"\b(?:tell|tells|telling|told)\b(?: \w+){0,3} (?:apart)\b|\btold from\b": "distinguish",
    r"\bdear(?:er|est)?\b": "expensive",
    r"\bso many\b": "the given number of; n",
    r"\bfrom which on\b|\bup to and with\b": "from ... onwards; up to and including",
    r"\b(?:are|is) exchanged\b": "swapped",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\blies? (?:everywhere|on each other)\b": "are scattered; coincide",
    r"\b(?:\d+|each|every|per|two|three|a few) looks?\b(?! at| like)": "snapshot, measurement",
    r"\bwhich (?:fraction|share) (?:is|are)\b": "what fraction is",
    r"\b(?:with a|by the) clock\b": "timed, measured wall-clock",
    r"\bwhoever\b|\bsome(?:body|one) (?:asks|wants)\b": "which, those that; you",
    r"\bpulls? not\b|\bas long as you have not\b": "does not pull; until you",
    r"\bcosts? much\b|\bmost to say\b|\bbrings? (?:the )?(?:least|most|little|much|nothing)\b": "gains, costs a lot",
}
NAMES = {"some", "theirs", "mine", "there", "said", "told", "found", "how", "heard", "whoever"}

FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#{1,6}) (.*)", re.MULTILINE)
EXERCISE = re.compile(r"^\*\*(?:Exercise \d|\d+\. |[^*\n]+\*\* \((?:about )?\d+ minutes).*", re.MULTILINE)
HINT = re.compile(r"<details>\s*<summary>Hint")
ANSWER = re.compile(r"<details>\s*<summary>Answer")


# What a notebook consists of


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def own(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells but for the one that a script adds for Colab."""
    return [cell for cell in notebook.cells if "colab" not in tags(cell)]


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in own(notebook) if cell.cell_type == "code"]


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in own(notebook) if cell.cell_type == "markdown")


def masked(text: str) -> str:
    """The text with blanks in place of fenced code, so that everything stays in its place."""
    return FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


@dataclass
class Section:
    """A heading of level 1 or 2 and what is below it; `optional` code cells are below a heading that says so."""

    title: str
    code: list[NotebookNode] = field(default_factory=list)
    optional: list[NotebookNode] = field(default_factory=list)


def sections(notebook: NotebookNode) -> list[Section]:
    found, optional_level = [Section("")], 0  # level of the heading that says "(optional)"; 0: none
    for cell in own(notebook):
        if cell.cell_type == "code":
            found[-1].code.append(cell)
            if optional_level:
                found[-1].optional.append(cell)
            continue
        for marks, title in HEADING.findall(masked(cell.source)):
            level = len(marks)
            if not optional_level or level <= optional_level:
                optional_level = level if "(optional" in title.lower() else 0
            if level <= 2:
                found.append(Section(title))
    return found


def tree(cell: NotebookNode) -> ast.Module:
    return ast.parse(re.sub(r"^[%!].*", "pass", cell.source, flags=re.MULTILINE))


def called(node: ast.AST) -> str:
    """The dotted name of what is called, such as course.record; of a chain of calls the first."""
    while isinstance(node, ast.Call | ast.Attribute):
        if isinstance(node, ast.Call) and re.fullmatch(r"[\w.]+", name := ast.unparse(node.func)):
            return name
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def calls(cell: NotebookNode) -> set[str]:
    return {called(node) for node in ast.walk(tree(cell)) if isinstance(node, ast.Call)}


# The rules


def title_problems(notebook: NotebookNode) -> Iterator[str]:
    first = own(notebook)[0]
    title = first.source.split("\n")[0]
    if not re.fullmatch(r"# (?:\d+\w?\. )?(?:Start here: )?[A-Z].+\?", title):
        yield f"title: {title!r} is not a question"
    for part in ("**You will learn**", "**Time**", "**You should know**"):
        if part not in first.source:
            yield f"title: {part} is missing below it"


def import_problems(notebook: NotebookNode) -> Iterator[str]:
    cells = code(notebook)
    if len(cells) < 2 or tags(cells[0]) != ["parameters"]:
        yield "parameters: the first code cell is tagged parameters, the second one imports"
        return
    kinds = ast.Import | ast.ImportFrom
    body = tree(cells[1]).body
    fits = all(isinstance(node, kinds | ast.Assign) for node in body[:-1]) and isinstance(body[0], kinds)
    if not fits or ast.unparse(body[-1]) != "course.banner(SCALE)":
        yield "imports: the cell below the parameters imports, and ends with course.banner(SCALE)"
    optional = [cell for section in sections(notebook) for cell in section.optional]
    for cell in cells[2:]:
        if cell not in optional and any(isinstance(node, kinds) for node in tree(cell).body):
            yield f"imports: belong in one cell, not in {cell.source[:60]!r}"


def size_problems(notebook: NotebookNode) -> Iterator[str]:
    if (count := len(own(notebook))) > CELLS:
        yield f"cells: {count}, at most {CELLS}"
    for section in sections(notebook):
        if len(section.code) > CODE_CELLS:
            yield f"section {section.title!r}: {len(section.code)} code cells, at most {CODE_CELLS}"
    optional = [cell for section in sections(notebook) for cell in section.optional]
    figures = sum(figures_of(cell) for cell in code(notebook) if cell not in optional)
    if figures > FIGURES:
        yield f"figures: {figures} outside optional sections, at most {FIGURES}"


def figures_of(cell: NotebookNode) -> int:
    """How many figures and widgets the cell shows; a guess is text."""
    bundles = [output.data for output in cell.get("outputs", []) if "data" in output]
    guesses = [bundle for bundle in bundles if {s["widget"] for s in bundle.get(STATE, [])} == {"guess"}]
    return sum(bool({PLOTLY, STATE, "image/png"} & set(bundle)) for bundle in bundles if bundle not in guesses)


def folding_problems(notebook: NotebookNode) -> Iterator[str]:
    for cell in code(notebook):
        if HIDE in tags(cell):
            continue
        shown = cell.source[:60]
        if {"course.interpret", "course.record"} & calls(cell):
            yield f"{HIDE}: missing on the cell that interprets or records, {shown!r}"
        elif only_shows(cell):
            yield f"{HIDE}: missing on the cell that only prints or plots, {shown!r}"


def only_shows(cell: NotebookNode) -> bool:
    """Whether all that a cell does is to draw figures of the library, or to print and display."""
    drawn: set[str] = set()

    def shows(node: ast.stmt) -> bool:
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign) and called(value).startswith("figures."):
            drawn.update(target.id for target in node.targets if isinstance(target, ast.Name))
            return True
        if not isinstance(node, ast.Expr):
            return False
        name = value.id if isinstance(value, ast.Name) else called(value)
        return name.startswith("figures.") or name in ("print", "display") or name.split(".")[0] in drawn

    body = tree(cell).body
    return bool(body) and all(map(shows, body))


def prose_problems(notebook: NotebookNode) -> Iterator[str]:
    for cell in code(notebook):
        if any(name.split(".")[-1] == "Markdown" for name in calls(cell)):
            yield "Markdown(...): computed prose is displayed by course.interpret"


def ending_problems(notebook: NotebookNode) -> Iterator[str]:
    text = masked(markdown(notebook))
    places = [text.find(part) for part in ("## Recap\n", "**Next.**", "**Further reading.**")]
    if -1 in places or places != sorted(places):
        yield "ending: ## Recap, **Next.** and **Further reading.** are missing or in another order"
        return
    bullets = re.findall(r"^[*-] ", text[places[0] : places[1]], re.MULTILINE)
    if len(bullets) not in BULLETS:
        yield f"ending: the recap has {len(bullets)} bullets, not 3 to 5"
    if "course.record" not in calls(code(notebook)[-1]):
        yield "ending: the last cell does not record"


@dataclass
class Exercise:
    """From its statement to the next one or the next heading: the text, and the numbers of the code cells."""

    statement: str
    text: str
    cells: list[int]
    start: int


def exercises(notebook: NotebookNode) -> tuple[list[Exercise], str]:
    """The exercises, and the text without them; a code cell is its number between zeros."""
    cells = own(notebook)
    whole = "\n\n".join(c.source if c.cell_type == "markdown" else f"\0{i}\0" for i, c in enumerate(cells))
    plain = masked(whole)
    starts = [match.start() for match in EXERCISE.finditer(plain)]
    headings = [match.start() for match in HEADING.finditer(plain) if len(match[1]) <= 2]
    found, rest, place = [], "", 0
    for start in starts:
        end = min(place for place in [*starts, *headings, len(plain)] if place > start)
        text = whole[start:end]
        numbers = [int(number) for number in re.findall("\0(\\d+)\0", text)]
        found.append(Exercise(text.split("\n")[0], text, numbers, start))
        rest += whole[place:start]
        place = end
    return found, rest + whole[place:]


def exercise_problems(notebook: NotebookNode) -> Iterator[str]:
    cells, (found, rest) = own(notebook), exercises(notebook)
    if not found:
        yield "exercises: there are none, **1. Name** (5 minutes). ..."
    if ANSWER.search(rest):
        yield "exercises: an answer is above its exercise, or belongs to none"
    for exercise in found:
        name = exercise.statement[:40]
        minutes = re.search(r"\((?:about )?(\d+) minutes?\b", exercise.statement)
        if minutes is None or int(minutes[1]) not in MINUTES:
            yield f"exercise {name!r}: says no minutes from {MINUTES[0]} to {MINUTES[-1]}"
        stubs = [number for number in exercise.cells if stubs_in(cells[number].source)]
        place = exercise.text.index(f"\0{stubs[0]}\0") if stubs else 0
        if stubs and not HINT.search(exercise.text, place):
            yield f"exercise {name!r}: no folded hint below it"
        if not ANSWER.search(exercise.text, place):
            yield f"exercise {name!r}: no folded answer below it"
        if ANSWER.search(exercise.text[:place]):
            yield f"exercise {name!r}: the answer is above it"
    within = {number for exercise in found for number in exercise.cells}
    for number, cell in enumerate(cells):
        if cell.cell_type == "code" and stubs_in(cell.source) and number not in within:
            yield f"exercise {cell.source[:40]!r}: no statement with minutes above it"


def answer_problems(notebook: NotebookNode) -> Iterator[str]:
    """Answers that are missing, given away above their exercise, or refused by its check."""
    cells = own(notebook)
    imports = [
        node for cell in code(notebook) for node in tree(cell).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    for number, cell in enumerate(cells):
        stubs = stubs_in(cell.source) if cell.cell_type == "code" else {}
        if not stubs:
            continue
        name = ", ".join(stubs)
        try:
            answer = answer_below(cells[number + 1 :], list(stubs))
        except ValueError as error:
            yield f"answer: {error}"
            continue
        if given := given_away(cells[:number], list(stubs), answer):
            yield f"answer of {name}: given away above, {given!r}"
        alone = new_notebook(cells=[cell, *cells[number + 1 :]])
        refused = refusal(imports, solved_first(alone))
        if refused:
            yield f"answer of {name}: {refused}"


def given_away(above: list[NotebookNode], names: list[str], answer: str) -> str | None:
    """What stands above an exercise and is its answer: the same name, or the expression that it returns."""
    definition = re.compile(rf"\b(?:def|class) (?:{'|'.join(names)})\b|^(?:{'|'.join(names)}) = ", re.MULTILINE)
    returned = [node.value for node in ast.walk(ast.parse(answer)) if isinstance(node, ast.Return) and node.value]
    expressions = {text for node in returned if len(text := ast.unparse(node)) > 20}
    for cell in above:
        if match := definition.search(cell.source):
            return match[0]
        if cell.cell_type == "code":
            here = {ast.unparse(node) for node in ast.walk(tree(cell)) if isinstance(node, ast.expr)}
            if same := expressions & here:
                return same.pop()
    return None


def solved_first(notebook: NotebookNode) -> str:
    """The source of the first cell with its answer in it."""
    first = copy.deepcopy(notebook)
    first.cells = [first.cells[0], *(cell for cell in first.cells[1:] if cell.cell_type == "markdown")]
    return solved(first).cells[0].source


def refusal(imports: list, source: str) -> str | None:
    """Run a cell's definitions and checks after the notebook's imports; None if every check passes."""
    kept = [node for node in ast.parse(source).body if is_definition_or_check(node)]
    checks = sum(called(getattr(node, "value", None)).startswith("checks.") for node in kept)
    if not checks:
        return "no check in its cell"
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            exec(compile(ast.Module([*imports, *kept], []), "answer", "exec"), {"__name__": "__main__"})
    except Exception as error:
        return f"fails with {type(error).__name__}: {error}"
    passed = output.getvalue().count(SIGNS[PASSED])
    return None if passed == checks else output.getvalue().strip()


def is_definition_or_check(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
        return True
    return isinstance(node, ast.Expr) and called(node.value).startswith("checks.")


def word_problems(notebook: NotebookNode) -> Iterator[str]:
    text = FENCE.sub("", markdown(notebook))
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)|^(?: {4}|\t).*$", " ", text, flags=re.MULTILINE)  # code and addresses
    text = "\n".join([text, *(part for cell in code(notebook) for part in written_in(cell))])
    for pattern, instead in WORDS.items():
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield f"words: {match[0]!r}; write {instead!r}"
    assigned = {
        node.id
        for cell in code(notebook)
        for node in ast.walk(tree(cell))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for name in sorted(assigned & NAMES):
        yield f"words: the name {name!r}; name the thing"


def written_in(cell: NotebookNode) -> list[str]:
    """Comments and strings of a code cell."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
    return [token.string for token in tokens if token.type in kinds]


RULES: tuple[Callable[[NotebookNode], Iterator[str]], ...] = (
    title_problems,
    import_problems,
    size_problems,
    folding_problems,
    prose_problems,
    ending_problems,
    exercise_problems,
    answer_problems,
    word_problems,
)


def problems(notebook: NotebookNode) -> list[str]:
    return [problem for rule in RULES for problem in rule(notebook)]


# The course keeps them


@cache
def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removesuffix("_problems"))
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_keeps_the_rule(path, rule):
    assert list(rule(read(path))) == []


# Each rule is seen to fail

STUB = "def my_margin(p): ...  # your code\n\n\nchecks.margin(my_margin)"
BODY = "def my_margin(p):\n    first, second = p.topk(2, dim=1).values.unbind(1)\n    return first - second"
FOLDED = f"""<details><summary>Hint</summary>

`topk` sorts.

</details>
<details><summary>Answer</summary>

```python
# A comment is no heading
{BODY}
```

The first column is the largest.

</details>"""
THINKING = """**2. To think about** (5 minutes). Why?

<details><summary>Answer</summary>

Because.

</details>

## Recap

* One.
* Two.
* Three.

**Next.** What is next?

**Further reading.** A paper."""
PARAMETERS = 'SCALE = "lesson"\nDATASET = "digits"\nSEED = 0\nDEVICE = "auto"'
IMPORTS = "import torch\n\nfrom dfs_edu import checks, course, figures\n\ncourse.banner(SCALE)"
OPENING = "# 1. Why several exits?\n\n**You will learn** a lot. **Time** 5 minutes. **You should know** PyTorch."


def lesson() -> list[NotebookNode]:
    """The cells of a good notebook."""
    hidden = {"tags": [HIDE]}
    return [
        new_markdown_cell(OPENING),
        new_code_cell("import sys", metadata={"tags": ["colab", HIDE]}),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(IMPORTS),
        new_markdown_cell("## What does an exit cost?"),
        new_code_cell("costs = torch.ones(3)  # of each exit\nfigures.bars(costs)", outputs=[picture()]),
        new_code_cell("figures.bars(costs)", outputs=[picture()], metadata=hidden),
        new_code_cell('course.interpret(f"It costs {costs[0]}.", SCALE)', metadata=hidden),
        new_markdown_cell("## Exercises\n\n**1. The margin** (5 minutes). Return the margin."),
        new_code_cell(STUB),
        new_markdown_cell(f"{FOLDED}\n\n{THINKING}"),
        new_code_cell('course.record("It costs.", costs=costs)', metadata=hidden),
    ]


def picture() -> NotebookNode:
    return new_output("display_data", {PLOTLY: {}, "image/png": "AAAA"})


def widget(kind: str) -> NotebookNode:
    return new_output("display_data", {STATE: [{"widget": kind, "state": {}}], "text/html": ""})


def test_a_good_lesson_has_no_problems():
    assert problems(new_notebook(cells=lesson())) == []


def changed(old: str, new: str) -> Callable[[list], list]:
    """Replace a text where it is."""

    def change(cells: list) -> list:
        assert sum(old in cell.source for cell in cells) == 1, old
        for cell in cells:
            cell.source = cell.source.replace(old, new)
        return cells

    return change


def untagged(text: str) -> Callable[[list], list]:
    def change(cells: list) -> list:
        (cell,) = [cell for cell in cells if cell.source.startswith(text) and HIDE in tags(cell)]
        cell.metadata.tags = []
        return cells

    return change


def with_cells(*added: NotebookNode, at: int = 5) -> Callable[[list], list]:
    return lambda cells: [*cells[:at], *added, *cells[at:]]


def above(cell: NotebookNode) -> Callable[[list], list]:
    return with_cells(cell, at=8)


FAULTS = {
    "title: '# 1. Several exits'": changed("Why several exits?", "Several exits"),
    "title: **Time** is missing": changed("**Time**", "Time"),
    "parameters: the first": lambda cells: [cells[0], *cells[3:]],
    "imports: the cell below": changed("\n\ncourse.banner(SCALE)", ""),
    "imports: the cell below the parameters imports, and": changed("import torch\n", "import torch\nprint(3)\n"),
    "imports: belong in one cell, not in 'from math": with_cells(new_code_cell("from math import pi\nr = pi")),
    "cells: 41": with_cells(*[new_markdown_cell("Text.") for _ in range(30)]),
    "section 'What does an exit cost?': 10 code": with_cells(*[new_code_cell("n = 1") for _ in range(7)]),
    "figures: 7 outside": with_cells(new_code_cell("n = 1", outputs=[*[picture()] * 4, widget("explorer")])),
    "hide-input: missing on the cell that only prints or plots, 'figures.bars": untagged("figures.bars"),
    "hide-input: missing on the cell that only prints or plots, 'print": with_cells(new_code_cell('print("a")')),
    "hide-input: missing on the cell that only prints or plots, 'chart": with_cells(
        new_code_cell("chart = figures.bars([1]).update_layout(height=3)\nchart.update_xaxes(range=[0, 1])\nchart")
    ),
    "hide-input: missing on the cell that interprets or records, 'course.interpret": untagged("course.interpret"),
    "hide-input: missing on the cell that interprets or records, 'course.record": untagged("course.record"),
    "Markdown(...)": with_cells(new_code_cell('if costs.sum():\n    display(Markdown(f"{costs}"))')),
    "ending: ## Recap": changed("## Recap", "## Summary"),
    "ending: ## Recap, **Next.** and": changed("**Next.**", "Next."),
    "ending: the recap has 2": changed("* Three.\n", ""),
    "ending: the last cell": lambda cells: cells[:-1],
    "exercises: there are none": lambda cells: [
        *changed("**2. To think about**", "To think about")(cells[:8] + cells[10:])
    ],
    "exercises: an answer is above": above(
        new_markdown_cell("<details><summary>Answer</summary>\n\nNo.\n\n</details>")
    ),
    "exercise '**1. The margin** (5 minutes). Return th': no folded hint": changed("Hint", "Tip"),
    "exercise '**2. To think about** (5 minutes). Why?': no folded answer": changed(
        "Why?\n\n<details><summary>Answer</summary>", "Why?\n\n<details><summary>More</summary>"
    ),
    "exercise '**2. To think about**. Why?': says no minutes": changed(" (5 minutes). Why", ". Why"),
    "exercise '**2. To think about** (45 minutes). Why?': says no": changed("(5 minutes). Why", "(45 minutes). Why"),
    "exercise '**1. The margin** (5 minutes). Return th': the answer is above": lambda cells: changed(
        "Return the margin.", "Return the margin.\n\n<details><summary>Answer</summary>\n\nIt.\n\n</details>"
    )(cells),
    "exercise 'def my_margin(p)": changed("**1. The margin** (5 minutes). ", ""),
    "answer: my_margin: no folded answer": changed("```python\n# A", "```\n# A"),
    "answer of my_margin: ✗": changed("return first - second", "return second - first"),
    "answer of my_margin: fails with NameError": changed("no heading\n", "no heading\n@nothing\n"),
    "answer of my_margin: no check": changed("\n\n\nchecks.margin(my_margin)", ""),
    "answer of my_margin: given away above, 'def my_margin": above(new_markdown_cell(f"```python\n{BODY}\n```")),
    "answer of my_margin: given away above, 'p.max": lambda cells: changed(
        "return first - second", "return p.max(dim=1).values - p.kthvalue(p.shape[1] - 1, dim=1).values"
    )(above(new_code_cell("gap = abs(p.max(dim=1).values - p.kthvalue(p.shape[1] - 1, dim=1).values)"))(cells)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_lesson_is_seen(fault):
    found = problems(new_notebook(cells=FAULTS[fault](lesson())))
    assert any(problem.startswith(fault) for problem in found), found
    assert len({problem.split(":")[0] for problem in found if not problem.startswith(fault)}) <= 2, found


@pytest.mark.parametrize(
    "text",
    [
        "There is one row an image.",
        "A row a picture.",
        "Show the pictures.",
        "Each picture has a class.",
        "What is none is left out.",
        "Train an own network.",
        "Reckoned on paper.",
        "Exits can tell them apart.",
        "It cannot be told from noise.",
        "The last step is dearer.",
        "Take so many channels.",
        "The exit from which on all are right.",
        "The two are exchanged.",
        "This mends it.",
        "They lie on each other.",
        "The mean of 25 looks.",
        "Which fraction is right?",
        "Measured by the clock.",
        "Whoever leaves early pays less.",
        "It pulls not.",
        "The last step brings the least.",
    ],
)
def test_each_word_is_seen(text):
    cells = lesson()
    for place in ("markdown", "comment", "string"):
        if place == "markdown":
            added = new_markdown_cell(text)
        else:
            added = new_code_cell(f"n = 1  # {text}" if place == "comment" else f"n = {text!r}")
        found = problems(new_notebook(cells=with_cells(added)(cells)))
        assert found, place
        assert all(problem.startswith("words: ") for problem in found)


def test_names_are_things_and_code_is_not_prose():
    found = problems(new_notebook(cells=with_cells(new_code_cell("mine, gap = 1, 2"))(lesson())))
    assert found == ["words: the name 'mine'; name the thing"]
    fine = "In a picture, `figures.pictures` has a look, [here](pictures.html): a look at it.\n\n    pictures = dear"
    assert problems(new_notebook(cells=with_cells(new_markdown_cell(fine))(lesson()))) == []


def test_what_is_optional_and_guesses_do_not_count_as_figures():
    optional = [
        new_markdown_cell("## More (optional)\n\n### Still more"),
        new_code_cell("from math import pi\nr = pi", outputs=[picture()] * 9),
    ]
    guesses = new_code_cell("n = 1", outputs=[*[picture()] * 3, widget("explorer"), *[widget("guess")] * 5])
    assert problems(new_notebook(cells=with_cells(guesses, *optional, at=8)(lesson()))) == []
    after = new_markdown_cell("## Back on the way")
    found = problems(new_notebook(cells=with_cells(guesses, *optional, after, guesses, at=8)(lesson())))
    assert found == ["figures: 10 outside optional sections, at most 6"]


def test_the_teachers_guide_names_the_minutes_of_the_notebooks():
    guide = (ROOT / "docs" / "teaching.md").read_text()
    for path in NOTEBOOKS[:-1]:
        text = markdown(nbformat.read(path, as_version=4))
        (reading,) = re.findall(r"\*\*Time\*\* about (\d+) minutes", text)
        exercises = re.findall(r"(?m)^\*\*(?:Exercise \d|\d+\.)[^\n]*?\((?:about )?(\d+) minutes", text)
        (row,) = [line for line in guide.splitlines() if line.startswith("| [") and path.name in line]
        assert row.endswith(f"| {reading} + {sum(map(int, exercises))} |"), path.name
