"""Solutions made from the folded answers, on notebooks made here."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dfs_edu.cli import main
from dfs_edu.course.solutions import solved, stubs_in, write_solutions

STUB = "def my_half(x): ...  # your code\n\n\nchecks.half(my_half)"
ANSWER = """<details><summary>Hint</summary>
Divide.

```python
def my_half(x):
    return "a hint is no answer"
```
</details>

<details><summary>Answer</summary>

```python
def my_half(x):
    return x / 2
```

Half of x is x divided by two.
</details>"""


def lesson(*cells):
    made = [new_markdown_cell(c) if c.startswith(("#", "<")) else new_code_cell(c) for c in cells]
    return new_notebook(cells=made)


def test_an_answer_replaces_its_stub_and_the_check_stays():
    notebook = lesson("# Why?", STUB, ANSWER)
    notebook.cells[1].outputs = [new_output("stream", name="stdout", text="not yet")]
    copy = solved(notebook)
    assert copy.cells[1].source == "def my_half(x):\n    return x / 2\n\n\nchecks.half(my_half)"
    assert copy.cells[1].outputs == []
    assert notebook.cells[1].source == STUB  # the notebook itself is as it was


@pytest.mark.parametrize(
    ("stub", "answer"),
    [
        ("class Mine:\n    beta: float = 0.5\n    ...  # your code", "class Mine:\n    beta: float = 1"),
        ("class Mine(Base):\n    def f(self):\n        ...  # your code", "class Mine(Base):\n    x = 1"),
    ],
)
def test_a_decorator_is_part_of_its_stub(stub, answer):
    decorator, check = "@dataclass(frozen=True)\n", "\n\n\nchecks.use(Mine)"
    folded = f"<details><summary>Answer</summary>\n\n```python\n{decorator}{answer}\n```\n</details>"
    assert solved(lesson(decorator + stub + check, folded)).cells[0].source == decorator + answer + check


def test_a_class_and_two_functions_of_one_cell():
    stubs = (
        "class Mine(Base): ...  # your code\n\n\ndef my_loop(net):\n    ...  # your code\n\n\nchecks.use(Mine, my_loop)"
    )
    blocks = "```python\nclass Mine(Base):\n    x = 1\n```\nand\n```python\ndef my_loop(net):\n    return 2\n```"
    answer = f"<details><summary>Answer</summary>\n\n{blocks}\n</details>"
    assert list(stubs_in(stubs)) == ["Mine", "my_loop"]
    source = solved(lesson(stubs, answer)).cells[0].source
    assert source.count("class Mine") == source.count("def my_loop") == 1
    assert "x = 1" in source
    assert "return 2" in source
    assert "your code" not in source
    assert source.endswith("checks.use(Mine, my_loop)")
    compile(source, "cell", "exec")


@pytest.mark.parametrize(
    "cells", [[STUB], [STUB, ANSWER.replace("my_half", "my_double")], [STUB, STUB.replace("half", "x"), ANSWER]]
)
def test_an_exercise_without_an_answer_is_named(cells, tmp_path):
    nbformat.write(lesson(*cells), tmp_path / "01_why.ipynb")
    with pytest.raises(ValueError, match=r"01_why.ipynb: my_half: no folded answer below the exercise"):
        write_solutions([tmp_path / "01_why.ipynb"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_those_that_have_exercises(tmp_path, capsys):
    nbformat.write(lesson("# Why?", STUB, ANSWER), tmp_path / "01_why.ipynb")
    nbformat.write(lesson("# What?", "x = 1"), tmp_path / "02_what.ipynb")
    paths = [str(tmp_path / name) for name in ("01_why.ipynb", "02_what.ipynb")]
    assert main(["course", *paths, "--solutions", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["01_why_solutions.ipynb"]
    assert "1 notebooks with solutions" in capsys.readouterr().out
    assert "return x / 2" in (tmp_path / "out" / "01_why_solutions.ipynb").read_text()
