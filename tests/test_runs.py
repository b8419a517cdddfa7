"""Runs of strangers: what their files promise is checked before it is believed, and one bad run hides no other."""

import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import dfs_edu as dfs
from dfs_edu import cli, data, results, runs
from dfs_edu.recipes import Recipe
from dfs_edu.train import load_data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    recipe = dfs.recipes.get("digits/vgg7-2", scale="smoke", train_images=64, held_out_images=32, precision="fp32")
    return dfs.train(recipe, out, device="cpu", progress=False).folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(finished, tmp_path / "runs" / finished.name, ignore=shutil.ignore_patterns("*.pt", "events"))


def change(run, **parts):
    """Write a record with other parts; a dict's entries replace those of the part."""
    record = json.loads((run / "record.json").read_text())
    for name, value in parts.items():
        record[name] = record[name] | value if isinstance(value, dict) else value
    (run / "record.json").write_text(json.dumps(record))


def call(*words) -> int:
    return cli.main([str(word) for word in words])


# Records


NOTHING = (
    None,
    True,
    -1,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "\x1b[2K\n",
    "../..",
    [],
    [[]],
    {},
    {"name": "joint"},
)


def places(value, path=()):
    """The paths to everything inside a record."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


def mutated(record, rng):
    """A copy with one to three of its parts lost, or of another kind."""
    record = copy.deepcopy(record)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice(list(places(record)))
        part = record
        for key in way:
            part = part[key]
        if rng.random() < 0.3:
            del part[last]
        else:
            part[last] = copy.deepcopy(rng.choice(NOTHING))
        if not record:
            break
    return record


def behind_the_commands(run):
    """What `evaluate`, `keep` and `runs` do with a record before they compute."""

    def evaluate():
        network, record = runs.load_network(run)
        runs.check_data(run, record, load_data(Recipe.from_dict(record["recipe"])))
        return network

    return evaluate, lambda: runs.keep(run, run.parent / "kept", weights=True)


def test_records_of_any_kind_are_read_or_refused_in_one_line(run, capsys, monkeypatch):
    """Mutations of a real record: a ValueError that says why, or a run that is listed."""
    digits = data.load("digits")
    monkeypatch.setattr(data.digits, "load", lambda: digits)  # composed once
    shutil.copytree(run, run.parent / "whole")
    record, rng, outcomes = results.read(run), random.Random(0), set()
    for _ in range(150):
        (run / "record.json").write_text(json.dumps(mutated(record, rng)))
        for command in behind_the_commands(run):
            try:
                command()
                outcomes.add(None)
            except ValueError as error:
                outcomes.add(str(error))
        options = rng.choice(([], ["--compare"], ["--best"]))
        assert call("runs", "--out", run.parent, *options) == 0
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert (
            f"\ncannot be read: {run.name}: " in said or "--best" in options or re.search(f"^ *{run.name} ", said, re.M)
        )
        assert re.search("^ *whole ", said, re.M) or "--best" in options
    assert None in outcomes
    assert "" not in outcomes
    assert len(outcomes) > 50


def test_a_record_that_is_no_file_of_json(run, capsys):
    (whole := run.parent / "whole").mkdir()
    shutil.copy(run / "record.json", whole)
    record = run / "record.json"
    for content in (b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b"1" * 10_000):
        record.write_bytes(content)
        assert call("runs", "--out", run.parent) == 0
        said = capsys.readouterr().out
        assert "whole" in said
        assert said.count("cannot be read") == 1
        assert call("evaluate", run) == 1
        assert capsys.readouterr().err.count("\n") == 1
    record.unlink()
    os.mkfifo(record)  # whoever opened it would wait for ever
    assert call("runs", "--out", run.parent) == 0
    assert "not a file" in capsys.readouterr().out
    shutil.rmtree(whole)
    assert call("runs", "--out", run.parent) == 1


def test_names_of_strangers_forge_no_rows(run, capsys):
    evil = "a\nb\x1b[2K\u202e"
    os.rename(run, run.with_name(evil))
    change(run.with_name(evil), recipe={"backbone": evil, "junction": {"name": evil}})
    change(shutil.copytree(run.with_name(evil), run.with_name("two")), recipe={"seed": 1, "backbone": "b"})
    assert call("runs", "--out", run.parent, "--compare") == 0
    said = capsys.readouterr().out
    assert r"a\nb\x1b[2K\u202e" in said
    assert said.replace("\n", "").isprintable()
    assert call("runs", "/etc/*") == 1
    assert "give the name of a run" in capsys.readouterr().err


# Weights


BIG = """
import json, resource, sys
from pathlib import Path
from dfs_edu.cli import main

run = Path(sys.argv[1])
whole = json.loads((run / "record.json").read_text())
main(["evaluate", str(run), "--device", "cpu"])  # what one costs anyhow
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for backbone in sys.argv[2:]:
    whole["recipe"]["backbone"] = backbone
    (run / "record.json").write_text(json.dumps(whole))
    print("status", main(["evaluate", str(run), "--device", "cpu"]))
print("MiB", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_small_run_that_names_a_huge_network_is_refused_before_it_is_made(run):
    names = [
        "vgg7-3000",
        "vgg7-3",
        "vgg16-900",
        "resnet18-depth1000",
        "resnet18-width1500",
        "vgg7-99999999999999999999",
    ]
    names += [
        "msdnet-cifar-blocks1000000000000",
        "msdnet-cifar-blocks1000-step1000",
        "vit-tiny-depth2000",
        "vgg7-" + "9" * 5000,
    ]
    said = subprocess.run([sys.executable, "-c", BIG, run, *names], capture_output=True, text=True, timeout=100)
    assert said.returncode == 0, said.stderr
    assert re.findall(r"status (\d)", said.stdout) == ["1"] * len(names)
    assert int(said.stdout.split()[-1]) < 50
    faults = said.stderr.splitlines()
    assert len(faults) == len(names)
    assert all(fault.startswith("dfs-edu: ") for fault in faults)
    assert "weights.safetensors does not hold the weights of vgg7-3000: " in faults[0]
    assert "stages.0.conv.weight is (2, 3, 3, 3), not (3, 3, 3, 3)" in faults[1]


def test_weights_of_another_network_are_named(run):
    path = run / "weights.safetensors"
    whole = load_file(path)
    for weights, message in (
        ({name: value for name, value in whole.items() if "heads.5" not in name}, "heads.5.fc.weight is missing"),
        (whole | {"more": torch.zeros(1)}, r"more is \(1,\), not missing"),
        (whole | {"stages.0.conv.bias": torch.zeros(3)}, r"stages.0.conv.bias is \(3,\), not \(2,\)"),
        ({"heads.x": torch.zeros(1)}, "weights of vgg7-2"),
        ({"heads.0.fc.weight": torch.zeros(())}, "weights of vgg7-2"),
        ({}, "weights of vgg7-2"),
    ):
        save_file(weights, path)
        with pytest.raises(ValueError, match=message):
            runs.load_network(run)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="does not hold the weights"):
        runs.load_network(run)


# Keeping


def test_a_recipe_that_is_a_path_writes_nothing_outside(run, tmp_path, capsys):
    before = {path for path in tmp_path.rglob("*") if "runs" not in path.parts}
    for recipe in ({"backbone": "../../../escape"}, {"dataset": "../../escape"}, {"scale": "../../escape"}):
        change(run, recipe=recipe)
        assert call("keep", run) == 1
        assert "escape" in capsys.readouterr().err
    change(run, recipe={"dataset": "digits", "backbone": "vgg7-2", "scale": "smoke", "name": "../../escape"})
    kept = runs.keep(run, tmp_path / "kept" / "recorded", weights=True)
    assert kept == tmp_path / "kept" / "recorded" / "digits-vgg7-2-smoke-joint-seed0"
    assert results.read(kept)["recipe"]["name"] == kept.name
    assert not list(tmp_path.rglob("*escape*"))
    assert {path for path in tmp_path.rglob("*") if not {"runs", "kept"} & set(path.parts)} == before


@pytest.mark.parametrize("name", ["validation.npz", "test.npz", "record.json", "weights.safetensors"])
def test_links_are_not_copied(run, tmp_path, name):
    (run / name).rename(tmp_path / name)
    (run / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is a link"):
        runs.keep(run, tmp_path / "kept", weights=True)
    assert not (tmp_path / "kept").exists()


def test_what_is_kept_lands_in_no_linked_folder(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / run.name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link, or leads out of"):
        runs.keep(run, tmp_path / "kept")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_outputs_that_are_not_the_run_s_are_not_kept(run, tmp_path):
    (run / "test.npz").rename(run / "mine.npz")
    shutil.copy(run / "validation.npz", run / "test.npz")
    with pytest.raises(ValueError, match=r"test\.npz does not hold the outputs of the record: validation accuracy"):
        runs.keep(run, tmp_path / "kept")
    np.savez(run / "test.npz", secret=np.zeros(3))
    with pytest.raises(ValueError, match=r"test\.npz does not hold outputs"):
        runs.keep(run, tmp_path / "kept")
    shutil.copy(run / "mine.npz", run / "test.npz")
    change(run, final={"test_accuracy": [0.5] * 6})
    with pytest.raises(ValueError, match=r"recorded \[0\.5"):
        runs.keep(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_what_is_committed_is_what_keep_would_accept():
    for folder in sorted(path.parent for path in results.RECORDED.glob("*/validation.npz")):
        record = results.read(folder)
        assert Recipe.from_dict(record["recipe"]).name == folder.name == record["recipe"]["name"]
        for split in runs.SPLITS:
            assert runs._outputs(folder / f"{split}.npz", split, record).confidence.shape[1] in (5_000, 10_000)
        if (folder / runs.WEIGHTS).exists():
            runs.load_network(folder)
