"""What executed notebooks say of themselves: findings, exercises, and whether they were run to their end.

`course.record` and the checks of exercises put what they have to say into a notebook's outputs twice: as a sentence for
who reads it, and as JSON under a mimetype of their own. Here the second is read back, of notebooks that this machine
executed or that students handed in. Nothing is executed.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dfs_edu import tables
from dfs_edu.tables import printable

RESULT = "application/vnd.dfs.result+json"  # of course.record: {"finding": sentence, "values": {name: value}}
CHECK = "application/vnd.dfs.check+json"  # of a check: {"exercise": name, "state": one of the first three below}
PASSED, WRONG, NOT_YET, NOT_RUN = STATES = ("passed", "wrong", "not yet", "not run")
PARAMETERS = ("SCALE", "DATASET", "SEED", "DEVICE")
SHOWN = ("SCALE", "DATASET", "SEED")  # of these the report has a column
COLUMNS = (  # of the CSV
    *("person", "notebook", "scale", "dataset", "seed", *STATES),
    *("problems", "exercises", "reasons", "findings", "values"),
)
LARGEST = 50 * 2**20  # bytes of a notebook; the course's own have less than a tenth of it
WIDEST = 200  # characters of the table's last column; the CSV has them all

# Line by line, so that no text takes more than a time proportional to its length
_CALL = re.compile(r"^[ \t]*(checks\.\w+)\(", re.MULTILINE)
_ASSIGNED = re.compile(r"^(\w+)[ \t]*(?::[^=\n]*)?=[ \t]*[\"']?([\w.-]*)", re.MULTILINE)


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
    parameters: dict[str, str] = field(default_factory=dict)  # name -> value, as it stands there
    exercises: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> (one of STATES, what the check said)
    recorded: list[dict] = field(default_factory=list)  # of each `course.record`: "finding" and "values"
    problems: list[str] = field(default_factory=list)  # errors, cells that were not run, why it cannot be read
    readable: bool = True  # False: not a notebook of the course, or no notebook at all

    def named(self, state: str) -> list[str]:
        """The exercises in a state."""
        return [name for name, (found, _) in self.exercises.items() if found == state]

    @property
    def reasons(self) -> list[str]:
        """What the checks said of wrong answers."""
        return [self.exercises[name][1] for name in self.named(WRONG)]


def collect(paths: Sequence[str | Path], only: Sequence[str] = (), originals: str | Path | None = None) -> list[Entry]:
    """What the notebooks below `paths` say, sorted by person and notebook.

    What somebody hands in may hold anything: only regular files are read, links are not followed, and whatever cannot
    be read becomes an entry that says so.

    Args:
        paths: notebooks, or folders with a folder for each person; a person is the first folder below the one given,
            or, of a notebook that lies in it directly, that folder itself.
        only: numbers of notebooks, such as "03": the others are passed over, and who lacks one of these gets an entry
            that says so.
        originals: folder of the notebooks that were handed out, executed. Of a notebook with the number of one of them
            only the exercises of that one count: others are named as a problem, missing ones were not run.

    Raises:
        ValueError: a path does not exist, or nothing is found below `paths`.
    """
    files = sorted({file for path in paths for file in _files(Path(path))})
    notebooks = [(person, path) for person, path in files if path.suffix == ".ipynb"]
    chosen = [(person, path) for person, path in notebooks if not only or number(path) in only]
    others = {person: [path for who, path in files if who == person and path.suffix != ".ipynb"] for person, _ in files}
    if not chosen and not any(others.values()):
        raise ValueError(f"no notebook {' or '.join(only)}{' ' * bool(only)}in {', '.join(map(str, paths))}")
    wanted = _handed_out(originals) if originals else {}
    entries = [_entry(person, path, wanted.get(number(path), ())) for person, path in chosen]
    handed_in = {(person, number(path)) for person, path in chosen}
    for person in others:
        missing = [name for name in only if (person, name) not in handed_in]
        entries += [Entry(person, name, problems=["missing"]) for name in missing]
    with_notebooks = {person for person, _ in notebooks}
    for person, paths_of in others.items():
        if paths_of:
            names = ", ".join(path.name for path in paths_of)
            entries.append(Entry(person, "", problems=[f"no notebook: {names}"], readable=person in with_notebooks))
    return sorted(entries, key=lambda entry: (entry.person, entry.notebook))


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Persons and what they handed in below a path: all but hidden files and the pages of notebooks."""
    path = path.absolute()
    if not os.path.lexists(path):
        raise ValueError(f"{path}: no such notebook or folder")
    if not path.is_dir():
        yield path.parent.name, path
        return
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))  # such as .ipynb_checkpoints
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # os.walk stays out of them
        for name in [*names, *links]:
            file = Path(folder, name)
            page = file.suffix == ".html" and f"{file.stem}.ipynb" in names  # as `dfs-edu course` writes it
            if not name.startswith(".") and not page:
                yield _person(path, file), file
    for error in unreadable:
        yield _person(path, Path(error.filename)), Path(error.filename)


def _person(path: Path, file: Path) -> str:
    parts = file.relative_to(path).parts
    return parts[0] if len(parts) > 1 or file.is_dir() else path.name


def number(notebook: Path) -> str | None:
    """Such as "03", of 03_cutting_features.ipynb and of anna_03_cutting_features(1).ipynb; None where there is none."""
    found = re.search(r"(?<!\d)\d\d(?=_)", notebook.name)
    return found and found.group()


def _handed_out(folder: str | Path) -> dict[str | None, list[str]]:
    """Number of a notebook -> its exercises."""
    found = {number(path): _entry("", path) for path in sorted(Path(folder).glob("*.ipynb"))}
    return {name: list(entry.exercises) for name, entry in found.items()}


def _entry(person: str, path: Path, wanted: Sequence[str] = ()) -> Entry:
    entry = Entry(person, path.stem)
    try:
        _fill(entry, _read(path))
        json.dumps(entry.values)  # what can be read can be nested too deeply to be written
    except Exception as error:  # whatever somebody hands in, the others are reported
        reason = printable(str(error).strip() or type(error).__name__)
        return Entry(person, path.stem, problems=[f"cannot be read: {reason[:100]}"], readable=False)
    if wanted:
        _only(entry, wanted)
    return entry


def _only(entry: Entry, wanted: Sequence[str]) -> None:
    """Count these exercises, and name the others."""
    unknown = [name for name in entry.exercises if name not in wanted and entry.exercises[name][0] != NOT_RUN]
    if unknown:
        entry.problems.append(f"exercises that the notebook does not have: {', '.join(unknown)}")
    entry.exercises = {name: entry.exercises.get(name, (NOT_RUN, "")) for name in wanted}


@dataclass
class _Cell:
    """A code cell, of which every part has the type that it should have."""

    source: str
    tags: list
    run: bool
    outputs: list[Mapping]


def _read(path: Path) -> list[_Cell]:
    """The code cells of a notebook; ValueError if it is none of the course."""
    cells = _cells(json.loads(_text_of(path), parse_constant=lambda _: None, parse_float=_finite))
    declared = {name for cell in cells if "parameters" in cell.tags for name, _ in _ASSIGNED.findall(cell.source)}
    if not set(PARAMETERS) <= declared:
        raise ValueError(f"not a notebook of the course, no cell tagged `parameters` with {', '.join(PARAMETERS)}")
    return cells


def _text_of(path: Path) -> str:
    """The text of a regular file: a link may lead to somebody else's, a pipe or a device never ends."""
    if path.is_symlink():
        raise ValueError("a link, which is not followed")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("no file")
    # as it is when it is opened: it may have been exchanged since
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("no file")
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST / 2**20:.0f} MiB")
    return content.decode("utf-8-sig")


def _finite(digits: str) -> float | None:
    return number if math.isfinite(number := float(digits)) else None


def _cells(notebook) -> list[_Cell]:
    """The code cells of a notebook, read by nbformat or as plain JSON of any content."""
    found = []
    for cell in _items(notebook, "cells"):
        if isinstance(cell, Mapping) and cell.get("cell_type") == "code":
            outputs = [output for output in _items(cell, "outputs") if isinstance(output, Mapping)]
            tags = _items(cell.get("metadata"), "tags")
            found.append(_Cell(_text(cell.get("source")), tags, cell.get("execution_count") is not None, outputs))
    return found


def _items(of, name: str) -> list:
    """The list of that name, empty where there is none."""
    items = of.get(name) if isinstance(of, Mapping) else None
    return items if isinstance(items, list) else []


def _text(value) -> str:
    """A text as notebooks hold it, whole or in lines; empty where it is none."""
    lines = value if isinstance(value, list) else [value]
    return "".join(line for line in lines if isinstance(line, str))


def _fill(entry: Entry, cells: list[_Cell]) -> None:
    cells = [cell for cell in cells if cell.source.strip()]
    entry.recorded, wrong = _results(cells)
    entry.problems += wrong
    for cell in cells:
        if {"parameters", "injected-parameters"} & {tag for tag in cell.tags if isinstance(tag, str)}:
            entry.parameters |= {name: value for name, value in _ASSIGNED.findall(cell.source) if name in SHOWN}
        entry.exercises |= _exercises(cell)  # of an exercise that stands there twice, the last counts
        errors = [output for output in cell.outputs if output.get("output_type") == "error"]
        entry.problems += [
            f"error in {cell_name(cell.source)}: {_text(e.get('ename'))}: {_text(e.get('evalue'))}" for e in errors
        ]
    if left := [cell for cell in cells if not cell.run]:
        where = cell_name(left[0].source)
        entry.problems.append(f"not run to its end: {len(left)} of {len(cells)} cells were not run, the first {where}")


def _exercises(cell: _Cell) -> dict[str, tuple[str, str]]:
    """Exercises of a cell, by name: state and what was said; of a check that left nothing, the check's own name."""
    found = {}
    bundles = list(_bundles([cell], CHECK))
    for data in bundles:
        check = data[CHECK] if isinstance(data[CHECK], Mapping) else {}
        exercise, state = check.get("exercise"), check.get("state")
        if not isinstance(exercise, str) or state not in STATES:
            raise ValueError(f"an exercise is {check.get('state', data[CHECK])!r}")
        found[exercise] = (state, _text(data.get("text/plain")))
    silent = _CALL.findall(cell.source)[len(bundles) :]
    return found | dict.fromkeys(silent, (NOT_RUN, ""))


def _bundles(cells: Sequence[_Cell], mimetype: str) -> Iterator[Mapping]:
    """The data of the outputs that have this type."""
    for cell in cells:
        for output in cell.outputs:
            data = output.get("data")
            if isinstance(data, Mapping) and mimetype in data:
                yield data


def _results(cells: Sequence[_Cell]) -> tuple[list[dict], list[str]]:
    """What `course.record` left, and what is none of its results although it says so."""
    found, wrong = [], []
    for data in _bundles(cells, RESULT):
        result = data[RESULT]
        finding, values = (result.get(name) if isinstance(result, Mapping) else None for name in ("finding", "values"))
        if isinstance(finding, str) and isinstance(values, Mapping):
            found.append({"finding": finding, "values": dict(values)})
        else:
            wrong.append(f"a result without a finding and values: {json.dumps(result)[:60]}")
    return found, wrong


def recorded(notebook: Mapping) -> list[dict]:
    """What the notebook's cells have recorded, in order: dicts with "finding" and "values"."""
    return _results(_cells(notebook))[0]


def misrecorded(notebook: Mapping) -> list[str]:
    """Results of the notebook's cells that `course.record` cannot have written, one sentence for each."""
    return _results(_cells(notebook))[1]


def cell_name(source: str) -> str:
    """By what a reader finds the cell: its first line."""
    return f"the cell `{printable(source.strip().splitlines()[0])[:80]}`"


def table(entries: Sequence[Entry]) -> str:
    """One line an entry: person, notebook, parameters, exercises by state, what is wrong or was found; then the sums.

    A line stays a line whatever a notebook holds, and is cut where it gets long: `write_csv` writes it all.
    """
    head = ["person", "notebook", *map(str.lower, SHOWN), *STATES]
    left = 2 + len(SHOWN)  # columns of words
    rows = [[*_words(entry), *(str(len(entry.named(state))) for state in STATES)] for entry in entries]
    rows = [[_cut(cell, 40) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row, last in zip([head, *rows], ["found", *map(_found, entries)], strict=True):
        words = [cell.ljust(width) for cell, width in zip(row[:left], widths[:left], strict=True)]
        counts = [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join([*words, *counts, last]).rstrip())
    sums = Counter(state for entry in entries for state, _ in entry.exercises.values())
    persons, troubled = len({entry.person for entry in entries}), sum(bool(entry.problems) for entry in entries)
    lines += ["", f"persons: {persons}, notebooks: {len(entries)}, with problems: {troubled}"]
    return "\n".join([*lines, "exercises: " + ", ".join(f"{sums[state]} {state}" for state in STATES)])


def _words(entry: Entry) -> list[str]:
    return [entry.person, entry.notebook, *(entry.parameters.get(name, "") for name in SHOWN)]


def _found(entry: Entry) -> str:
    """The last column: problems, reasons of wrong answers, findings."""
    return _cut("; ".join([*entry.problems, *entry.reasons, *entry.findings]) or "(nothing recorded)", WIDEST)


def _cut(text: str, most: int) -> str:
    text = printable(text[: 2 * most])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def write_csv(entries: Sequence[Entry], path: str | Path) -> None:
    """One line an entry, for a spreadsheet or pandas: COLUMNS; exercises are counted by state and listed by name.

    `values` is a JSON object. Texts are other people's: none is a formula (see tables.py), and what would begin a new
    line or drive a terminal is escaped.

    Raises:
        OSError: the file cannot be written.
    """
    rows = []
    for entry in entries:
        exercises = [f"{name}: {state}" for name, (state, _) in entry.exercises.items()]
        lists = ["; ".join(items) for items in (entry.problems, exercises, entry.reasons, entry.findings)]
        counts = [len(entry.named(state)) for state in STATES]
        rows.append([*map(printable, _words(entry)), *counts, *map(printable, lists), json.dumps(entry.values)])
    tables.write_csv(path, COLUMNS, rows)
