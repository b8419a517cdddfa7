"""Thresholds for shares against a loop over images, for budgets against what they spend."""

import pytest
import torch
from exits import MACS, hand_outputs, random_outputs

from dfs_edu import inference
from dfs_edu.backbones import build
from dfs_edu.inference import EarlyExit, Outputs


def loop_fit(outputs, counts):
    """Which exit each image takes when, exit by exit, the counts[k] most confident of those left leave."""
    here = set(range(outputs.confidence.shape[1]))
    exit = [len(counts) - 1] * len(here)
    for k, count in enumerate(counts[:-1]):
        for n in sorted(here, key=lambda n: -outputs.confidence[k, n].item())[:count]:
            exit[n] = k
            here.remove(n)
    return exit


@pytest.mark.parametrize("share", [[0.25] * 4, [0.5, 0.3, 0.15, 0.05], [0, 0.5, 0, 0.5], [0, 0, 0, 1], [1, 0, 0, 0]])
def test_fitted_thresholds_send_exactly_the_share(share):
    outputs = random_outputs(pictures=200)
    thresholds = inference.fit_thresholds(outputs, share)
    point = inference.apply(outputs, thresholds, [1, 2, 3, 4])
    assert point.share.tolist() == share
    assert point.exit.tolist() == loop_fit(outputs, [round(200 * s) for s in share])
    assert ((thresholds >= 0) & (thresholds <= 1)).all()
    assert thresholds[-1] == 0


def test_counts_that_do_not_divide_are_within_half_a_image():
    outputs = random_outputs(pictures=97)
    share = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    reached = inference.apply(outputs, inference.fit_thresholds(outputs, share), [1, 2, 3, 4]).share
    assert ((reached.cumsum(0) - share.cumsum(0)).abs() <= 0.5 / 97 + 1e-12).all()


def test_equal_confidences_leave_together_and_the_next_exit_makes_up():
    confidence = torch.tensor([[0.8, 0.8, 0.8, 0.1], [0.5, 0.5, 0.5, 0.7], [0.9] * 4])
    outputs = Outputs(confidence, torch.zeros(3, 4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "validation")
    point = inference.apply(outputs, inference.fit_thresholds(outputs, [0.25, 0.5, 0.25]), MACS)
    assert point.exit.tolist() == [0, 0, 0, 2]


def test_a_threshold_keeps_clear_of_both_neighbours():
    confidence = torch.tensor([[0.9, 0.7, 0.3, 0.1], [0.5] * 4])
    outputs = Outputs(confidence, torch.zeros(2, 4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "validation")
    assert inference.fit_thresholds(outputs, [0.5, 0.5]).tolist() == pytest.approx([0.5, 0])
    neighbours = torch.tensor([0.5, 0.5]).nextafter(torch.tensor([1.0, 0.0]))  # no float32 lies between these and 0.5
    outputs = Outputs(
        torch.stack([neighbours, neighbours]),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.int64),
        "validation",
    )
    assert inference.apply(outputs, inference.fit_thresholds(outputs, [0.5, 0.5]), [1, 2]).exit.tolist() == [0, 1]


def test_geometric_shares():
    shares = inference.geometric_shares(torch.tensor([0.5, 1.0, 2.0]), 3)
    expected = torch.tensor([[4, 2, 1], [7 / 3] * 3, [1, 2, 4]], dtype=torch.float64) / 7
    torch.testing.assert_close(shares, expected)


@pytest.mark.parametrize("budget", [1.0, 1.5, 3.0, 7.9, 8.0, 100.0])
def test_thresholds_for_a_budget_spend_it_and_no_more(budget):
    outputs, macs = random_outputs(pictures=500), [1.0, 2.0, 4.0, 8.0]
    spent = inference.apply(outputs, inference.thresholds_for_budget(outputs, macs, budget), macs).macs
    assert spent <= budget
    assert spent >= min(budget, 8.0) - 0.05


@pytest.mark.parametrize(
    ("thresholds", "says"),
    [
        ([0.5, 0], r"shape \(2,\) for 3 exits"),
        ([0.5, 0.5, 0.5], "threshold 0.5 of exit 3: the last exit takes all"),
        ([1.5, 0.5, 0], "threshold 1.5 of exit 1"),
        ([0.5, -0.1, 0], "threshold -0.1 of exit 2"),
        ([0.5, float("nan"), 0], "threshold nan of exit 2"),
    ],
)
def test_wrong_thresholds(thresholds, says):
    with pytest.raises(ValueError, match=says):
        inference.apply(hand_outputs(), thresholds, MACS)
    net = build("vgg7-1", classes=2)
    net.heads = net.heads[:3]
    with pytest.raises(ValueError, match=says):
        EarlyExit(net, thresholds)


def test_wrong_shares_and_budgets():
    outputs = hand_outputs("validation")
    for share in ([0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0], [float("nan"), 0.5, 0.5]):
        with pytest.raises(ValueError, match="share="):
            inference.fit_thresholds(outputs, share)
    for budget in (9.9, float("nan")):
        with pytest.raises(ValueError, match="budget="):
            inference.thresholds_for_budget(outputs, MACS, budget)
    with pytest.raises(ValueError, match="exits"):
        inference.budget_curve(random_outputs(exits=4), hand_outputs(), [1, 2, 3, 4])
    with pytest.raises(ValueError, match="budgets=1"):
        inference.budget_curve(outputs, hand_outputs("test"), MACS, budgets=1)
