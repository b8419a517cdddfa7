"""Runs of strangers: what their files promise is checked before it is believed, and one bad run hides no other."""

import copy
import json
import os
import random
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from warm import python

import dfs_edu as dfs
from dfs_edu import cli, data
from dfs_edu.inference import Outputs
from dfs_edu.training import results, runs, study
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.trainer import fill_content, load_data


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


# Data


COLOURS = {
    "ant": (200, 40, 40),
    "bee": (40, 200, 40),
    "fly": (40, 40, 200),
    "clock": (200, 40, 40),
    "whale": (40, 200, 40),
}


def images(folder, classes, count, seed):
    """A folder for each class, with images of its colour and noise."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.array(COLOURS[name]) + random.normal(0, 60, 3) + random.normal(0, 40, (8, 8, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def insects(tmp_path_factory):
    """A run on a folder of images, and the folder."""
    folder = tmp_path_factory.mktemp("insects") / "insects"
    images(folder / "train", ("ant", "bee", "fly"), 40, 0)
    images(folder / "val", ("ant", "bee", "fly"), 20, 1)
    how = {"scale": "smoke", "pixels": 8, "precision": "fp32", "epochs": 4, "batch_size": 16}
    recipe = dfs.recipes.get("folder/vgg7-4", **how)
    return dfs.train(recipe, folder.parent / "runs", root=folder, device="cpu", progress=False).folder, folder


def shown(capsys):
    """The first table of `evaluate`: accuracy on the test images at each exit, in %."""
    return [float(line.split()[3]) for line in capsys.readouterr().out.splitlines()[1:7]]


def test_a_run_knows_its_data(insects, tmp_path, capsys):
    run, folder = insects
    other = images(tmp_path / "others" / "train", ("clock", "whale"), 60, 7).parent
    images(other / "val", ("clock", "whale"), 20, 8)
    for command in ("evaluate", "export", "probe"):
        assert call(command, run, "--data", other, "--device", "cpu") == 1
        said = capsys.readouterr().err
        assert "was trained on other data than these: name 'insects', now 'others'; checksum" in said
        assert "only before: ant, bee, fly; only now: clock, whale" in said
    assert not (run / "export").exists()
    assert call("evaluate", run, "--data", folder, "--device", "cpu") == 0
    assert shown(capsys) == [round(100 * a, 2) for a in results.read(run)["final"]["test_accuracy"]]


def test_classes_of_equal_images_are_compared_too(insects, tmp_path):
    """Renamed folders: the checksum of images in memory is the same, what they are called is not."""
    run, folder = insects
    other = shutil.copytree(folder, tmp_path / "insects")
    for part in ("train", "val"):
        (other / part / "ant").rename(other / part / "aphid")
    record, found = results.read(run), load_data(Recipe.from_dict(results.read(run)["recipe"]), other)
    assert found.checksum == record["data"]["checksum"]
    with pytest.raises(ValueError, match="only before: ant; only now: aphid"):
        runs.check_data(run, record, found)


def test_an_older_record_without_classes_is_still_compared(insects, tmp_path, capsys):
    run, folder = insects
    run = shutil.copytree(run, tmp_path / "runs" / run.name)
    record = results.read(run)
    record["data"] = {part: record["data"][part] for part in ("name", "checksum")}
    results.write(run / "record.json", record)
    assert call("evaluate", run, "--data", folder, "--device", "cpu") == 0
    other = images(tmp_path / "insects" / "train", ("ant", "bee", "fly"), 40, 5).parent
    images(other / "val", ("ant", "bee", "fly"), 20, 6)
    assert call("evaluate", run, "--data", other, "--device", "cpu") == 1
    assert "trained on other data than these: checksum" in capsys.readouterr().err
    run = Recipe.from_dict(record["recipe"])
    with pytest.raises(ValueError, match="the recipe is of other images than insects"):
        dfs.train(run, tmp_path / "runs", root=other, device="cpu", progress=False, resume=True)
    again = dfs.train(run, tmp_path / "runs", root=folder, device="cpu", progress=False, resume=True)
    assert again.record["final"] == record["final"]


def test_new_test_images_are_read_as_the_run_s_own(insects, tmp_path, capsys):
    """By the names of their classes, and with the run's normalisation: its own test images score alike elsewhere."""
    run, folder = insects
    recorded = Outputs.load(run / "test.npz")
    new = shutil.copytree(folder / "val", tmp_path / "new")
    words = ("evaluate", run, "--data", folder, "--device", "cpu", "--test-data")
    assert call(*words, new) == 0
    out = capsys.readouterr().out
    assert f"measured on 60 images of {new}" in out
    assert [line.split()[3] for line in out.splitlines()[1:7]] == [f"{100 * a:.2f}" for a in recorded.accuracy]
    shutil.rmtree(new / "ant")
    assert call(*words, new) == 0
    right = recorded.correct[:, recorded.label != 0].double().mean(1)
    assert shown(capsys) == [round(100 * a, 2) for a in right.tolist()]
    assert right.tolist() != recorded.accuracy.tolist()
    assert call(*words, images(tmp_path / "more", ("ant", "bee", "clock"), 2, 3)) == 1
    assert "classes that the run does not know: clock; it knows ant, bee, fly" in capsys.readouterr().err
    assert call(*words, tmp_path / "none") == 1
    assert "none" in capsys.readouterr().err


def test_a_record_that_asks_for_huge_images_is_refused(insects, tmp_path, capsys):
    run, folder = insects
    run = shutil.copytree(run, tmp_path / "run")
    change(run, recipe={"pixels": 10**7})
    assert call("evaluate", run, "--data", folder) == 1
    assert "pixels=10000000: a whole number from 1, at most 4096" in capsys.readouterr().err


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
    said = subprocess.run([*python(), "-c", BIG, run, *names], capture_output=True, text=True, timeout=100)
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


@pytest.mark.parametrize("name", ["validation.npz", "test.npz", "record.json", "weights.safetensors"])
def test_pipes_are_not_waited_for(run, tmp_path, name):
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(ValueError, match=f"{name}.*: not a file"):
        runs.keep(run, tmp_path / "kept", weights=True)


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


def test_runs_on_other_images_have_other_names(tmp_path, capsys):
    """Of another content, other names of classes, another size; the same images resume their run."""
    one = images(tmp_path / "a" / "mine", ("ant", "bee"), 12, 0)
    other = images(tmp_path / "b" / "mine", ("ant", "bee"), 12, 1)
    renamed = shutil.copytree(one, tmp_path / "c" / "mine")
    (renamed / "ant").rename(renamed / "aphid")
    words = [
        "train",
        "folder/vgg7-4",
        "--scale",
        "smoke",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        tmp_path / "runs",
    ]
    for folder in (one, other, renamed):
        assert call(*words, "--image-size", 8, "--data", folder) == 0
    assert call(*words, "--image-size", 16, "--data", one) == 0
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert len(names) == 4
    assert all(re.fullmatch(r"folder-vgg7-4-smoke-joint-pixels(8|16)-[0-9a-f]{8}-seed0", name) for name in names)
    capsys.readouterr()
    assert call(*words, "--image-size", 8, "--data", one) == 1
    assert "exists already: resume it (--resume" in capsys.readouterr().err
    assert call(*words, "--image-size", 8, "--data", one, "--resume") == 0
    assert call(*words, "--image-size", 8, "--data", one, "--lr", "0.01") == 1
    said = capsys.readouterr().err
    assert re.search(r"exists already: a run of another recipe \(lr 0\.\d+, now 0\.01\); choose another folder", said)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == names


def test_a_folder_may_be_renamed(insects, tmp_path):
    """The checksum is of its images: the same run is found and resumed."""
    run, folder = insects
    renamed = shutil.copytree(folder, tmp_path / "renamed")
    recipe = replace(Recipe.from_dict(results.read(run)["recipe"]), content=None)
    assert fill_content(recipe, load_data(recipe, renamed)) == fill_content(recipe, load_data(recipe, folder))
    assert call("evaluate", run, "--data", renamed, "--device", "cpu") == 0


def test_an_older_run_of_a_folder_keeps_its_name(insects, tmp_path):
    run, folder = insects
    record = results.read(run)
    recipe = replace(Recipe.from_dict(record["recipe"]), content=None)
    older = shutil.copytree(run, tmp_path / recipe.name)
    record["recipe"] |= {"content": None, "name": recipe.name}
    results.write(older / "record.json", record)
    assert fill_content(recipe, load_data(recipe, folder), tmp_path) == recipe
    other = images(tmp_path / "others", ("ant", "bee", "fly"), 40, 5)
    assert fill_content(recipe, load_data(recipe, other), tmp_path).content


def test_a_study_on_other_images_is_another_study(tmp_path):
    one = images(tmp_path / "a" / "mine", ("ant", "bee"), 12, 0)
    other = images(tmp_path / "b" / "mine", ("ant", "bee"), 12, 1)
    recipe = dfs.recipes.get("folder/vgg7-4", scale="smoke", pixels=8, precision="fp32")
    cells = study.grid(recipe, ["joint"], [0])
    study.work(cells, tmp_path / "runs", root=one, device="cpu", progress=False)
    assert "final" in study.collect(cells, tmp_path / "runs", one)[0]
    assert "final" not in study.collect(cells, tmp_path / "runs", other)[0]
    with pytest.raises(ValueError, match="the recipe is of other images than mine"):
        dfs.train(*study.of_data(cells, one), None, root=other, device="cpu")
