"""Training: what a run leaves, that it learns, and that a stopped or killed run ends as if nothing had happened."""

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dying import SAME, Killed, die_in_step
from safetensors.torch import load_file
from warm import python

import dfs_edu as dfs
from dfs_edu import inference
from dfs_edu.cli import main
from dfs_edu.losses import separate_losses
from dfs_edu.methods.method import Method
from dfs_edu.probes import share_by_stage
from dfs_edu.training import checkpoint, conflicts, events, machine, results
from dfs_edu.training import trainer as train_module
from dfs_edu.training.device import pick_device
from dfs_edu.training.optim import make_schedule
from dfs_edu.training.recipes import Recipe, get

losses_module = sys.modules["dfs_edu.losses.objective"]
HERE = Path(__file__).parent
PATH = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")]))  # of a new process
SMALL = {"scale": "smoke", "train_images": 192, "held_out_images": 64, "epochs": 2}  # 2 epochs of 3 steps


def small(**changes) -> Recipe:
    return get("digits/vgg7-4", **(SMALL | changes))


def run(recipe, out, **kwargs):
    return dfs.train(recipe, out, device="cpu", progress=False, **kwargs)


def weights(folder) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(small(junction=dfs.Surgery(0.5)), tmp_path_factory.mktemp("whole"))


# What a run is


def test_a_run_leaves_record_weights_outputs_and_events(uninterrupted):
    folder = uninterrupted.folder
    assert folder.name == "digits-vgg7-4-smoke-surgery-own-0.5-seed0"
    record = results.read(folder)
    assert record == json.loads(json.dumps(uninterrupted.record))
    assert Recipe.from_dict(record["recipe"]) == small(junction=dfs.Surgery(0.5))
    assert [row["epoch"] for row in record["epochs"]] == [1, 2]
    assert {"device", "threads", "precision", "torch", "python"} <= record["environment"].keys()
    assert record["data"]["checksum"]
    assert set(load_file(folder / "weights.safetensors")) == set(uninterrupted.network.state_dict())
    assert list((folder / "events").iterdir())
    test = inference.Outputs.load(folder / "test.npz")
    assert test.split == "test"
    assert test.accuracy.tolist() == record["final"]["test_accuracy"]
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]


def test_the_kept_network_gives_the_kept_accuracy(uninterrupted):
    network, record = train_module.load_network(uninterrupted.folder)
    dataset = dfs.data.load("digits").first(192, 64)
    outputs = inference.collect(network, dfs.data.Batches(dataset.test, dataset, 64))
    assert abs(outputs.accuracy - torch.tensor(record["final"]["test_accuracy"])).max() <= 1 / 64  # bf16 against fp32


def test_a_run_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished = run(small(epochs=1), None)
    assert finished.folder is None
    assert len(finished.record["epochs"]) == 1
    assert not list(tmp_path.iterdir())


def by_hand(recipe, prepare=lambda net: None, step=lambda net, optimizer: optimizer.step()):
    """The network after an epoch in float32, written out with torch alone."""
    torch.manual_seed(recipe.seed)
    dataset = dfs.data.load("digits").first(recipe.train_images, 64)
    net = dfs.build("vgg7-4", 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), recipe.lr, 0.9, nesterov=True, weight_decay=recipe.weight_decay)
    steps = recipe.train_images // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, steps, pct_start=0.25, cycle_momentum=False)
    prepare(net)
    smooth = {"label_smoothing": recipe.label_smoothing}
    for batch in dfs.data.Batches(dataset.train, dataset, recipe.batch_size, train=True, seed=recipe.seed):
        for images, labels in zip(*(t.chunk(recipe.accumulate) for t in batch), strict=True):
            losses = [torch.nn.functional.cross_entropy(logits, labels, **smooth) for logits in net(images)]
            (sum(losses) / recipe.accumulate).backward()
        step(net, optimizer)
        optimizer.zero_grad()
        schedule.step()
    return net


def test_the_loop_does_what_sgd_by_hand_does():
    """Two steps in float32 written out with torch alone give the same weights."""
    recipe = small(epochs=1, train_images=128, precision="fp32", weight_decay=1e-3)
    trained = run(recipe, None)
    net = by_hand(recipe)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(trained.network.state_dict()[name], tensor)


def assert_same(trained, net):
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


FP32 = {"epochs": 1, "train_images": 192, "precision": "fp32", "weight_decay": 1e-3}


def test_label_smoothing_and_accumulation_are_what_torch_does():
    recipe = small(**FP32, label_smoothing=0.2, accumulate=4)
    assert_same(run(recipe, None).network, by_hand(recipe))


def test_parts_that_do_not_divide_the_batch_are_named():
    with pytest.raises(ValueError, match="accumulate=4 parts do not divide the 10 images of a process"):
        run(small(train_images=10, accumulate=4), None)


def test_a_long_gradient_is_clipped():
    recipe = small(**FP32, clip=0.1)
    lengths = []

    def clipped(net, optimizer):
        length = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
        lengths.append(length)
        for p in net.parameters():
            p.grad *= 0.1 / length
        optimizer.step()

    net = by_hand(recipe, step=clipped)
    assert min(lengths) > 0.1
    assert_same(run(recipe, None).network, net)


def test_the_moving_average_is_kept_and_evaluated():
    """Weights and BatchNorm's averages: m <- k m + (1 - k) w, where k is (n + 1) / (n + 10), 0.15 at most."""
    recipe, seen = small(**FP32, ema=0.15), []  # three steps: 2/11 and 3/12 are above 0.15, 0.1 is not

    def remember(net, optimizer):
        optimizer.step()
        seen.append({name: t.clone() for name, t in net.state_dict().items()})

    by_hand(recipe, step=remember)
    average = seen[0]
    for n, state in enumerate(seen[1:], start=1):
        keep = min(0.15, (n + 1) / (n + 10))
        for name, new in state.items():
            average[name] = keep * average[name] + (1 - keep) * new if new.is_floating_point() else new
    run_ = run(recipe, None)
    for name, tensor in average.items():
        torch.testing.assert_close(run_.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    dataset = dfs.data.load("digits").first(192, 256)
    again = inference.collect(run_.network, dfs.data.Batches(dataset.validation[:64], dataset, 64))
    assert run_.record["final"]["validation_accuracy"] == again.accuracy.tolist()


def test_the_record_holds_the_gradient_norm_of_each_exit(uninterrupted):
    network, record = uninterrupted.network, uninterrupted.record
    K = len(network.heads)
    dataset = dfs.data.load("digits").first(192, 64)
    (batch,) = dfs.data.Batches(dataset.train[:64], dataset, 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=record["environment"]["precision"] == "bf16"):
        report = dfs.probes.conflict(network, *batch)
    row = record["epochs"][-1]
    lengths = [
        sum(report.norm[layer, k] ** 2 for layer in range(len(report.layers)) if report.norm[layer, k] > 0) ** 0.5
        for k in range(K)
    ]
    assert row["gradient_norm"] == pytest.approx(lengths, rel=1e-3)
    for k in range(K):
        met = [c for layer in report.cosine for j, c in enumerate(layer[k]) if j != k and c == c]
        assert row["conflict"][k] == pytest.approx(sum(c < 0 for c in met) / len(met), abs=1e-3)


def test_tracking_records_the_conflict_and_changes_nothing_else(uninterrupted):
    tracked = run(small(junction=dfs.Surgery(0.5)), None, track=2)
    assert [look["step"] for look in tracked.record["conflict"]["looks"]] == [0, 2, 4, 6]
    assert tracked.record["final"]["test_accuracy"] == uninterrupted.record["final"]["test_accuracy"]
    for name, tensor in uninterrupted.network.state_dict().items():
        assert torch.equal(tracked.network.state_dict()[name], tensor), name


def test_the_time_of_probes_is_not_that_of_training(monkeypatch):
    def slow(self, step, net):
        time.sleep(1)
        return {"step": step}

    monkeypatch.setattr(conflicts.ConflictTracker, "__call__", slow)
    tracked = run(small(epochs=1), None, track=1)
    assert len(tracked.record["conflict"]["looks"]) == 4
    assert tracked.record["final"]["seconds"] < 3  # the looks alone took 4 s, the three steps take a tenth of one


@pytest.mark.parametrize("track", [None, 1])
def test_weights_that_are_no_numbers_end_a_run_before_they_are_probed(track, monkeypatch):
    real = Method.step

    def poisons(method, trainer, *batch):
        real(method, trainer, *batch)
        with torch.no_grad():
            next(trainer.network.parameters()).mul_(math.nan)

    monkeypatch.setattr(Method, "step", poisons)
    with pytest.raises(FloatingPointError, match=r"weights are not finite (in epoch 1, batch 1|after epoch 1):"):
        run(small(train_images=64, batch_size=64), None, track=track)


def test_a_probe_compiles_nothing():
    compiled = []
    double = torch.compile(lambda x: 2 * x, backend=lambda graph, _: compiled.append(graph) or graph.forward)
    with conflicts.Watch.probing(SimpleNamespace(autocast=nullcontext), []):
        assert double(torch.ones(3)).sum() == 6
    assert not compiled
    double(torch.ones(3))
    assert compiled


def test_the_record_holds_time_and_memory(uninterrupted):
    row = uninterrupted.record["epochs"][0]
    assert row["pictures_per_second"] == pytest.approx(192 / row["seconds"], rel=0.3)
    assert 2**27 < row["peak_memory"] < 2**40
    environment = uninterrupted.record["environment"]
    assert environment["processes"] == 1
    assert environment["revision"] == machine.revision()


def curves(folder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads: curve -> steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "events")).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def close(points):
    return [(step, pytest.approx(value, rel=1e-5)) for step, value in points]


def test_tensorboard_reads_the_curves(uninterrupted):
    shown, rows = curves(uninterrupted.folder), uninterrupted.record["epochs"]
    for curve in ("loss", "validation_accuracy", "gradient_norm", "conflict"):
        for k in range(6):
            expected = [(3 * row["epoch"], row[curve][k]) for row in rows if row[curve][k] is not None]
            assert shown.get(f"{curve}/exit{k + 1}", []) == close(expected)


def test_tensorboard_reads_files_of_one_second_in_their_order(tmp_path):
    for step in range(12):  # its own names end in a counter, of which 10 comes before 9
        events.write(tmp_path, [("loss/exit1", step, float(step))], since=step)
    assert curves(tmp_path) == {"loss/exit1": [(step, step) for step in range(12)]}
    assert [path.name for path in tmp_path.iterdir()] == ["events"]


def expected_rates() -> list[tuple[int, float]]:
    """By torch's own schedule, of 2 epochs of 3 steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, 6, pct_start=0.25, cycle_momentum=False)
    rates = []
    for step in range(1, 7):
        rates.append((step, schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("dies", [None, 2, 4])
def test_tensorboard_shows_rate_and_conflict_by_step_also_of_a_resumed_run(dies, tmp_path, monkeypatch):
    if dies:
        with monkeypatch.context() as patch:
            die_in_step(patch, dies)
            with pytest.raises(Killed):
                run(small(), tmp_path, track=2, checkpoint_steps=1)
    shown = run(small(), tmp_path, track=2, checkpoint_steps=1, resume=True)
    drawn = curves(shown.folder)
    assert drawn["learning_rate"] == close(expected_rates())
    looks = shown.record["conflict"]["looks"]
    assert [step for step, _ in drawn["tracked_norm/stage1_exit1"]] == [0, 2, 4, 6]
    for s in range(5):
        cosines = [(look["step"], np.mean([c for c in look["cosine"][s] if c is not None])) for look in looks]
        assert drawn[f"tracked_cosine/stage{s + 1}"] == close(cosines)
        shares = share_by_stage(shown.record["conflict"])[:, s]
        assert drawn[f"tracked_conflict/stage{s + 1}"] == close(zip((0, 2, 4, 6), shares, strict=True))
        for k in range(s, 6):
            lengths = [(look["step"], look["norm"][s][k]) for look in looks]
            assert drawn[f"tracked_norm/stage{s + 1}_exit{k + 1}"] == close(lengths)
    assert "tracked_cosine/stage6" not in drawn  # only the last exit gets there


def test_a_callback_is_called_after_each_epoch():
    seen = []
    run(small(), None, on_epoch=lambda record: seen.append(len(record["epochs"])))
    assert seen == [1, 2]


def test_checkpoints_come_after_a_given_number_of_steps(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(train_module.state, "save", lambda trainer: saved.append(trainer.batches.batch))
    run(small(), tmp_path, checkpoint_steps=2)
    assert saved == [2, 0, 1, 3, 0, 0]  # after steps 2, 4, 6 of two epochs of 3, at the epochs' ends, and at the end
    with pytest.raises(ValueError, match="checkpoint_steps=0"):
        run(small(), tmp_path / "other", checkpoint_steps=0)


def test_training_learns():
    before = small(epochs=1, train_images=64)
    after = get("digits/vgg7-8", scale="smoke", train_images=2048, held_out_images=500, epochs=3, lr=0.1)
    accuracy = [run(recipe, None).record["final"]["validation_accuracy"][-1] for recipe in (before, after)]
    assert accuracy[1] > accuracy[0] + 0.2
    assert accuracy[1] > 0.4  # chance is 0.1


def test_multistep_divides_the_rate_at_its_milestones():
    recipe = get("cifar100/vgg7-64", scale="paper")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], recipe.lr)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch=2)
    rates = []
    for _step in range(2 * recipe.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.1] * 540 + [0.01] * 20 + [0.001] * 30 + [0.0001] * 10
    assert rates == pytest.approx(expected)


def test_a_milestone_may_be_within_an_epoch():
    recipe = get("cifar100/vgg7-64", scale="paper", epochs=2, milestones=(1.5,))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], recipe.lr)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch=4)
    rates = []
    for _step in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 2)


def test_losses_of_all_exits_reach_the_record(uninterrupted):
    K = len(uninterrupted.network.heads)
    row = uninterrupted.record["epochs"][0]
    assert len(row["loss"]) == len(row["train_accuracy"]) == len(row["validation_accuracy"]) == K
    assert all(1 < loss < 4 for loss in row["loss"])  # ln 10 = 2.3


# Stopped and resumed, in this process


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_wherever_it_dies_the_resumed_run_ends_bit_for_bit_alike(step, tmp_path, monkeypatch, uninterrupted):
    """A checkpoint after every step; death in the middle of a step, of either epoch."""
    recipe = small(junction=dfs.Surgery(0.5))
    monkeypatch.setattr(train_module, "CHECKPOINT_SECONDS", -1)
    steps = die_in_step(monkeypatch, step)
    with pytest.raises(Killed):
        run(recipe, tmp_path)
    torch.manual_seed(99)  # another process has other random numbers
    resumed = run(recipe, tmp_path, resume=True)
    assert weights(resumed.folder) == weights(uninterrupted.folder)
    for key in SAME:
        assert [row[key] for row in resumed.record["epochs"]] == [row[key] for row in uninterrupted.record["epochs"]]
    assert resumed.record["final"]["test_accuracy"] == uninterrupted.record["final"]["test_accuracy"]
    assert len(steps) == 6 + 1  # what was done is not done again


def test_resuming_a_finished_run_reads_it_back(uninterrupted):
    before = weights(uninterrupted.folder)
    again = run(small(junction=dfs.Surgery(0.5)), uninterrupted.folder.parent, resume=True)
    assert weights(uninterrupted.folder) == before
    assert again.record == uninterrupted.record
    assert torch.equal(again.test.prediction, uninterrupted.test.prediction)
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, uninterrupted.network.state_dict()[name])


def test_a_finished_run_does_not_look_at_the_test_split_again(uninterrupted, monkeypatch):
    monkeypatch.setattr(inference, "collect", lambda *_: pytest.fail("looked again"))
    run(small(junction=dfs.Surgery(0.5)), uninterrupted.folder.parent, resume=True)


def test_an_existing_run_is_not_overwritten(uninterrupted):
    with pytest.raises(FileExistsError, match="exists already: resume it"):
        run(small(junction=dfs.Surgery(0.5)), uninterrupted.folder.parent)


def test_another_recipe_does_not_resume_it(uninterrupted):
    with pytest.raises(ValueError, match=r"started with another recipe: lr 0.2, now 0.05"):
        run(small(junction=dfs.Surgery(0.5), lr=0.05), uninterrupted.folder.parent, resume=True)


def test_another_number_of_processes_does_not_resume_it(tmp_path, uninterrupted):
    state = checkpoint.newest(uninterrupted.folder)
    checkpoint.keep(tmp_path / uninterrupted.folder.name, state | {"processes": 2 * state["processes"]})
    with pytest.raises(ValueError, match="started by 2 processes, now there are 1"):
        run(small(junction=dfs.Surgery(0.5)), tmp_path, resume=True)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, flipped])
def test_a_damaged_checkpoint_is_passed_over(damage, tmp_path, uninterrupted, monkeypatch):
    recipe = small(junction=dfs.Surgery(0.5))
    monkeypatch.setattr(train_module.Trainer, "finish", lambda loop: loop)  # the last two are then of epochs 1 and 2
    folder = run(recipe, tmp_path).folder
    monkeypatch.undo()
    newest, before = folder / "checkpoint.pt", folder / "checkpoint.before.pt"
    assert [checkpoint.load(path)["batches"]["epoch"] for path in (before, newest)] == [1, 2]
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match=r"checkpoint\.pt: not a whole checkpoint .* going on from checkpoint\.before"):
        resumed = run(recipe, tmp_path, resume=True)
    assert weights(resumed.folder) == weights(uninterrupted.folder)

    for path in (newest, before):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="No whole checkpoint is left"):
        run(recipe, tmp_path, resume=True)


def test_weights_that_are_no_numbers_are_not_kept_in_a_checkpoint(tmp_path, monkeypatch):
    """The loss of the step that spoilt them was finite."""
    real = Method.step

    def poisons(method, trainer, *batch):
        real(method, trainer, *batch)
        if trainer.steps_taken == 2:
            with torch.no_grad():
                next(trainer.network.parameters()).mul_(math.nan)

    monkeypatch.setattr(Method, "step", poisons)
    with pytest.raises(FloatingPointError, match=r"weights are not finite in epoch 1, batch 2: .* try in another one"):
        run(small(), tmp_path, checkpoint_steps=1)
    state = checkpoint.newest(tmp_path / small().name)
    assert state["batches"]["batch"] == 1
    assert all(t.isfinite().all() for t in state["objective"].values())


def test_a_run_that_goes_on_elsewhere_names_both_machines_and_keeps_its_precision(tmp_path, monkeypatch):
    recipe = small(precision="fp32")
    die_in_step(monkeypatch, 4)
    with pytest.raises(Killed):
        run(recipe, tmp_path, checkpoint_steps=1)
    monkeypatch.undo()
    known = machine.environment
    elsewhere = {"device": "another machine", "precision": "bf16"}
    monkeypatch.setattr(machine, "environment", lambda *how: known(*how) | elsewhere)
    record = run(recipe, tmp_path, resume=True).record
    assert record["environment"]["device"] == known(torch.device("cpu"), "fp32")["device"]
    (then,) = record["resumed"]
    assert (then["device"], then["precision"]) == ("another machine", "fp32")
    again = run(recipe, tmp_path, resume=True).record  # read back, nothing goes on
    assert len(again["resumed"]) == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 40])
def test_a_run_of_any_number_of_steps_has_a_rate_above_zero_that_rises_and_falls(steps):
    recipe = small(epochs=1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], recipe.lr)
    schedule, rates = make_schedule(optimizer, recipe, steps_per_epoch=steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < steps else None
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    assert max(rates) > recipe.lr / 30


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    calls = []

    def poisoned(logits, labels, smoothing):
        calls.append(None)
        losses = separate_losses(logits, labels, smoothing)
        return [losses[0], losses[1] * math.nan, *losses[2:]] if len(calls) == 5 else losses

    monkeypatch.setattr(losses_module, "separate_losses", poisoned)
    monkeypatch.setattr(train_module, "CHECKPOINT_SECONDS", -1)
    with pytest.raises(FloatingPointError, match=r"loss of exit 2 is not finite in epoch 2, batch 2: .* below 0.2"):
        run(small(), tmp_path)
    state = checkpoint.load(tmp_path / small().name / "checkpoint.pt")
    assert state["batches"] == {"seed": 0, "epoch": 1, "batch": 1}
    assert all(t.isfinite().all() for t in state["objective"].values())


def test_a_missing_gpu_is_reported():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="device='cuda': torch finds no GPU"):
        dfs.train(small(), None, device="cuda")


@pytest.mark.parametrize(
    "device", ["cuda:7", "cuda:256", "mps", "mps:3", "cpu:1", "meta", "xpu", "", "cuda:-1", None, 3]
)
def test_a_missing_device_is_named(device, monkeypatch):
    """Whatever this machine has: two GPUs here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match=f"^device='{device}': "):
        pick_device(device)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seed 12345678901234567890", "seed=12345678901234567890: a whole number from 0, below 9223372036854775808"),
        ("--lr inf", "lr=inf: a number above 0"),
        ("--weight-decay nan", "weight_decay=nan: a number from 0"),
        ("--weights 1 1 inf 1 1 1", "weights=(1.0, 1.0, inf, 1.0, 1.0, 1.0): a list, each element a number"),
        ("--clip nan", "clip=nan"),
        ("--epochs 99999999999", "epochs=99999999999: a whole number from 1, at most"),
        ("--track 0", "track=0: a whole number of steps above zero"),
        ("--device cuda:99", "device='cuda:99'"),
        ("--device nonsense", "device='nonsense': use auto, cpu"),
        ("--out {file}", "cannot be written (Not a directory): choose another folder"),
        ("--out {file}/below", "cannot be written (Not a directory): choose another folder"),
        ("--out /proc/nothing", "cannot be written ("),
        ("--out " + 300 * "x", "File name too long"),
    ],
)
def test_an_invalid_recipe_is_refused_before_any_data_are_read(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_module, "load_data", None)
    (tmp_path / "file").touch()
    words = words.format(file=tmp_path / "file")
    words = words if "--out" in words else f"{words} --out {tmp_path / 'runs'}"
    assert main(f"train digits/vgg7-4 --scale smoke {words}".split()) == 1
    said = capsys.readouterr().err
    assert said.startswith("dfs-edu: ")
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("digits/vgg7-4 --image-size 16", "not 16x16 pixels"),
        ("folder/vgg7-4 --image-size 1", "1x1 pixels: this network needs 8x8"),
        ("folder/vit-tiny-pixels32-patch8 --image-size 7", "7"),
        ("cifar100/vgg7-4 --data /nothing/there", "cifar100"),
        ("digits/vgg7-4 --weights 1 2", "weights=(1.0, 2.0)"),
    ],
)
def test_a_refused_run_leaves_nothing_behind(words, message, tmp_path, capsys):
    out = tmp_path / "a" / "runs"
    assert main(f"train {words} --scale smoke --device cpu --out {out}".split()) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_in_a_process_of_its_own_too(tmp_path):
    """The status, and no traceback, as a shell sees them."""
    words = ["train", "digits/vgg7-4", "--scale", "smoke", "--device", "mps:9", "--out", str(tmp_path)]
    done = subprocess.run([*python(), "-m", "dfs_edu", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("dfs-edu: device='mps:9'")
    assert "Traceback" not in done.stderr


# Stopped and killed for real


def start(out, *more):
    command = [
        sys.executable,
        "-m",
        "dfs_edu",
        "train",
        "digits/vgg7-4",
        "--scale",
        "smoke",
        "--epochs",
        "6",
        "--device",
    ]
    return subprocess.Popen(
        [*command, "cpu", "--out", str(out), *more],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(path, process, seconds=120):
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    assert path.exists()


def saved_at(path) -> int | None:
    """When a checkpoint was written; None between the two renames that put a newer one in its place."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@pytest.mark.kill
def test_kill_9_at_any_moment_and_resume_is_bit_for_bit_alike(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    name = "digits-vgg7-4-smoke-joint-seed0"
    process = start(whole)
    assert process.wait(300) == 0, process.stderr.read()

    rng = random.Random(0)
    checkpoint, kills = killed / name / "checkpoint.pt", 0
    for attempt in range(3):
        process = start(killed, "--resume")
        wait_for(checkpoint, process)
        stamp = saved_at(checkpoint)
        while attempt and process.poll() is None and saved_at(checkpoint) in (stamp, None):
            time.sleep(0.005)  # later kills come after this process has saved something itself
        time.sleep(0.3 * rng.random())
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    process = start(killed, "--resume")
    assert process.wait(300) == 0, process.stderr.read()
    assert weights(killed / name) == weights(whole / name)
    records = [results.read(folder / name) for folder in (killed, whole)]
    for row, expected in zip(*(record["epochs"] for record in records), strict=True):
        assert {name: row[name] for name in SAME} == {name: expected[name] for name in SAME}
    assert records[0]["final"]["test_accuracy"] == records[1]["final"]["test_accuracy"]


@pytest.mark.kill
def test_killed_at_20_random_moments_it_still_ends_alike(tmp_path):
    """In a process of its own: torch does not let one fork in which another test has used autograd's threads."""
    words = [sys.executable, "-c", "import sys, test_trainer; test_trainer.kill_20_times(sys.argv[1])", str(tmp_path)]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": PATH}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "alike"


def kill_20_times(folder):
    """Forked, since a process of its own would take seconds to begin; a checkpoint after every step."""
    folder = Path(folder)
    recipe = small(epochs=50, train_images=512, held_out_images=32)
    whole = run(recipe, folder / "whole")
    processes, rng, kills = multiprocessing.get_context("fork"), random.Random(1), 0
    options = {"device": "cpu", "progress": False, "resume": True, "checkpoint_steps": 1}
    while kills < 20:
        child = processes.Process(target=dfs.train, args=(recipe, folder / "killed"), kwargs=options)
        child.start()
        child.join(rng.uniform(0.02, 0.5))
        assert child.exitcode is None, "it ended before it could be killed 20 times"
        child.kill()
        child.join()
        kills += 1
    done = results.read(folder / "killed" / recipe.name)["epochs"]
    assert len(done) < recipe.epochs
    resumed = run(recipe, folder / "killed", resume=True)
    assert weights(resumed.folder) == weights(whole.folder)
    for row, expected in zip(resumed.record["epochs"], whole.record["epochs"], strict=True):
        assert {name: row[name] for name in SAME} == {name: expected[name] for name in SAME}
    print("alike")


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_leave_a_run_that_resumes(number, tmp_path):
    process = start(tmp_path)
    wait_for(tmp_path / "digits-vgg7-4-smoke-joint-seed0" / "checkpoint.pt", process)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the run had finished before the signal came")
    assert process.returncode == 130
    assert "`--resume` continues from" in said
    assert "Traceback" not in said
    process = start(tmp_path, "--resume")
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "kept in" in out


@dataclass(frozen=True)
class Mine(dfs.Junction):
    """A junction that no record can name."""

    def gradient(self, g_onward, g_seen):
        return g_onward


def test_a_junction_that_no_record_can_name_is_refused_before_training(tmp_path):
    recipe = small(junction=Mine())
    with pytest.raises(ValueError, match=r"junction 'mine': use one of .*KINDS"):
        dfs.train(recipe, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_recipe_and_no_device():
    with pytest.raises(TypeError, match="recipe is a str"):
        dfs.train("digits/vgg7-16")
    with pytest.raises(ValueError, match="device='gpu': use auto, cpu"):
        dfs.train(small(), out=None, device="gpu")
