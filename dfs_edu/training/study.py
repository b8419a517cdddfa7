"""Who wins on an equal recipe: a grid of arms and seeds, trained one after the other or by many at once.

An **arm** is what is compared: a junction (arms.py), and what is added to it: a method, "distillation", "uncut-2"
(2 epochs before the cut), "frozen-2" (2 epochs of the heads alone), "scratch" (without the weights that the others
start from), "weighted-1-1-2" (losses), or, behind an @, a backbone of its own: "joint",
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

from dfs_edu.backbones import build, parse, pixels_of
from dfs_edu.files import check_writable
from dfs_edu.intervals import LEAST, interval, p_values
from dfs_edu.methods import make, names
from dfs_edu.tables import printable
from dfs_edu.training import plugins, recipes, results
from dfs_edu.training.arms import junction_from
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.start import find
from dfs_edu.training.trainer import load_data, of_images, train

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
    if text in names():
        return {"method": text}
    if text == "distillation":
        return {"loss": text}
    if word == "uncut" and len(numbers) == 1 and numbers[0].isdecimal():
        return {"uncut": int(numbers[0])}
    if text == "initial-torch":
        return {"initial": "torch"}
    if text == "scratch":
        return {"start": None}
    if word == "frozen" and len(numbers) == 1 and numbers[0].isdecimal():
        return {"frozen": int(numbers[0])}
    if word == "weighted" and numbers:
        return {"weights": tuple(map(float, numbers))}
    raise ValueError(
        f"{text!r}: add one of {', '.join(names())}, distillation, initial-torch, scratch, frozen-EPOCHS, "
        "uncut-EPOCHS, weighted-W1-W2-..."
    )


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


def of_data(cells: Sequence[Recipe], root=None) -> list[Recipe]:
    """The cells, those for a folder of images with the content of the images that are there, by which runs are named.

    root   where these lie (see `data.load`)
    """
    known: dict[tuple, str] = {}
    found = []
    for recipe in cells:
        if recipe.dataset == "folder" and recipe.content is None:
            read = (recipe.pixels or pixels_of(recipe.backbone), recipe.train_images, recipe.held_out_images)
            if read not in known:
                known[read] = of_images(recipe, load_data(recipe, root)).content
            recipe = replace(recipe, content=known[read])
        found.append(recipe)
    return found


def work(cells: Sequence[Recipe], out: str | Path, **options) -> None:
    """Train whatever nobody else has done or is at.

    `options` are those of `train`; `start` is for the cells whose recipe has one.

    A run that diverges, so that a loss, a weight or an answer is not finite, ends and no other with it: that is a
    result, too, and its record says "failed", with the reason. It is not tried again. Every other error is raised.
    """
    for recipe in of_data(cells, options.get("root")):
        if is_over(recipe, out):
            continue
        with claimed(recipe, out) as mine:
            if not mine or is_over(recipe, out):
                continue
            try:
                train(recipe, out, resume=True, **options | ({} if recipe.start else {"start": None}))
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


def collect(cells: Sequence[Recipe], out: str | Path, root=None) -> list[dict]:
    """The record of each cell; of one that has not begun its recipe alone.

    root   where a folder of images lies, as for `work`
    """
    cells = of_data(cells, root)
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
    return {arm: interval(gaps / 100) for arm, gaps in differences(records, split).items()}


def table(records: Sequence[dict], split: str = "test") -> str:
    """Of each arm: n, accuracy of each exit with its 95 % t-interval, the difference to the first arm, and its cost.

    Differences are taken seed by seed; which of them remain after a correction for their number is said below (see
    `verdicts`). Below three seeds there is no interval. Cost is `time`. A run that failed stands last, with the reason.
    """
    arms = by_arm(records)
    failed = [f"failed: {record['recipe']['name']}: {record['failed']}" for record in records if "failed" in record]
    failed = [printable(line) for line in failed]  # the reason may be of several lines
    if not any(arms.values()):
        return "\n".join(["no run has finished yet", *failed])
    first = next(iter(arms))
    exits = max(len(percent(record, split)) for runs in arms.values() for record in runs.values()) - 1
    rows = [(f"{split}, %", "n", [*(f"exit {k + 1}" for k in range(exits)), "mean"], "time")]
    for name, runs in arms.items():
        cost = time(records, name)
        cells = _cells([percent(record, split) for record in runs.values()], exits)
        rows.append((name, len(runs), cells, "" if cost is None else f"{cost:.2f}"))
    gaps = [(name, len(of), _cells(of, exits, "+"), "") for name, of in differences(records, split).items()]
    width = max(len(name) for name, *_ in rows)
    lines = [_row(width, *row) for row in rows]
    lines += ["", f"minus {first}, or minus the first of the same backbone:", *(_row(width, *row) for row in gaps)]
    return "\n".join([*lines, *_verdict_lines(records, split, any(gaps)), *failed])


def time(records: Sequence[dict], arm: str) -> float | None:
    """What an arm costs: the time of its training as a part of the first arm's, each the median over its seeds.

    Validation, writing and probes are not in it; a machine that did other things besides shows in it. None where one
    of the two has no finished run, or the first took less than is recorded.
    """
    arms = by_arm(records)
    base = next(iter(arms.values()))
    if not base or not arms[arm] or not _seconds(base):
        return None
    return _seconds(arms[arm]) / _seconds(base)


def corrected(records: Sequence[dict], split: str = "test") -> dict[str, np.ndarray]:
    """Arm -> p-value of its difference at each exit (K,), corrected for the number of all these comparisons.

    Of arms that share three seeds or more with the one that they are compared with. The false discovery rate is
    controlled as by Benjamini and Yekutieli (Annals of Statistics, 2001), which also holds where differences depend on
    each other, as those of neighbouring exits do: of all that is below 0.05, at most 5 % is expected to be false.
    """
    from scipy.stats import false_discovery_control  # slow to import, needed here alone

    gaps = {arm: of[:, :-1] for arm, of in differences(records, split).items() if len(of) >= LEAST}
    if not gaps:
        return {}
    p = [p_values(of) for of in gaps.values()]
    together = false_discovery_control(np.concatenate(p), method="by")
    return dict(zip(gaps, np.split(together, np.cumsum([len(of) for of in p])[:-1]), strict=True))


def verdicts(records: Sequence[dict], split: str = "test") -> dict[str, np.ndarray]:
    """Arm -> which differences (K,) remain after the correction: +1 better, -1 worse, 0 not shown; see `corrected`."""
    gaps = differences(records, split)
    return {arm: np.sign(gaps[arm][:, :-1].mean(0)) * (p < 0.05) for arm, p in corrected(records, split).items()}


def _verdict_lines(records: Sequence[dict], split: str, compared: bool) -> list[str]:
    if not compared:
        return []
    found = verdicts(records, split)
    if not found:
        return ["", f"below {LEAST} seeds: no intervals, and nothing is shown"]

    def listed(sign: int) -> str:
        exits = {arm: [str(k) for k, v in enumerate(of, 1) if v == sign] for arm, of in found.items()}
        return "; ".join(f"{arm} (exit {', '.join(ks)})" for arm, ks in exits.items() if ks) or "none"

    count = sum(of.size for of in found.values())
    head = f"shown after correction for {count} comparisons (false discovery rate 5 %):"
    return ["", head, f"better: {listed(1)}", f"worse: {listed(-1)}"]


def rows(records: Sequence[dict], split: str = "test") -> list[dict]:
    """What `table` shows, for pandas or a CSV: one row for each arm and exit, and one for the mean of its exits.

    Columns: "split", "arm", "exit" (1 the first; "mean"), "n" seeds, "accuracy" in percent and half the width of its
    interval, "pairs" of seeds, "difference" in points and half the width of its interval, "p_corrected" (see
    `corrected`; none of the mean), "time" (see `time`). None where there is none.
    """
    gaps, p, table = differences(records, split), corrected(records, split), []
    for arm, runs in by_arm(records).items():
        if not runs:
            continue
        mean, half = interval([percent(record, split) for record in runs.values()])
        gap, gap_half = interval(gaps[arm]) if arm in gaps else ([None] * len(mean),) * 2
        cost = time(records, arm)
        for k in range(len(mean)):
            last = k == len(mean) - 1
            values = {"accuracy": mean[k], "accuracy_half_width": half[k], "pairs": len(gaps.get(arm, ())) or None}
            values |= {"difference": gap[k], "difference_half_width": gap_half[k]}
            values |= {"p_corrected": None if last or arm not in p else p[arm][k], "time": cost}
            table.append({"split": split, "arm": arm, "exit": "mean" if last else k + 1, "n": len(runs)})
            table[-1] |= {name: _plain(value) for name, value in values.items()}
    return table


def _plain(value):
    """A number of Python, None for one that is not there."""
    return None if value is None or np.isnan(value) else value.item() if isinstance(value, np.generic) else value


def to_frame(records: Sequence[dict], split: str = "test"):
    """`rows` as a pandas DataFrame. Raises ModuleNotFoundError, saying what to install, where there is no pandas."""
    return results.frame(rows(records, split))


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
    mean, half = interval(values) if len(values) else ((), ())
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
    for field, kind in recipes.NUMBERS.items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind, help="instead of the recipe's")
    parser.add_argument("--start", metavar="RUN", help="weights to start from: a run's folder, or a safetensors file")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--processes", type=int, default=1, help="so many at once on this machine (default 1)")
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder of the runs (default runs)")
    parser.add_argument("--data", metavar="DIR", help="where data sets lie (default: $DFS_EDU_DATA, then data/)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--report", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--keep", metavar="FILE", help="write recipes, environment and results of all runs there")
    parser.add_argument("--csv", metavar="FILE", help="write the table there: a row for each arm and exit")


def main(args: argparse.Namespace) -> int:
    """`dfs-edu study`: train what is missing, then print the table; the exit status is 1 where a run failed."""
    changes = {"precision": args.precision} | ({"compile": True} if args.compile else {})
    given = {field: getattr(args, field) for field in recipes.NUMBERS}
    changes |= {field: value for field, value in given.items() if value is not None}
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("a study is not started by torchrun, whose processes train one network: use --processes")
    if args.seeds < 1 or args.processes < 1:
        raise ValueError(f"--seeds {args.seeds}, --processes {args.processes}: whole numbers above zero")
    if args.start:
        changes["start"], args.start = find(args.start)
    cells = grid(recipes.get(args.recipe, scale=args.scale, **changes), args.arms, range(args.seeds))
    _check_start(cells, args)
    cells = of_data(cells, args.data)
    for file in filter(None, (args.keep, args.csv)):  # known before hours of training
        check_writable(Path(file).parent)
    if not args.report:
        check_writable(args.out)
        _train(args, cells)
    records = collect(cells, args.out)
    if args.keep:
        keep(records, args.keep)
    if args.csv:
        results.write_csv(rows(records), args.csv)
    print(table(records))
    print(f"\n{sum('final' in record for record in records)} of {len(records)} runs are finished")
    return 1 if any("failed" in record for record in records) else 0


def _check_start(cells: Sequence[Recipe], args: argparse.Namespace) -> None:
    """Raise ValueError, before anything is trained, for weights that do not fit every arm that starts from them."""
    if not args.start and any("+scratch" in text for text in args.arms) and not cells[0].start:
        raise ValueError("an arm starts from scratch, and the others, too: name weights to start from (--start)")
    for name in dict.fromkeys(recipe.backbone for recipe in cells if recipe.start) if args.start else ():
        with torch.device("meta"):
            network = build(name, 2)
        args.start.check(network)


def _train(args: argparse.Namespace, cells: Sequence[Recipe]) -> None:
    """This process or, where several are asked for, as many; they share the processor's cores, or its GPUs."""
    if args.processes == 1:
        return work(cells, args.out, root=args.data, device=args.device, start=args.start)
    threads = max(1, torch.get_num_threads() // args.processes)
    # Without progress: the bars of several processes would run into each other
    options = {"root": args.data, "start": args.start, "progress": False}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, spawn, _begin, (threads, args.plugin)) as pool:
        devices = [device_of(i, args.device) for i in range(args.processes)]
        started = [pool.submit(work, cells, args.out, device=device, **options) for device in devices]
    try:
        for process in started:
            process.result()  # raises what went wrong in it
    except BrokenProcessPool as error:  # the others were stopped, too
        raise ChildProcessError("a process of the study was killed; started again, the study goes on") from error


def _begin(threads: int, modules: Sequence[str]) -> None:
    """What a worker process does first: it knows nothing of what its parent has imported."""
    torch.set_num_threads(threads)
    plugins.load(modules)


def device_of(process: int, device: str) -> str:
    """Where several processes train: on the GPUs in turn, unless one is named."""
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return f"cuda:{process % gpus}" if gpus else device
