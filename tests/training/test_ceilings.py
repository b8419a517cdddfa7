"""Ceilings: the arm "alone", and a table whose numbers are known by hand."""

import json

import numpy as np
import pytest

import dfs_edu as dfs
from dfs_edu.cli import main
from dfs_edu.training import ceilings, study


def finished(folder, accuracies, arms=("joint", "alone"), seeds=3):
    """Records of a study; accuracies(recipe) returns those of its exits, as fractions."""
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke")
    cells = study.grid(recipe, arms, range(seeds))
    for cell in cells:
        values = accuracies(cell)
        record = {"recipe": cell.to_dict(), "epochs": [], "final": {"seconds": 1.0}}
        record["final"] |= {"test_accuracy": values, "validation_accuracy": [v / 2 for v in values]}
        (folder / cell.name).mkdir(parents=True)
        (folder / cell.name / "record.json").write_text(json.dumps(record))
    return study.collect(cells, folder)


def by_hand(recipe):
    """Joint: 0.40 and a hundredth per seed, everywhere. Alone: exit k, from 0, reaches k hundredths more than joint."""
    base = 0.40 + 0.01 * recipe.seed
    if not recipe.weights:
        return [base] * 6
    k = recipe.weights.index(1.0)
    return [base + 0.01 * k if j == k else 0.1 for j in range(6)]  # the other exits of that network do not count


def test_alone_stands_for_one_arm_per_exit():
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke")
    cells = study.grid(recipe, ["alone", "joint"], [0])
    assert [cell.weights for cell in cells] == [*(tuple(map(float, row)) for row in np.eye(6)), ()]
    assert {(cell.junction, cell.method) for cell in cells} == {(dfs.Joint(), "sum")}


def test_each_exit_is_taken_from_the_network_trained_for_it(tmp_path):
    records = finished(tmp_path, by_hand)
    found = ceilings.reached(records)
    assert list(found) == ["alone", "joint"]
    np.testing.assert_allclose(found["joint"], np.repeat([[40.0], [41.0], [42.0]], 6, axis=1))
    np.testing.assert_allclose(found["alone"] - found["joint"], [np.arange(6)] * 3)
    np.testing.assert_allclose(ceilings.reached(records, "validation")["alone"], found["alone"] / 2)
    gap = ceilings.table(records).splitlines()[-1]
    assert gap.split() == ["alone", "minus", "joint", *(w for k in range(6) for w in (f"+{k}.0", "±", "0.0"))]


def test_below_three_seeds_there_is_no_interval(tmp_path):
    text = ceilings.table(finished(tmp_path, by_hand, seeds=2))
    assert "±" not in text
    assert "below 3 seeds" in text


def test_only_seeds_that_every_arm_has_are_compared(tmp_path):
    records = finished(tmp_path, by_hand)
    del records[-1]["final"]  # of the last seed, the last exit alone
    assert ceilings.reached(records)["alone"].shape == (2, 6)


@pytest.mark.parametrize(("arms", "missing"), [(("joint",), "1, 2, 3, 4, 5, 6"), (("joint", "alone"), "6")])
def test_a_missing_exit_is_named(arms, missing, tmp_path):
    records = finished(tmp_path, by_hand, arms=arms, seeds=1)
    if len(arms) == 2:
        del records[-1]["final"]
    with pytest.raises(ValueError, match=f"no finished run of exit {missing} alone"):
        ceilings.reached(records)


def test_on_the_command_line(tmp_path, capsys):
    """Seven tiny networks: joint, and one for each exit."""
    words = "study digits/vgg7-2 --scale smoke --seeds 1 --train-images 16 --held-out-images 8 --batch-size 16"
    assert main([*words.split(), "--arms", "joint", "alone", "--device", "cpu", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "7 of 7 runs are finished" in said
    assert "alone minus joint" in said
