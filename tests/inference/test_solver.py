"""The solver against every possible set of thresholds, against geometric shares, and on outputs that it must refuse."""

from itertools import combinations, product

import pytest
import torch

from dfs_edu import inference
from dfs_edu.inference import Outputs

MACS = [1.0, 2.0, 4.0, 8.0]


def outputs_of(seed, pictures=300, exits=4, split="validation", coarse=None):
    """Deeper exits are right more often, and whoever is right is more often sure; coarse: so many levels of it."""
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    label = torch.randint(10, (pictures,), generator=generator)
    right = rand(exits, pictures) < torch.linspace(0.3, 0.8, exits)[:, None]
    confidence = (rand(exits, pictures) + 0.5 * right) / 1.5
    confidence = (confidence * coarse).round() / coarse if coarse else confidence
    return Outputs(confidence, torch.where(right, label, (label + 1) % 10), label, split)


def spent(outputs, thresholds, macs=MACS):
    points = [inference.apply(outputs, t, macs[: len(t)]) for t in thresholds]
    return torch.tensor([p.accuracy for p in points]), torch.tensor([p.macs for p in points])


@pytest.mark.parametrize("coarse", [None, 5, 1], ids=["fine", "ties", "all sure or not at all"])
@pytest.mark.parametrize("seed", range(4))
def test_at_least_as_good_as_geometric_shares_at_every_budget_and_never_more_expensive(seed, coarse):
    outputs = outputs_of(seed, coarse=coarse)
    budgets = torch.linspace(1, 8, 15, dtype=torch.float64)
    found = inference.best_thresholds(outputs, MACS, budgets)
    accuracy, cost = spent(outputs, found)
    geometric = [inference.thresholds_for_budget(outputs, MACS, b.item()) for b in budgets]
    assert (accuracy >= spent(outputs, geometric)[0]).all()
    assert (cost <= budgets + 1e-9).all()
    if coarse is None:
        assert (accuracy - spent(outputs, geometric)[0]).mean() > 0.003


def every_set(outputs):
    """Accuracy and cost of every cut of three exits that can be told apart."""
    cuts = [[0.0, *(c.unique()[:-1] + c.unique()[1:]).div(2).tolist(), 1.0] for c in outputs.confidence[:-1]]
    return spent(outputs, [torch.tensor([*pair, 0.0]) for pair in product(*cuts)])


@pytest.mark.parametrize("seed", range(6))
def test_close_to_the_best_of_all_sets_of_thresholds(seed):
    outputs = outputs_of(seed, pictures=14, exits=3)
    accuracy, cost = every_set(outputs)
    budgets = torch.linspace(1, 4, 13, dtype=torch.float64)
    best = torch.stack([accuracy[cost <= b + 1e-9].max() for b in budgets])
    found, _ = spent(outputs, inference.best_thresholds(outputs, MACS[:3], budgets))
    assert (found <= best).all()
    assert (best - found).mean() < 0.02  # of 14 images, one is 0.07
    assert found[-1] == best[-1]  # with room for everything


@pytest.mark.parametrize("seed", range(4))
def test_an_exit_at_chance_is_passed_by(seed):
    """As on the digits: exits 1 and 2 know next to nothing, exit 3 nearly all. Oracle: every cut of every pair."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(80, dtype=torch.int64)
    right = torch.rand(4, 80, generator=generator) < torch.tensor([0.15, 0.2, 0.9, 0.95])[:, None]
    confidence = (torch.rand(4, 80, generator=generator) + torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]) / 4
    outputs = Outputs(confidence, (~right).long(), label, "validation")
    macs = [0.4, 2.8, 4.0, 6.3]
    pairs = [
        torch.tensor([*[1.0] * i, cut, *[1.0] * (j - i - 1), *[0.0] * (4 - j)])
        for i, j in combinations(range(4), 2)
        for cut in [0.0, *(outputs.confidence[i] - 1e-4).tolist(), 1.0]
    ]
    accuracy, cost = spent(outputs, pairs, macs)
    budgets = torch.linspace(0.5, 6, 12, dtype=torch.float64)
    best = torch.stack([accuracy[cost <= b + 1e-9].max() for b in budgets])
    found, spending = spent(outputs, inference.best_thresholds(outputs, macs, budgets), macs)
    assert (found >= best).all(), (best - found).tolist()
    assert (spending <= budgets + 1e-9).all()


def test_a_single_cut_is_optimal():
    """With two exits one cut decides everything, so the search is exact."""
    outputs = outputs_of(3, pictures=60, exits=2)
    cuts = [0.0, *outputs.confidence[0].sort().values.tolist(), 1.0]
    accuracy, cost = spent(outputs, [torch.tensor([c, 0.0]) for c in cuts])
    budgets = torch.linspace(1, 2, 21, dtype=torch.float64)
    found, _ = spent(outputs, inference.best_thresholds(outputs, MACS[:2], budgets))
    assert torch.equal(found, torch.stack([accuracy[cost <= b + 1e-9].max() for b in budgets]))


def test_early_exits_that_know_more_are_used_even_with_money_to_spend():
    label = torch.arange(10)
    prediction = torch.stack([label, (label + 1) % 10])
    outputs = Outputs(torch.full((2, 10), 0.5), prediction, label, "validation")
    assert inference.best_thresholds(outputs, [1, 2], [2.0]).tolist() == [[0.0, 0.0]]


def test_a_budget_curve_by_the_solver():
    validation, test = outputs_of(0), outputs_of(1, split="test")
    curve = inference.budget_curve(validation, test, MACS, budgets=9, find=inference.best_thresholds)
    aimed = torch.linspace(1, 8, 9, dtype=torch.float64)
    assert torch.equal(curve.thresholds, inference.best_thresholds(validation, MACS, aimed))
    assert curve.accuracy.tolist() == pytest.approx([p.float().mean().item() for p in curve.right])


@pytest.mark.parametrize(
    ("outputs", "budgets", "message"),
    [
        (outputs_of(0, split="test"), [2.0], "thresholds must be fitted on validation"),
        (outputs_of(0), [2.0, 0.5], "budget=0.5: every image pays for exit 1"),
        (outputs_of(0), [float("nan")], "budget=nan"),
        (outputs_of(0), [], r"budgets of shape \(0,\)"),
    ],
)
def test_what_it_refuses(outputs, budgets, message):
    with pytest.raises(ValueError, match=message):
        inference.best_thresholds(outputs, MACS, budgets)
