"""Records and what is computed from them."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from dfs_edu import intervals
from dfs_edu.training import arms, results


def record(name="joint", seed=0, accuracy=(0.1, 0.2), final=True):
    recipe = {"name": f"d-b-s-{name}-seed{seed}", "seed": seed, "junction": {"name": name}}
    recipe |= {"dataset": "d", "backbone": "b", "scale": "s"}
    if name == "surgery":
        recipe["junction"] |= {"beta": 0.5, "reference": True, "exit_gradient": "own"}
    finished = {"final": {"test_accuracy": list(accuracy), "validation_accuracy": [0.5, 0.5]}}
    return {"recipe": recipe, "epochs": []} | (finished if final else {})


def test_accuracies_by_junction_in_the_order_of_seeds():
    records = [record(seed=1, accuracy=(0.3, 0.4)), record(), record("surgery"), record(seed=2, final=False)]
    assert results.accuracies(records) == {"joint": [[0.1, 0.2], [0.3, 0.4]], "surgery own 0.5": [[0.1, 0.2]]}
    assert results.accuracies(records, "validation")["joint"] == [[0.5, 0.5]] * 2


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, half = intervals.interval(values)
    low, high = stats.t.interval(0.95, 4, loc=values.mean(0), scale=stats.sem(values))
    np.testing.assert_allclose([mean - half, mean + half], [low, high])


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]])
def test_below_three_seeds_there_is_no_interval(values):
    mean, half = intervals.interval(values)
    assert mean.tolist() == [1, 2]
    assert np.isnan(half).all()
    with pytest.raises(ValueError, match=f"{len(values)} seeds: a p-value needs 3"):
        intervals.p_values(values)


def test_p_values_are_scipys():
    values = np.random.default_rng(0).normal(size=(4, 6)) + 1
    np.testing.assert_allclose(intervals.p_values(values), stats.ttest_1samp(values, 0).pvalue)
    mean, half = intervals.interval(values)
    assert ((intervals.p_values(values) < 0.05) == (abs(mean) > half)).all()
    assert intervals.p_values([[0, 1]] * 3).tolist() == [1, 0]  # all alike


def test_runs_as_rows(monkeypatch):
    finished, begun = record(accuracy=(0.3, 0.4)), record("surgery", final=False)
    begun["epochs"] = [{"validation_accuracy": [0.1, 0.2], "seconds": 2.5}]
    rows = results.rows({"a": finished, "=b": begun, "c": record(seed=1, final=False) | {"failed": "why"}})
    assert [(row["run"], row["exit"]) for row in rows] == [("a", 1), ("a", 2), ("=b", 1), ("=b", 2), ("c", None)]
    assert [row["test_accuracy"] for row in rows] == [0.3, 0.4, None, None, None]
    assert [row["validation_accuracy"] for row in rows] == [0.5, 0.5, 0.1, 0.2, None]
    assert [row["junction"] for row in rows[::2]] == ["joint", "surgery own 0.5", "joint"]
    assert [(row["finished"], row["failed"]) for row in rows[::2]] == [(True, ""), (False, ""), (False, "why")]
    assert rows[2]["seconds"] == 2.5
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    assert results.to_frame({"a": finished}) == rows[:2]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="needs pandas, which is not installed: `pip install pandas`"):
        results.to_frame({"a": finished})


def test_records_are_found_by_name_once_they_are_finished(tmp_path):
    for seed, final in ((0, True), (1, True), (2, False)):
        one = record(seed=seed, final=final)
        results.write(tmp_path / one["recipe"]["name"] / "record.json", one)
    found = results.recorded("d-b-s-*", folder=tmp_path)
    assert list(found) == ["d-b-s-joint-seed0", "d-b-s-joint-seed1"]
    assert list(results.recorded("*-seed1", "*-seed0", "d-*", folder=tmp_path)) == list(found)[::-1]
    assert results.read(tmp_path / "d-b-s-joint-seed2") == record(seed=2, final=False)
    assert not results.recorded("other-*", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="recorded results are part of the repository"):
        results.recorded("d-*", folder=tmp_path / "none")


def test_minutes_to_an_accuracy():
    rows = [{"seconds": 60, "validation_accuracy": a} for a in ([0.1, 0.2], [0.3, 0.1], [0.2, 0.5])]
    record = {"epochs": rows}
    assert results.minutes_to(record, 0.2) == 1
    assert results.minutes_to(record, 0.3) == 3
    assert results.minutes_to(record, 0.3, exit=0) == 2
    assert results.minutes_to(record, 0.6) is None


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "record.json").write_text('{"recipe": ')
    with pytest.raises(ValueError, match=r"record\.json: not a whole record"):
        results.read(tmp_path)


def test_the_environment_names_machine_and_versions():
    found = results.environment(torch.device("cpu"), "fp32")
    assert found["torch"] == torch.__version__
    assert found["device"]
    assert found["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("junction", "words"),
    [
        ({"name": "joint"}, "joint"),
        ({"name": "surgery", "beta": 0.25, "reference": True, "exit_gradient": "all"}, "surgery all 0.25"),
        ({"name": "surgery", "beta": 0.5, "reference": False, "exit_gradient": "own"}, "surgery own 0.5, no reference"),
    ],
)
def test_junctions_in_words(junction, words):
    assert arms.junction_label(junction) == words


def test_the_revision_is_git_s_and_marked_where_files_differ(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=n", "-c", "user.email=e@e.e"]
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    package = tmp_path / "dfs_edu" / "training"
    package.mkdir(parents=True)
    monkeypatch.setattr(results, "__file__", str(package / "results.py"))
    assert results.revision() is None
    git("init")
    (package / "results.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    assert results.revision() == git("rev-parse", "--short", "HEAD").strip()
    (package / "results.py").write_text("2")
    assert results.revision().endswith("-dirty")


def test_peak_memory_grows_with_what_is_held():
    before = results.peak_memory(torch.device("cpu"))
    held = torch.ones(2**26)  # 256 MiB
    assert results.peak_memory(torch.device("cpu")) >= before
    assert results.peak_memory(torch.device("cpu")) > held.nbytes


def test_runs_are_read_finished_or_not(tmp_path):
    for seed, final in ((0, True), (1, False)):
        results.write(tmp_path / f"run{seed}" / "record.json", record(seed=seed, final=final))
    assert list(results.runs(tmp_path)) == ["run0", "run1"]
    assert list(results.runs(tmp_path, "*1")) == ["run1"]
    assert results.last_validation({"epochs": []}) == []
    assert results.last_validation({"epochs": [{"validation_accuracy": [1]}, {"validation_accuracy": [2]}]}) == [2]
