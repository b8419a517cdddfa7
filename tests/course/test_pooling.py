"""A class's results in one figure, from hand-ins made here."""

from __future__ import annotations

import numpy as np
import pytest

from dfs_edu.cli import main
from dfs_edu.course.pooling import pooled, write_figure
from dfs_edu.course.report import Entry
from dfs_edu.intervals import interval

JOINT, OWN = [[0.50, 0.70], [0.52, 0.71], [0.51, 0.75]], [[0.55, 0.60], [0.56, 0.62], [0.58, 0.66]]


def hand_in(person, seed, joint, own, scale="lesson", notebook="03_cut"):
    values = {"accuracy": {"joint": joint, "surgery own": own}}
    parameters = {"SCALE": scale, "DATASET": "digits", "SEED": str(seed)}
    return Entry(person, notebook, parameters, recorded=[{"finding": "found", "values": values}])


def of_a_class() -> list[Entry]:
    return [hand_in(f"student {i}", i, JOINT[i], OWN[i]) for i in range(3)]


def test_each_student_is_a_seed():
    found = pooled(of_a_class())
    assert found.arms == ("joint", "surgery own")
    assert found.persons == ("student 0", "student 1", "student 2")
    mean, half = found.differences["surgery own"]
    by_hand = np.array([[0.05, -0.10], [0.04, -0.09], [0.07, -0.09]])
    assert mean == pytest.approx(by_hand.mean(0))
    assert half == pytest.approx(interval(by_hand)[1])


def test_only_equal_recipes_and_different_seeds_are_pooled():
    entries = [
        *of_a_class(),
        hand_in("copier", 1, [0.1, 0.1], [0.9, 0.9]),
        hand_in("hasty", 7, [0.1, 0.1], [0.9, 0.9], scale="smoke"),
        Entry("absent", "03_cut", problems=["not run to the end"]),
    ]
    found = pooled(entries)
    assert len(found.persons) == 3
    assert found.left_out == {
        "copier": "seed 1 is already in the figure, from student 1",
        "hasty": "another recipe: smoke, digits",
        "absent": "no accuracy of several arms was recorded",
    }


@pytest.mark.parametrize(
    "accuracy", [{"a": [1.5], "b": [0.5]}, {"a": [0.5], "b": [0.5, 0.5]}, {"a": [None], "b": [0]}, 3]
)
def test_what_a_stranger_recorded_is_not_trusted(accuracy):
    entry = Entry("mallory", "03_cut", recorded=[{"finding": "", "values": {"accuracy": accuracy}}])
    assert pooled([*of_a_class(), entry]).left_out == {"mallory": "no accuracy of several arms was recorded"}


def test_two_seeds_make_no_interval():
    with pytest.raises(ValueError, match="2 different seeds of one recipe: an interval needs 3"):
        pooled(of_a_class()[:2])


def test_one_notebook_at_a_time():
    with pytest.raises(ValueError, match="hand-ins of 2 notebooks: choose one with --only"):
        pooled([*of_a_class(), hand_in("x", 9, JOINT[0], OWN[0], notebook="04_see")])


def test_the_figure_is_a_page_without_requests(tmp_path):
    write_figure(pooled(of_a_class()), tmp_path / "class.html")
    page = (tmp_path / "class.html").read_text()
    assert "n = 3 seeds" in page
    assert 'src="http' not in page


def test_the_figure_belongs_to_a_report(capsys):
    assert main(["course", "--figure", "class.html"]) != 0
    assert "--figure belongs to --report" in capsys.readouterr().err
