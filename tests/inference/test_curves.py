"""Points and curves against a loop over images and cases worked out by hand; the bootstrap against formulas."""

import math

import numpy as np
import pytest
import torch
from exits import MACS, hand_outputs, random_outputs
from scipy.optimize import brentq

from dfs_edu import inference


def loop_apply(outputs, thresholds, macs):
    """The plain loop over images that `apply` replaces."""
    exits, right, cost = [], 0, 0.0
    K, N = outputs.confidence.shape
    for n in range(N):
        k = next(k for k in range(K) if k == K - 1 or outputs.confidence[k, n] >= thresholds[k])
        exits.append(k)
        right += int(outputs.prediction[k, n] == outputs.label[n])
        cost += macs[k]
    return exits, right / N, cost / N


def test_hand_computed_point():
    point = inference.apply(hand_outputs(), [0.6, 0.5, 0], MACS)
    assert point.exit.tolist() == [0, 0, 1, 2]  # 0.6 reaches 0.6, 0.5 reaches 0.5
    assert point.share.tolist() == [0.5, 0.25, 0.25]
    assert point.exit_accuracy.tolist() == [0.5, 0.0, 0.0]
    assert point.accuracy == 0.25
    assert point.macs == (10 + 10 + 30 + 60) / 4


def test_accuracy_is_nan_at_an_exit_where_no_image_leaves():
    point = inference.apply(hand_outputs(), [0.0, 0.5, 0], MACS)
    assert point.share.tolist() == [1, 0, 0]
    assert point.exit_accuracy[0] == 0.5
    assert point.exit_accuracy[1:].isnan().all()


@pytest.mark.parametrize("seed", range(3))
def test_apply_equals_the_loop(seed):
    outputs = random_outputs(exits=4, seed=seed)
    thresholds, macs = [0.9, 0.7, 0.4, 0.0], [1.0, 2.5, 4.0, 9.0]
    point = inference.apply(outputs, thresholds, macs)
    exits, accuracy, cost = loop_apply(outputs, thresholds, macs)
    assert point.exit.tolist() == exits
    assert point.accuracy == pytest.approx(accuracy, abs=1e-12)
    assert point.macs == pytest.approx(cost, abs=1e-12)
    assert (point.share @ point.exit_accuracy.nan_to_num()).item() == pytest.approx(accuracy)


def test_budget_curve_measures_on_test_what_it_fitted_on_calibration():
    calibration, test = random_outputs("validation"), random_outputs("test", pictures=150, seed=1)
    macs = [1.0, 2.0, 4.0, 8.0]
    curve = inference.budget_curve(calibration, test, macs, budgets=9)
    assert curve.thresholds.shape == (9, 4)
    aimed = torch.linspace(1, 8, 9, dtype=torch.float64)
    for thresholds, cost, accuracy, right in zip(
        curve.thresholds, curve.macs, curve.accuracy, curve.right, strict=True
    ):
        point = inference.apply(test, thresholds, macs)
        assert (point.macs, point.accuracy) == (cost, accuracy)
        assert torch.equal(right, point.right)

    def shares(log_q):
        return np.exp(log_q * np.arange(4)) / np.exp(log_q * np.arange(4)).sum()

    for thresholds, cost in zip(curve.thresholds[1:-1], aimed[1:-1].tolist(), strict=True):
        log_q = brentq(lambda log_q, cost=cost: shares(log_q) @ macs - cost, -16, 16)
        assert torch.equal(thresholds, inference.fit_thresholds(calibration, shares(log_q)))
    spent = torch.tensor([inference.apply(calibration, t, macs).macs for t in curve.thresholds], dtype=torch.float64)
    assert (spent - aimed).abs().max() < 0.05  # rounding to whole images of 200
    assert curve.accuracy[0] == test.accuracy[0]
    assert curve.accuracy[-1] == test.accuracy[-1]


@pytest.mark.parametrize("macs", [[1, 2], [1, 2, 2], [3, 2, 1], [0, 1, 2], [1, 2, float("nan")], [1, 2, float("inf")]])
def test_wrong_macs(macs):
    with pytest.raises(ValueError, match="macs"):
        inference.apply(hand_outputs(), [0.5, 0.5, 0], macs)


def test_the_test_split_never_fits_thresholds():
    validation, test = hand_outputs("validation"), hand_outputs("test")
    for calibration, tested in [(test, validation), (test, test), (validation, validation)]:
        with pytest.raises(ValueError, match="thresholds must be fitted on validation"):
            inference.budget_curve(calibration, tested, MACS)
    with pytest.raises(ValueError, match="thresholds must be fitted on validation"):
        inference.fit_thresholds(test, [0.5, 0.5, 0])
    with pytest.raises(ValueError, match="thresholds must be fitted on validation"):
        inference.thresholds_for_budget(test, MACS, 20)


# Bootstrap


def test_the_bootstrap_of_an_accuracy_is_nearly_the_binomial_interval():
    right = torch.zeros(2, 400, dtype=torch.bool)
    right[0, :300] = True
    low, high = inference.bootstrap(right, resamples=4000)
    assert low[0].item() == pytest.approx(0.75 - 1.96 * (0.75 * 0.25 / 400) ** 0.5, abs=0.005)
    assert high[0].item() == pytest.approx(0.75 + 1.96 * (0.75 * 0.25 / 400) ** 0.5, abs=0.005)
    assert (low[1], high[1]) == (0, 0)
    assert torch.equal(low, inference.bootstrap(right, resamples=4000)[0])  # the seed is fixed


def test_a_difference_of_two_that_agree_nearly_everywhere_is_surer_than_either():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(1000, generator=generator) < 0.6
    second = first.clone()
    second[:20] = True
    low, high = inference.bootstrap(torch.stack([second.float() - first.float()]))
    assert 0 < low < (second.float() - first.float()).mean() < high
    alone_low, alone_high = inference.bootstrap(first[None])
    assert high - low < 0.3 * (alone_high - alone_low)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"right": torch.zeros(2, 0)}, r"right of shape \(2, 0\): give \(P, N\), of at least one image"),
        ({"right": torch.ones(3)}, r"right of shape \(3,\)"),
        ({"resamples": 0}, "resamples=0: a whole number above zero"),
        ({"level": 1.5}, "level=1.5: between 0 and 1"),
        ({"level": math.nan}, "level=nan"),
        ({"seed": 10**20}, "seed=100000000000000000000: a whole number from 0, below 2"),
    ],
)
def test_what_the_bootstrap_refuses(how, message):
    with pytest.raises(ValueError, match=message):
        inference.bootstrap(**{"right": torch.ones(2, 5)} | how)
