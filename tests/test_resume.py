"""Resumed equals uninterrupted, bit for bit: every backbone, and whatever a recipe can ask for; a full disk too."""

import sys

import pytest
import torch
from tiny import FAMILIES

import dfs_edu as dfs
from dfs_edu.recipes import get

train_module = sys.modules["dfs_edu.train"]
OPTIONS = {
    "plain": {},
    "everything": {"ema": 0.9, "accumulate": 2, "clip": 1.0, "label_smoothing": 0.1, "augmentation": "autoaugment"},
    "distillation, adamw": {"loss": "distillation", "optimizer": "adamw", "lr": 1e-3},
}


class Killed(BaseException):
    pass


def recipe_for(backbone, **options):
    small = {"epochs": 2, "batch_size": 8, "train_images": 24, "held_out_images": 8}
    return get(f"digits/{backbone}", scale="smoke", junction=dfs.Surgery(0.5), **(small | options))


def train(recipe, out, **kwargs):
    return dfs.train(recipe, out, device="cpu", progress=False, **kwargs)


def check(recipe, tmp_path, monkeypatch, step=4):
    """Killed in the middle of a step, with a checkpoint after each, and resumed."""
    whole = train(recipe, tmp_path / "whole")
    plain, steps = train_module._Loop.step, []

    def deadly(loop, *batch):
        steps.append(None)
        if len(steps) == step:
            raise Killed
        plain(loop, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(train_module._Loop, "step", deadly)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "killed", checkpoint_steps=1)
    torch.manual_seed(99)  # another process has other random numbers
    resumed = train(recipe, tmp_path / "killed", resume=True)
    read = lambda run: (run.folder / "weights.safetensors").read_bytes()  # noqa: E731
    assert read(resumed) == read(whole)
    for ours, theirs in zip(resumed.record["epochs"], whole.record["epochs"], strict=True):
        for name in ("loss", "train_accuracy", "validation_accuracy", "gradient_norm", "conflict"):
            assert ours[name] == theirs[name]
    assert torch.equal(resumed.test.confidence, whole.test.confidence)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backbone", [name for family, (name, _) in FAMILIES.items() if family != "msdnet-imagenet"])
def test_resumed_equals_uninterrupted(backbone, options, tmp_path, monkeypatch):
    check(recipe_for(backbone, **OPTIONS[options]), tmp_path, monkeypatch)


def test_with_dropout_too(tmp_path, monkeypatch):
    check(recipe_for("msdnet-cifar-blocks2-base1-step1-growth4-width4-dropout50"), tmp_path, monkeypatch)


def test_compiled_too(tmp_path, monkeypatch):
    check(recipe_for("vgg7-4", compile=True, ema=0.9), tmp_path, monkeypatch)
