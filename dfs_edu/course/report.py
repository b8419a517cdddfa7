"""Read what executed notebooks recorded: findings, results of exercises, and whether every cell was run.

`course.record` and the checks of exercises leave their results in a notebook's outputs twice: as a sentence for the
reader, and as JSON under a MIME type of their own. This module reads the JSON back, from notebooks that this machine
executed or that students handed in. It executes nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dfs_edu import tables
from dfs_edu.tables import cut, printable

RESULT = "application/vnd.dfs.result+json"  # of course.record: {"finding": sentence, "values": {name: value}}
CHECK = "application/vnd.dfs.check+json"  # of a check: {"exercise": name, "state": one of the first three below}
PASSED, WRONG, NOT_YET, NOT_RUN = STATES = ("passed", "wrong", "not yet", "not run")
PARAMETERS = ("SCALE", "DATASET", "SEED", "DEVICE")
SHOWN = ("SCALE", "DATASET", "SEED")  # the parameters that have a column in the report
COLUMNS = (  # of the CSV
    *("person", "notebook", "scale", "dataset", "seed", *STATES),
    *("problems", "exercises", "reasons", "findings", "values"),
)
LARGEST = 50 * 2**20  # bytes of a notebook; the course's own are less than a tenth of this
WIDEST = 200  # characters of the table's last column; the CSV has the full text

# Matched line by line, so that the time is proportional to the length of the text, whatever it is
_CALL = re.compile(r"^[ \t]*(checks\.\w+)\(", re.MULTILINE)
_ASSIGNED = re.compile(r"^(\w+)[ \t]*(?::[^=\n]*)?=[ \t]*[\"']?([\w.-]*)", re.MULTILINE)


class Recorded:
    """The results that a notebook recorded.

    Attributes:
        recorded: One dict for each ``course.record``, in order, with "finding" and "values".
    """

    recorded: list[dict]

    @property
    def findings(self) -> list[str]:
        """The sentence of each ``course.record``, in order."""
        return [result["finding"] for result in self.recorded]

    @property
    def values(self) -> dict:
        """All values that the notebook recorded, by name."""
        return {name: value for result in self.recorded for name, value in result["values"].items()}


@dataclass
class Entry(Recorded):
    """The report on one notebook, or on a hand-in without one.

    Attributes:
        person: Whose notebook it is: the name of a folder.
        notebook: The file's name without its suffix.
        parameters: Name -> value, as written in the notebook.
        exercises: Name -> one of ``STATES``, and the check's sentence.
        recorded: One dict for each ``course.record``, with "finding" and "values".
        problems: Errors, cells that were not run, or why the notebook cannot be read.
        readable: False if it is not a notebook of the course, or if there is no notebook at all.
    """

    person: str
    notebook: str
    parameters: dict[str, str] = field(default_factory=dict)
    exercises: dict[str, tuple[str, str]] = field(default_factory=dict)
    recorded: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    readable: bool = True

    def named(self, state: str) -> list[str]:
        """Return the names of the exercises in a state."""
        return [name for name, (reached, _) in self.exercises.items() if reached == state]

    @property
    def reasons(self) -> list[str]:
        """The checks' sentences on wrong answers."""
        return [self.exercises[name][1] for name in self.named(WRONG)]


def collect(paths: Sequence[str | Path], only: Sequence[str] = (), originals: str | Path | None = None) -> list[Entry]:
    """Read all notebooks below ``paths``; the entries are sorted by person and notebook.

    A hand-in may contain anything. Only regular files are read, and links are not followed. Anything that cannot be
    read, and a folder with nothing in it, gets an entry that says so.

    Args:
        paths: Notebooks, or folders with one folder per person. A person is the first folder below the one given, or
            that folder itself for a notebook directly in it.
        only: Numbers of notebooks, such as "03". All others are ignored, and anyone who lacks one of these gets an
            entry that says so.
        originals: Folder of the notebooks that were handed out, executed. If a notebook has the number of one of them,
            only the exercises of that original count: any others are named as a problem, and missing ones were not run.

    Raises:
        ValueError: A path does not exist, or there is nothing to report on below ``paths``.
    """
    # What each person handed in, and what of it is to be read
    hand_ins: dict[str, set[Path]] = {}
    for path in paths:
        for person, files in _hand_ins(Path(path).absolute()).items():
            hand_ins.setdefault(person, set()).update(files)
    notebooks = [(person, path) for person in hand_ins for path in sorted(hand_ins[person]) if path.suffix == ".ipynb"]
    chosen = [(person, path) for person, path in notebooks if not only or number(path) in only]
    others = {person: sorted(f.name for f in files if f.suffix != ".ipynb") for person, files in hand_ins.items()}
    if not chosen and not any(others.values()):
        raise ValueError(f"no notebook {' or '.join(only)}{' ' * bool(only)}in {', '.join(map(str, paths))}")

    # One entry for each notebook, for each that is missing, and for a hand-in of nothing or of other files
    wanted = _exercises_of(originals) if originals else {}
    entries = [_entry(person, path, wanted.get(number(path), ())) for person, path in chosen]
    numbers = {(person, number(path)) for person, path in chosen}
    with_notebooks = {person for person, _ in notebooks}
    for person, files in hand_ins.items():
        entries += [Entry(person, name, problems=["missing"]) for name in only if (person, name) not in numbers]
        if others[person] or not files:
            problem = f"no notebook: {', '.join(others[person])}" if files else "an empty folder: nothing was handed in"
            entries.append(Entry(person, "", problems=[problem], readable=person in with_notebooks))
    return sorted(entries, key=lambda entry: (entry.person, entry.notebook))


def _hand_ins(path: Path) -> dict[str, list[Path]]:
    """The files of each person below a path, none for an empty folder; without hidden files and notebooks' pages."""
    if not os.path.lexists(path):
        raise ValueError(f"{path}: no such notebook or folder")
    if not path.is_dir():
        return {path.parent.name: [path]}

    hand_ins: dict[str, list[Path]] = {}
    files, unreadable = [], []
    for folder, folders, names in os.walk(path, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))  # such as .ipynb_checkpoints
        if Path(folder) == path:
            hand_ins = {name: [] for name in folders}
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # os.walk does not enter them
        for name in [*names, *links]:
            file = Path(folder, name)
            page = file.suffix == ".html" and f"{file.stem}.ipynb" in names  # as `dfs-edu course` writes it
            if not name.startswith(".") and not page:
                files.append(file)
    for file in [*files, *(Path(error.filename) for error in unreadable)]:
        hand_ins.setdefault(_person(path, file), []).append(file)
    return hand_ins or {path.name: []}


def _person(path: Path, file: Path) -> str:
    parts = file.relative_to(path).parts
    return parts[0] if len(parts) > 1 or (parts and file.is_dir()) else path.name


def number(notebook: Path) -> str | None:
    """Return a notebook's number, None if it has none.

    It is "03" for ``03_cut.ipynb`` and ``anna_03_cut(1).ipynb``, and "04b" for ``04b_leak.ipynb``, an optional part.
    """
    match = re.search(r"(?<!\d)\d\d[a-z]?(?=_)", notebook.name)
    return match and match.group()


def _exercises_of(folder: str | Path) -> dict[str | None, list[str]]:
    """The exercises of each executed notebook in a folder, by its number."""
    entries = {number(path): _entry("", path) for path in sorted(Path(folder).glob("*.ipynb"))}
    return {name: list(entry.exercises) for name, entry in entries.items()}


def _entry(person: str, path: Path, wanted: Collection[str] = ()) -> Entry:
    entry = Entry(person, path.stem)
    try:
        _fill(entry, _read(path))
        json.dumps(entry.values)  # it may have been possible to read, and yet be nested too deeply to be written
    except Exception as error:  # whatever one person hands in, the others are reported
        reason = printable(str(error).strip() or type(error).__name__)
        return Entry(person, path.stem, problems=[f"cannot be read: {reason[:100]}"], readable=False)
    if wanted:
        _restrict(entry, wanted)
    return entry


def _restrict(entry: Entry, wanted: Collection[str]) -> None:
    """Count only the exercises that are wanted, and name any others."""
    unknown = [name for name, (state, _) in entry.exercises.items() if name not in wanted and state != NOT_RUN]
    if unknown:
        entry.problems.append(f"exercises that the notebook does not have: {', '.join(unknown)}")
    entry.exercises = {name: entry.exercises.get(name, (NOT_RUN, "")) for name in wanted}


@dataclass
class _Cell:
    """A code cell, each part of which has its proper type."""

    source: str
    tags: list
    run: bool
    outputs: list[Mapping]


def _read(path: Path) -> list[_Cell]:
    """The code cells of a notebook; ValueError if it is not one of the course."""
    cells = _cells(json.loads(_text_of(path), parse_constant=lambda _: None, parse_float=_finite))
    declared = {name for cell in cells if "parameters" in cell.tags for name, _ in _ASSIGNED.findall(cell.source)}
    if not set(PARAMETERS) <= declared:
        raise ValueError(f"not a notebook of the course, no cell tagged `parameters` with {', '.join(PARAMETERS)}")
    return cells


def _text_of(path: Path) -> str:
    """The text of a regular file. A link may lead to someone else's file; a pipe or a device never ends."""
    if path.is_symlink():
        raise ValueError("a link, which is not followed")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("not a regular file")
    # Checked again once it is open: it may have been replaced in between
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST / 2**20:.0f} MiB")
    return content.decode("utf-8-sig")


def _finite(digits: str) -> float | None:
    return value if math.isfinite(value := float(digits)) else None


def _cells(notebook) -> list[_Cell]:
    """The code cells of a notebook that nbformat has read, or of plain JSON with any content."""
    cells = []
    for cell in _items(notebook, "cells"):
        if isinstance(cell, Mapping) and cell.get("cell_type") == "code":
            outputs = [output for output in _items(cell, "outputs") if isinstance(output, Mapping)]
            tags = _items(cell.get("metadata"), "tags")
            cells.append(_Cell(_text(cell.get("source")), tags, cell.get("execution_count") is not None, outputs))
    return cells


def _items(mapping, name: str) -> list:
    """The list of that name; empty if there is no such list."""
    items = mapping.get(name) if isinstance(mapping, Mapping) else None
    return items if isinstance(items, list) else []


def _text(value) -> str:
    """A text as notebooks store it, in one piece or in lines; empty if it is anything else."""
    lines = value if isinstance(value, list) else [value]
    return "".join(line for line in lines if isinstance(line, str))


def _fill(entry: Entry, cells: list[_Cell]) -> None:
    cells = [cell for cell in cells if cell.source.strip()]
    entry.recorded, malformed = _results(cells)
    entry.problems += malformed
    for cell in cells:
        if {"parameters", "injected-parameters"} & {tag for tag in cell.tags if isinstance(tag, str)}:
            entry.parameters |= {name: value for name, value in _ASSIGNED.findall(cell.source) if name in SHOWN}
        entry.exercises |= _exercises(cell)  # if an exercise occurs twice, the last one counts
        errors = [output for output in cell.outputs if output.get("output_type") == "error"]
        entry.problems += [
            f"error in {cell_name(cell.source)}: {_text(e.get('ename'))}: {_text(e.get('evalue'))}" for e in errors
        ]
    if left := [cell for cell in cells if not cell.run]:
        first = cell_name(left[0].source)
        entry.problems.append(f"not run to the end: {len(left)} of {len(cells)} cells were not run, the first {first}")


def _exercises(cell: _Cell) -> dict[str, tuple[str, str]]:
    """The exercises of a cell by name: state and sentence. A check that left no output goes by its function's name."""
    exercises = {}
    bundles = list(_bundles([cell], CHECK))
    for data in bundles:
        check = data[CHECK] if isinstance(data[CHECK], Mapping) else {}
        exercise, state = check.get("exercise"), check.get("state")
        if not isinstance(exercise, str) or state not in STATES:
            raise ValueError(f"an exercise is {check.get('state', data[CHECK])!r}")
        exercises[exercise] = (state, _text(data.get("text/plain")))
    silent = _CALL.findall(cell.source)[len(bundles) :]
    return exercises | dict.fromkeys(silent, (NOT_RUN, ""))


def _bundles(cells: Sequence[_Cell], mimetype: str) -> Iterator[Mapping]:
    """The data of the outputs that have this MIME type."""
    for cell in cells:
        for output in cell.outputs:
            data = output.get("data")
            if isinstance(data, Mapping) and mimetype in data:
                yield data


def _results(cells: Sequence[_Cell]) -> tuple[list[dict], list[str]]:
    """What `course.record` left, and a sentence about each output that only claims to be its result."""
    results, malformed = [], []
    for data in _bundles(cells, RESULT):
        result = data[RESULT]
        finding, values = (result.get(name) if isinstance(result, Mapping) else None for name in ("finding", "values"))
        if isinstance(finding, str) and isinstance(values, Mapping):
            results.append({"finding": finding, "values": dict(values)})
        else:
            malformed.append(f"a result without a finding and values: {json.dumps(result)[:60]}")
    return results, malformed


def recorded(notebook: Mapping) -> list[dict]:
    """Return what the notebook's cells have recorded, in order: dicts with "finding" and "values"."""
    return _results(_cells(notebook))[0]


def misrecorded(notebook: Mapping) -> list[str]:
    """Describe the notebook's results that ``course.record`` cannot have written, in one sentence each."""
    return _results(_cells(notebook))[1]


def cell_name(source: str) -> str:
    """Name a cell by its first line, so that a reader can find it."""
    return f"the cell `{printable(source.strip().splitlines()[0])[:80]}`"


def table(entries: Sequence[Entry]) -> str:
    """Format the report: one row per entry, then the totals.

    A row stays on one line whatever a notebook contains, and long cells are cut: ``write_csv`` writes the full text.
    """
    rows = [
        [*_labels(entry), *(str(len(entry.named(state))) for state in STATES), _summary(entry)] for entry in entries
    ]
    rows = [[*(cut(cell, 40) for cell in row[:-1]), row[-1]] for row in rows]
    head = ["person", "notebook", *map(str.lower, SHOWN), *STATES, "found"]

    totals = Counter(state for entry in entries for state, _ in entry.exercises.values())
    persons, troubled = len({entry.person for entry in entries}), sum(bool(entry.problems) for entry in entries)
    return "\n".join(
        [
            tables.lines(head, rows, align="<<<<<>>>><"),  # words, counts, words
            "",
            f"persons: {persons}, notebooks: {len(entries)}, with problems: {troubled}",
            "exercises: " + ", ".join(f"{totals[state]} {state}" for state in STATES),
        ]
    )


def _labels(entry: Entry) -> list[str]:
    return [entry.person, entry.notebook, *(entry.parameters.get(name, "") for name in SHOWN)]


def _summary(entry: Entry) -> str:
    """The last column: problems, what the checks said of wrong answers, findings."""
    return cut("; ".join([*entry.problems, *entry.reasons, *entry.findings]) or "(nothing recorded)", WIDEST)


def write_csv(entries: Sequence[Entry], path: str | Path) -> None:
    """Write one row per entry, with the columns ``COLUMNS``, for a spreadsheet or pandas.

    Exercises are counted by state and listed by name; the column "values" holds a JSON object. The texts are other
    people's, so none is left as a formula (see tables.py), and characters that would start a new line or control a
    terminal are escaped.

    Raises:
        OSError: The file cannot be written.
    """
    rows = []
    for entry in entries:
        exercises = [f"{name}: {state}" for name, (state, _) in entry.exercises.items()]
        lists = ["; ".join(items) for items in (entry.problems, exercises, entry.reasons, entry.findings)]
        counts = [len(entry.named(state)) for state in STATES]
        rows.append([*map(printable, _labels(entry)), *counts, *map(printable, lists), json.dumps(entry.values)])
    tables.write_csv(path, COLUMNS, rows)
