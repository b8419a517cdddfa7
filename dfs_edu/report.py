"""What executed notebooks say of themselves: findings, exercises, and whether they were run to their end.

`course.record` and the checks of exercises put what they have to say into a notebook's outputs twice: as a sentence for
who reads it, and as JSON under a mimetype of their own. Here the second is read back, of notebooks that this machine
executed or that students handed in. Nothing is executed.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dfs_edu import csvfile

if TYPE_CHECKING:
    from nbformat import NotebookNode

RESULT = "application/vnd.dfs.result+json"  # of course.record: {"finding": sentence, "values": {name: value}}
CHECK = "application/vnd.dfs.check+json"  # of a check: {"exercise": name, "state": one of the first three below}
PASSED, WRONG, NOT_YET, NOT_RUN = STATES = ("passed", "wrong", "not yet", "not run")
PARAMETERS = ("SCALE", "DATASET", "SEED", "DEVICE")
COLUMNS = ("person", "notebook", *STATES, "problems", "exercises", "findings", "values")  # of the CSV

_CALL = re.compile(r"^\s*(checks\.\w+)\(", re.MULTILINE)
_ASSIGNED = re.compile(r"^(\w+)\s*(?::[^=]+)?=", re.MULTILINE)


class Recorded:
    """What a notebook recorded, read in two ways. Subclasses have `recorded`, of each `course.record` a dict."""

    recorded: list[dict]

    @property
    def findings(self) -> list[str]:
        """The sentence of each `course.record`, in order."""
        return [result["finding"] for result in self.recorded]

    @property
    def values(self) -> dict:
        """All recorded values of the notebook, by name."""
        return {name: value for result in self.recorded for name, value in result["values"].items()}


@dataclass
class Entry(Recorded):
    """What one notebook says, or why it says nothing."""

    person: str
    notebook: str  # its file's name without the ending
    exercises: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> (one of STATES, what the check said)
    recorded: list[dict] = field(default_factory=list)  # of each `course.record`: "finding" and "values"
    problems: list[str] = field(default_factory=list)  # errors, cells that were not run, why it cannot be read
    readable: bool = True  # False: not a notebook of the course, or no notebook at all

    def named(self, state: str) -> list[str]:
        """The exercises in a state."""
        return [name for name, (found, _) in self.exercises.items() if found == state]


def collect(paths: Sequence[str | Path], only: Sequence[str] = ()) -> list[Entry]:
    """What the notebooks below `paths` say, sorted by person and notebook.

    paths  notebooks, or folders with a folder for each person; a person is the first folder below the one given, or,
           of a notebook that lies in it directly, that folder itself
    only   numbers of notebooks, such as "03": the others are passed over, and who lacks one of these gets an entry
           that says so

    Raises ValueError for a path that does not exist and where no notebook is found. A file that is no notebook of the
    course becomes an entry that says so.
    """
    files = sorted({file for path in paths for file in _files(Path(path))})
    chosen = [(person, path) for person, path in files if not only or number(path) in only]
    if not chosen:
        raise ValueError(f"no notebook {' or '.join(only)}{' ' * bool(only)}in {', '.join(map(str, paths))}")
    entries = [_entry(person, path) for person, path in chosen]
    handed_in = {(person, number(path)) for person, path in chosen}
    for person in {person for person, _ in files}:
        missing = [name for name in only if (person, name) not in handed_in]
        entries += [Entry(person, name, problems=["missing"]) for name in missing]
    return sorted(entries, key=lambda entry: (entry.person, entry.notebook))


def _files(path: Path) -> list[tuple[str, Path]]:
    """Persons and notebooks below a path."""
    path = path.absolute()
    if path.is_file():
        return [(path.parent.name, path)]
    if not path.is_dir():
        raise ValueError(f"{path}: no such notebook or folder")
    found = [(file.relative_to(path).parts, file) for file in path.rglob("*.ipynb")]
    # JupyterLab keeps old versions in .ipynb_checkpoints
    seen = [(parts, file) for parts, file in found if not any(part.startswith(".") for part in parts)]
    return [(parts[0] if len(parts) > 1 else path.name, file) for parts, file in seen]


def number(notebook: Path) -> str | None:
    """Such as "03", of 03_cutting_features.ipynb and of anna_03_cutting_features(1).ipynb; None where there is none."""
    found = re.search(r"(?<!\d)\d\d(?=_)", notebook.name)
    return found and found.group()


def _entry(person: str, path: Path) -> Entry:
    entry = Entry(person, path.stem)
    try:
        _fill(entry, _read(path))
    except Exception as error:  # whatever somebody hands in, the others are reported
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Entry(person, path.stem, problems=[f"cannot be read: {reason[:100]}"], readable=False)
    return entry


def _read(path: Path) -> NotebookNode:
    """The notebook; ValueError if it is none of the course."""
    import nbformat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cells without an id: older editors write none
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    declared = {
        name
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
        for name in _ASSIGNED.findall(cell.source)
    }
    if not set(PARAMETERS) <= declared:
        raise ValueError(f"not a notebook of the course, no cell tagged `parameters` with {', '.join(PARAMETERS)}")
    return notebook


def _fill(entry: Entry, notebook: NotebookNode) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    entry.recorded = recorded(notebook)
    for cell in cells:
        entry.exercises |= _exercises(cell)  # of an exercise that stands there twice, the last counts
        errors = [output for output in cell.outputs if output.output_type == "error"]
        entry.problems += [f"error in {cell_name(cell.source)}: {e.ename}: {e.evalue}" for e in errors]
    if left := [cell for cell in cells if cell.execution_count is None]:
        where = cell_name(left[0].source)
        entry.problems.append(f"not run to its end: {len(left)} of {len(cells)} cells were not run, the first {where}")


def _exercises(cell: NotebookNode) -> dict[str, tuple[str, str]]:
    """Exercises of a cell, by name: state and what was said; of a check that left nothing, the check's own name."""
    found = {}
    bundles = [output.data for output in cell.outputs if CHECK in output.get("data", {})]
    for data in bundles:
        if data[CHECK]["state"] not in STATES:
            raise ValueError(f"an exercise is {data[CHECK]['state']!r}")
        found[data[CHECK]["exercise"]] = (data[CHECK]["state"], data.get("text/plain", ""))
    silent = _CALL.findall(cell.source)[len(bundles) :]
    return found | dict.fromkeys(silent, (NOT_RUN, ""))


def recorded(notebook: NotebookNode) -> list[dict]:
    """What the notebook's cells have recorded, in order: dicts with "finding" and "values"."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    bundles = [output.get("data", {}) for cell in cells for output in cell.outputs]
    return [dict(data[RESULT]) for data in bundles if RESULT in data]


def cell_name(source: str) -> str:
    """By what a reader finds the cell: its first line."""
    return f"the cell `{source.strip().splitlines()[0]}`"


def table(entries: Sequence[Entry]) -> str:
    """One line an entry: person, notebook, exercises by state, and what is wrong or was found; then the sums."""
    head = ["person", "notebook", *STATES]
    rows = [[entry.person, entry.notebook, *(str(len(entry.named(state))) for state in STATES)] for entry in entries]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row, last in zip([head, *rows], ["found", *map(_found, entries)], strict=True):
        words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        counts = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*words, *counts, last]).rstrip())
    sums = Counter(state for entry in entries for state, _ in entry.exercises.values())
    persons, troubled = len({entry.person for entry in entries}), sum(bool(entry.problems) for entry in entries)
    lines += ["", f"persons: {persons}, notebooks: {len(entries)}, with problems: {troubled}"]
    return "\n".join([*lines, "exercises: " + ", ".join(f"{sums[state]} {state}" for state in STATES)])


def _found(entry: Entry) -> str:
    """The last column: problems, wrong answers, findings."""
    wrong = [entry.exercises[name][1] for name in entry.named(WRONG)]
    return "; ".join([*entry.problems, *wrong, *entry.findings]) or "(nothing recorded)"


def write_csv(entries: Sequence[Entry], path: str | Path) -> None:
    """One line an entry, for a spreadsheet or pandas: COLUMNS; exercises are counted by state and listed by name.

    `values` is a JSON object. Texts are other people's: none is a formula (see csvfile.py). Raises OSError where the
    file cannot be written.
    """
    rows = []
    for entry in entries:
        exercises = [f"{name}: {state}" for name, (state, _) in entry.exercises.items()]
        lists = ["; ".join(items) for items in (entry.problems, exercises, entry.findings)]
        counts = [len(entry.named(state)) for state in STATES]
        rows.append([entry.person, entry.notebook, *counts, *lists, json.dumps(entry.values, ensure_ascii=False)])
    csvfile.write(path, COLUMNS, rows)
