"""Solutions of the exercises, made from the folded answers of the notebooks.

An exercise is a cell with functions or classes without a body, ``def my_cosine(a, b): ...  # your code``. Below it, in
a folded ``<details><summary>Answer</summary>``, stands a fenced block of Python that defines the same names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dfs_edu.files import write_whole

STUB = "# your code"
_ANSWER = re.compile(r"<details>\s*<summary>Answer.*?</summary>(.*?)</details>", re.DOTALL)
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def solved(notebook: NotebookNode) -> NotebookNode:
    """Return a copy of a notebook in which each exercise has its answer; outputs are dropped.

    Raises:
        ValueError: An exercise has no answer below it that defines its names; the message names the exercise.
    """
    notebook = nbformat.from_dict(notebook)
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        cell.outputs, cell.execution_count = [], None
        if stubs := stubs_in(cell.source):
            cell.source = _filled(cell.source, stubs, answer_below(notebook.cells[i + 1 :], list(stubs)))
    return notebook


def stubs_in(source: str) -> dict[str, tuple[int, int]]:
    """Return the functions and classes of a cell that wait for a body: name -> first and last line, from 1."""
    if STUB not in source:
        return {}
    tree, lines = ast.parse(source), source.splitlines()
    return {
        node.name: (min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno or node.lineno)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and any(STUB in line for line in lines[node.lineno - 1 : node.end_lineno])
    }


def answer_below(cells: Sequence[NotebookNode], names: Sequence[str]) -> str:
    """Return the Python of the first folded answer that defines these names, before the next exercise.

    Raises:
        ValueError: There is none.
    """
    for cell in cells:
        if cell.cell_type == "code" and stubs_in(cell.source):
            break
        if cell.cell_type == "markdown":
            for answer in _ANSWER.findall(cell.source):
                code = "\n\n".join(block.strip("\n") for block in _PYTHON.findall(answer))
                if set(names) <= _defined(code):
                    return code
    raise ValueError(f"{', '.join(names)}: no folded answer below the exercise defines it")


def _defined(code: str) -> set[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return set()
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _filled(source: str, stubs: dict[str, tuple[int, int]], answer: str) -> str:
    """A cell's source with the answer in place of its stubs: the first gives way to all of it."""
    lines = source.splitlines()
    for name, (first, last) in reversed(stubs.items()):
        lines[first - 1 : last] = [answer] if name == next(iter(stubs)) else []
    return "\n".join(lines)


def write_solutions(notebooks: Sequence[Path], folder: str | Path) -> list[Path]:
    """Write the solved copy of each notebook that has exercises, ``NAME_solutions.ipynb``; return the paths.

    Raises:
        ValueError: See `solved`; the message names the notebook as well. Nothing is written.
    """
    written: dict[Path, str] = {}
    for path in notebooks:
        try:
            notebook = nbformat.read(path, as_version=4)
            if any(stubs_in(cell.source) for cell in notebook.cells if cell.cell_type == "code"):
                written[Path(folder) / f"{path.stem}_solutions.ipynb"] = nbformat.writes(solved(notebook))
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"{path.name}: {error}") from error
    for path, text in written.items():
        write_whole(path, lambda file, text=text: file.write(text.encode()))
    return list(written)
