"""What the records of runs say: runs found by name, accuracies by arm, tables for pandas and spreadsheets.

The format of a record is in records.py, the machine's part of it in machine.py, and what others report in published.py.
The names of these files that are used most are available here as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfs_edu import tables
from dfs_edu.intervals import interval  # noqa: F401  of the accuracies of a few seeds
from dfs_edu.training.arms import junction_label, label
from dfs_edu.training.machine import environment, peak_memory  # noqa: F401  used as results.NAME, as the two below
from dfs_edu.training.published import PUBLISHED, PUBLISHED_COSTS  # noqa: F401
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.records import RECORD, changed, load, new_record, read, write  # noqa: F401

if TYPE_CHECKING:
    from pandas import DataFrame  # ty: ignore[import-not-found]  pandas is optional, see `frame`

CHECKOUT = Path(__file__).parents[2] / "data" / "recorded"  # what is committed of long runs
RECORDED = CHECKOUT if CHECKOUT.is_dir() else Path(__file__).parents[1] / "recorded"  # a wheel brings it along


def survey(folder: str | os.PathLike, names: str = "*") -> tuple[dict[str, dict], dict[str, str]]:
    """Read the runs in a folder whose names match a pattern, finished or not.

    Returns:
        Name -> record, and name -> what is wrong with a record that cannot be read.

    Raises:
        ValueError: The pattern leads out of the folder.
    """
    if Path(names).is_absolute():
        raise ValueError(f"{names!r}: give the name of a run, or a pattern of names, and the folder of runs by itself")
    records, faults = {}, {}
    for path in sorted(Path(folder).glob(f"{names}/{RECORD}")):
        try:
            records[path.parent.name] = read(path)
        except (ValueError, OSError) as error:
            faults[path.parent.name] = str(error)
    return records, faults


def runs(folder: str | os.PathLike, names: str = "*") -> dict[str, dict]:
    """Return name -> record of the runs in a folder whose names match a pattern, finished or not.

    Raises:
        ValueError: A record cannot be read; the message names all of these, and ``survey`` returns the others.
    """
    records, faults = survey(folder, names)
    if faults:
        raise ValueError("; ".join(faults.values()))
    return records


def recorded(*names: str, folder: str | os.PathLike = RECORDED) -> dict[str, dict]:
    """Return name -> record of the finished runs below a folder that match patterns.

    >>> len(recorded("cifar100-vgg7-64-lesson-joint-*"))
    3

    Raises:
        FileNotFoundError: There is no such folder; the message says where to get it.
    """
    if not Path(folder).is_dir():
        raise missing(folder)
    found = {name: record for pattern in names for name, record in runs(folder, pattern).items()}
    return {name: record for name, record in found.items() if "final" in record}


def missing(path: str | os.PathLike) -> FileNotFoundError:
    """Return the error for recorded results that are missing; it says where to get them."""
    return FileNotFoundError(
        f"no {path}: recorded results are part of the repository, in data/recorded, and of a wheel built from it; "
        "clone the repository, or install the wheel again"
    )


def last_validation(record: Mapping[str, Any]) -> list[float]:
    """Return the validation accuracy of each exit after the last epoch so far; [] before the end of the first."""
    return record["epochs"][-1]["validation_accuracy"] if record["epochs"] else []


def minutes_to(record: Mapping[str, Any], accuracy: float, exit: int = -1) -> float | None:
    """Return the minutes of training until an exit reached a validation accuracy, at the end of an epoch; None: never.

    Args:
        record: Of a run.
        accuracy: A fraction.
        exit: Index of the exit, 0 the first.
    """
    seconds = 0.0
    for row in record["epochs"]:
        seconds += row["seconds"]
        if row["validation_accuracy"][exit] >= accuracy:
            return seconds / 60
    return None


def accuracies(records: Iterable[Mapping[str, Any]], split: str = "test") -> dict[str, list[list[float]]]:
    """Return the final accuracy of finished runs by arm, as fractions, in the order of their seeds.

    Returns:
        Words of an arm, such as "surgery own 0.5" -> n seeds x K exits.
    """
    table: dict[str, list[list[float]]] = {}
    for record in sorted(records, key=lambda record: record["recipe"]["seed"]):
        if "final" in record:
            table.setdefault(label(record["recipe"]), []).append(record["final"][f"{split}_accuracy"])
    return table


def rows(records: Mapping[str, dict]) -> list[dict[str, Any]]:
    """Return runs as a table, for pandas or a CSV: one row per run and exit, or one for a run before its first epoch.

    Columns: "run", "exit" (1 is the first), "epochs_done", "finished", "failed", "seconds", "validation_accuracy" (of
    the last epoch so far), "test_accuracy", then the fields of the recipe, the junction in words.
    """
    table = []
    for name, record in records.items():
        recipe, final = record["recipe"], record.get("final", {})
        of_run = {
            "epochs_done": len(record["epochs"]),
            "finished": bool(final),
            "failed": record.get("failed", ""),
            "seconds": final.get("seconds", sum(row["seconds"] for row in record["epochs"])),
        }
        validation = final.get("validation_accuracy") or last_validation(record)
        test = final.get("test_accuracy") or [None] * len(validation)
        settings = {field.name: _cell(recipe.get(field.name)) for field in fields(Recipe)}
        for k, accuracy in enumerate(zip(validation, test, strict=True) if validation else [(None, None)], start=1):
            measured = dict(zip(("validation_accuracy", "test_accuracy"), accuracy, strict=True))
            table.append({"run": name, "exit": k if validation else None, **of_run, **measured, **settings})
    return table


def _cell(value: Any) -> Any:
    """Return a field of a recipe as one cell of a table."""
    if isinstance(value, dict):
        try:
            return junction_label(value)
        except ValueError:  # a junction that is not known here
            return str(value)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def to_frame(records: Mapping[str, dict]) -> DataFrame:
    """Return ``rows`` as a pandas DataFrame.

    Raises:
        ModuleNotFoundError: pandas is missing; the message says how to install it.
    """
    return frame(rows(records))


def frame(table: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Return a list of rows as a pandas DataFrame.

    Raises:
        ModuleNotFoundError: pandas is missing, since nothing else here needs it; the message says how to install it.
    """
    try:
        import pandas  # ty: ignore[import-not-found]  it is optional
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a data frame needs pandas, which is not installed: `pip install pandas`; or write a CSV file (--csv FILE)"
        ) from error
    return pandas.DataFrame(table)


def write_csv(table: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Write a list of rows as a CSV file, such that no spreadsheet runs a cell of it.

    Raises:
        OSError: The file cannot be written.
    """
    head = list(table[0]) if table else []
    tables.write_csv(Path(path), head, [[row[column] for column in head] for row in table])
