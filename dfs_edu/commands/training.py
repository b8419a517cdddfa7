"""`dfs-edu train` and `dfs-edu study`: what trains by a recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from tyro.conf import arg

from dfs_edu import distributed
from dfs_edu.backbones import build
from dfs_edu.commands.kinds import File, Flag
from dfs_edu.commands.options import Choice, chosen
from dfs_edu.files import check_writable
from dfs_edu.surgery import Junction, Surgery
from dfs_edu.tables import lines
from dfs_edu.training import ceilings, cluster, comparison, recipes, results
from dfs_edu.training import study as grids
from dfs_edu.training.arms import junction_from
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.start import Start, find
from dfs_edu.training.trainer import train as train_recipe


@dataclass(kw_only=True)
class Train(Choice):
    """Train a network and keep its record.

    Started by torchrun, several processes train one network together.

    Attributes:
        junction: The junction at every exit: joint, detached, equilibrium, surgery, surgery-all-0.25 ...
        beta: Of surgery: the fraction of the channels that deeper exits train (default 0.5).
        exit_gradient: Of surgery: which part an exit's own gradient reaches (default own).
        scales: Of surgery in MSDNet: cut its coarsest scale, or all of them (default last).
        no_reference: Of surgery: partition only, so that neither side sees the other part.
        resume: Continue a stopped or killed run from its last checkpoint.
        track: Steps between measurements of the gradient conflict, which go into the record.
        checkpoint_steps: Steps between checkpoints, besides the one after every epoch.
    """

    junction: str = "joint"
    beta: float | None = None
    exit_gradient: Literal["own", "all"] | None = None
    scales: Literal["last", "all"] | None = None
    no_reference: Flag = False
    resume: Flag = False
    track: int | None = None
    checkpoint_steps: int = 1000


def train(words: Sequence[str], prog: str) -> None:
    """Train one run of one recipe; on several processes if torchrun started them."""
    options, changes = chosen(Train, words, prog)
    digits, start = find(options.start) if options.start else (None, None)
    recipe = recipes.get(options.name, junction=_junction(options), scale=options.scale, start=digits, **changes)
    run = train_recipe(
        recipe,
        options.out,
        resume=options.resume,
        start=start,
        root=options.data,
        device=options.device,
        checkpoint_steps=options.checkpoint_steps,
        track=options.track,
    )
    distributed.leave()
    if os.environ.get("RANK", "0") != "0":
        return
    final = run.record["final"]
    print(f"{run.record['recipe']['name']}: {final['seconds']:.0f} s on {run.record['environment']['device']}")
    accuracies = zip(final["validation_accuracy"], final["test_accuracy"], strict=True)
    rows = [[str(k), *(f"{100 * accuracy:.2f}" for accuracy in row)] for k, row in enumerate(accuracies, start=1)]
    print(lines(["exit", "validation %", "test %"], rows))
    print(f"kept in {run.folder}")


def _junction(options: Train) -> Junction:
    """Return the junction of these options. Raises ValueError for options that it does not have."""
    junction = junction_from(options.junction)
    given = {name: getattr(options, name) for name in ("beta", "exit_gradient", "scales")}
    given["reference"] = False if options.no_reference else None
    given = {name: value for name, value in given.items() if value is not None}
    if given and not isinstance(junction, Surgery):
        names = ", ".join(given)
        raise ValueError(f"--junction {options.junction} has no {names}: that belongs to --junction surgery")
    return replace(junction, **given)


@dataclass(kw_only=True)
class Study(Choice):
    """Compare junctions and methods on an equal recipe, over seeds.

    Trains what is missing, then prints the table. Any number of processes of one machine may work on one study; several
    machines do by --on. The exit status is 1 if a run failed.

    Attributes:
        arms: The variants to compare: a junction and what is added to it, as in joint+pcgrad,
            surgery-own-0.5+distillation, joint+uncut-2; after an @, another backbone. "alone" stands for one arm per
            exit, the network trained for that exit alone; a second table then compares the others with it.
        seeds: How many seeds, from --seed onwards.
        processes: How many processes train at once on this machine.
        on: Train on a cluster, by Ray: ray (of $RAY_ADDRESS, or running on this machine), local (made of this machine
            alone), HOST:PORT, or ray://HOST:PORT from outside. All machines share --out and the data.
        cpus: With --on: cores of a run (default 1).
        gpus: With --on: GPUs of a run; 0.25 lets four share one (default 1 if there are any).
        report: Train nothing; show the runs that are finished.
        keep: Write recipe, environment and result of all runs into this file.
        csv: Write the table into this file, one row per arm and exit.
        answers: What the table is about, of every arm: the exits' own answers, or the mean or the product of the
            probabilities of the exits so far.
    """

    arms: tuple[str, ...] = grids.ARMS
    seeds: int = 3
    processes: int = 1
    on: Annotated[str | None, arg(metavar="CLUSTER")] = None
    cpus: int | None = None
    gpus: float | None = None
    report: Flag = False
    keep: File = None
    csv: File = None
    answers: Literal["own", "mean", "product"] = "own"


def study(words: Sequence[str], prog: str) -> int:
    """Train what is missing of a study, and print its table."""
    options, changes = chosen(Study, words, prog)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("a study is not started by torchrun, whose processes train one network: use --processes")
    if not options.arms:
        raise ValueError("--arms: name at least one, such as joint or surgery-own-0.5")
    if options.seeds < 1 or options.processes < 1:
        raise ValueError(f"--seeds {options.seeds}, --processes {options.processes}: whole numbers above zero")

    if options.on is None and (options.cpus, options.gpus) != (None, None):
        raise ValueError("--cpus and --gpus are what a run on a cluster gets: name one by --on")
    if options.on is not None and options.processes > 1:
        raise ValueError("--processes train on this machine, --on lets a cluster train: give one of them")

    # All that can be wrong is noticed before hours of training
    digits, start = find(options.start) if options.start else (None, None)
    recipe = recipes.get(options.name, scale=options.scale, start=digits, **changes)
    cells = grids.grid(recipe, options.arms, range(recipe.seed, recipe.seed + options.seeds))
    _check_start(cells, options.arms, start)
    cells = grids.of_data(cells, options.data)
    for file in filter(None, (options.keep, options.csv)):
        check_writable(Path(file).parent)

    if not options.report:
        check_writable(options.out)
        _work(cells, options, start)
    records = grids.collect(cells, options.out)
    if options.keep:
        comparison.keep(records, options.keep)
    shown = comparison.answering(records, options.answers)
    if options.csv:
        results.write_csv(comparison.rows(shown), options.csv)
    print(comparison.table(shown))
    if ceilings.ALONE in options.arms and all("final" in record for record in records):
        print(f"\n{ceilings.table(shown)}")
    print(f"\n{sum('final' in record for record in records)} of {len(records)} runs are finished")
    return int(any("failed" in record for record in records))


def _work(cells: Sequence[Recipe], options: Study, start: Start | None) -> None:
    """Train what is missing, here or on a cluster."""
    common = {"root": options.data, "start": start, "device": options.device}
    if options.on is None:
        grids.work_together(cells, options.out, options.processes, **common)
    else:
        cpus = 1 if options.cpus is None else options.cpus
        cluster.work(cells, options.out, options.on, cpus=cpus, gpus=options.gpus, **common)


def _check_start(cells: Sequence[Recipe], arms: Sequence[str], start: Start | None) -> None:
    """Raise ValueError if the weights to start from do not fit every arm that starts from them."""
    if not start and any("+scratch" in text for text in arms) and not cells[0].start:
        raise ValueError("an arm starts from scratch, and so do the others: name weights to start from (--start)")
    if not start:
        return
    for name in dict.fromkeys(recipe.backbone for recipe in cells if recipe.start):
        with torch.device("meta"):
            network = build(name, 2)
        start.check(network)
