"""Calibration: is an exit right as often as it is confident? Temperatures that make it so, and how to measure it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfs_edu.inference.outputs import Outputs

RANGE = (0.01, 100)  # of temperatures: beyond, an exit knows nothing and rounding decides how sure it is
BINS = 10  # of confidence, unless a caller asks for another number
BELOW_ONE = 1 - 2**-24  # the next float32


def fit_temperatures(outputs: Outputs) -> Tensor:
    """Temperatures (K,), float32, that make the labels most probable when each exit's logits are divided by its own.

    One number per exit, from 0.01 to 100: no prediction changes. The cross-entropy is convex in 1 / T, so the best T is
    where its derivative is 0, found in float64. Where the derivative has the same sign everywhere, it is an end of the
    range: an exit that makes no mistake on these images gets 0.01, one that is right less often than by chance 100.

    Args:
        outputs: of the validation split, collected with logits=True.

    Raises:
        ValueError: outputs of the test split, or without logits.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    if outputs.split == "test":
        raise ValueError("outputs of the test split: temperatures must be fitted on validation")
    return torch.tensor([_temperature(logits.double(), outputs.label) for logits in outputs.kept_logits()])


def _temperature(logits: Tensor, label: Tensor) -> float:
    """The best temperature in RANGE for the logits (N, classes) of one exit."""
    from scipy.optimize import brentq  # slow to import, needed here alone

    over_true = logits - logits.gather(1, label[:, None])  # (N, classes): by how much each class exceeds the true one

    def slope(log_t: float) -> float:  # derivative of the cross-entropy with respect to 1 / T
        return ((over_true / math.exp(log_t)).softmax(1) * over_true).sum().item()

    low, high = map(math.log, RANGE)
    if slope(low) <= 0:  # still falling, or too small for a number, at the largest 1 / T
        return RANGE[0]
    if slope(high) >= 0:
        return RANGE[1]
    return math.exp(brentq(slope, low, high, xtol=1e-10))


def calibration_error(outputs: Outputs, bins: int = BINS) -> Tensor:
    """Expected calibration error of each exit, float64 (K,): the mean gap between confidence and accuracy over bins.

    The bins are equally wide and weighted by the number of images in them; computed by torchmetrics.

    Raises:
        ValueError: scores that are not probabilities, or an invalid number of bins.
    """
    from torchmetrics.functional.classification import binary_calibration_error  # slow to import, needed here alone

    _check(outputs, bins)
    # torchmetrics puts a confidence of exactly 1 in a bin of its own; the largest number below 1 is in the last one
    pairs = zip(outputs.confidence.clamp(0, BELOW_ONE), outputs.correct, strict=True)
    errors = [binary_calibration_error(confidence, right.int(), bins) for confidence, right in pairs]
    return torch.stack(errors).double()


@dataclass(frozen=True)
class Reliability:
    """What a reliability diagram shows: confidence and accuracy of the images in each bin of an exit's confidence.

    Attributes:
        confidence: float64 (K, bins), mean over the images in a bin; NaN in an empty bin.
        accuracy: float64 (K, bins), fraction of the images in a bin that is classified correctly; NaN in an empty bin.
        count: int64 (K, bins), images in a bin.
        edges: (bins + 1,), between the bins.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor
    edges: Tensor


def reliability(outputs: Outputs, bins: int = BINS) -> Reliability:
    """Confidence and accuracy in bins of equal width, for a reliability diagram.

    Raises:
        ValueError: scores that are not probabilities, or an invalid number of bins.
    """
    _check(outputs, bins)
    K = len(outputs.confidence)
    edges = torch.linspace(0, 1, bins + 1)

    # A bin contains its lower edge, the last one both. Cells number the bins of all exits, for one count of them all
    bin_of = torch.bucketize(outputs.confidence, edges[1:-1], right=True)  # (K, N)
    cell = (bin_of + bins * torch.arange(K)[:, None]).flatten()
    count, confidence, right = (
        torch.bincount(cell, weights, minlength=K * bins).view(K, bins)
        for weights in (None, outputs.confidence.double().flatten(), outputs.correct.double().flatten())
    )
    return Reliability(confidence / count, right / count, count, edges)


def _check(outputs: Outputs, bins: int) -> None:
    """Raise ValueError unless scores are probabilities and bins is a positive whole number."""
    if outputs.criterion != "confidence":
        raise ValueError(f"scores by {outputs.criterion!r} are not probabilities: collect with criterion='confidence'")
    if type(bins) is not int or bins < 1:
        raise ValueError(f"bins={bins!r}: a whole number above zero")
