"""What is computed from the records of runs."""

import sys
from types import SimpleNamespace

import pytest

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


def test_runs_as_rows(monkeypatch):
    finished, unfinished = record(accuracy=(0.3, 0.4)), record("surgery", final=False)
    unfinished["epochs"] = [{"validation_accuracy": [0.1, 0.2], "seconds": 2.5}]
    rows = results.rows({"a": finished, "=b": unfinished, "c": record(seed=1, final=False) | {"failed": "why"}})
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


def test_runs_are_read_finished_or_not(tmp_path):
    for seed, final in ((0, True), (1, False)):
        results.write(tmp_path / f"run{seed}" / "record.json", record(seed=seed, final=final))
    assert list(results.runs(tmp_path)) == ["run0", "run1"]
    assert list(results.runs(tmp_path, "*1")) == ["run1"]
    assert results.last_validation({"epochs": []}) == []
    assert results.last_validation({"epochs": [{"validation_accuracy": [1]}, {"validation_accuracy": [2]}]}) == [2]
