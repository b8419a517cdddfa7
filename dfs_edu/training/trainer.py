"""The training loop: one for every network and method, on a CPU, a GPU or several, from the start or resumed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dfs_edu import data, distributed, inference, methods
from dfs_edu.backbones import build, initial
from dfs_edu.distributed import Team
from dfs_edu.files import check_writable, write_whole
from dfs_edu.losses import Objective
from dfs_edu.multiexit import MultiExit
from dfs_edu.training import checkpoint, conflicts, events, health, heap, progress, results, state
from dfs_edu.training.device import bf16_pays, pick_device
from dfs_edu.training.evaluation import evaluate, evaluate_at_the_end
from dfs_edu.training.forward import forward_of, losses_now
from dfs_edu.training.inputs import check_side, fill_content, fill_start, load_data
from dfs_edu.training.meters import Meters
from dfs_edu.training.optim import make_optimizer, make_schedule, moving_average
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.runs import load_network  # noqa: F401  of a finished run: its other half
from dfs_edu.training.start import WEIGHTS, Start

CHECKPOINT_SECONDS = 60  # the most that a single killed process loses; several processes go by steps instead


@dataclass
class Run:
    """A finished run.

    Attributes:
        network: In eval mode, on its device.
        record: What `results` reads: recipe, environment, data, epochs, final accuracies.
        validation: Outputs of the exits on the validation split.
        test: Outputs of the exits on the test split.
        folder: Where the run is kept; None if nothing was kept.
    """

    network: nn.Module
    record: dict
    validation: inference.Outputs
    test: inference.Outputs
    folder: Path | None

    def __repr__(self) -> str:
        return f"Run({self.record['recipe']['backbone']!r}, test accuracy {self.test.accuracy.tolist()}, {self.folder})"


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    recipe: Recipe,
    out: str | os.PathLike | None = "runs",
    *,
    resume: bool = False,
    start: str | os.PathLike | Start | None = None,
    root: str | os.PathLike | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    checkpoint_steps: int = 1000,
    track: int | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> Run:
    """Train a network by a recipe, from its first step to its last.

    Validation accuracy is measured after each epoch. The test split is used once, at the end, with the weights of the
    last epoch (their moving average, if the recipe keeps one): no checkpoint is chosen. Ctrl-C and SIGTERM leave a run
    that can be resumed. Processes that torchrun started train one network together, each on its part of every batch
    (distributed.py). Gradients are switched on, whatever mode the caller is in. On a CPU, memory that a step frees
    stays with the process (heap.py).

    Args:
        recipe: What to train, and how.
        out: Folder in which the run gets a folder of its own, with checkpoints, record, weights, exit outputs and
            TensorBoard events; None keeps nothing on disk.
        resume: Continue from the run's newest whole checkpoint, if there is one; a finished run is read back. A resumed
            run keeps its precision; if machine or versions have changed, record["resumed"] lists the new ones.
        start: Weights to start from: a finished run's folder, or a safetensors file (see start.py). The recipe and the
            run's name hold its checksum; a run that is resumed does not need it.
        root: Where the data set is (see `data.load`).
        device: "auto" is a GPU if there is one, else the CPU.
        progress: Show a progress bar.
        checkpoint_steps: Write a checkpoint every so many steps, besides the one at the end of each epoch.
        track: Compare the exits' gradients every so many steps, and keep the result in record["conflict"]; see
            `ConflictTracker`. Nothing else of the run changes, except its peak memory on a CPU.
        on_epoch: Called with the record after each epoch.

    Returns:
        The finished run.

    Raises:
        FileExistsError: The run's folder exists and `resume` is False.
        ValueError: The run was started with another recipe or other data, or a batch cannot be divided as asked.
        FloatingPointError: A loss is not finite; the last good checkpoint stays.
    """
    _check(recipe, checkpoint_steps=checkpoint_steps, track=track)
    if not isinstance(start, str | os.PathLike | Start | None):
        raise TypeError(f"start is a {type(start).__name__}: give the folder of a finished run, or a safetensors file")
    check_side(recipe)
    team, place = distributed.join(pick_device(device))
    if place.type == "cpu":
        heap.keep_freed()

    # Complete the recipe, and with it the run's name, by the checksums of a folder of images and of weights
    dataset = load_data(recipe, root) if recipe.dataset == "folder" else None
    if dataset:
        recipe = fill_content(recipe, dataset, Path(out) if out is not None and resume else None)
    weights = start if isinstance(start, Start) or start is None else Start.of(start)
    if weights:
        recipe = fill_start(recipe, weights)

    # Look at the run's folder; no process writes to it before all have looked
    folder = Path(out) / recipe.name if out is not None else None
    _check_folder(folder, recipe, resume)
    if recipe.start and not weights and not (folder and resume and checkpoint.is_there(folder)):
        raise ValueError(f"start={recipe.start!r}: name the file of these weights (start=FILE, --start FILE)")
    team.wait()
    if folder and team.leads:
        check_writable(folder)

    trainer = Trainer(recipe, dataset or load_data(recipe, root), place, team, folder, progress and team.leads, track)
    if not (folder and resume and state.load(trainer)):
        state.begin(trainer, weights)
    return trainer.run(checkpoint_steps, on_epoch)


def _check(recipe: Recipe, **steps: int | None) -> None:
    """Raise TypeError unless it is a recipe, ValueError unless these are numbers of steps."""
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is a {type(recipe).__name__}: give a recipe, such as recipes.get('digits/vgg7-16')")
    for name, count in steps.items():
        if not (name == "track" and count is None) and (type(count) is not int or count < 1):
            raise ValueError(f"{name}={count!r}: a whole number of steps above zero")


def _check_folder(folder: Path | None, recipe: Recipe, resume: bool) -> None:
    """Raise ValueError if a record cannot hold the recipe, FileExistsError if the run exists already."""
    if folder is None:
        return
    if Recipe.from_dict(recipe.to_dict()) != recipe:  # better now than after hours of training
        raise ValueError(f"junction={recipe.junction!r}: it cannot be read back from a record; see arms.py")
    if resume or not folder.exists() or not any(folder.iterdir()):
        return
    try:
        before = Recipe.from_dict(results.read(folder)["recipe"]).to_dict()
    except (OSError, ValueError):  # no record yet, or a damaged one
        before = recipe.to_dict()
    advice = "resume it (--resume, resume=True) or choose another folder"
    if words := results.changed(before, recipe.to_dict()):
        advice = f"a run of another recipe ({'; '.join(words)}); choose another folder (--out)"
    raise FileExistsError(f"{folder} exists already: {advice}")


class Trainer:
    """A run in progress: set-up, epoch, step, end. state.py saves and resumes it, meters.py sums up an epoch."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: data.Dataset,
        device: torch.device,
        team: Team,
        folder: Path | None,
        progress: bool,
        track: int | None,
    ):
        self.recipe, self.dataset, self.device, self.team = recipe, dataset, device, team
        self.folder, self.progress = folder, progress
        self.bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and bf16_pays(device))
        self.autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=self.bf16)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # the peak is this run's, not that of runs before it
        check_shares(dataset, team)

        # The network, its losses, and how K losses become one update. Initial weights follow from the seed alone
        torch.manual_seed(recipe.seed)
        self.make_network()
        self.method = methods.make(
            recipe.method, len(self.network.heads), recipe.weights, recipe.step_length, recipe.epochs
        )
        self.method.begin([list(stage.parameters()) for stage in self.network.stages])
        self.forward = forward_of(self)
        self.losses: Callable[[Tensor, Tensor], Sequence[Tensor]] = partial(losses_now, self)

        # Batches, in an order that follows from the seed, and what moves the weights
        how: dict[str, Any] = {"augmentation": recipe.augmentation, "mixing": recipe.mixing, "seed": recipe.seed}
        how |= {"device": device, "rank": team.rank, "world": team.world}
        self.batches = data.batches(dataset.train, dataset, recipe.batch_size, train=True, **how)
        check_parts(self.batches, recipe, team, self.method.divides)
        groups = [{"params": part} for part in self.parameters] if recipe.frozen else self.objective.parameters()
        self.optimizer = make_optimizer(groups, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, steps_per_epoch=len(self.batches))

        # What is measured on the way, and the record of it
        self.meters = Meters(len(self.network.heads), device)
        self.watch = conflicts.Watch(dataset, device, self.autocast, track)
        self.broken: set[str] = set(chain.from_iterable(getattr(split, "broken", ()) for split in dataset.splits))
        self.record = results.new_record(recipe, dataset, device, "bf16" if self.bf16 else "fp32", team.world)
        self.saved = time.monotonic()
        torch.manual_seed(np.random.SeedSequence([recipe.seed, team.rank]).generate_state(1)[0].item())  # for dropout

    def make_network(self) -> None:
        """Build the network and its losses, and find the parameters that exits share (the trunk's)."""
        recipe = self.recipe
        self.network = build(recipe.backbone, len(self.dataset.classes), recipe.junction)
        self.network.answer_by(recipe.answers)
        if recipe.initial == "torch":
            initial.torch_default([self.network])
        self.trunk, self.frozen = [p for p in self.network.stages.parameters() if p.requires_grad], False
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.objective = Objective(self.network, recipe.loss, recipe.label_smoothing)
        shared = set(self.trunk)
        self.others = [p for p in self.objective.parameters() if p.requires_grad and p not in shared]
        self.average = moving_average(self.network, recipe.ema) if recipe.ema else None
        if self.team.world > 1:
            distributed.synchronise(self.network)

    def run(self, checkpoint_steps: int, on_epoch: Callable[[dict], None] | None) -> Run:
        """Train the epochs that are left, and finish the run."""
        with progress.stop_signals(active=self.folder is not None) as stop:
            while self.batches.epoch < self.recipe.epochs:
                self.epoch(stop, checkpoint_steps)
                if on_epoch and self.team.leads:
                    on_epoch(self.record)
        return self.finish()

    def epoch(self, stop: threading.Event, checkpoint_steps: int) -> None:
        """Train the rest of the current epoch, then validate and save."""
        self.prepare_epoch()
        title = f"{self.recipe.name} epoch {self.batches.epoch + 1}/{self.recipe.epochs}"
        with progress.bar(title, len(self.batches), self.batches.batch, self.progress) as bar:
            if self.steps_taken == 0:
                self.watch.compare(self)
            began = time.monotonic() - self.meters.seconds
            for x, y in self.batches:
                self.method.step(self, x, y)  # gradients, then update, unless the method has it otherwise
                self.schedule.step()
                self.meters.seconds = time.monotonic() - began
                began += self.watch.compare(self)  # comparing is not training

                # Show the progress; reading the numbers waits for a GPU
                bar.update()
                if bar.n % 10 == 0 or self.device.type == "cpu":
                    health.check_losses(self)
                    bar.set_postfix_str(f"accuracy {self.meters.accuracy(self.batches)}")

                # Stop, or save if it is time to
                if stop.is_set():
                    if self.team.world == 1:  # several do not stop at the same step: their last checkpoint stands
                        state.save(self)
                    bar.close()
                    raise KeyboardInterrupt(f"stopped; `--resume` continues from {self.folder}")
                late = self.team.world == 1 and time.monotonic() - self.saved > CHECKPOINT_SECONDS
                if late or self.steps_taken % checkpoint_steps == 0:
                    health.check_losses(self)
                    self.meters.seconds = time.monotonic() - began
                    state.save(self)
                    began = time.monotonic() - self.meters.seconds  # writing is not training
            health.check_losses(self)
            self.meters.seconds = time.monotonic() - began
        self.end_epoch()

    def gradients(self, x: Tensor, y: Tensor) -> None:
        """Run forward and backward passes of a batch, in `accumulate` parts one after the other."""
        parts = self.recipe.accumulate
        for i, (x_i, y_i) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True), start=1):
            spread = self.forward if isinstance(self.forward, DistributedDataParallel) else None
            with spread.no_sync() if spread and i < parts else nullcontext():  # gradients are exchanged once per step
                with self.autocast():
                    losses, logits = self.forward(x_i, y_i, each=self.method.by_image)  # K x (), K x (B, classes)
                self.method.backward([loss / parts for loss in losses], *self.parameters)
            means = [loss.mean() for loss in losses]
            self.meters.add(means, logits, y_i, self.batches.batch_size / self.team.world / len(y_i))

    def update(self) -> None:
        """Move the weights along their gradients, and clear these."""
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.clip)
        self.meters.rates.append([self.steps_taken, self.optimizer.param_groups[0]["lr"]])
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.network)

    def end_epoch(self) -> None:
        """Validate, compare the exits' gradients, and keep the epoch's results."""
        health.check_weights(self)
        images, seconds = len(self.batches) * self.batches.batch_size, self.meters.seconds
        row = {
            "epoch": self.batches.epoch,
            "loss": (self.team.sum(self.meters.losses) / len(self.batches) / self.team.world).tolist(),
            "train_accuracy": (self.team.sum(self.meters.correct) / images).tolist(),
            "validation_accuracy": evaluate(self, self.dataset.validation).accuracy.tolist(),
            **self.watch.after_epoch(self.network, self.trunk),
            "seconds": round(seconds, 2),
            "pictures_per_second": round(images / seconds, 1),
            "peak_memory": results.peak_memory(self.device),
        }
        self.record["epochs"].append(row)
        rates, self.meters = self.meters.rates, Meters(len(self.network.heads), self.device)
        state.save(self)
        if self.folder and self.team.leads:
            since = (row["epoch"] - 1) * len(self.batches) + (row["epoch"] > 1)  # step 0 belongs to the first epoch
            points = [("learning_rate", step, rate) for step, rate in rates]
            points += events.of_epoch(row, self.steps_taken)
            events.write(self.folder, points + conflicts.points(self.record.get("conflict"), since), since)

    def finish(self) -> Run:
        """Evaluate on the test split, once, and write what is kept; a finished run is read back."""
        network = self.evaluated.eval()
        if self.folder and "final" in self.record:
            outputs = [inference.Outputs.load(self.folder / f"{split}.npz") for split in ("validation", "test")]
            return Run(network, self.record, *outputs, self.folder)
        validation, test, final = evaluate_at_the_end(self)
        seconds = round(sum(row["seconds"] for row in self.record["epochs"]), 2)
        self.record["final"] = final | {"seconds": seconds}
        if self.folder and self.team.leads:
            weights = as_safetensors({name: t.contiguous() for name, t in network.state_dict().items()})
            write_whole(self.folder / WEIGHTS, lambda file: file.write(weights))
            validation.save(self.folder / "validation.npz")
            test.save(self.folder / "test.npz")
        state.save(self)  # last: only now has the run finished
        return Run(network, self.record, validation, test, self.folder)

    def prepare_epoch(self) -> None:
        """Put in the junction of this epoch, freeze or release the trunk, and set the modes."""
        if self.recipe.uncut:
            for network in {self.network, self.evaluated}:
                network.join(self.recipe.junction_in(self.batches.epoch))
        self.method.begin_epoch(self.batches.epoch, self.recipe.epochs)
        frozen = self.batches.epoch < self.recipe.frozen
        if frozen != self.frozen:
            self.frozen = frozen
            for p in self.trunk:
                p.requires_grad_(not frozen)  # without a gradient, neither a step nor decay nor momentum moves it
            if isinstance(
                self.forward, DistributedDataParallel
            ):  # it expects the gradients that there were when it was made
                self.forward = forward_of(self)
        self.network.train()
        self.network.stages.train(not frozen)

    @property
    def evaluated(self) -> MultiExit:
        """The network that is evaluated, which has the moving average of the weights if the recipe keeps one."""
        return cast("MultiExit", self.average.module) if self.average else self.network

    @property
    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters that are trained now, those of the trunk, which exits share, and all others."""
        return [] if self.frozen else self.trunk, self.others

    @property
    def steps_taken(self) -> int:
        """Updates since the run began."""
        return self.batches.epoch * len(self.batches) + self.batches.batch


def check_shares(dataset: data.Dataset, team: Team) -> None:
    """Raise ValueError if there are fewer images to evaluate than processes."""
    for split in (dataset.validation, dataset.test):
        if len(split) < team.world:
            raise ValueError(f"{len(split)} images of {split.name} cannot be divided among {team.world} processes")


def check_parts(batches: data.Batches | data.Streamed, recipe: Recipe, team: Team, divides: int) -> None:
    """Raise ValueError if the images of a process cannot be divided into equal parts, as recipe and method ask."""
    share = batches.batch_size // team.world
    if share % divides:
        raise ValueError(f"{recipe.method} divides a batch into {divides} equal parts: not {share} images of a process")
    if share % recipe.accumulate:
        raise ValueError(f"accumulate={recipe.accumulate} parts do not divide the {share} images of a process")
