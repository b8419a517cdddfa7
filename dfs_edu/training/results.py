"""One record a run: recipe, environment, data, metrics. What is shown of a run is read from its record."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch
import torchvision

from dfs_edu import tables
from dfs_edu.files import check_file, write_whole
from dfs_edu.intervals import interval, p_values  # noqa: F401  of the accuracies of a few seeds
from dfs_edu.training.arms import junction_label, label
from dfs_edu.training.fields import is_number
from dfs_edu.training.recipes import Recipe, check_types

RECORD = "record.json"
MOST = 2**28  # bytes of a record: more than that of a long run that was tracked at every step
CHECKOUT = Path(__file__).parents[2] / "data" / "recorded"  # what is committed of long runs
RECORDED = CHECKOUT if CHECKOUT.is_dir() else Path(__file__).parents[1] / "recorded"  # a wheel brings it along

# Top-1 accuracies that others report, as fractions (Gong et al., ECCV 2024). The recipes of the rows differ, and the
# best epoch was chosen on the test split.
PUBLISHED = {
    "MSDNet, CIFAR-100": {
        "MSDNet, joint": [0.6410, 0.6746, 0.7034, 0.7238, 0.7306, 0.7381, 0.7389],
        "DFS": [0.7246, 0.7564, 0.7750, 0.7854, 0.7920, 0.7945, 0.7956],
    },
    "MSDNet, CIFAR-100, rivals": {
        "GE": [0.6400, 0.6841, 0.7186, 0.7350, 0.7446, 0.7539, 0.7596],
        "PCGrad": [0.6706, 0.7137, 0.7486, 0.7578, 0.7625, 0.7695, 0.7671],
        "CAGrad": [0.6878, 0.7255, 0.7423, 0.7497, 0.7535, 0.7582, 0.7608],
        "Nash-MTL": [0.6414, 0.6923, 0.7264, 0.7489, 0.7532, 0.7588, 0.7675],
    },
    "MSDNet, ImageNet": {
        "MSDNet, joint": [0.5664, 0.6514, 0.6842, 0.6977, 0.7134],
        "DFS": [0.6180, 0.6803, 0.7075, 0.7179, 0.7288],
    },
}


# What others report for the networks that `build` knows: parameters and MACs of leaving at each of the K exits.
# ResNet18's are of the path to the exit alone, its parameters without the linear classifier; the others' include all
# earlier heads.
PUBLISHED_COSTS = {
    "msdnet-cifar": {
        "params": [0.90e6, 1.84e6, 2.80e6, 3.76e6, 4.92e6, 6.10e6, 7.36e6],
        "macs": [56.43e6, 101.00e6, 155.31e6, 198.10e6, 249.53e6, 298.05e6, 340.64e6],
    },
    "msdnet-imagenet": {
        "params": [4.24e6, 8.77e6, 13.07e6, 16.75e6, 23.96e6],
        "macs": [0.34e9, 0.69e9, 1.01e9, 1.25e9, 1.36e9],
    },
    "resnet18": {
        "params": [0.43e6, 0.96e6, 3.11e6, 11.17e6],
        "macs": [169.62e6, 300.22e6, 431.05e6, 559.75e6],
    },
}


def environment(device: torch.device, precision: str, processes: int = 1) -> dict:
    """Machine and versions, so that a number can be read for what it is."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "precision": precision,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a plain str: a checkpoint holds nothing else
        "torchvision": str(torchvision.__version__),
        "system": f"{platform.system()} {platform.machine()}",
        "revision": revision(),
    }


def begun(recipe, dataset, device: torch.device, precision: str, processes: int) -> dict:
    """The record of a run that begins: what is trained, where, and on which data."""
    return {
        "recipe": recipe.to_dict(),
        "environment": environment(device, precision, processes),
        "data": dataset.facts,
        "epochs": [],
    }


def revision() -> str | None:
    """The git revision of this code, marked where files differ from it; None where it is no checkout."""
    words = ["git", "-C", str(Path(__file__).parents[2]), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory(device: torch.device) -> int:
    """Bytes held at most: of a GPU's memory since its count was last reset, of the machine's by this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write(path: str | os.PathLike, record: dict) -> None:
    """A record as JSON, whole or not at all."""
    text = json.dumps(record, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def changed(was: dict, now: dict) -> list[str]:
    """What differs between two recipes, or other parts of records, in words: name, old and new value."""
    return [f"{key} {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key]]


def read(path: str | os.PathLike) -> dict:
    """A run's record from its file, or from the folder that holds it.

    Raises ValueError, naming the file and the first fault, for one that is damaged or holds something else: a record
    may come from a stranger, and whoever has read it relies on the kinds of its parts.
    """
    path = Path(path)
    path = path / RECORD if path.is_dir() else path
    record = load(path)
    try:
        check(record)
    except ValueError as error:
        raise ValueError(f"{path}: not a record of a run ({error})") from error
    return record


def changed_data(was: dict, now: dict) -> list[str]:
    """What differs between the data of two records, in words. Older records do not know their classes.

    The name does not matter if the checksum is the same: a folder may have been renamed.

    Mean and deviation are not compared: they follow from the images, up to rounding.
    """
    known = {key: now[key] for key in ("name", "checksum") if key in was}
    if was.get("checksum") == now["checksum"]:
        known.pop("name", None)  # a folder that was renamed
    words = changed(was, known)
    if "classes" in was and was["classes"] != now["classes"]:
        before, here = set(was["classes"]), set(now["classes"])
        lost, new = (", ".join(sorted(names)[:5]) or "none" for names in (before - here, here - before))
        words.append(f"classes, {len(before)} before, {len(here)} now (only before: {lost}; only now: {new})")
    return words


def load(path: str | os.PathLike):
    """What a JSON file holds. Raises ValueError naming a damaged one, or one that is no file of a sensible size."""
    path = Path(path)
    check_file(path)
    if (size := path.stat().st_size) > MOST:
        raise ValueError(f"{path}: {size / 2**20:,.0f} MiB, more than a record has ({MOST // 2**20} MiB)")
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # text that is not UTF-8, no JSON, or lists in lists without end
        raise ValueError(f"{path}: not a whole record ({error})") from error


def check(record) -> None:
    """Raise ValueError for what is no record of a run, finished or not: the recipe, and what each epoch brought.

    Only kinds are checked. Whether a recipe can be built here is for `Recipe.from_dict` to say: other people's
    backbones and junctions may not be known.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, not a dict")
    check_types(record.get("recipe"))
    if not isinstance(record["recipe"].get("name", ""), str):
        raise ValueError("the recipe's name is not a text")
    rows, exits = record.get("epochs"), set()
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("epochs is not a list of dicts")
    for row in rows:
        exits.add(_fractions(row, "validation_accuracy"))
        _numbers(row, required=("seconds",), optional=("pictures_per_second",))
    if "final" in record:
        final = _part(record, "final")
        exits |= {_fractions(final, f"{split}_accuracy") for split in ("validation", "test")}
        _numbers(final, optional=("seconds",))
    if len(exits) > 1:
        raise ValueError(f"accuracies of {' and '.join(map(str, sorted(exits)))} exits")
    for part in ("data", "environment", "conflict"):
        if part in record:
            _part(record, part)
    if not _texts(record.get("data", {}).get("classes", [])) or not _texts(record.get("broken", [])):
        raise ValueError("the names of classes or of broken images are not a list of texts")
    if not isinstance(record.get("failed", ""), str):
        raise ValueError("failed is not a text")


def _part(record: dict, name: str) -> dict:
    if not isinstance(record[name], dict):
        raise ValueError(f"{name} is a {type(record[name]).__name__}, not a dict")
    return record[name]


def _fractions(values: dict, name: str) -> int:
    """How many fractions a list of them holds, one for each exit."""
    found = values.get(name)
    if not isinstance(found, list) or not found or not all(is_number(value) and 0 <= value <= 1 for value in found):
        raise ValueError(f"{name} is not a list of fractions, one for each exit")
    return len(found)


def _texts(values) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _numbers(values: dict, required: Iterable[str] = (), optional: Iterable[str] = ()) -> None:
    for name in [*required, *(name for name in optional if name in values)]:
        if not is_number(values.get(name)):
            raise ValueError(f"{name} is not a number")


def survey(folder: str | os.PathLike, names: str = "*") -> tuple[dict[str, dict], dict[str, str]]:
    """Runs in a folder whose names match a pattern, finished or not: name -> record, and name -> what is wrong with it.

    Raises ValueError for a pattern that leads out of the folder.
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
    """Name -> record of the runs in a folder whose names match a pattern, finished or not.

    Raises ValueError naming the records that cannot be read; `survey` returns the others.
    """
    records, faults = survey(folder, names)
    if faults:
        raise ValueError("; ".join(faults.values()))
    return records


def last_validation(record: dict) -> list[float]:
    """Validation accuracy of each exit after the last epoch so far; [] before the first has ended."""
    return record["epochs"][-1]["validation_accuracy"] if record["epochs"] else []


def minutes_to(record: dict, accuracy: float, exit: int = -1) -> float | None:
    """Minutes of training until an exit's validation accuracy was first as good, at an epoch's end; None: never."""
    seconds = 0.0
    for row in record["epochs"]:
        seconds += row["seconds"]
        if row["validation_accuracy"][exit] >= accuracy:
            return seconds / 60
    return None


def recorded(*names: str, folder: str | os.PathLike = RECORDED) -> dict[str, dict]:
    """Name -> record of the finished runs below `folder` that match patterns, such as "cifar100-vgg7-64-lesson-*".

    Raises FileNotFoundError where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise missing(folder)
    found = {name: record for pattern in names for name, record in runs(folder, pattern).items()}
    return {name: record for name, record in found.items() if "final" in record}


def missing(path: str | os.PathLike) -> FileNotFoundError:
    """The error for recorded results that are not there, and where to get them."""
    return FileNotFoundError(
        f"no {path}: recorded results are part of the repository, in data/recorded, and of a wheel built from it; "
        "clone the repository, or install the wheel again"
    )


def accuracies(records: Iterable[dict], split: str = "test") -> dict[str, list[list[float]]]:
    """Final accuracy of finished runs, by arm: {"surgery own 0.5": n seeds x K exits, as fractions}, by seed."""
    table: dict[str, list[list[float]]] = {}
    for record in sorted(records, key=lambda record: record["recipe"]["seed"]):
        if "final" in record:
            table.setdefault(label(record["recipe"]), []).append(record["final"][f"{split}_accuracy"])
    return table


def rows(records: Mapping[str, dict]) -> list[dict]:
    """Runs as a table, for pandas or a CSV: one row for each run and exit, of a run without an epoch one row.

    Columns: "run", "exit" (1 the first), "epochs_done", "finished", "failed", "seconds", "validation_accuracy" (of the
    last epoch so far), "test_accuracy", then the fields of the recipe, the junction in words.
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
        fields_of = {field.name: _cell(recipe.get(field.name)) for field in fields(Recipe)}
        for k, accuracy in enumerate(zip(validation, test, strict=True) if validation else [(None, None)], start=1):
            measured = dict(zip(("validation_accuracy", "test_accuracy"), accuracy, strict=True))
            table.append({"run": name, "exit": k if validation else None, **of_run, **measured, **fields_of})
    return table


def _cell(value):
    """A field of a recipe in one cell."""
    if isinstance(value, dict):
        try:
            return junction_label(value)
        except ValueError:  # a junction that is not known here
            return str(value)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def to_frame(records: Mapping[str, dict]):
    """`rows` as a pandas DataFrame. Raises ModuleNotFoundError, saying what to install, where there is no pandas."""
    return frame(rows(records))


def frame(table: Sequence[dict]):
    """A list of rows as a pandas DataFrame; pandas is no dependency of this package, so it may have to be installed."""
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a data frame needs pandas, which is not installed: `pip install pandas`; or write a CSV file (--csv FILE)"
        ) from error
    return pandas.DataFrame(table)


def write_csv(table: Sequence[dict], path: str | os.PathLike) -> None:
    """A list of rows as a CSV file (see tables.py). Raises OSError where it cannot be written."""
    head = list(table[0]) if table else []
    tables.write_csv(path, head, [[row[column] for column in head] for row in table])
