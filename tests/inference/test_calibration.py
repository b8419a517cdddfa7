"""Temperatures known beforehand, calibration errors worked out by hand, and criteria against their formulas."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from dfs_edu import inference
from dfs_edu.inference import Outputs


def made(temperatures, pictures=6000, classes=5, split="validation", seed=0):
    """Logits (K, N, classes) that are `temperatures` times what the labels were drawn by."""
    generator = torch.Generator().manual_seed(seed)
    true = 2 * torch.randn(pictures, classes, generator=generator)
    label = torch.multinomial(true.softmax(1), 1, generator=generator)[:, 0]
    return Outputs.of(torch.stack([t * true for t in temperatures]), label, split)


def test_the_temperature_is_found_again():
    known = [0.5, 1.0, 3.0]
    found = inference.fit_temperatures(made(known))
    np.testing.assert_allclose(found, known, rtol=0.05)


def test_no_other_temperature_is_better():
    outputs = made([0.4, 2.5], pictures=500)
    found = inference.fit_temperatures(outputs)

    def loss(t):
        return torch.stack([F.cross_entropy(z / s, outputs.label) for z, s in zip(outputs.logits, t, strict=True)])

    for factor in (0.95, 1.05):
        assert (loss(found) < loss(factor * found)).all()


def test_the_temperature_of_an_exit_at_chance_stays_bounded():
    logits = torch.randn(1, 400, 5, generator=torch.Generator().manual_seed(0))
    wrong = Outputs.of(logits, logits[0].argmin(1), "validation")
    assert inference.fit_temperatures(wrong).tolist() == [100]


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0])
def test_the_temperature_is_the_bounded_optimum(scale):
    """Of separable, random, hardly wrong and always wrong exits; scipy looks for it in another way."""
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(60) % 5
    right = scale * F.one_hot(label, 5).float()
    noise = scale * torch.randn(60, 5, generator=generator)
    hardly = right + scale * 0.4 * torch.randn(60, 5, generator=generator)
    outputs = Outputs.of(torch.stack([right, noise, hardly, -right, right + 0.01 * noise]), label, "validation")
    for found, logits in zip(inference.fit_temperatures(outputs).tolist(), outputs.logits.double(), strict=True):

        def loss(log_t, logits=logits):
            return F.cross_entropy(logits / math.exp(log_t), label).item()

        best = minimize_scalar(loss, bounds=(math.log(0.01), math.log(100)), method="bounded", options={"xatol": 1e-9})
        assert loss(math.log(found)) <= best.fun + 1e-9
        assert 0.01 <= round(found, 6) <= 100
    first, *_, always_wrong, nearly = inference.fit_temperatures(outputs).tolist()
    assert [first, always_wrong, nearly] == pytest.approx([0.01, 100, 0.01])


def test_calibrating_changes_confidence_and_no_prediction():
    validation, test = made([3.0, 0.4]), made([3.0, 0.4], split="test", seed=1)
    cooled = test.again(temperatures=inference.fit_temperatures(validation))
    assert torch.equal(cooled.prediction, test.prediction)
    before, after = inference.calibration_error(test), inference.calibration_error(cooled)
    assert (before > 0.1).all()
    assert (after < 0.03).all()


def by_hand():
    """Bins of a fifth: 0.5 and 0.55 with one right, 0.9 and 1 with two right; all other bins are empty."""
    confidence = torch.tensor([[0.5, 0.55, 0.9, 1.0]])
    return Outputs(confidence, torch.tensor([[0, 1, 2, 3]]), torch.tensor([0, 0, 2, 3]), "test")


def test_calibration_error_by_hand():
    # half the images: |0.525 - 0.5|; the other half: |0.95 - 1|
    assert inference.calibration_error(by_hand(), bins=5).tolist() == pytest.approx([0.5 * 0.025 + 0.5 * 0.05])


def test_reliability_by_hand():
    found = inference.reliability(by_hand(), bins=5)
    assert found.count.tolist() == [[0, 0, 2, 0, 2]]
    assert found.confidence[0, [2, 4]].tolist() == pytest.approx([0.525, 0.95])
    assert found.accuracy[0, [2, 4]].tolist() == [0.5, 1]
    assert found.accuracy[0, [0, 1, 3]].isnan().all()
    assert found.edges.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


def on_the_edges():
    """Confidences on every edge of fifths, and between; 1 is wrong, so a bin of its own would show."""
    confidence = torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.0]])
    right = torch.tensor([[0, 0, 1, 0, 1, 1, 0, 1]])
    return Outputs(confidence, right, torch.ones(8, dtype=torch.int64), "test")


def test_a_confidence_of_one_is_in_the_last_bin_of_the_error_too():
    sure = Outputs(torch.tensor([[0.9, 1.0]]), torch.tensor([[1, 0]]), torch.tensor([1, 1]), "test")
    assert inference.calibration_error(sure, bins=5).tolist() == pytest.approx([0.95 - 0.5])
    assert inference.reliability(sure, bins=5).count.tolist() == [[0, 0, 0, 0, 2]]


@pytest.mark.parametrize(
    ("outputs", "bins"), [(made([2.0, 0.7], pictures=1000), 15), (on_the_edges(), 5)], ids=["drawn", "on the edges"]
)
def test_the_error_is_what_the_diagram_shows(outputs, bins):
    shown = inference.reliability(outputs, bins)
    apart = (shown.confidence - shown.accuracy).abs().nan_to_num() * shown.count / len(outputs.label)
    torch.testing.assert_close(inference.calibration_error(outputs, bins), apart.sum(1), rtol=1e-5, atol=1e-6)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="temperatures must be fitted on validation"):
        inference.fit_temperatures(made([1.0], pictures=9, split="test"))
    with pytest.raises(ValueError, match="hold no logits"):
        inference.fit_temperatures(Outputs(torch.ones(1, 2), torch.zeros(1, 2).long(), torch.zeros(2).long(), "train"))
    with pytest.raises(ValueError, match="scores by 'margin' are not probabilities"):
        inference.calibration_error(made([1.0], pictures=9).again("margin"))
    with pytest.raises(ValueError, match="bins=0"):
        inference.reliability(by_hand(), bins=0)
    for wrong in ([1.0], [1.0, 0.0], [1.0, math.inf], [1.0, math.nan]):
        with pytest.raises(ValueError, match=r"temperatures=.*give 2 positive numbers"):
            made([1.0, 1.0], pictures=9).again(temperatures=wrong)
    with pytest.raises(ValueError, match="criterion='certainty': use one of confidence, margin, entropy, patience"):
        made([1.0], pictures=9).again("certainty")
