"""`dfs-edu runs`, `keep` and `download`: folders of runs and data. Imports what a command needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from dfs_edu.commands.kinds import File, Flag, Folder
from dfs_edu.files import check_writable
from dfs_edu.tables import lines, printable


def runs(
    name: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME")] = ("*",),
    out: Folder = "runs",
    compare: Flag = False,
    best: Flag = False,
    csv: File = None,
) -> int:
    """List runs, name the best, compare some exit by exit.

    The exit status is 1 if none can be read.

    Args:
        name: Names, or patterns of names with asterisks (default: all).
        out: Folder that holds the runs.
        compare: Show the accuracy of every exit, and where recipes differ.
        best: Show only the run with the best mean validation accuracy of all exits.
        csv: Write all of them into this file, one row per run and exit.
    """
    from dfs_edu.training import results

    if csv:
        check_writable(Path(csv).parent)
    records, faults = {}, {}
    for pattern in name:
        found, broken = results.survey(out, pattern)
        records, faults = records | found, faults | broken
    if not records and not faults:
        raise ValueError(f"no run in {out} is called {' or '.join(name)}")
    if records:
        print(_listing(_best(records) if best else records))
        if compare:
            print("\n" + _comparison(records))
    if csv:
        results.write_csv(results.rows(records), csv)
    for run, fault in faults.items():
        print(printable(f"cannot be read: {run}: {fault}"))
    return 0 if records else 1


def _best(records: dict[str, dict]) -> dict[str, dict]:
    """Return the run whose exits are best on validation."""
    from dfs_edu.training import results

    accuracy = {name: results.last_validation(record) for name, record in records.items() if "failed" not in record}
    means = {name: _mean(exits) for name, exits in accuracy.items() if exits}
    if not means:
        raise ValueError("no run has a validation accuracy yet: none has ended an epoch, or all have failed")
    name = max(means, key=lambda name: means[name])
    return {name: records[name]}


def _listing(records: dict[str, dict]) -> str:
    """Return a table with one row per run."""
    from dfs_edu.training import results

    rows = []
    for name, record in records.items():
        epochs, last = record["epochs"], results.last_validation(record)
        speed = epochs[-1].get("pictures_per_second") if epochs else None
        planned = record["recipe"].get("epochs", 1)
        state = "" if "final" in record else " failed" if "failed" in record else " unfinished"
        seconds = sum(row["seconds"] for row in epochs)
        cells = [f"{100 * _mean(last):.2f}", f"{100 * last[-1]:.2f}"] if last else ["", ""]
        done = f"{len(epochs)}/{planned}{state}"
        rows.append([name, done, *cells, f"{seconds:.0f}", f"{speed:.0f}" if speed else ""])
    return lines(["run", "epochs", "mean %", "last %", "seconds", "images/s"], rows)


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def _comparison(records: dict[str, dict]) -> str:
    """Return validation and test accuracy of each exit, then the fields of the recipes that differ."""
    from dfs_edu.training import results

    parts = []
    for split in ("validation", "test"):
        accuracy = {name: record.get("final", {}).get(f"{split}_accuracy") for name, record in records.items()}
        if split == "validation":
            accuracy = {name: exits or results.last_validation(records[name]) for name, exits in accuracy.items()}
        accuracy = {name: exits for name, exits in accuracy.items() if exits}
        K = max(map(len, accuracy.values()), default=0)
        rows = [
            [name, *(f"{100 * a:.2f}" for a in exits), *[""] * (K - len(exits))] for name, exits in accuracy.items()
        ]
        if rows:
            parts.append(lines([f"{split} %, exit", *map(str, range(1, K + 1))], rows))
    recipes = [{**record["recipe"], "junction": _words(record["recipe"]["junction"])} for record in records.values()]
    differ = [field for field in recipes[0] if any(recipe.get(field) != recipes[0][field] for recipe in recipes)]
    differ = sorted(set(differ) - {"name"}, key=lambda field: (field == "junction", differ.index(field)))
    if differ:
        rows = [[field, *(str(recipe.get(field)) for recipe in recipes)] for field in differ]
        parts.append(lines(["recipe", *map(str, range(1, len(recipes) + 1))], rows))
    return "\n\n".join(parts)


def _words(junction: dict | str) -> str:
    from dfs_edu.training import arms

    try:
        return arms.junction_label(junction)
    except ValueError:  # of a plugin that is not loaded
        return str(junction)


def keep(run: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")], weights: Flag = False) -> None:
    """Copy the parts of finished runs that are worth committing to data/recorded.

    Args:
        run: Folders of finished runs.
        weights: The weights too, as float16.
    """
    from dfs_edu.training import runs

    if not run:
        raise ValueError("keep: name the folders of finished runs, such as runs/digits-vgg7-16-lesson-joint-seed0")
    for folder in run:
        print(runs.keep(folder, weights=weights))


def download(dataset: Positional[Literal["cifar100"]], data: Folder = "data") -> None:
    """Download CIFAR-100 from its home page.

    Args:
        dataset: Which data set.
        data: Where to put it.
    """
    from dfs_edu.data import cifar100

    cifar100.download(Path(data))
