"""The command: its words, its exit status, and that each command does what the library does."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
from warm import python

import dfs_edu as dfs
from dfs_edu import build, cli, probes
from dfs_edu.training import recipes, results, runs

COMMANDS = tuple(cli.COMMANDS)


def call(*words) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    words = "train digits/vgg7-4 --scale smoke --train-images 128 --junction surgery --beta 0.25 --exit-gradient all"
    assert call(*words.split(), "--seed", 5, "--device", "cpu", "--out", out) == 0
    (folder,) = out.iterdir()
    return folder


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_there_and_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(*command.split(), "--help")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS) if not command else len(said) > 100


def test_train_passes_on_its_options(finished):
    recipe = results.read(finished)["recipe"]
    assert finished.name == "digits-vgg7-4-smoke-surgery-all-0.25-seed5"
    assert recipe["junction"] == {
        "name": "surgery",
        "beta": 0.25,
        "reference": True,
        "exit_gradient": "all",
        "scales": "last",
    }
    assert (recipe["train_images"], recipe["seed"], recipe["compile"]) == (128, 5, False)


def test_every_field_of_a_recipe_is_an_option_with_its_help_and_the_recipe_s_own_value(capsys):
    """Nothing is written twice: names, choices, help and defaults come from the fields of Recipe."""
    with pytest.raises(SystemExit):
        call("train", "cifar100/resnet18", "--scale", "paper", "--help")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(recipes.Recipe):
        option = f"--{field.name.replace('_', '-')}"
        hidden = field.name in ("dataset", "backbone", "content")
        assert (option in shown) is not hidden, option
    for words in (
        "Peak learning rate. (default: 0.1)",
        "(default: 250 280 295)",
        "--schedule {onecycle,multistep}",
        "--loss {cross-entropy,distillation,distillation-logits,",
        "(default: sum; all: sum, pcgrad, ",
        " mixed-N, ",
    ):
        assert words in shown
    assert recipes.Recipe.__doc__.count("\n        ") >= len(dataclasses.fields(recipes.Recipe))


def test_evaluate_shows_exits_and_budgets(finished, capsys):
    assert call("evaluate", finished, "--device", "cpu") == 0
    exits, budgets = capsys.readouterr().out.split("\nearly exit")
    rows = [line.split() for line in exits.splitlines()[1:]]
    assert [row[0] for row in rows] == list("123456")
    costs = [float(row[1]) for row in rows]
    assert costs == sorted(costs)
    recorded = results.read(finished)["final"]["test_accuracy"]
    assert [float(row[3]) for row in rows] == pytest.approx([100 * a for a in recorded], abs=1.0)  # bf16 against fp32
    shown = [[float(cell) for cell in line.split()] for line in budgets.splitlines()[3:]]
    assert [row[0] for row in shown] == [0.25, 0.5, 0.75, 1]
    for row in shown:  # budget, its MMACs, spent, accuracy, K shares, K thresholds
        assert row[1] == pytest.approx(costs[0] + row[0] * (costs[-1] - costs[0]), abs=0.02)
        assert sum(row[4:10]) == pytest.approx(100, abs=3)
        assert row[15] == 0


def test_what_is_evaluated_is_what_is_exported(finished, tmp_path, capsys):
    """A user who compares budgets by the one command deploys by the other: the same thresholds, found the same way."""
    how = ("--criterion", "margin", "--device", "cpu")
    assert call("evaluate", finished, "--budget", 0.9, 0.3, *how) == 0
    evaluated = capsys.readouterr().out.splitlines()
    assert call("export", finished, "--budget", 0.3, "--out", tmp_path / "net", *how) == 0
    exported = capsys.readouterr().out.splitlines()
    (policy,) = {line for line in evaluated + exported if line.startswith("policy: ")}
    assert "best_thresholds by margin at the temperatures" in policy
    shipped = json.loads((tmp_path / "net" / "manifest.json").read_text())
    assert evaluated[-1].split()[-6:] == [f"{t:.4f}" for t in shipped["thresholds"]]
    assert policy.split()[-6:] == [f"{t:.3g}" for t in shipped["temperatures"]]
    assert call("evaluate", finished, "--budget", 1.5) == 1
    assert "--budget 1.5" in capsys.readouterr().err


def test_probe_shows_a_row_a_layer(finished, capsys):
    assert call("probe", finished, "--images", 64, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "64 training images" in said
    rows = re.findall(r"stages\.(\d)\.conv +([+-]\d\.\d+) +([+-]\d\.\d+) +(\d+)", said)
    assert [row[0] for row in rows][:2] == ["0", "1"]
    assert all(-1 <= float(lowest) <= float(mean) <= 1 for _, mean, lowest, _ in rows)


def test_keep_copies_what_is_worth_committing(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs.keep, "__defaults__", (tmp_path, False))
    assert call("keep", finished) == 0
    kept = tmp_path / finished.name
    assert sorted(path.name for path in kept.iterdir()) == ["record.json", "test.npz", "validation.npz"]
    assert call("keep", finished, "--weights") == 0
    assert (kept / "weights.safetensors").stat().st_size < 0.7 * (finished / "weights.safetensors").stat().st_size
    assert results.read(kept) == results.read(finished)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train digits/vgg8", "did you mean vgg7-64"),
        ("train digits/vgg7-4 --beta 0.5", "--junction joint has no beta"),
        ("train digits/vgg7-4 --junction surgery --beta 1.5", "beta=1.5"),
        ("train digits/vgg7-4 --junction dfs", "junction 'dfs': use one of joint, detached"),
        ("train digits/vgg7-4 --epochs 0", "epochs=0"),
        ("train cifar100/vgg7-64 --data nowhere", "looked for"),
        ("train digits/vgg7-99999999999", "vgg7-99999999999 cannot be made with sizes {'width': 99999999999}"),
        ("study digits/vgg7-99999999999", "vgg7-99999999999 cannot be made"),
        ("costs vgg7-99999999999", "vgg7-99999999999 cannot be made"),
        ("costs vgg7-4 --classes 0", "--classes 0: a whole number from 1"),
        ("costs vgg7-4 --batch -1", "--batch -1: a whole number from 1"),
        ("study digits/vgg7-4 --lr nan", "lr=nan"),
        ("study digits/vgg7-4 --out {file}", "cannot be written (File exists)"),
        ("study digits/vgg7-4 --keep {file}/x.json", "cannot be written (File exists)"),
        ("study digits/vgg7-4 --csv {file}/x.csv", "cannot be written (File exists)"),
        ("study digits/vgg7-4 --arms joint+weighted-inf-1-1-1-1-1", "weights=(inf, 1.0"),
        ("train digits/vgg7-4 --weights 1e300 1 1 1 1 1", "weights=(1e+300, 1.0"),
        ("probe . --images 0", "--images 0"),
        ("evaluate . --budget nan", "--budget nan"),
        ("evaluate nowhere", "there is no run 'nowhere': give the folder of a run"),
        ("evaluate . --budget", "--budget: give at least one"),
        ("keep", "keep: name the folders of finished runs"),
        ("study digits/vgg7-4 --arms", "--arms: name at least one"),
        ("runs --csv {file}/x.csv", "cannot be written (File exists)"),
        ("course --report --csv {file}/x.csv", "cannot be written (File exists)"),
        ("probe nowhere", "nowhere"),
        ("keep nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert call(*words.format(file=tmp_path / "file").split()) == 1
    said = capsys.readouterr().err
    assert said.startswith("dfs-edu: ")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("words", [("runs", ""), ("course", "--only", ""), ("course", "--copy", ""), ("evaluate", "")])
def test_an_empty_value_is_not_taken_for_none(words, capsys):
    assert call(*words) == 1
    assert "an empty value" in capsys.readouterr().err


def test_an_existing_run_is_not_replaced_by_keep(finished, capsys):
    words = "train digits/vgg7-4 --scale smoke --train-images 128 --junction surgery --beta 0.25 --exit-gradient all"
    assert call(*words.split(), "--seed", 5, "--out", finished.parent) == 1
    assert "resume it" in capsys.readouterr().err


def test_a_wrong_word_is_refused_with_status_2():
    for words in ("train digits/vgg7-16 --scale tiny", "train digits/vgg7-16 --loss hinge", "train", "fly", ""):
        with pytest.raises(SystemExit) as stopped:
            call(*words.split())
        assert stopped.value.code == 2


def test_costs_are_exact_with_the_published_ones_beside_them(capsys):
    assert call("costs", "resnet18", "vgg7-4") == 0
    out = capsys.readouterr().out
    assert "resnet18, 100 classes, images of 32x32" in out
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["4"])
    assert row == ["4", "12,283,344", "582.115", "11,220,132", "555.469", "11,170,000", "559.750"]
    assert "vgg7-4, 100 classes" in out
    assert "training step" not in out


def test_costs_estimates_the_memory_of_a_step(capsys):
    assert call("costs", "vgg7-8", "--batch", "64") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "training step" in line)
    fp32, bf16 = (int(word.replace(",", "")) for word in re.findall(r"([\d,]+) MiB", line))
    measured = probes.peak_memory(build("vgg7-8", 100), (3, 32, 32), 64).peak / 2**20
    assert fp32 == round(measured)
    assert bf16 < fp32
    assert call("costs", "vgg7-4", "--batch", "-1") == 1
    assert "-1" in capsys.readouterr().err


def test_costs_of_images_of_another_size(capsys):
    assert call("costs", "vit-tiny-pixels32-patch8-depth2-width24-heads2", "--classes", "7") == 0
    assert "7 classes, images of 32x32" in capsys.readouterr().out
    assert call("costs", "resnet19") == 1
    assert "did you mean resnet18" in capsys.readouterr().err


def kept(folder, name, seed, accuracy, epochs, final=True, **fields):
    recipe = dfs.recipes.get("digits/vgg7-4", seed=seed, epochs=2, **fields).to_dict()
    rows = [
        {"validation_accuracy": [accuracy / 2, accuracy], "seconds": 3.0, "pictures_per_second": 50.0}
        for _ in range(epochs)
    ]
    record = {"recipe": recipe, "epochs": rows}
    if final:
        record["final"] = {"validation_accuracy": [accuracy / 2, accuracy], "test_accuracy": [accuracy, 0.9]}
    results.write(folder / name / "record.json", record)


def test_runs_lists_compares_and_names_the_best(tmp_path, capsys):
    kept(tmp_path, "one", 0, 0.5, 2)
    kept(tmp_path, "two", 1, 0.75, 2, junction=dfs.Surgery(0.25))
    kept(tmp_path, "half", 2, 0.25, 1, final=False)
    kept(tmp_path, "empty", 3, 0.0, 0, final=False)
    assert call("runs", "--out", tmp_path) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["one"] == ["one", "2/2", "37.50", "50.00", "6", "50"]
    assert lines["half"][1:3] == ["1/2", "unfinished"]
    assert lines["empty"] == ["empty", "0/2", "unfinished", "0"]

    assert call("runs", "--best", "--out", tmp_path) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "two"]

    assert call("runs", "--compare", "one", "two", "--out", tmp_path) == 0
    out = capsys.readouterr().out
    assert "test %, exit" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["two", "75.00", "90.00"] in rows
    assert ["seed", "0", "1"] in rows
    assert ["junction", "joint", "surgery", "own", "0.25"] in rows
    assert "epochs" not in {row[0] for row in rows if row} - {"run"}

    failed = {"recipe": dfs.recipes.get("digits/vgg7-4").to_dict(), "epochs": [], "failed": "why"}
    results.write(tmp_path / "failed" / "record.json", failed)
    assert call("runs", "failed", "--best", "--out", tmp_path) == 1
    assert "no run has a validation accuracy yet" in capsys.readouterr().err

    assert call("runs", "nothing*", "--out", tmp_path) == 1
    assert "no run in" in capsys.readouterr().err


def in_a_process(*code, start=None, **environment):
    words = [*(start or python()), *code]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("words", ["--help", "doctor --help", "runs --help", "evaluate nowhere"])
def test_nothing_is_imported_that_the_command_does_not_need(words):
    heavy = ("torch", "torchvision", "sklearn", "scipy", "plotly", "numpy", "papermill")
    allowed = () if words.endswith("--help") else ("torch", "torchvision", "sklearn", "scipy", "numpy")
    code = f"""
import sys
from dfs_edu.cli import main
try:
    main({words.split()!r})
except SystemExit:
    pass
print("imported", sorted(set({heavy!r}) & set(sys.modules)))
"""
    imported = in_a_process("-c", code, start=[sys.executable]).rsplit("imported ", 1)[1]
    assert not [name for name in heavy if repr(name) in imported and name not in allowed]


@pytest.mark.parametrize(
    "code",
    [
        "import dfs_edu as dfs, dfs_edu.training.trainer; train = dfs_edu.training.trainer.train",
        "import dfs_edu as dfs; from dfs_edu.training.trainer import load_network; train = dfs.train",
        "import dfs_edu as dfs; from dfs_edu import train",
        "import dfs_edu as dfs, dfs_edu.training.study; train = dfs.train",
        "from dfs_edu.training.trainer import train; import dfs_edu as dfs",
    ],
)
def test_public_names_are_what_they_were_whatever_is_imported_first(code):
    code += """
import sys, types
assert isinstance(train, types.FunctionType) and train is dfs.train is sys.modules["dfs_edu.training.trainer"].train
for name in ("data", "inference", "probes", "recipes", "results"):
    assert isinstance(getattr(dfs, name), types.ModuleType), name
assert set(dfs.__all__) <= set(dir(dfs))
assert all(getattr(dfs, name) is not None for name in dfs.__all__)
assert not hasattr(dfs, "nothing_of_the_kind")
from dfs_edu import *
assert build is dfs.build
"""
    in_a_process("-c", code)


def test_no_command_dies_of_a_terminal_that_knows_ascii_only(finished, tmp_path):
    """A table with a "±" or a name with an accent comes after the work is done: it must be printed somehow."""
    words = {
        "runs": ["--out", str(finished.parent)],
        "costs": ["vgg7-4"],
        "course": ["--report", str(tmp_path)],
    }
    (tmp_path / "Zoë").mkdir()
    for command, more in words.items():
        in_a_process("-m", "dfs_edu", command, *more, PYTHONIOENCODING="ascii")


def test_a_study_prints_its_plus_minus_where_only_ascii_is_known(tmp_path):
    words = ("study", "digits/vgg7-4", "--scale=smoke", "--train-images=32", "--epochs=1", "--seeds=3")
    words += ("--arms", "joint", "detached", "--out", str(tmp_path))
    said = in_a_process("-m", "dfs_edu", *words, PYTHONIOENCODING="ascii")
    assert "\\xb1" in said
