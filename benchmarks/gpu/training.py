"""Parts 3 and 4: the published recipes at their own length, several runs side by side on one GPU.

A run saves at every epoch's end and once a minute, so a part that is stopped, or killed, loses little and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

import dfs_edu as dfs
from benchmarks.step import step_flops
from dfs_edu.training import comparison, runs, study
from dfs_edu.training.arms import junction_from
from dfs_edu.training.recipes import Recipe

CIFAR100_IMAGES = 45_000  # in the training split


@dataclass(frozen=True)
class Long:
    """A grid of long runs.

    Attributes:
        name: Of the file that keeps the study.
        recipe: Data set and backbone, at scale "paper".
        smallest: The same at scale "smoke".
        arms: As of `dfs-edu study`.
        seeds: For each arm.
        processes: Runs side by side.
    """

    name: str
    recipe: str
    smallest: str
    arms: tuple[str, ...]
    seeds: int
    processes: int

    def cells(self, smoke: bool) -> list[Recipe]:
        """Return the runs, arm by arm, so that the seeds of an arm train side by side."""
        recipe = dfs.recipes.get(self.recipe, scale="paper")
        if smoke:
            recipe = dfs.recipes.get(self.smallest, scale="smoke", train_images=64, held_out_images=32)
        return [cell for arm in self.arms for cell in study.grid(recipe, [arm], range(1 if smoke else self.seeds))]

    def flops(self, smoke: bool) -> dict[str, float]:
        """FLOPs of the training steps, by backbone; evaluation and what is left of a batch are not counted."""
        counted: dict[str, float] = {}
        for cell in self.cells(smoke):
            images = cell.epochs * (cell.train_images or CIFAR100_IMAGES)
            # On a GPU no gradient is skipped: a step with surgery costs what a joint one does
            step = float(step_flops(cell.backbone, junction_from("joint"))[0])
            counted[cell.backbone] = counted.get(cell.backbone, 0.0) + images * step
        return counted

    def run(self, out: Path, smoke: bool, device: torch.device) -> None:
        """Train what is missing; keep what has finished, even if the rest is stopped."""
        cells = self.cells(smoke)
        try:
            processes = 1 if smoke else self.processes
            study.work_together(cells, out / "runs", processes, str(device))
        finally:
            records = study.collect(cells, out / "runs")
            comparison.keep(records, out / f"{self.name}.json")
            for record in records:
                if "final" in record:
                    runs.keep(out / "runs" / record["recipe"]["name"], out / "recorded")
            print(comparison.table(records))


VGG7 = Long(
    "vgg7-paper",
    "cifar100/vgg7-64",
    "digits/vgg7-2",
    ("joint", "surgery-own-0.5", "surgery-all-0.5"),
    seeds=3,
    processes=3,
)
MSDNET = Long(
    "msdnet-paper",
    "cifar100/msdnet-cifar",
    "digits/msdnet-cifar-blocks2-base1-step1-growth4-width4",
    ("joint", "surgery-all-0.5"),
    seeds=1,
    processes=2,
)
