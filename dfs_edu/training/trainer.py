"""One loop trains every network: joint or with surgery, on a CPU or a GPU, new or resumed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dfs_edu import data, distributed, inference, methods
from dfs_edu.backbones import build, initial, pixels_of
from dfs_edu.distributed import Team
from dfs_edu.files import check_writable, write_whole
from dfs_edu.losses import Objective
from dfs_edu.precision import widest
from dfs_edu.probes import ConflictTracker, conflict, history, share_by_stage
from dfs_edu.surgery import Joint
from dfs_edu.training import checkpoint, events, heap, results
from dfs_edu.training.optim import make_optimizer, make_schedule, moving_average
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.runs import load_network  # noqa: F401  of a finished run: its other half
from dfs_edu.training.start import Start

CHECKPOINT_SECONDS = 60  # what a killed process alone loses at the most; several of them agree on a number of steps
PROBE_IMAGES = 64  # training pictures, the same after every epoch, on which the exits' gradients are compared


@dataclass
class Run:
    """A finished run. network: in eval mode, on its device; record: see `results`; folder: None if nothing was kept."""

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
    out="runs",
    *,
    resume: bool = False,
    start=None,
    root=None,
    device="auto",
    progress: bool = True,
    checkpoint_steps: int = 1000,
    track: int | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> Run:
    """Train a recipe to its end.

    out               folder below which the run's own folder lies, with checkpoints, record, weights, exit outputs and
                      TensorBoard events; None keeps nothing on the disk
    resume            go on from the run's newest whole checkpoint where there is one; a finished run is read back. It
                      keeps its precision; where machine or versions are others, record["resumed"] lists those as well
    start             weights to start from: a finished run's folder, or a safetensors file (see start.py). The recipe
                      and the run's name hold its checksum; to resume, it need not be there
    root              where the data set lies (see `data.load`)
    device            "auto": a GPU where there is one, else the CPU
    checkpoint_steps  a checkpoint after so many steps, besides the one at every epoch's end
    track             look at the conflict every so many steps, into record["conflict"], its "layers" and "looks"; see
                      `ConflictTracker`; nothing else of the run changes, but for its peak memory on a CPU
    on_epoch          called with the record after each epoch

    Started by torchrun, the processes train one network together, each on its part of every batch (distributed.py).

    Gradients are on, whatever mode the caller is in. Validation is measured after each epoch. The test split is looked
    at once, at the end, by the weights of the last epoch (their moving average, where the recipe keeps one): no
    checkpoint is chosen. Ctrl-C and SIGTERM leave a run that resumes. Raises FileExistsError where the run is there
    already and resume is False, ValueError where it was begun with another recipe or other data, or where the batch
    cannot be shared out, and FloatingPointError where a loss is not finite; the last good checkpoint stays.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is a {type(recipe).__name__}: give a recipe, such as recipes.get('digits/vgg7-16')")
    for name, steps in {"checkpoint_steps": checkpoint_steps, "track": track}.items():
        if not (name == "track" and steps is None) and (type(steps) is not int or steps < 1):
            raise ValueError(f"{name}={steps!r}: a whole number of steps above zero")
    team, device = distributed.join(pick_device(device))
    if device.type == "cpu":
        heap.keep_freed()
    dataset = load_data(recipe, root) if recipe.dataset == "folder" else None  # its images are in the run's name
    if dataset:
        recipe = of_images(recipe, dataset, Path(out) if out is not None and resume else None)
    start = Start.of(start) if isinstance(start, str | os.PathLike) else start
    if start:
        recipe = from_weights(recipe, start)
    folder = Path(out) / recipe.name if out is not None else None
    if folder and Recipe.from_dict(recipe.to_dict()) != recipe:  # now, and not when hours of training are read back
        raise ValueError(f"junction={recipe.junction!r}: it cannot be read back from a record; see arms.py")
    if folder and folder.exists() and any(folder.iterdir()) and not resume:
        raise FileExistsError(f"{folder} is there already: {_advice(folder, recipe)}")
    team.wait()  # nobody writes before all have looked
    if folder and team.leads:
        check_writable(folder)
    loop = _Loop(recipe, folder, dataset or load_data(recipe, root), device, team, progress and team.leads)
    loop.track(track)
    if not (folder and resume and loop.load()):
        loop.begin(start)
    with _stop_signals(active=folder is not None) as stop:
        while loop.batches.epoch < recipe.epochs:
            loop.epoch(stop, checkpoint_steps)
            if on_epoch and team.leads:
                on_epoch(loop.record)
    return loop.finish()


def _advice(folder: Path, recipe: Recipe) -> str:
    """What to do about a folder that holds a run already: it can be resumed by its own recipe alone."""
    try:
        begun = Recipe.from_dict(results.read(folder)["recipe"]).to_dict()
    except (OSError, ValueError):  # no record yet, or a damaged one
        begun = recipe.to_dict()
    if words := results.changed(begun, recipe.to_dict()):
        return f"a run of another recipe ({'; '.join(words)}); choose another folder (--out)"
    return "resume it (--resume, resume=True) or choose another folder"


class _Loop:
    """What a run consists of, and the three things done to it: an epoch, saving, finishing."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path | None,
        dataset: data.Dataset,
        device: torch.device,
        team: Team,
        progress: bool,
    ):
        self.dataset = dataset
        self.recipe, self.folder, self.device, self.team, self.progress = recipe, folder, device, team, progress
        self.bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and bf16_pays(self.device))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # of runs before this one
        torch.manual_seed(recipe.seed)  # the network's initial weights
        for split in (self.dataset.validation, self.dataset.test):
            if len(split) < team.world:
                raise ValueError(
                    f"{len(split)} pictures of {split.name} cannot be shared out to {team.world} processes"
                )
        self.network = build(recipe.backbone, len(self.dataset.classes), recipe.junction)
        if recipe.initial == "torch":
            initial.torchs_own([self.network])
        self.trunk = [p for p in self.network.stages.parameters() if p.requires_grad]
        self.frozen = False
        self.network.to(self.device, memory_format=torch.channels_last)
        self.objective = Objective(self.network, recipe.loss, recipe.label_smoothing)
        self.average = moving_average(self.network, recipe.ema) if recipe.ema else None
        self.method = methods.make(recipe.method, len(self.network.heads), recipe.weights, recipe.step_length)
        if team.world > 1:
            self.idle = distributed.has_idle(self.network, dataset.pixels)
            distributed.synchronise(self.network)
        self.forward = self._forward()
        how = {"seed": recipe.seed, "augmentation": recipe.augmentation, "rank": team.rank, "world": team.world}
        self.batches = self._batches(self.dataset.train, train=True, **how)
        if self.batches.batch_size // team.world % recipe.accumulate:
            share = self.batches.batch_size // team.world
            raise ValueError(f"accumulate={recipe.accumulate} parts do not divide the {share} pictures of a process")
        # Apart, since SGD's fused kernel wants all of a group to begin, with its momentum, in the same step
        groups = [{"params": part} for part in self.parameters] if recipe.frozen else self.objective.parameters()
        self.optimizer = make_optimizer(groups, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, steps_per_epoch=len(self.batches))
        self.record = {
            "recipe": recipe.to_dict(),
            "environment": results.environment(self.device, "bf16" if self.bf16 else "fp32", team.world),
            "data": self.dataset.facts,
            "epochs": [],
        }
        torch.manual_seed(np.random.SeedSequence([recipe.seed, team.rank]).generate_state(1)[0].item())  # of dropout
        # Images that could not be read: of validation and test, and of splits that were read before the run
        splits = (self.dataset.train, self.dataset.validation, self.dataset.test)
        self.broken = {path for split in splits for path in getattr(split, "broken", ())}
        self.reset_totals()
        self.saved = time.monotonic()

    def _forward(self) -> nn.Module:
        """What a step calls: the objective, compiled and shared out as the recipe and the team ask for it."""
        if self.method.by_exit:
            return self._compiled_by_exit() if self.recipe.compile else self.objective
        forward = torch.compile(self.objective) if self.recipe.compile else self.objective
        if self.team.world == 1:
            return forward
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(forward, device_ids=ids, find_unused_parameters=self.idle)

    def _compiled_by_exit(self) -> nn.Module:
        """Stages and heads compiled one by one, since the graph is gone through once for every exit."""
        torch._functorch.config.donated_buffer = False  # what a backward pass has read, the next exit's reads again
        for module in (*self.network.stages, *self.network.heads):
            module.compile(isolate_recompiles=True)  # or eight graphs are the most for all that share a class
        return self.objective

    def _batches(self, split, **options) -> data.Batches | data.Streamed:
        return data.batches(split, self.dataset, self.recipe.batch_size, device=self.device, **options)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def reset_totals(self) -> None:
        K = len(self.network.heads)
        self.losses = widest(torch.zeros(K, device=self.device))  # summed over this process's batches
        self.correct = torch.zeros(K, device=self.device, dtype=torch.int64)
        self.seconds = 0.0
        self.rates: list[list] = []  # step and learning rate, of this epoch

    def epoch(self, stop: threading.Event, checkpoint_steps: int) -> None:
        """The rest of the current epoch, its validation and its checkpoint."""
        if self.recipe.uncut:
            junction = Joint() if self.batches.epoch < self.recipe.uncut else self.recipe.junction
            for network in [self.network, *([self.average.module] if self.average else [])]:
                network.join(junction)
        self.freeze(self.batches.epoch < self.recipe.frozen)
        self.network.train()
        self.network.stages.train(not self.frozen)
        with self._bar() as bar:
            if self.steps_taken() == 0:
                self.look()
            began = time.monotonic() - self.seconds
            for images, labels in self.batches:
                self.step(images, labels)
                self.seconds = time.monotonic() - began
                began += self.look()
                bar.update()
                if bar.n % 10 == 0 or self.device.type == "cpu":  # a look at the numbers waits for the GPU
                    self.check_finite()
                    bar.set_postfix_str("accuracy " + " ".join(f"{a:.0%}" for a in self.train_accuracy()))
                if stop.is_set():
                    self.stop(bar)
                if self.checkpoint_is_due(checkpoint_steps):
                    self.take_time(began)
                    self.save()
                    began = time.monotonic() - self.seconds  # writing is no training
            self.take_time(began)
        self.end_epoch()

    def freeze(self, frozen: bool) -> None:
        """Hold the trunk's weights, or let them go: without a gradient, no step, decay or momentum moves them."""
        if frozen == self.frozen:
            return
        self.frozen = frozen
        for p in self.trunk:
            p.requires_grad_(not frozen)
        self.__dict__.pop("parameters", None)  # found anew
        if isinstance(self.forward, DistributedDataParallel):  # it knows those that had a gradient when it was made
            self.forward = self._forward()

    def take_time(self, began: float) -> None:
        """Once a GPU has done what it was given."""
        self.check_finite()
        self.seconds = time.monotonic() - began

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One update, from `accumulate` parts of the batch, one after the other."""
        parts = self.recipe.accumulate
        for i, (some, theirs) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True), start=1):
            wait = i < parts and self.team.world > 1  # gradients travel once a step
            with self.forward.no_sync() if wait else nullcontext():
                with self.autocast():
                    losses, logits = self.forward(some, theirs)  # K x (), K x (B, classes)
                self.method.backward([loss / parts for loss in losses], *self.parameters)
            self.losses += torch.stack(losses).detach() / parts
            self.correct += torch.stack([(logits_k.argmax(1) == theirs).sum() for logits_k in logits])
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.clip)
        self.rates.append([self.steps_taken(), self.optimizer.param_groups[0]["lr"]])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.network)

    @cached_property
    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Those of the trunk, which exits share, and all others."""
        trunk = [p for p in self.network.stages.parameters() if p.requires_grad]
        shared = set(trunk)
        return trunk, [p for p in self.objective.parameters() if p.requires_grad and p not in shared]

    def train_accuracy(self) -> list[float]:
        seen = self.batches.batch * self.batches.batch_size // self.team.world
        return (self.correct / seen).tolist()

    def check_finite(self) -> None:
        if not self.losses.isfinite().all():
            exits = ", ".join(str(k) for k, loss in enumerate(self.losses.tolist(), 1) if not math.isfinite(loss))
            self.fail(f"the loss of exit {exits} is")

    def check_weights(self) -> None:
        """The last step may have spoilt them, which no loss has shown yet."""
        if not all(p.isfinite().all() for p in self.network.parameters()):
            self.fail("weights are")

    def fail(self, what: str) -> NoReturn:
        epoch, batch = self.batches.epoch, self.batches.batch
        when = f"in epoch {epoch + 1}, batch {batch}" if batch else f"after epoch {epoch}"
        there = self.folder and (self.folder / checkpoint.NEWEST).exists()
        kept = f"; the last good checkpoint stays in {self.folder}: try in another one" if there else ""
        raise FloatingPointError(
            f"{what} not finite {when}: try a learning rate below {self.recipe.lr:g} or precision fp32{kept}"
        )

    def steps_taken(self) -> int:
        return self.batches.epoch * len(self.batches) + self.batches.batch

    def track(self, every: int | None) -> None:
        """Look at the conflict every so many steps; None: never."""
        self.tracker = None if every is None else ConflictTracker(*self.probed, every)

    def look(self) -> float:
        """Look at the conflict, if it is time to; the seconds that it took, which are none of training's."""
        if self.tracker is None or not self.tracker.due(self.steps_taken()):
            return 0.0
        self.check_finite()  # waits for a GPU: the steps under way are training's
        began = time.monotonic()
        self.check_weights()
        with self.probing():
            look = self.tracker(self.steps_taken(), self.network)
        seen = self.record.setdefault("conflict", {"layers": self.tracker.layers, "looks": []})
        seen["looks"].append(look)
        return time.monotonic() - began

    def checkpoint_is_due(self, steps: int) -> bool:
        taken = self.steps_taken()
        late = self.team.world == 1 and time.monotonic() - self.saved > CHECKPOINT_SECONDS
        return taken % steps == 0 or late

    def stop(self, bar: tqdm) -> None:
        if self.team.world == 1:  # several processes do not stop at the same step: their last checkpoint stands
            self.save()
        bar.close()
        raise KeyboardInterrupt(f"stopped; `--resume` goes on from {self.folder}")

    def end_epoch(self) -> None:
        self.check_weights()
        pictures = len(self.batches) * self.batches.batch_size
        row = {
            "epoch": self.batches.epoch,
            "loss": (self.team.sum(self.losses) / len(self.batches) / self.team.world).tolist(),
            "train_accuracy": (self.team.sum(self.correct) / pictures).tolist(),
            "validation_accuracy": self.evaluate(self.dataset.validation).accuracy.tolist(),
            **self.probe(),
            "seconds": round(self.seconds, 2),
            "pictures_per_second": round(pictures / self.seconds, 1),
            "peak_memory": results.peak_memory(self.device),
        }
        self.record["epochs"].append(row)
        rates = self.rates
        self.reset_totals()
        self.save()
        if self.folder and self.team.leads:
            since = (row["epoch"] - 1) * len(self.batches) + (row["epoch"] > 1)  # step 0 is of the first epoch
            points = [("learning_rate", step, rate) for step, rate in rates]
            points += events.of_epoch(row, self.steps_taken()) + tracked(self.record.get("conflict"), since)
            events.write(self.folder, points, since)

    @cached_property
    def probed(self) -> tuple[Tensor, Tensor]:
        """The pictures that are probed with, read once."""
        some = self.dataset.train[:PROBE_IMAGES]
        return next(iter(data.batches(some, self.dataset, len(some), device=self.device)))

    @contextmanager
    def probing(self):
        """As training computes, but eager: nothing is compiled for the few images of a probe.

        A frozen trunk lets itself be pulled here, though no step follows.
        """
        for p in self.trunk:
            p.requires_grad_()
        try:
            with self.autocast(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for p in self.trunk:
                p.requires_grad_(not self.frozen)

    def probe(self) -> dict[str, list[float]]:
        """How hard each exit pulls on the trunk, and how often it pulls against another one."""
        with self.probing():
            report = conflict(self.network, *self.probed)
        found = {"gradient_norm": report.exit_norm(), "conflict": report.exit_conflict()}
        return {name: [float(f"{v:.4g}") if np.isfinite(v) else None for v in values] for name, values in found.items()}

    def evaluate(self, split) -> inference.Outputs:
        """Outputs of the whole split; each process looks at a part of it."""
        network = self.average.module if self.average else self.network
        batches = self._batches(split[self.team.slice(len(split))])
        try:
            with self.autocast():
                outputs = inference.collect(network, batches)
        except FloatingPointError as error:  # averages of BatchNorm may be infinite where no loss or weight is
            self.fail(str(error).removesuffix(" not finite"))
        self.broken |= set(batches.broken)
        return inference.Outputs.joined(self.team.gather(outputs))

    def save(self) -> None:
        """Everything that the next step depends on, in one file."""
        self.saved = time.monotonic()
        self.name_broken()
        if self.folder is None:
            return
        self.check_finite()
        self.check_weights()
        mine = {"totals": [self.losses.cpu(), self.correct.cpu(), self.seconds], "random": random_state(self.device)}
        state = {
            "objective": self.objective.state_dict(),
            "average": self.average and self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "method": self.method.state_dict(),
            "batches": self.batches.state_dict(),
            "rates": self.rates,
            "processes": self.team.gather(mine),
            "record": self.record,
        }
        if self.team.leads:
            checkpoint.keep(self.folder, state)
            results.write(self.folder / "record.json", self.record)
        self.team.wait()

    def name_broken(self) -> None:
        """The record names the pictures that nobody could read: of all splits and processes, before a kill as well."""
        mine = self.broken | set(self.batches.broken)
        if broken := set(self.record.get("broken", ())).union(*self.team.gather(mine)):
            self.record["broken"] = sorted(broken)

    def begin(self, start: Start | None) -> None:
        """A new run, from the weights that its recipe speaks of."""
        if self.recipe.start and not start:
            raise ValueError(f"start={self.recipe.start!r}: name the file of these weights (start=FILE, --start FILE)")
        if start:
            self.record["start"] = start.load(self.network, self.dataset.classes)
            if self.average:
                self.average.module.load_state_dict(self.network.state_dict())

    def load(self) -> bool:
        """Go on from the newest whole checkpoint. Returns whether the run came as far as one."""
        state = checkpoint.newest(self.folder)
        if state is None:
            return False
        begun = state["record"]
        recipe = Recipe.from_dict(begun["recipe"]).to_dict()  # what came into recipes since has its default
        changed = {
            "recipe": results.changed(recipe, self.record["recipe"]),
            "data": results.changed_data(begun["data"], self.record["data"]),
        }
        for part, words in changed.items():
            if words:
                raise ValueError(f"{self.folder} was begun with another {part}: {'; '.join(words)}")
        if len(state["processes"]) != self.team.world:
            raise ValueError(
                f"{self.folder} was begun by {len(state['processes'])} processes, now there are {self.team.world}"
            )
        self.objective.load_state_dict(state["objective"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.method.load_state_dict(state.get("method", {}))
        self.batches.load_state_dict(state["batches"])
        self.rates = state.get("rates", [])  # older checkpoints have none
        mine = state["processes"][self.team.rank]
        losses, correct, self.seconds = mine["totals"]
        self.losses.copy_(losses)
        self.correct.copy_(correct)
        set_random_state(mine["random"], self.device)
        self.go_on(begun)
        return True

    def go_on(self, begun: dict) -> None:
        """With the record of a run that was begun elsewhere or by other versions: it names all of them."""
        precision = begun["environment"]["precision"]  # a run keeps its own
        self.bf16 = precision == "bf16"
        here = self.record["environment"] | {"precision": precision}
        before = begun.get("resumed", [begun["environment"]])[-1]
        if "final" not in begun and results.changed(before, here):
            begun["resumed"] = [*begun.get("resumed", []), here]
        self.record = begun

    def finish(self) -> Run:
        """Look at the test split, once, and write what is kept; a run that did so before is read back."""
        network = (self.average.module if self.average else self.network).eval()
        if "final" in self.record:
            outputs = [inference.Outputs.load(self.folder / f"{split}.npz") for split in ("validation", "test")]
            return Run(network, self.record, *outputs, self.folder)
        validation, test = self.evaluate(self.dataset.validation), self.evaluate(self.dataset.test)
        self.record["final"] = {
            "validation_accuracy": validation.accuracy.tolist(),
            "test_accuracy": test.accuracy.tolist(),
            "seconds": round(sum(row["seconds"] for row in self.record["epochs"]), 1),
        }
        if self.folder and self.team.leads:
            weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
            write_whole(self.folder / "weights.safetensors", lambda file: file.write(weights))
            validation.save(self.folder / "validation.npz")
            test.save(self.folder / "test.npz")
        self.save()  # last: only now is the run finished
        return Run(network, self.record, validation, test, self.folder)

    def _bar(self) -> tqdm:
        title = f"{self.recipe.name} epoch {self.batches.epoch + 1}/{self.recipe.epochs}"
        return tqdm(
            total=len(self.batches), initial=self.batches.batch, desc=title, disable=not self.progress, mininterval=0.5
        )


def tracked(found: dict | None, since: int) -> list[events.Point]:
    """What `track` saw from a step on, for TensorBoard, of a record's "conflict".

    For each stage the share of pairs of exits in conflict and the mean cosine of all pairs, and each exit's length.
    """
    looks = [look for look in found["looks"] if look["step"] >= since] if found else []
    if not looks:
        return []
    points, seen = [], history(looks)
    for t, shares in enumerate(share_by_stage(found | {"looks": looks})):
        step = looks[t]["step"]
        for s, share in enumerate(shares):
            cosines = seen["cosine"][t, s]
            points.append((f"tracked_conflict/stage{s + 1}", step, share))
            cosines = cosines[~np.isnan(cosines)]
            points.append((f"tracked_cosine/stage{s + 1}", step, cosines.mean() if len(cosines) else np.nan))
            lengths = enumerate(seen["norm"][t, s], start=1)
            points += [(f"tracked_norm/stage{s + 1}_exit{k}", step, length) for k, length in lengths]
    return [(curve, step, None if np.isnan(value) else float(value)) for curve, step, value in points]


def load_data(recipe: Recipe, root=None) -> data.Dataset:
    """The pictures that a recipe speaks of."""
    pixels = pixels_of(recipe.backbone) if recipe.dataset in data.ANY_SIZE else None
    return data.load(recipe.dataset, root, recipe.pixels or pixels).first(recipe.train_images, recipe.held_out_images)


def of_images(recipe: Recipe, dataset: data.Dataset, out: Path | None = None) -> Recipe:
    """A recipe for a folder of images with the `content` of these images, by which its runs are named.

    out   where an older run of the same images may lie, which was named without its content: it keeps its name

    Raises ValueError for a recipe of other images.
    """
    facts = dataset.facts
    said = json.dumps([facts[part] for part in ("name", "checksum", "classes")])
    content = hashlib.sha256(said.encode()).hexdigest()[:8]
    if recipe.content not in (None, content):
        raise ValueError(f"content={recipe.content!r}: the recipe is of other images than {dataset.name}, {content!r}")
    if out and not recipe.content and (out / recipe.name / results.RECORD).exists():
        older = results.read(out / recipe.name)
        if not results.changed_data(older.get("data", {}), facts):
            return recipe
    return replace(recipe, content=content)


def from_weights(recipe: Recipe, start: Start) -> Recipe:
    """A recipe with the digits of the weights that it starts from. Raises ValueError for a recipe of other weights."""
    if recipe.start not in (None, start.digits):
        raise ValueError(
            f"start={recipe.start!r}: the recipe starts from other weights than {start.file}, {start.digits!r}"
        )
    return replace(recipe, start=start.digits)


def random_state(device: torch.device) -> list[Tensor]:
    """Of the generators that dropout draws from, CPU and GPU."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Put back what `random_state` took."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def pick_device(name: str | torch.device) -> torch.device:
    """ "auto", "cpu", "cuda", "cuda:1", "mps"... Raises ValueError for a device that this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={str(name)!r}: use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device={str(name)!r}: use auto, cpu, cuda or cuda:1")
    has = (
        torch.cuda.is_available()
        if device.type == "cuda"
        else device.type == "cpu" or torch.backends.mps.is_available()
    )
    if not has:
        raise ValueError(f"device={str(name)!r}: torch finds no GPU here; use cpu, or see `dfs-edu doctor`")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    asked = max(device.index or 0, int(str(name).partition(":")[2] or 0))  # torch takes cuda:256 for cuda:0
    if asked >= count:
        there = ", ".join(f"{device.type}:{i}" for i in range(count)) if count > 1 else device.type
        raise ValueError(f"device={str(name)!r}: this machine has {count} of the kind; use {there}")
    return device


def bf16_pays(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it would be emulated, and slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    # What the processor has is of no use where torch was told to do without (ATEN_CPU_CAPABILITY)
    used = torch.backends.cpu.get_cpu_capability() != "AVX2"
    return used and any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


@contextmanager
def _stop_signals(active: bool):
    """An event that Ctrl-C and SIGTERM set: the step under way ends, the run is saved. A second signal kills."""
    stop = threading.Event()
    if not active or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {}

    def handler(number, frame):
        stop.set()
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
