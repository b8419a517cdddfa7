"""Which method wins on an equal recipe: a grid of arms and seeds, trained by one process or by many at once.

An arm is what is compared (see arms.py): "joint", "surgery-own-0.5", "joint+pcgrad", ``surgery-own-0.67@vgg7-24``. The
last one has a backbone of its own, of the same family so that the rest of the recipe fits. The process that trains a
run of the grid holds a lock on it, so any number of processes on one machine can work on one study; several machines
share one by Ray (cluster.py). Finished runs are skipped, stopped ones are resumed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from dfs_edu.backbones import build, parse, pixels_of
from dfs_edu.methods import make
from dfs_edu.training import ceilings, plugins, results
from dfs_edu.training.arms import arm
from dfs_edu.training.comparison import (  # noqa: F401  the other half of a study: what its records say
    answering,
    by_arm,
    corrected,
    differences,
    intervals,
    keep,
    percent,
    recorded,
    rows,
    table,
    time,
    to_frame,
    verdicts,
)
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.trainer import fill_content, load_data, train

ARMS = ("joint", "detached", "equilibrium", "surgery-own-0.5", "surgery-all-0.5", "joint+pcgrad", "joint+upgrad")


def grid(recipe: Recipe, arms: Sequence[str], seeds: Sequence[int]) -> list[Recipe]:
    """Return one recipe per run, seed by seed, so that all arms have their first run before any has its second.

    Args:
        recipe: What the arms change.
        arms: In words; "alone" stands for one arm per exit, the network trained for it alone (see ceilings.py).
        seeds: One run of each arm for each.

    Raises:
        ValueError: An arm cannot be read, or does not fit the recipe; the message names it.
    """
    if ceilings.ALONE in arms:
        arms = ceilings.expand(arms, _exits(recipe.backbone))
    chosen = dict.fromkeys(replace(recipe, **arm(text)) for text in arms)
    for one in chosen:
        _check(one, recipe)
    return [replace(one, seed=seed) for seed in seeds for one in chosen]


def _check(one: Recipe, recipe: Recipe) -> None:
    """Raise ValueError, before anything is trained, if an arm's backbone or method does not fit."""
    (family, _), (wanted, _) = parse(one.backbone), parse(recipe.backbone)
    if family != wanted:
        raise ValueError(f"backbone {one.backbone!r}: its family has a recipe of its own, unlike {recipe.backbone}'s")
    make(one.method, _exits(one.backbone), one.weights, one.step_length, one.epochs)


def _exits(backbone: str) -> int:
    with torch.device("meta"):
        return len(build(backbone, 2).heads)


def of_data(cells: Sequence[Recipe], root: str | os.PathLike | None = None) -> list[Recipe]:
    """Fill in the `content` of recipes for a folder of images, by which their runs are named.

    Args:
        cells: Recipes of a grid.
        root: Where the images are (see `data.load`).
    """
    known: dict[tuple, str | None] = {}
    filled = []
    for recipe in cells:
        if recipe.dataset == "folder" and recipe.content is None:
            read = (recipe.pixels or pixels_of(recipe.backbone), recipe.train_images, recipe.held_out_images)
            if read not in known:
                known[read] = fill_content(recipe, load_data(recipe, root)).content
            recipe = replace(recipe, content=known[read])
        filled.append(recipe)
    return filled


def work(cells: Sequence[Recipe], out: str | Path, **options: Any) -> None:
    """Train every run of a grid that is neither finished nor being trained by another process.

    A run that diverges, so that a loss, a weight or an output is not finite, is a result, too: its record says
    "failed", with the reason, it is not tried again, and the other runs go on.

    Args:
        cells: Recipes of a grid.
        out: Folder of the runs.
        **options: Those of `train`; `start` is used for the recipes that have one.

    Raises:
        Exception: Whatever else goes wrong in a run.
    """
    for recipe in of_data(cells, options.get("root")):
        if is_over(recipe, out):
            continue
        with claimed(recipe, out) as claim:
            if claim:
                train_cell(recipe, out, **options)


def train_cell(recipe: Recipe, out: str | Path, **options: Any) -> None:
    """Train one run of a grid, from its last checkpoint if there is one, unless it is over; see `work`."""
    if is_over(recipe, out):
        return
    try:
        own: dict[str, Any] = options if recipe.start else options | {"start": None}
        train(recipe, out, resume=True, **own)
    except FloatingPointError as error:
        record = record_of(recipe, out) or {"recipe": recipe.to_dict(), "epochs": []}
        results.write(Path(out) / recipe.name / results.RECORD, record | {"failed": str(error)})


def record_of(recipe: Recipe, out: str | Path) -> dict | None:
    """Return the record of a run, None if it has not started.

    Raises:
        ValueError: The folder holds a run of another recipe.
    """
    folder = Path(out) / recipe.name
    if not (folder / results.RECORD).exists():
        return None
    record = results.read(folder)
    if changed := results.changed(Recipe.from_dict(record["recipe"]).to_dict(), recipe.to_dict()):
        raise ValueError(f"{folder} is of another recipe: choose another --out ({'; '.join(changed)})")
    return record


def is_over(recipe: Recipe, out: str | Path) -> bool:
    """Tell whether a run has finished or failed."""
    record = record_of(recipe, out) or {}
    return "final" in record or "failed" in record


@contextmanager
def claimed(recipe: Recipe, out: str | Path) -> Generator[bool, None, None]:
    """Claim a run among the processes of this machine, and yield whether it is ours.

    The claim ends with the process, however that ends.
    """
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


def collect(cells: Sequence[Recipe], out: str | Path, root: str | os.PathLike | None = None) -> list[dict]:
    """Return the record of each run; of one that has not started, only its recipe.

    Args:
        cells: Recipes of a grid.
        out: Folder of the runs.
        root: Where a folder of images is, as for `work`.
    """
    cells = of_data(cells, root)
    return [record_of(recipe, out) or {"recipe": recipe.to_dict(), "epochs": []} for recipe in cells]


def work_together(cells: Sequence[Recipe], out: str | Path, processes: int, device: str, **options: Any) -> None:
    """Let several processes work on a grid; they share the processor's cores, or its GPUs.

    Args:
        cells: Recipes of a grid.
        out: Folder of the runs.
        processes: How many; one is this process.
        device: See `train`.
        **options: Other options of `train`.

    Raises:
        ChildProcessError: A process was killed.
    """
    if processes == 1:
        return work(cells, out, device=device, **options)
    threads = max(1, torch.get_num_threads() // processes)
    options |= {"progress": False}  # the bars of several processes would run into each other
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, _begin, (threads, plugins.loaded())) as pool:
        devices = [device_of(i, device) for i in range(processes)]
        workers = [pool.submit(work, cells, out, device=device, **options) for device in devices]
    try:
        for worker in workers:
            worker.result()  # raises what went wrong in it
    except BrokenProcessPool as error:  # the others were stopped, too
        raise ChildProcessError("a process of the study was killed; started again, the study goes on") from error


def _begin(threads: int, modules: Sequence[str]) -> None:
    """Prepare a worker process, which knows nothing of what its parent has imported."""
    torch.set_num_threads(threads)
    plugins.load(modules)


def device_of(process: int, device: str) -> str:
    """Return where a process trains: processes take turns on the GPUs, unless one is named."""
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return f"cuda:{process % gpus}" if gpus else device
