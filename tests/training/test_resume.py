"""Resumed equals uninterrupted, bit for bit: every backbone, and whatever a recipe can ask for; a full disk too."""

import os
import subprocess

import pytest
import torch
from dying import SAME, Killed, die_in_step
from tiny import FAMILIES
from warm import python

import dfs_edu as dfs
from dfs_edu.methods.meta_gf import MetaFusion
from dfs_edu.methods.method import Method
from dfs_edu.methods.wpn import WeightPrediction
from dfs_edu.training import checkpoint
from dfs_edu.training.recipes import get

METHODS = ["pcgrad", "nash-mtl", "gradvac", "pcd", "random", "graddrop", "bdl", "mixed-1"]
METHODS += ["dwa", "famo", "uw", "shifting"]
OPTIONS = {
    "plain": {},
    "everything": {"ema": 0.9, "accumulate": 2, "clip": 1.0, "label_smoothing": 0.1, "augmentation": "autoaugment"},
    "distillation, adamw": {"loss": "distillation", "optimizer": "adamw", "lr": 1e-3},
}


def recipe_for(backbone, **options):
    small = {"epochs": 2, "batch_size": 8, "train_images": 24, "held_out_images": 8}
    return get(f"digits/{backbone}", scale="smoke", junction=dfs.Surgery(0.5), **(small | options))


def train(recipe, out, **kwargs):
    return dfs.train(recipe, out, device="cpu", progress=False, **kwargs)


def check(recipe, tmp_path, monkeypatch, step=4, of=Method):
    """Killed in the middle of a step, with a checkpoint after each, and resumed."""
    whole = train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        die_in_step(patch, step, of)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "killed", checkpoint_steps=1)
    torch.manual_seed(99)  # another process has other random numbers
    resumed = train(recipe, tmp_path / "killed", resume=True)
    read = lambda run: (run.folder / "weights.safetensors").read_bytes()  # noqa: E731
    assert read(resumed) == read(whole)
    for ours, theirs in zip(resumed.record["epochs"], whole.record["epochs"], strict=True):
        for name in SAME:
            assert ours[name] == theirs[name]
    assert torch.equal(resumed.test.confidence, whole.test.confidence)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backbone", [name for family, (name, _) in FAMILIES.items() if family != "msdnet-imagenet"])
def test_resumed_equals_uninterrupted(backbone, options, tmp_path, monkeypatch):
    check(recipe_for(backbone, **OPTIONS[options]), tmp_path, monkeypatch)


def test_with_dropout_too(tmp_path, monkeypatch):
    check(recipe_for("msdnet-cifar-blocks2-base1-step1-growth4-width4-dropout50"), tmp_path, monkeypatch)


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_draw_lots_or_remember_too(method, tmp_path, monkeypatch):
    check(recipe_for("vgg7-4", method=method), tmp_path, monkeypatch)


TWO_EXITS = "msdnet-cifar-blocks2-base1-step1-growth4-width4-dropout50"


# Of two rounds of 3 x 3 steps: the first and another one of an exit's pass, of the fusion, and of the second round
@pytest.mark.parametrize("step", [4, 6, 7, 9, 10, 14, 17])
def test_a_method_of_several_passes_too(step, tmp_path, monkeypatch):
    recipe = recipe_for(TWO_EXITS, method="meta-gf", epochs=6)
    check(recipe, tmp_path, monkeypatch, step, MetaFusion)


@pytest.mark.parametrize("step", [2, 4])  # each with two updates; three steps an epoch
def test_a_method_that_looks_ahead_too(step, tmp_path, monkeypatch):
    check(recipe_for(TWO_EXITS, method="wpn", frozen=1), tmp_path, monkeypatch, step, WeightPrediction)


@pytest.mark.parametrize("loss", ["annealed-distillation", "ensemble-distillation", "boosted"])
def test_other_losses_too(loss, tmp_path, monkeypatch):
    """A temperature that rises is remembered."""
    check(recipe_for("vgg7-4", loss=loss), tmp_path, monkeypatch)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_mixed_images_too(mixing, tmp_path, monkeypatch):
    check(recipe_for("vgg7-4", mixing=mixing, label_smoothing=0.1), tmp_path, monkeypatch)


def test_the_conflict_is_tracked_and_nothing_else_changes(tmp_path, monkeypatch):
    """With dropout, whose lots the looks must not draw; killed and resumed, the looks are those of the whole run."""
    recipe = recipe_for("msdnet-cifar-blocks2-base1-step1-growth4-width4-dropout50")
    plain = train(recipe, tmp_path / "plain")
    tracked = train(recipe, tmp_path / "tracked", track=2)
    read = lambda run: (run.folder / "weights.safetensors").read_bytes()  # noqa: E731
    assert read(tracked) == read(plain)
    found = tracked.record["conflict"]
    assert [look["step"] for look in found["looks"]] == [0, 2, 4, 6]
    assert len(found["layers"]) == len(found["looks"][0]["conflicting"])
    with monkeypatch.context() as patch:
        die_in_step(patch, 4)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "killed", checkpoint_steps=1, track=2)
    resumed = train(recipe, tmp_path / "killed", resume=True, track=2)
    assert resumed.record["conflict"] == found


def test_compiled_too(tmp_path, monkeypatch):
    check(recipe_for("vgg7-4", compile=True, ema=0.9), tmp_path, monkeypatch)


FULL = """
import sys
import dfs_edu as dfs
from dfs_edu.training.recipes import get
recipe = get("digits/vgg7-4", scale="smoke", epochs=3, train_images=64, held_out_images=32)
dfs.train(recipe, sys.argv[1], device="cpu", progress=False, resume=True)
"""


def start(out):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*python(), "-c", FULL, str(out)], env=environment, capture_output=True, text=True)


def test_a_disk_that_runs_full_stops_the_run_and_it_goes_on_when_there_is_room(tmp_path):
    """A file system of its own, with room for one checkpoint and half of the next."""
    whole = start(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    (run,) = (tmp_path / "whole").iterdir()
    small = tmp_path / "small"
    small.mkdir()
    room = int(1.5 * (run / "checkpoint.pt").stat().st_size) // 4096 * 4096
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        stopped = start(small)
        assert stopped.returncode == 1
        assert "No space left on device" in stopped.stderr
        kept = {path.name for path in (small / run.name).iterdir()}
        assert "checkpoint.pt" in kept
        assert not [name for name in kept if name.startswith(".")]  # nothing half written
        assert checkpoint.newest(small / run.name)["batches"]["epoch"] >= 1
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        resumed = start(small)
        assert resumed.returncode == 0, resumed.stderr
        read = [(folder / "weights.safetensors").read_bytes() for folder in (small / run.name, run)]
        assert read[0] == read[1]
    finally:
        subprocess.run(["umount", str(small)], check=True)
