"""Names that a module of your own adds: known to every command, and to the processes of a study."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm import python

from dfs_edu.cli import main
from dfs_edu.training import results

MINE = """
from dataclasses import dataclass

from torch import nn

from dfs_edu.training import arms
from dfs_edu.backbones import BACKBONES, build
from dfs_edu.backbones.families import family
from dfs_edu.methods.method import named
from dfs_edu.methods.weighted import Weighted
from dfs_edu.surgery import Surgery


@family("mynet", pixels=32, smallest=32)
def mynet(classes: int):
    net = build("vgg7-2", classes)
    return net.stages, net.heads


@dataclass(frozen=True)
class Softened(Surgery):
    pass


arms.KINDS["softened"] = Softened


@named("mysum")
class MySum(Weighted):
    pass
"""
SMALL = "--scale smoke --train-images 64 --held-out-images 32 --device cpu --precision fp32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "mine_dfs.py").write_text(MINE)
    return folder


def shell(folder, words: str):
    """In a process of its own, started in the folder as a user would."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    run = "import sys; sys.path.pop(0); from dfs_edu.cli import main; sys.exit(main())"  # as the installed command
    command = [*python(), "-c", run, *words.split(), "--plugin", "mine_dfs"]
    how = {"capture_output": True, "text": True, "timeout": 300, "env": os.environ | {"PYTHONPATH": path}}
    done = subprocess.run(command, cwd=folder, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_knows_them(folder):
    said = shell(folder, f"train digits/mynet {SMALL} --junction softened-0.25 --method mysum --out runs")
    assert "digits-mynet-smoke-softened-own-0.25-mysum-seed0" in said


def test_the_processes_of_a_study_know_them(folder):
    said = shell(folder, f"study digits/mynet {SMALL} --arms joint softened+mysum --seeds 1 --processes 2 --out study")
    assert "2 of 2 runs are finished" in said
    arms = {(r["recipe"]["junction"]["name"], r["recipe"]["method"]) for r in results.runs(folder / "study").values()}
    assert arms == {("joint", "sum"), ("softened", "mysum")}


def test_a_plugin_may_stand_before_the_command(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["--plugin", "mine_dfs", "costs", "mynet", "--classes", "10"]) == 0
    assert "mynet, 10 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing_like_it", "No module named 'nothing_like_it'"), ("", "Empty module name"), (".x", "TypeError")],
)
def test_a_plugin_that_cannot_be_imported_is_named(name, message, capsys):
    assert main(["costs", "--plugin", name]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"dfs-edu: --plugin {name} cannot be imported (")
    assert message in said


def test_a_plugin_with_an_error_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_dfs.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "--plugin", "broken_dfs"]) == 1
    assert "--plugin broken_dfs cannot be imported (ZeroDivisionError: division by zero)" in capsys.readouterr().err
