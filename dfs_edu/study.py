"""Who wins on an equal recipe: a grid of arms and seeds, trained one after the other or by many at once.

An **arm** is what is compared: a junction (spelling.py), and what is added to it: a method, "distillation", "uncut-2"
(2 epochs before the cut), "weighted-1-1-2" (losses), or, behind an @, a backbone of its own: "joint",
"surgery-own-0.5", "joint+pcgrad", "surgery-all-0.5+distillation", "surgery-own-0.67@vgg7-24" (of the same family, so
that everything else of the recipe fits).

Whoever trains a cell of the grid holds a lock on it, so any number of processes, on machines that share the folder, can
work on one study; a cell that is done is skipped, one that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from dfs_edu import recipes, results
from dfs_edu.backbones import build, parse
from dfs_edu.methods import METHODS, make
from dfs_edu.recipes import Recipe
from dfs_edu.spelling import junction_from
from dfs_edu.table import printable
from dfs_edu.train import train

ARMS = ("joint", "detached", "equilibrium", "surgery-own-0.5", "surgery-all-0.5", "joint+pcgrad", "joint+upgrad")


def arm(text: str) -> dict:
    """What an arm changes in the recipe. Raises ValueError, naming it, for one that is none.

    >>> arm("joint+pcgrad@vgg7-24")
    {'junction': Joint(), 'backbone': 'vgg7-24', 'method': 'pcgrad'}
    """
    text, at, backbone = text.partition("@")
    junction, *added = text.split("+")
    try:
        changes = {"junction": junction_from(junction)} | ({"backbone": backbone} if at else {})
        for addition in added:
            changes |= _added(addition)
        return changes
    except ValueError as error:
        raise ValueError(f"arm {text!r}: {error}; write it as in {', '.join(ARMS)}") from error


def _added(text: str) -> dict:
    word, *numbers = text.split("-")
    if text in METHODS:
        return {"method": text}
    if text == "distillation":
        return {"loss": text}
    if word == "uncut" and len(numbers) == 1 and numbers[0].isdecimal():
        return {"uncut": int(numbers[0])}
    if word == "weighted" and numbers:
        return {"weights": tuple(map(float, numbers))}
    raise ValueError(f"{text!r}: add one of {', '.join(METHODS)}, distillation, uncut-EPOCHS, weighted-W1-W2-...")


def grid(recipe: Recipe, arms: Sequence[str], seeds: Sequence[int]) -> list[Recipe]:
    """The cells, seed by seed, so that all arms have their first run before any has its second."""
    chosen = dict.fromkeys(replace(recipe, **arm(text)) for text in arms)
    for one in chosen:
        _check(one, recipe)
    return [replace(one, seed=seed) for seed in seeds for one in chosen]


def _check(one: Recipe, recipe: Recipe) -> None:
    """Early, before anything is trained. Raises ValueError, naming the value."""
    (family, _), (wanted, _) = parse(one.backbone), parse(recipe.backbone)
    if family != wanted:
        raise ValueError(f"backbone {one.backbone!r}: its family has a recipe of its own, unlike {recipe.backbone}'s")
    with torch.device("meta"):
        exits = len(build(one.backbone, 2).heads)
    make(one.method, exits, one.weights, one.step_length)


def work(cells: Sequence[Recipe], out: str | Path, **options) -> None:
    """Train whatever nobody else has done or is at; `options` are those of `train`.

    A loss that is not finite ends its run and no other: it is a result, too, and its record says "failed".
    """
    for recipe in cells:
        if is_over(recipe, out):
            continue
        with claimed(recipe, out) as mine:
            if not mine or is_over(recipe, out):
                continue
            try:
                train(recipe, out, resume=True, **options)
            except FloatingPointError as error:
                begun = record_of(recipe, out) or {"recipe": recipe.to_dict(), "epochs": []}
                results.write(Path(out) / recipe.name / "record.json", begun | {"failed": str(error)})


def record_of(recipe: Recipe, out: str | Path) -> dict | None:
    """The record of a cell, None where it has not begun. Raises ValueError where another recipe has its folder."""
    folder = Path(out) / recipe.name
    if not (folder / "record.json").exists():
        return None
    record = results.read(folder)
    if changed := results.changed(Recipe.from_dict(record["recipe"]).to_dict(), recipe.to_dict()):
        raise ValueError(f"{folder} is of another recipe: choose another --out ({'; '.join(changed)})")
    return record


def is_over(recipe: Recipe, out: str | Path) -> bool:
    """Whether the run has come to its end, or has failed."""
    record = record_of(recipe, out) or {}
    return "final" in record or "failed" in record


@contextmanager
def claimed(recipe: Recipe, out: str | Path) -> Iterator[bool]:
    """Whether the cell is ours; the lock goes with the process that holds it, however that ends."""
    locks = Path(out) / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / recipe.name, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def collect(cells: Sequence[Recipe], out: str | Path) -> list[dict]:
    """The record of each cell; of one that has not begun its recipe alone."""
    return [record_of(recipe, out) or {"recipe": recipe.to_dict(), "epochs": []} for recipe in cells]


def by_arm(records: Sequence[dict]) -> dict[str, dict[int, dict]]:
    """Arm in words -> seed -> record of a finished run; arms in the order in which they come, finished or not."""
    arms: dict[str, dict[int, dict]] = {}
    for record in records:
        recipe = record["recipe"]
        other = "" if recipe["backbone"] == records[0]["recipe"]["backbone"] else f" of {recipe['backbone']}"
        runs = arms.setdefault(results.arm(recipe) + other, {})
        if "final" in record:
            runs[recipe["seed"]] = record
    return arms


def percent(record: dict, split: str = "test") -> np.ndarray:
    """Accuracy of each exit in percent, and their mean, (K + 1,)."""
    accuracy = 100 * np.array(record["final"][f"{split}_accuracy"])
    return np.append(accuracy, accuracy.mean())


def differences(records: Sequence[dict], split: str = "test") -> dict[str, np.ndarray]:
    """Arm -> its accuracy minus that of the first arm with the same backbone, in points, (n, K + 1), for the n seeds
    that both have; n above 0. The first arm with another backbone is compared with the first of all.
    """
    arms, found = by_arm(records), {}
    for name, runs in arms.items():
        base = arms[_base(name, arms)]
        gaps = [(percent(runs[s], split), percent(base[s], split)) for s in sorted(set(runs) & set(base))]
        if runs is not base and gaps and len(gaps[0][0]) == len(gaps[0][1]):  # another backbone may have other exits
            found[name] = np.stack([mine - theirs for mine, theirs in gaps])
    return found


def _base(name: str, arms: Sequence[str]) -> str:
    """The arm that another one is compared with."""
    backbone = name.partition(" of ")[2]
    same = next(other for other in arms if other.partition(" of ")[2] == backbone)
    return same if same != name else next(iter(arms))


def intervals(records: Sequence[dict], split: str = "test") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of the differences, as fractions: arm -> (mean (K + 1,), half the width of its 95 % t-interval (K + 1,))."""
    return {arm: results.interval(gaps / 100) for arm, gaps in differences(records, split).items()}


def table(records: Sequence[dict], split: str = "test") -> str:
    """Of each arm: n, accuracy of each exit with its 95 % t-interval, the difference to the first arm, and its cost.

    Differences are taken seed by seed. Cost is the time of training, the median over seeds, as a part of the first
    arm's; a machine that did other things besides shows in it. A run that failed stands below, with the reason.
    """
    arms = by_arm(records)
    if not any(arms.values()):
        return "no run has finished yet"
    first, base = next(iter(arms.items()))
    exits = max(len(percent(record, split)) for runs in arms.values() for record in runs.values()) - 1
    rows = [(f"{split}, %", "n", [*(f"exit {k + 1}" for k in range(exits)), "mean"], "time")]
    for name, runs in arms.items():
        time = f"{_seconds(runs) / _seconds(base):.2f}" if base and runs else ""
        rows.append((name, len(runs), _cells([percent(record, split) for record in runs.values()], exits), time))
    gaps = [(name, len(of), _cells(of, exits, "+"), "") for name, of in differences(records, split).items()]
    width = max(len(name) for name, *_ in rows)
    lines = [_row(width, *row) for row in rows]
    lines += ["", f"minus {first}, or minus the first of the same backbone:", *(_row(width, *row) for row in gaps)]
    failed = [f"failed: {record['recipe']['name']}: {record['failed']}" for record in records if "failed" in record]
    return "\n".join([*lines, *map(printable, failed)])  # the reason may be of several lines


def keep(records: Sequence[dict], path: str | Path) -> None:
    """Write what is worth committing of a study into one file: of each run its recipe, environment, data and end."""
    parts = ("recipe", "environment", "resumed", "data", "final", "failed")
    kept = [{part: record[part] for part in parts if part in record} for record in records]
    for record in kept:
        if "data" in record:  # the checksum tells data apart; the names of all classes are in each run's own record
            record["data"] = {part: record["data"][part] for part in ("name", "checksum")}
    results.write(path, {"runs": [record for record in kept if "final" in record or "failed" in record]})


def recorded(name: str) -> list[dict]:
    """The records of a study that is kept in data/recorded/studies.

    Raises FileNotFoundError where there is no such study: with those that there are, or where to get them.
    """
    file = results.RECORDED / "studies" / f"{name}.json"
    if file.exists():
        return results.load(file)["runs"]
    if known := sorted(path.stem for path in file.parent.glob("*.json")):
        raise FileNotFoundError(f"no study {name!r} is recorded in {file.parent}; there are {', '.join(known)}")
    raise results.missing(file)


def _seconds(runs: dict[int, dict]) -> float:
    return float(np.median([record["final"]["seconds"] for record in runs.values()]))


def _cells(values: Sequence[np.ndarray], exits: int, sign: str = "") -> list[str]:
    """The mean of each column with its interval, that of all exits last; none for no rows."""
    mean, half = results.interval(values) if len(values) else ((), ())
    cells = [f"{m:{sign}.1f}" + ("" if np.isnan(h) else f" ±{h:4.1f}") for m, h in zip(mean, half, strict=True)]
    return cells[:-1] + [""] * (exits + 1 - len(cells)) + cells[-1:]


def _row(width: int, name: str, n: int | str, cells: Sequence[str], time: str) -> str:
    """Of a table; with six exits it is as wide as a notebook."""
    return (f"{name:{width}}{n:>3}" + "".join(f"{cell:>12}" for cell in cells) + f"{time:>6}").rstrip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dfs-edu study`."""
    parser.add_argument("recipe", help="data set and backbone: digits/vgg7-16, cifar100/vgg7-64 ...")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help=f"what is compared (default {' '.join(ARMS)})")
    parser.add_argument("--seeds", type=int, default=3, help="so many, from 0 (default 3)")
    parser.add_argument("--scale", choices=recipes.SCALES, default="lesson")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--processes", type=int, default=1, help="so many at once on this machine (default 1)")
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder of the runs (default runs)")
    parser.add_argument("--data", metavar="DIR", help="where data sets lie (default: $DFS_EDU_DATA, then data/)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--report", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--keep", metavar="FILE", help="write recipes, environment and results of all runs there")


def main(args: argparse.Namespace) -> int:
    """`dfs-edu study`: train what is missing, then print the table; the exit status is 1 where a run failed."""
    changes = {"precision": args.precision} | ({"compile": True} if args.compile else {})
    changes |= {} if args.epochs is None else {"epochs": args.epochs}
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("a study is not started by torchrun, whose processes train one network: use --processes")
    if args.seeds < 1 or args.processes < 1:
        raise ValueError(f"--seeds {args.seeds}, --processes {args.processes}: whole numbers above zero")
    cells = grid(recipes.get(args.recipe, scale=args.scale, **changes), args.arms, range(args.seeds))
    if not args.report:
        _train(args, cells)
    records = collect(cells, args.out)
    if args.keep:
        keep(records, args.keep)
    print(table(records))
    print(f"\n{sum('final' in record for record in records)} of {len(records)} runs are finished")
    return 1 if any("failed" in record for record in records) else 0


def _train(args: argparse.Namespace, cells: Sequence[Recipe]) -> None:
    """This process or, where several are asked for, as many; they share the processor's cores, or its GPUs."""
    if args.processes == 1:
        return work(cells, args.out, root=args.data, device=args.device)
    threads = (max(1, torch.get_num_threads() // args.processes),)
    options = {"root": args.data, "progress": False}  # the bars of several would run into each other
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, spawn, torch.set_num_threads, threads) as pool:
        devices = [device_of(i, args.device) for i in range(args.processes)]
        started = [pool.submit(work, cells, args.out, device=device, **options) for device in devices]
    try:
        for process in started:
            process.result()  # raises what went wrong in it
    except BrokenProcessPool as error:  # the others were stopped, too
        raise ChildProcessError("a process of the study was killed; started again, the study goes on") from error


def device_of(process: int, device: str) -> str:
    """Where several processes train: on the GPUs in turn, unless one is named."""
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return f"cuda:{process % gpus}" if gpus else device
