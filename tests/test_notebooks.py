"""The whole course, executed by papermill at smoke scale: no errors, and what it records makes sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from dfs_edu import course

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

# Number of a notebook -> what must hold of the values that it recorded, at smoke scale on digits.
EXPECT: dict[str, Callable[[dict], None]] = {}


def number(notebook: Path) -> str:
    return notebook.stem.split("_")[0]


def test_every_notebook_has_its_expectations():
    assert set(EXPECT) == {number(notebook) for notebook in NOTEBOOKS}


def complaints(notebook) -> list[str]:
    """What went wrong without stopping the notebook: errors shown, tracebacks printed, unknown parameters."""
    found = []
    if notebook.metadata.get("widgets"):
        found.append("widget state was stored")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            if output.output_type == "error":
                found.append(f"{output.ename}: {output.evalue}")
            if "Traceback (most recent call last)" in text:
                found.append(text)
    return found


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, caplog, capfd):
    (result,) = course.run([path], scale="smoke", dataset="digits", seed=0, device="cpu", out=tmp_path, timeout=300)
    assert result.error is None
    assert complaints(nbformat.read(result.executed, as_version=4)) == []
    printed = capfd.readouterr()
    assert "unknown parameter" not in (caplog.text + printed.out + printed.err).lower()
    assert result.findings, "nothing recorded: end with course.record(...)"
    assert result.executed.with_suffix(".html").stat().st_size > 10_000
    EXPECT[number(path)](result.values)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[]), "ValueError: no"),
        (nbformat.v4.new_output("stream", name="stderr", text="Traceback (most recent call last): x"), "Traceback"),
        (nbformat.v4.new_output("stream", name="stdout", text="fine"), None),
    ],
)
def test_the_scan_sees_what_went_wrong(output, complaint):
    found = complaints(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("f()", outputs=[output])]))
    assert [complaint in text for text in found] == [True] * bool(complaint)
