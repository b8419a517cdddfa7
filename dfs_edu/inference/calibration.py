"""Is an exit right as often as it is sure? Temperatures that make it so, and how far it is from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from dfs_edu.inference.outputs import Outputs

RANGE = (0.01, 100)  # of temperatures: beyond, an exit knows nothing and rounding decides who is how sure
BELOW_ONE = 1 - 2**-24  # the next float32


def fit_temperatures(outputs: Outputs) -> Tensor:
    """Temperatures (K,), float32: dividing each exit's logits by its own makes the labels most probable.

    outputs   of the validation split, collected with logits=True

    One number for each exit, from 0.01 to 100: no prediction changes. The cross-entropy is convex in 1 / T (Guo et al.,
    On Calibration of Modern Neural Networks, ICML 2017), so the best T is where its derivative is 0, found in float64,
    or an end of the range where it has the same sign everywhere: an exit that makes no mistake on these images gets
    0.01, one that is right less often than by chance 100. Raises ValueError for the test split, and without logits.
    """
    if outputs.split == "test":
        raise ValueError("outputs of the test split: temperatures must be fitted on validation")
    return torch.tensor([_temperature(logits.double(), outputs.label) for logits in outputs.asked_for()])


def _temperature(logits: Tensor, label: Tensor) -> float:
    """The best temperature in RANGE for the logits (N, classes) of one exit."""
    over_true = logits - logits.gather(1, label[:, None])  # (N, classes): what each class has more than the true one

    def slope(log_t: float) -> float:  # of the cross-entropy, as 1 / T grows
        return ((over_true / math.exp(log_t)).softmax(1) * over_true).sum().item()

    low, high = map(math.log, RANGE)
    if slope(low) <= 0:  # still falling, or too small for a number, at the largest 1 / T
        return RANGE[0]
    if slope(high) >= 0:
        return RANGE[1]
    return math.exp(brentq(slope, low, high, xtol=1e-10))


def calibration_error(outputs: Outputs, bins: int = 15) -> Tensor:
    """Expected calibration error of each exit, float64 (K,): mean distance of confidence and accuracy over the bins.

    The bins are equally wide and weigh as much as the pictures in them; computed by torchmetrics. Raises ValueError
    for scores that are no probabilities.
    """
    _check(outputs, bins)
    # torchmetrics has a bin of its own for a confidence of exactly 1: the largest number below 1 is in the last one
    pairs = zip(outputs.confidence.clamp(0, BELOW_ONE), outputs.correct, strict=True)
    return torch.stack([binary_calibration_error(sure, right.int(), bins) for sure, right in pairs]).double()


@dataclass(frozen=True)
class Reliability:
    """Of the pictures in each bin of an exit's confidence.

    confidence, accuracy  float64 (K, bins), their mean confidence and the fraction that is right; NaN in an empty bin
    count                 int64 (K, bins)
    edges                 (bins + 1,), of the bins
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor
    edges: Tensor


def reliability(outputs: Outputs, bins: int = 15) -> Reliability:
    """What a reliability diagram shows, in bins of equal width. Raises ValueError for scores that are none."""
    _check(outputs, bins)
    K = len(outputs.confidence)
    edges = torch.linspace(0, 1, bins + 1)
    bin = torch.bucketize(
        outputs.confidence, edges[1:-1], right=True
    )  # (K, N), each bin with its lower edge, the last with both
    place = (bin + bins * torch.arange(K)[:, None]).flatten()
    count, sure, right = (
        torch.bincount(place, weights, minlength=K * bins).view(K, bins)
        for weights in (None, outputs.confidence.double().flatten(), outputs.correct.double().flatten())
    )
    return Reliability(sure / count, right / count, count, edges)


def _check(outputs: Outputs, bins: int) -> None:
    if outputs.criterion != "confidence":
        raise ValueError(f"scores by {outputs.criterion!r} are no probabilities: collect with criterion='confidence'")
    if type(bins) is not int or bins < 1:
        raise ValueError(f"bins={bins!r}: a whole number above zero")
