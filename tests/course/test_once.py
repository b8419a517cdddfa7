"""Runs that notebooks share: trained once, found again, distinguished by all that decides them."""

from __future__ import annotations

import threading

import pytest
import torch
from platformdirs import user_cache_path

import dfs_edu as dfs
from dfs_edu.course import once
from dfs_edu.course.once import train_once

RECIPE = dfs.recipes.get("digits/vgg7-2", scale="smoke")


@pytest.fixture(autouse=True)
def shared(tmp_path, monkeypatch):
    monkeypatch.setenv("DFS_EDU_RUNS", str(tmp_path / "runs"))


def test_the_second_notebook_finds_what_the_first_trained(capsys, monkeypatch):
    first = train_once(RECIPE, "cpu")
    assert "digits-vgg7-2-smoke-joint-seed0: trained now" in capsys.readouterr().out
    monkeypatch.setattr("dfs_edu.training.trainer.Trainer.epoch", None)  # it would raise
    second = train_once(RECIPE, "cpu")
    assert "digits-vgg7-2-smoke-joint-seed0: found, trained before" in capsys.readouterr().out
    assert second.record == first.record
    for name, weight in first.network.state_dict().items():
        assert torch.equal(weight, second.network.state_dict()[name]), name
    for split in ("validation", "test"):
        ours, theirs = getattr(first, split), getattr(second, split)
        assert torch.equal(ours.confidence, theirs.confidence)
        assert torch.equal(ours.prediction, theirs.prediction)


def test_what_train_would_have_given():
    shared, alone = train_once(RECIPE, "cpu"), dfs.train(RECIPE, out=None, device="cpu", progress=False)
    assert shared.record["final"]["test_accuracy"] == alone.record["final"]["test_accuracy"]
    assert shared.folder is not None


def test_where_the_checkout_is_read_only_runs_are_kept_in_the_users_cache(monkeypatch):
    monkeypatch.delenv("DFS_EDU_RUNS")
    assert once.folder() == once.PACKAGE.parent / "runs" / "once"
    monkeypatch.setattr(once.os, "access", lambda path, mode: False)
    assert once.folder() == user_cache_path("dfs_edu") / "once"


def test_a_killed_run_is_resumed(monkeypatch):
    recipe = dfs.recipes.get("digits/vgg7-2", scale="smoke", epochs=2)
    whole = dfs.train(recipe, out=None, device="cpu", progress=False)

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dfs_edu.training.trainer.Trainer.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train_once(recipe, "cpu")
    assert train_once(recipe, "cpu").record["final"]["test_accuracy"] == whole.record["final"]["test_accuracy"]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"junction": dfs.Surgery(0.5)},
        {"junction": dfs.Surgery(0.5, exit_gradient="all")},
        {"method": "pcgrad"},
        {"epochs": 2},
    ],
    ids=str,
)
def test_another_recipe_has_another_key(changes):
    other = dfs.recipes.get("digits/vgg7-2", scale="smoke", **changes)
    assert once.key(other, "cpu", None, None) != once.key(RECIPE, "cpu", None, None)


def test_code_versions_and_tracking_belong_to_the_key(monkeypatch):
    key = once.key(RECIPE, "cpu", None, None)
    assert key == once.key(RECIPE, "cpu", None, None)
    assert key != once.key(RECIPE, "cpu", 4, None)
    with monkeypatch.context() as patch:
        patch.setattr(once, "code", lambda: "newer")
        assert once.key(RECIPE, "cpu", None, None) != key
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda name: "9.9.9")
        assert once.key(RECIPE, "cpu", None, None) != key


def test_code_that_trains_belongs_to_the_version_and_figures_do_not(tmp_path, monkeypatch):
    for name in ("surgery.py", "training/trainer.py", "figures/look.py", "course/once.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(once, "PACKAGE", tmp_path)

    def version() -> str:
        once.code.cache_clear()
        return once.code()

    before = version()
    (tmp_path / "figures/look.py").write_text("x = 2\n")
    (tmp_path / "course/once.py").write_text("x = 2\n")
    assert version() == before
    (tmp_path / "training/trainer.py").write_text("x = 2\n")
    assert version() != before
    once.code.cache_clear()


def test_a_junction_of_your_own_is_trained_each_time(capsys):
    class Mine(dfs.Joint):
        pass

    recipe = dfs.recipes.get("digits/vgg7-2", scale="smoke", junction=Mine())
    assert train_once(recipe, "cpu").folder is None
    assert not once.folder().exists()


def test_two_notebooks_at_once_train_one_run(capsys):
    runs = []
    threads = [threading.Thread(target=lambda: runs.append(train_once(RECIPE, "cpu"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    printed = capsys.readouterr().out
    assert printed.count("trained now") == printed.count("found, trained before") == 1
    assert runs[0].record == runs[1].record
