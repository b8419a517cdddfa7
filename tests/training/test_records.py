"""The format of a record: what is read, and what is refused. Mutations of a real record: test_runs.py."""

import copy

import pytest

from dfs_edu.training import records

ROW = {"validation_accuracy": [0.5, 0.75], "seconds": 1.5, "pictures_per_second": 100}
FINAL = {"validation_accuracy": [0.5, 0.75], "test_accuracy": [0, 1], "seconds": 1.5}
RECIPE = {"dataset": "d", "backbone": "b", "scale": "s", "junction": "joint"}
RECORD = {"recipe": RECIPE, "epochs": [ROW], "final": FINAL, "data": {"classes": ["a"]}, "broken": [], "failed": ""}


def test_a_record_is_read_with_and_without_its_optional_parts():
    records.check(RECORD)
    records.check({"recipe": RECIPE, "epochs": []})


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (["epochs"], None, "epochs=None: list"),
        (["epochs", 0], [], r"epochs=\[\]: dict"),
        (["epochs", 0, "seconds"], "1", "seconds='1': a number"),
        (["epochs", 0, "pictures_per_second"], None, "pictures_per_second=None: a number"),
        (["epochs", 0, "validation_accuracy"], [0.5, 1.5], "a list, each element a number from 0, at most 1"),
        (["epochs", 0, "validation_accuracy"], [0.5], "accuracies of 1 and 2 exits"),
        (["final"], [], r"final=\[\]: dict"),
        (["final", "test_accuracy"], [], "accuracies of 0 and 2 exits"),
        (["final", "seconds"], None, "seconds=None: a number"),
        (["data", "classes"], "a", "classes='a': a list"),
        (["environment"], 3, "environment=3: dict"),
        (["broken"], [3], "broken="),
        (["failed"], True, "failed=True: a text"),
        (["recipe", "name"], 3, "name=3: a text"),
        (["recipe", "seed"], "0", "seed='0'"),
        (["recipe"], 3, "a recipe is 3, not a dict"),
    ],
)
def test_a_part_of_another_type_is_named(way, value, message):
    record = copy.deepcopy(RECORD)
    *way, last = way
    part = record
    for key in way:
        part = part[key]
    part[last] = value
    with pytest.raises(ValueError, match=message):
        records.check(record)


@pytest.mark.parametrize("record", [None, [], 3, "text", {}])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(ValueError, match=r"record=|recipe"):
        records.check(record)


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "record.json").write_text('{"recipe": ')
    with pytest.raises(ValueError, match=r"record\.json: not a whole record"):
        records.read(tmp_path)
