"""One loop trains every network: joint or with surgery, on a CPU or a GPU, new or resumed."""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from dfs_edu import checkpoint, data, inference, results
from dfs_edu.backbones import build
from dfs_edu.losses import Distillation, exit_losses
from dfs_edu.recipes import Recipe

CHECKPOINT_SECONDS = 60  # what a killed run loses at the most, besides what every epoch's end saves


@dataclass
class Run:
    """A finished run. network: in eval mode, on its device; record: see `results`; folder: None if nothing was kept."""

    network: nn.Module
    record: dict
    validation: inference.Outputs
    test: inference.Outputs
    folder: Path | None


def train(recipe: Recipe, out="runs", *, resume: bool = False, root=None, device="auto", progress: bool = True) -> Run:
    """Train a recipe to its end.

    out     folder below which the run's own folder lies, with checkpoint, record, weights, exit outputs and
            TensorBoard events; None keeps nothing on the disk
    resume  go on from the run's checkpoint where there is one; a finished run is read back
    root    where the data set lies (see `data.load`)
    device  "auto": a GPU where there is one, else the CPU

    Validation is measured after each epoch. The test split is looked at once, at the end, by the weights of the last
    epoch: no checkpoint is chosen. Ctrl-C and SIGTERM leave a run that resumes. Raises FileExistsError where the run
    is there already and resume is False, ValueError where it was begun with another recipe or other data, and
    FloatingPointError where a loss is not finite; the last good checkpoint stays.
    """
    folder = Path(out) / recipe.name if out is not None else None
    if folder and folder.exists() and any(folder.iterdir()) and not resume:
        raise FileExistsError(f"{folder} is there already: resume it (--resume, resume=True) or choose another folder")
    loop = _Loop(recipe, folder, root, device, progress)
    if folder and resume:
        loop.load()
    with _stop_signals(active=folder is not None) as stop:
        while loop.batches.epoch < recipe.epochs:
            loop.epoch(stop)
    return loop.finish()


class _Loop:
    """What a run consists of, and the three things done to it: an epoch, saving, finishing."""

    def __init__(self, recipe: Recipe, folder: Path | None, root, device, progress: bool):
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self.device = pick_device(device)
        self.bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and bf16_pays(self.device))
        torch.manual_seed(recipe.seed)  # the network's initial weights
        self.dataset = data.load(recipe.dataset, root).first(recipe.train_images, recipe.held_out_images)
        self.network = build(recipe.backbone, len(self.dataset.classes), recipe.junction)
        self.network.to(self.device, memory_format=torch.channels_last)
        self.distillation = Distillation.of(self.network) if recipe.loss == "distillation" else None
        forward = self.network.embed if self.distillation else self.network
        self.forward = torch.compile(forward) if recipe.compile else forward
        self.batches = self._batches(self.dataset.train, train=True)
        trained = [*self.network.parameters(), *(self.distillation.parameters() if self.distillation else ())]
        self.optimizer = make_optimizer(trained, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, steps_per_epoch=len(self.batches))
        self.record = {
            "recipe": recipe.to_dict(),
            "environment": results.environment(self.device, "bf16" if self.bf16 else "fp32"),
            "data": {"name": self.dataset.name, "checksum": self.dataset.checksum},
            "epochs": [],
        }
        self.reset_totals()
        self.saved = time.monotonic()

    def _batches(self, split: data.Split, train: bool = False) -> data.Batches:
        return data.Batches(split, self.dataset, self.recipe.batch_size, train, self.recipe.seed, self.device)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def reset_totals(self) -> None:
        K = len(self.network.heads)
        self.losses = torch.zeros(K, device=self.device, dtype=torch.float64)  # summed over the epoch's batches
        self.correct = torch.zeros(K, device=self.device, dtype=torch.int64)
        self.seconds = 0.0

    def epoch(self, stop: threading.Event) -> None:
        """The rest of the current epoch, its validation and its checkpoint."""
        self.network.train()
        began = time.monotonic() - self.seconds
        with self._bar() as bar:
            for images, labels in self.batches:
                self.step(images, labels)
                self.seconds = time.monotonic() - began
                bar.update()
                if bar.n % 10 == 0 or self.device.type == "cpu":  # a look at the numbers waits for the GPU
                    self.check_finite()
                    bar.set_postfix_str("accuracy " + " ".join(f"{a:.0%}" for a in self.train_accuracy()))
                if stop.is_set():
                    self.save()
                    bar.close()
                    raise KeyboardInterrupt(f"stopped; `--resume` goes on from {self.folder}")
                if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                    self.save()
        self.end_epoch()

    def step(self, images: Tensor, labels: Tensor) -> None:
        with self.autocast():
            said = self.forward(images)  # K x (B, classes), or with the embeddings that distillation looks at
        losses = (self.distillation or exit_losses)(said, labels)  # (K,)
        logits = [logits_k for _, logits_k in said] if self.distillation else said
        losses.sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.losses += losses.detach()
        self.correct += torch.stack([(logits_k.argmax(1) == labels).sum() for logits_k in logits])

    def train_accuracy(self) -> list[float]:
        return (self.correct / (self.batches.batch * self.batches.batch_size)).tolist()

    def check_finite(self) -> None:
        if not self.losses.isfinite().all():
            exits = ", ".join(str(k) for k, loss in enumerate(self.losses.tolist(), 1) if not math.isfinite(loss))
            where = f"; the last good checkpoint is in {self.folder}" if self.folder else ""
            raise FloatingPointError(
                f"the loss of exit {exits} is not finite in epoch {self.batches.epoch + 1}, "
                f"batch {self.batches.batch}: try a learning rate below {self.recipe.lr:g} or precision fp32{where}"
            )

    def end_epoch(self) -> None:
        self.check_finite()
        seen = len(self.batches) * self.batches.batch_size
        row = {
            "epoch": self.batches.epoch,
            "loss": (self.losses / len(self.batches)).tolist(),
            "train_accuracy": (self.correct / seen).tolist(),
            "validation_accuracy": self.evaluate(self.dataset.validation).accuracy.tolist(),
            "seconds": round(self.seconds, 2),
        }
        self.record["epochs"].append(row)
        self.reset_totals()
        self.save()

    def evaluate(self, split: data.Split) -> inference.Outputs:
        with self.autocast():
            return inference.collect(self.network, self._batches(split))

    def save(self) -> None:
        """Everything that the next step depends on, in one file."""
        self.saved = time.monotonic()
        if self.folder is None:
            return
        self.check_finite()
        state = {
            "network": self.network.state_dict(),
            "distillation": self.distillation and self.distillation.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "batches": self.batches.state_dict(),
            "totals": [self.losses, self.correct, self.seconds],
            "random": torch.get_rng_state(),
            "record": self.record,
        }
        checkpoint.save(self.folder / "checkpoint.pt", state)
        results.write(self.folder / "record.json", self.record)

    def load(self) -> None:
        """Go on from the checkpoint, if the run came as far as one."""
        if not (self.folder / "checkpoint.pt").exists():
            return
        state = checkpoint.load(self.folder / "checkpoint.pt")
        begun = state["record"]
        recipe = Recipe.from_dict(begun["recipe"]).to_dict()  # what came into recipes since has its default
        for part, was in {"recipe": recipe, "data": begun["data"]}.items():
            now = self.record[part]
            changed = [f"{key} {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key]]
            if changed:
                raise ValueError(f"{self.folder} was begun with another {part}: {'; '.join(changed)}")
        self.network.load_state_dict(state["network"])
        if self.distillation:
            self.distillation.load_state_dict(state["distillation"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.batches.load_state_dict(state["batches"])
        losses, correct, self.seconds = state["totals"]
        self.losses.copy_(losses)
        self.correct.copy_(correct)
        torch.set_rng_state(state["random"])
        self.record = state["record"]

    def finish(self) -> Run:
        """Look at the test split, once, and write what is kept; a run that did so before is read back."""
        self.network.eval()
        if "final" in self.record:
            outputs = [inference.Outputs.load(self.folder / f"{split}.npz") for split in ("validation", "test")]
            return Run(self.network, self.record, *outputs, self.folder)
        validation, test = self.evaluate(self.dataset.validation), self.evaluate(self.dataset.test)
        self.record["final"] = {
            "validation_accuracy": validation.accuracy.tolist(),
            "test_accuracy": test.accuracy.tolist(),
            "seconds": round(sum(row["seconds"] for row in self.record["epochs"]), 1),
        }
        if self.folder:
            weights = save({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()})
            checkpoint.write_whole(self.folder / "weights.safetensors", lambda file: file.write(weights))
            validation.save(self.folder / "validation.npz")
            test.save(self.folder / "test.npz")
            write_events(self.folder, self.record)
            self.save()  # last: only now is the run finished
        return Run(self.network, self.record, validation, test, self.folder)

    def _bar(self) -> tqdm:
        title = f"{self.recipe.name} epoch {self.batches.epoch + 1}/{self.recipe.epochs}"
        return tqdm(
            total=len(self.batches), initial=self.batches.batch, desc=title, disable=not self.progress, mininterval=0.5
        )


def make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    options = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay, "nesterov": recipe.momentum > 0}
    return torch.optim.SGD(parameters, recipe.lr, **options)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int):
    """Learning rate by step."""
    steps = recipe.epochs * steps_per_epoch
    if recipe.schedule == "multistep":
        milestones = [epoch * steps_per_epoch for epoch in recipe.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, steps, pct_start=0.25, cycle_momentum=False)


def pick_device(name: str | torch.device) -> torch.device:
    """ "auto", "cpu", "cuda", "cuda:1"... Raises ValueError where a GPU is asked for and there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(name)!r}: torch finds no GPU here; use cpu, or see `dfs-edu doctor`")
    return device


def bf16_pays(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it would be emulated, and slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell: fp32 is always right
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("sve_bf16"))


def load_network(folder) -> tuple[nn.Module, dict]:
    """The trained network (eval mode, CPU) and the record of a finished run's folder."""
    folder = Path(folder)
    record = results.read(folder)
    if not (folder / "weights.safetensors").exists():
        raise FileNotFoundError(f"{folder} holds no weights.safetensors: the run has not finished; resume it first")
    weights = load_file(folder / "weights.safetensors")
    recipe = Recipe.from_dict(record["recipe"])
    network = build(recipe.backbone, len(weights["heads.0.fc.weight"]), recipe.junction)
    network.load_state_dict({name: tensor.to(network.state_dict()[name].dtype) for name, tensor in weights.items()})
    return network.eval(), record


def write_events(folder: Path, record: dict) -> None:
    """The record's curves for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, needed once

    with SummaryWriter(folder / "events") as writer:
        for row in record["epochs"]:
            for kind in ("loss", "train_accuracy", "validation_accuracy"):
                for k, value in enumerate(row[kind], start=1):
                    writer.add_scalar(f"{kind}/exit{k}", value, row["epoch"])


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
