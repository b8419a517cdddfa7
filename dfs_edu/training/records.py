"""The record of a run, ``record.json``: recipe, environment, data and metrics, written by one process, read by any.

What is shown of a run is read from its record, which may come from a stranger, or from an older version.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Interval

from dfs_edu.answers import ENSEMBLES
from dfs_edu.data import Dataset
from dfs_edu.files import check_file, write_whole
from dfs_edu.training import fields, machine
from dfs_edu.training.recipes import Recipe, check_types

RECORD = "record.json"
MOST = 2**28  # bytes of a record: more than that of a long run with a snapshot at every step

# The form of a record, as far as readers rely on it; its types are annotations as in fields.py. What has a "?" may be
# missing: a run under way has no "final", and older records lack other parts.
_ACCURACIES = tuple[Annotated[float, Interval(ge=0, le=1)], ...]  # one for each exit
_MEASURED = {"validation_accuracy": _ACCURACIES, "test_accuracy": _ACCURACIES}
_FORM = {
    "recipe": {"name?": str},  # for the rest see `recipes.check_types`
    "epochs": [{"validation_accuracy": _ACCURACIES, "seconds": float, "pictures_per_second?": float}],
    "final?": {**_MEASURED, "ensembles?": {f"{name}?": _MEASURED for name in ENSEMBLES}, "seconds?": float},
    "data?": {"classes?": tuple[str, ...]},
    "environment?": {},
    "conflict?": {},
    "broken?": tuple[str, ...],
    "failed?": str,
}


def new_record(
    recipe: Recipe, dataset: Dataset, device: torch.device, precision: str, processes: int
) -> dict[str, Any]:
    """Return the record of a run that begins: what is trained, where, and on which data."""
    return {
        "recipe": recipe.to_dict(),
        "environment": machine.environment(device, precision, processes),
        "data": dataset.facts,
        "epochs": [],
    }


def write(path: str | os.PathLike, record: dict[str, Any]) -> None:
    """Write a record as JSON, whole or not at all."""
    text = json.dumps(record, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Read a run's record from its file, or from the folder that holds it.

    Raises:
        ValueError: The file is damaged, or holds something else; the message names the file and the first fault.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no run {str(path)!r}: give the folder of a run, such as runs/NAME")
    path = path / RECORD if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} holds no {RECORD}: it is not the folder of a run")
    record = load(path)
    try:
        check(record)
    except ValueError as error:
        raise ValueError(f"{path}: not a record of a run ({error})") from error
    return record


def load(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: The file is damaged, too large for a record, or a folder or a device; the message names it.
    """
    path = Path(path)
    check_file(path)
    if (size := path.stat().st_size) > MOST:
        raise ValueError(f"{path}: {size / 2**20:,.0f} MiB, too large for a record (at most {MOST // 2**20} MiB)")
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # text that is not UTF-8, not JSON, or lists nested without end
        raise ValueError(f"{path}: not a whole record ({error})") from error


def check(record: Any) -> None:
    """Raise ValueError, naming the first fault, unless this is the record of a run, finished or not.

    Only types are checked. Whether a recipe can be built here is for ``Recipe.from_dict`` to say: other people's
    backbones and junctions may not be known.
    """
    if isinstance(record, dict):
        check_types(record.get("recipe"))
    _check_part("record", record, _FORM)
    accuracies = [row["validation_accuracy"] for row in record["epochs"]]
    if final := record.get("final"):
        measured = [final, *final.get("ensembles", {}).values()]
        accuracies += [one[f"{split}_accuracy"] for one in measured for split in ("validation", "test")]
    exits = {len(values) for values in accuracies}
    if len(exits) > 1 or 0 in exits:
        raise ValueError(f"accuracies of {' and '.join(map(str, sorted(exits)))} exits")


def _check_part(name: str, value: Any, form: Any) -> None:
    """Check a part of a record, and what is inside it, against its form."""
    if isinstance(form, dict):
        fields.check(name, value, dict)
        for key, inside in form.items():
            bare = key.removesuffix("?")
            if key == bare or bare in value:
                _check_part(bare, value.get(bare), inside)
    elif isinstance(form, list):
        fields.check(name, value, list)
        for element in value:
            _check_part(name, element, form[0])
    else:
        fields.check(name, value, form)


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs between two recipes, or other parts of records, in words: name, old and new value."""
    return [f"{key} {before.get(key)!r}, now {now[key]!r}" for key in now if before.get(key) != now[key]]


def changed_data(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs between the data of two records, in words.

    Older records lack the names of the classes. With the same checksum, the name does not matter: a folder may have
    been renamed. Mean and deviation follow from the images, up to rounding.
    """
    same = before.get("checksum") == now["checksum"]
    words = changed(before, {key: now[key] for key in ("name", "checksum") if key in before and not same})
    if "classes" in before and before["classes"] != now["classes"]:
        old, new = set(before["classes"]), set(now["classes"])
        lost, added = (", ".join(sorted(names)[:5]) or "none" for names in (old - new, new - old))
        words.append(f"classes, {len(old)} before, {len(new)} now (only before: {lost}; only now: {added})")
    return words
