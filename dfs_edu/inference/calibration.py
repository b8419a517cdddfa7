"""Is an exit right as often as it is sure? Temperatures that make it so, and how far it is from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_calibration_error

from dfs_edu.inference.outputs import Outputs

RANGE = (0.01, 100)  # of temperatures: beyond, an exit knows nothing and rounding decides who is how sure
BELOW_ONE = 1 - 2**-24  # the next float32


def fit_temperatures(outputs: Outputs) -> Tensor:
    """Temperatures (K,), float32: dividing each exit's logits by its own makes the labels most probable.

    outputs   of the validation split, collected with logits=True

    One number an exit, from 0.01 to 100: no prediction changes. The logarithm of T is fitted, in float64, by LBFGS (Guo
    et al., On Calibration of Modern Neural Networks, ICML 2017). Raises ValueError for the test split, and without
    logits.
    """
    if outputs.split == "test":
        raise ValueError("outputs of the test split: temperatures must be fitted on validation")
    logits = outputs.asked_for().double()  # (K, N, classes)
    label = outputs.label.expand(len(logits), -1).flatten()
    log_t = torch.zeros(len(logits), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, tolerance_change=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        cooled = logits / log_t.exp()[:, None, None]
        value = F.cross_entropy(cooled.flatten(0, 1), label)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return log_t.detach().exp().clamp(*RANGE).float()


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
