"""A study: what an arm is, a grid that many can work on, and a table checked by hand."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from scipy import stats
from warm import python

import dfs_edu as dfs
from dfs_edu.cli import main
from dfs_edu.training import recipes, results, study

SMALL = {"scale": "smoke", "train_images": 64, "held_out_images": 32, "precision": "fp32"}


def cells(arms, seeds=range(2), **changes):
    return study.grid(dfs.recipes.get("digits/vgg7-4", **(SMALL | changes)), arms, seeds)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("joint", {"junction": dfs.Joint()}),
        ("surgery-all-0.25", {"junction": dfs.Surgery(0.25, exit_gradient="all")}),
        ("surgery-own-0.5-scales+pcgrad", {"junction": dfs.Surgery(0.5, scales="all"), "method": "pcgrad"}),
        ("joint+upgrad", {"junction": dfs.Joint(), "method": "upgrad"}),
        ("joint+bdl-final", {"junction": dfs.Joint(), "method": "bdl-final"}),
        ("surgery+mixed-2", {"junction": dfs.Surgery(), "method": "mixed-2"}),
        ("joint+sum", {"junction": dfs.Joint(), "method": "sum"}),
        ("joint+distillation", {"junction": dfs.Joint(), "loss": "distillation"}),
        ("surgery+uncut-2", {"junction": dfs.Surgery(), "uncut": 2}),
        ("joint+weighted-1-0.5-2-0-1-1", {"junction": dfs.Joint(), "weights": (1.0, 0.5, 2.0, 0.0, 1.0, 1.0)}),
        ("joint+mgda+distillation@vgg7-6", {"method": "mgda", "loss": "distillation", "backbone": "vgg7-6"}),
    ],
)
def test_arms(text, changes):
    (recipe,) = cells([text], [0], epochs=3)
    for field, value in changes.items():
        assert getattr(recipe, field) == value
    assert study.arm(text) == {"junction": dfs.Joint()} | changes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jiont", "junction 'jiont': use one of joint"),
        ("joint-0.5", "'0.5': joint takes no options"),
        ("surgery-half", "'half': surgery takes own, all, partition, scales, a number"),
        ("surgery-1.5", "beta=1.5"),
        ("joint+average", "'average': add one of sum, pcgrad"),
        ("joint+", "'': add one of sum, pcgrad"),
        ("joint+uncut", "'uncut': add one of"),
        ("joint+uncut-x", "add one of"),
        ("joint+weighted-a", "could not convert"),
        ("joint+weighted", "'weighted': add one of"),
    ],
)
def test_an_invalid_arm(text, says):
    with pytest.raises(ValueError, match=f"arm '{text}'".replace("+", r"\+")) as error:
        study.arm(text)
    assert says in str(error.value)


def test_arms_of_another_backbone_have_rows_and_a_base_of_their_own(tmp_path):
    grid = cells(["joint", "joint@vgg7-6", "joint+distillation", "surgery@vgg7-6"], [0])
    for cell, accuracy in zip(grid, (0.5, 0.6, 0.7, 0.65), strict=True):
        results_of(cell, tmp_path, [accuracy] * 6, 1.0)
    records = study.collect(grid, tmp_path)
    rows = [line.split("  ")[0] for line in study.table(records).splitlines()[1:] if line]
    assert rows[:4] == ["joint", "joint of vgg7-6", "joint, distillation", "surgery own 0.5 of vgg7-6"]
    gaps = {name: gap[0, 0] for name, gap in study.differences(records).items()}
    expected = {"joint of vgg7-6": 10.0, "joint, distillation": 20.0, "surgery own 0.5 of vgg7-6": 5.0}
    assert gaps == pytest.approx(expected)
    mean, half = study.intervals(records)["joint, distillation"]
    assert mean == pytest.approx([0.2] * 7)
    assert np.isnan(half).all()


def test_a_backbone_with_another_number_of_exits_has_no_difference(tmp_path):
    grid = cells(["joint", "detached"], [0])
    results_of(grid[0], tmp_path, [0.5] * 6, 1.0)
    results_of(grid[1], tmp_path, [0.5] * 4, 1.0)
    records = study.collect(grid, tmp_path)
    assert study.differences(records) == {}
    assert "exit 6" in study.table(records)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("joint@vit-tiny", "backbone 'vit-tiny': its family has a recipe of its own"),
        ("joint@nonsense", "nonsense"),
        ("joint+weighted-1-1", "give 6 numbers from 0, one for each exit"),
        ("projection+pcgrad", "method='pcgrad': it pulls exits one by one"),
    ],
)
def test_what_would_fail_late_is_refused_early(text, says):
    with pytest.raises(ValueError, match=says):
        cells(["joint", text])


def test_the_same_arm_in_other_words_is_one():
    assert len(cells(["surgery", "surgery-own-0.5", "joint+sum", "joint"], [0])) == 2


def test_all_arms_come_before_any_has_its_second_seed():
    assert [(c.seed, c.method) for c in cells(["joint", "joint+pcgrad"])] == [
        (0, "sum"),
        (0, "pcgrad"),
        (1, "sum"),
        (1, "pcgrad"),
    ]


def test_done_cells_are_skipped_and_taken_ones_left_to_their_owner(tmp_path, monkeypatch):
    trained = []
    real = study.train
    monkeypatch.setattr(study, "train", lambda recipe, *a, **k: (trained.append(recipe.name), real(recipe, *a, **k)))
    grid = cells(["joint", "detached"], [0])
    (tmp_path / ".locks").mkdir()
    with FileLock(tmp_path / ".locks" / grid[0].name):
        elsewhere = subprocess.run(  # another process holds no lock of ours
            [*python(), "-c", WORK, str(tmp_path)], capture_output=True, text=True, timeout=300
        )
    assert elsewhere.stdout.split() == [grid[1].name], elsewhere.stderr
    study.work(grid, tmp_path, device="cpu", progress=False)
    assert trained == [grid[0].name]
    assert all("final" in study.record_of(cell, tmp_path) for cell in grid)
    study.work(grid, tmp_path, device="cpu", progress=False)
    assert len(trained) == 1


WORK = """
import sys
import dfs_edu as dfs
from dfs_edu.training import study
recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", train_images=64, held_out_images=32, precision="fp32")
real = study.train
study.train = lambda recipe, *a, **k: (print(recipe.name), real(recipe, *a, **k))
study.work(study.grid(recipe, ["joint", "detached"], [0]), sys.argv[1], device="cpu", progress=False)
"""


def test_a_run_that_blows_up_is_named_ends_no_other_and_is_not_tried_again(tmp_path, monkeypatch):
    def train(recipe, *args, **kwargs):
        tried.append(recipe.name)
        if recipe.method == "pcgrad":
            raise FloatingPointError("the loss of exit 1 is not finite")
        results_of(recipe, tmp_path, [0.5] * 6, 1.0)

    tried = []
    monkeypatch.setattr(study, "train", train)
    grid = cells(["joint", "joint+pcgrad", "detached"], [0])
    study.work(grid, tmp_path)
    study.work(grid, tmp_path)
    assert tried == [cell.name for cell in grid]
    assert results.read(tmp_path / grid[1].name)["recipe"] == grid[1].to_dict()
    said = study.table(study.collect(grid, tmp_path))
    assert f"failed: {grid[1].name}: the loss of exit 1 is not finite" in said
    assert "joint + pcgrad  0\n" in said


def test_a_run_that_blows_up_late_keeps_its_epochs(tmp_path, monkeypatch):
    real = study.train

    def train(recipe, *args, **kwargs):
        real(recipe, *args, **kwargs)
        record = results.read(tmp_path / recipe.name)
        del record["final"]
        results.write(tmp_path / recipe.name / "record.json", record)
        raise FloatingPointError("the loss of exit 2 is not finite")

    monkeypatch.setattr(study, "train", train)
    grid = cells(["joint"], [0])
    study.work(grid, tmp_path, device="cpu", progress=False)
    record = results.read(tmp_path / grid[0].name)
    assert record["failed"] == "the loss of exit 2 is not finite"
    assert len(record["epochs"]) == 1


def test_an_arm_that_diverges_is_recorded_and_not_tried_again(tmp_path, capfd):
    """At this rate BatchNorm's averages overflow in the only step: losses and weights are finite, no answer is."""
    words = "study digits/vgg7-4 --scale smoke --train-images 64 --held-out-images 32 --epochs 1 --seeds 1 --lr 1e6"
    words = [*words.split(), "--precision", "fp32", "--device", "cpu", "--arms", "joint", "joint+pcgrad"]
    done = subprocess.run(
        [*python(), "-m", "dfs_edu", *words, "--out", tmp_path], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "failed: digits-vgg7-4-smoke-joint-pcgrad-seed0: the logits of exit" in done.stdout
    assert "0 of 2 runs are finished" in done.stdout
    assert main([*words, "--out", str(tmp_path)]) == 1
    again = capfd.readouterr()
    assert again.out == done.stdout
    assert "epoch 1/1" not in again.err  # no bar of a training
    failed = results.runs(tmp_path)
    assert len(failed) == 2
    assert all("not finite after epoch 1: try a learning rate below 1e+06" in r["failed"] for r in failed.values())
    assert not any("checkpoint stays" in r["failed"] for r in failed.values())  # there is none
    main(["runs", "--out", str(tmp_path)])
    assert "0/1 failed" in capfd.readouterr().out


def test_one_arm_of_several_diverges(tmp_path, monkeypatch):
    good, bad, last = cells(["joint", "joint+pcgrad", "detached"], [0])
    bad = replace(bad, lr=1e6)
    study.work([good, bad, last], tmp_path, device="cpu", progress=False)
    records = study.collect([good, bad, last], tmp_path)
    assert ["final" in record for record in records] == [True, False, True]
    assert ["failed" in record for record in records] == [False, True, False]
    json.dumps(records, allow_nan=False)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt("stopped"), dfs.data.DataError("no data")]
)
def test_an_error_outside_an_arm_stops_the_study(error, tmp_path, monkeypatch):
    def train(*args, **kwargs):
        raise error

    monkeypatch.setattr(study, "train", train)
    with pytest.raises(type(error), match=str(error).replace("[", r"\[").replace("]", r"\]")):
        study.work(cells(["joint", "detached"], [0]), tmp_path)
    assert results.runs(tmp_path) == {}


def made_study(folder, gaps):
    """Records of arms whose differences to joint are known: arm -> seeds -> points at all six exits."""
    arms = ["joint", *gaps]
    grid = cells(arms, range(max(map(len, gaps.values()))))
    for cell in grid:
        base = 0.5 + 0.01 * cell.seed
        name = results.label(cell.to_dict())
        points = 0 if name == "joint" else gaps[ARM[name]][cell.seed]
        results_of(cell, folder, [base + p / 100 for p in np.broadcast_to(points, 6)], 10.0 + cell.seed**2)
    return study.collect(grid, folder)


ARM = {"detached": "detached", "surgery own 0.5": "surgery-own-0.5"}


def test_what_remains_after_the_correction_is_what_the_notebook_teaches(tmp_path):
    generator = np.random.default_rng(0)
    gaps = {"detached": 3 * generator.normal(size=(5, 6)) + 4, "surgery-own-0.5": generator.normal(size=(5, 6)) - 4}
    records = made_study(tmp_path, gaps)
    p = stats.ttest_1samp(np.stack([gaps[arm] for arm in gaps]), 0, axis=1).pvalue
    expected = stats.false_discovery_control(p.ravel(), method="by").reshape(2, 6)
    for mine, right in zip(study.corrected(records).values(), expected, strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-6)
    assert 0 < (expected < 0.05).sum() < 12
    found = study.verdicts(records)
    assert (found["surgery own 0.5"] == np.where(expected[1] < 0.05, -1, 0)).all()
    said = study.table(records)
    assert "shown after correction for 12 comparisons (false discovery rate 5 %):" in said
    worse = ", ".join(str(k + 1) for k in range(6) if expected[1][k] < 0.05)
    assert f"worse: surgery own 0.5 (exit {worse})" in said


def test_the_table_as_rows_and_as_a_csv(tmp_path, monkeypatch):
    records = made_study(tmp_path, {"detached": [1.0, 2.0, 3.0]})
    rows = study.rows(records)
    assert [(row["arm"], row["exit"]) for row in rows] == [
        (arm, k) for arm in ("joint", "detached") for k in (*range(1, 7), "mean")
    ]
    first = rows[7]
    assert first["accuracy"] == pytest.approx(53)
    assert (first["n"], first["pairs"], first["difference"]) == (3, 3, pytest.approx(2))
    assert first["difference_half_width"] == pytest.approx(4.302653 / 3**0.5)
    assert first["time"] == pytest.approx(1.0)
    assert first["p_corrected"] == pytest.approx(study.corrected(records)["detached"][0])
    assert rows[0]["difference"] is None
    assert rows[-1]["p_corrected"] is None
    results.write_csv(rows, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8-sig", newline="") as file:
        back = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in back] == pytest.approx([row["accuracy"] for row in rows])
    assert back[0]["difference"] == ""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        study.to_frame(records)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    assert study.to_frame(records) == rows


def test_time_is_the_ratio_of_medians(tmp_path):
    grid = cells(["joint", "detached"], range(3))
    for cell in grid:
        joint = cell.junction == dfs.Joint()
        results_of(cell, tmp_path, [0.5] * 6, ([10, 20, 90] if joint else [30, 40, 41])[cell.seed])
    records = study.collect(grid, tmp_path)
    assert study.time(records, "detached") == 2.0
    assert study.time(records, "joint") == 1.0
    assert study.table(records).splitlines()[2].split()[-1] == "2.00"
    for record in records[::2]:
        record["final"]["seconds"] = 0.0  # rounded to a tenth
    assert study.time(records, "detached") is None
    assert study.table(records)


def test_a_killed_process_is_reported_and_not_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "work", _dies)
    words = ["study", "digits/vgg7-4", "--scale", "smoke", "--processes", "2", "--out", str(tmp_path)]
    assert main(words) == 1
    assert "a process of the study was killed; started again, the study goes on" in capsys.readouterr().err


def _dies(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("gpus", "device", "devices"),
    [
        (0, "auto", ["auto"] * 3),
        (2, "auto", ["cuda:0", "cuda:1", "cuda:0"]),
        (2, "cuda", ["cuda:0", "cuda:1", "cuda:0"]),
        (2, "cuda:1", ["cuda:1"] * 3),
        (2, "cpu", ["cpu"] * 3),
    ],
)
def test_several_gpus_are_shared_out(gpus, device, devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert [study.device_of(i, device) for i in range(3)] == devices


def test_a_folder_of_another_recipe_is_not_taken_for_done(tmp_path):
    (recipe,) = cells(["joint"], [0])
    results_of(recipe, tmp_path, [0.1] * 6, 1.0)
    (other,) = cells(["joint"], [0], lr=0.01)
    with pytest.raises(ValueError, match="is of another recipe"):
        study.is_over(other, tmp_path)


def results_of(recipe, out, accuracy, seconds):
    (out / recipe.name).mkdir(parents=True)
    final = {"validation_accuracy": accuracy, "test_accuracy": accuracy, "seconds": seconds}
    record = {"recipe": recipe.to_dict(), "epochs": [], "final": final}
    (out / recipe.name / "record.json").write_text(json.dumps(record))


def test_the_table_by_hand(tmp_path):
    """Three seeds of one, two of the other: differences over the two that both have."""
    accuracy = {("sum", 0): 0.50, ("sum", 1): 0.52, ("sum", 2): 0.60, ("pcgrad", 0): 0.53, ("pcgrad", 1): 0.53}
    grid = cells(["joint", "joint+pcgrad"], range(3))
    for cell in grid:
        if (cell.method, cell.seed) in accuracy:
            results_of(cell, tmp_path, [accuracy[cell.method, cell.seed]] * 6, 10.0 if cell.method == "sum" else 25.0)
    shown = [line for line in study.table(study.collect(grid, tmp_path)).splitlines()[1:] if line]
    joint, pcgrad, said, gap, below = shown
    half = 4.302653 * np.std([50, 52, 60], ddof=1) / np.sqrt(3)
    assert joint.split()[:4] == ["joint", "3", "54.0", f"±{half:4.1f}"]
    assert joint.split()[-1] == "1.00"
    assert pcgrad.split() == ["joint", "+", "pcgrad", "2", *["53.0"] * 7, "2.50"]  # two that agree: no interval
    assert said.startswith("minus joint")
    assert gap.startswith("joint + pcgrad ")
    assert gap.split()[-1] == "+2.0"  # the mean of +3 and +1
    assert below == "below 3 seeds: no intervals, and nothing is shown"


def test_the_first_arm_asked_for_is_what_others_are_compared_with(tmp_path):
    """Even where it has no finished run yet."""
    grid = cells(["joint", "detached"], [0])
    results_of(grid[1], tmp_path, [0.5] * 6, 1.0)
    joint, detached, *_ = [line for line in study.table(study.collect(grid, tmp_path)).splitlines()[1:] if line]
    assert joint.split() == ["joint", "0"]
    assert detached.split() == ["detached", "1", *["50.0"] * 7]


def test_a_study_is_kept_in_one_file(tmp_path, monkeypatch, capsys):
    grid = cells(["joint", "detached"], [0, 1])
    for cell, accuracy in zip(grid[:3], (0.5, 0.25, 0.75), strict=True):
        results_of(cell, tmp_path, [accuracy] * 6, 1.0)
    words = "study digits/vgg7-4 --scale smoke --precision fp32 --arms joint detached --seeds 2 --report"
    monkeypatch.setattr(recipes, "get", lambda *a, **k: grid[0])
    assert main([*words.split(), "--out", str(tmp_path), "--keep", str(tmp_path / "studies" / "small.json")]) == 0
    monkeypatch.setattr(results, "RECORDED", tmp_path)
    kept = study.recorded("small")
    assert study.table(kept) in capsys.readouterr().out
    assert [record["recipe"] for record in kept] == [cell.to_dict() for cell in grid[:3]]
    assert not any("epochs" in record for record in kept)
    np.testing.assert_allclose(study.differences(kept)["detached"], [[-25.0] * 7])


def test_a_study_without_finished_runs_is_reported(tmp_path):
    assert study.table(study.collect(cells(["joint"]), tmp_path)) == "no run has finished yet"


@pytest.mark.parametrize("processes", [1, 2])
def test_from_the_shell(processes, tmp_path, capsys):
    words = f"study digits/vgg7-4 --scale smoke --arms joint joint+upgrad --seeds 1 --processes {processes}"
    assert main([*words.split(), "--out", str(tmp_path), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "minus joint" in said
    assert "2 of 2 runs are finished" in said
    assert {results.label(record["recipe"]) for record in results.runs(tmp_path).values()} == {
        "joint",
        "joint + upgrad",
    }
    assert main([*words.split(), "--out", str(tmp_path), "--report"]) == 0
    assert capsys.readouterr().out == said


def test_torchrun_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["study", "digits/vgg7-4"]) == 1
    assert "not started by torchrun" in capsys.readouterr().err


def test_nonsense_from_the_shell(capsys):
    assert main(["study", "digits/vgg7-4", "--seeds", "0"]) == 1
    assert "--seeds 0" in capsys.readouterr().err
    assert main(["study", "digits/vgg7-4", "--epochs", "0"]) == 1
    assert "epochs=0" in capsys.readouterr().err


def test_arms_of_fewer_exits_have_their_mean_below_the_mean(tmp_path):
    grid = cells(["joint", "detached"], [0])
    results_of(grid[0], tmp_path, [0.5] * 6, 1.0)
    results_of(grid[1], tmp_path, [0.1, 0.2, 0.3], 2.0)
    head, whole, short = study.table(study.collect(grid, tmp_path)).splitlines()[:3]
    end = head.index("mean") + len("mean")
    assert whole[:end].endswith("50.0")
    assert short[:end].endswith("20.0")
    assert short.split()[2:] == ["10.0", "20.0", "30.0", "20.0", "2.00"]


def test_the_error_for_an_unrecorded_study_says_where_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"no study 'nothing' is recorded in .*; there are .*digits-vgg7-16-lesson"
    ):
        study.recorded("nothing")
    monkeypatch.setattr(results, "RECORDED", tmp_path)
    with pytest.raises(FileNotFoundError, match="recorded results are part of the repository"):
        study.recorded("digits-vgg7-16-lesson")
