"""Exercises on the confidence of an exit: temperature, calibration, margin."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfs_edu import inference
from dfs_edu.course.checks.answers import FRACTION, Verdict, compare, exercise, tensors

TOO_LARGE = "exp of a large number is infinite: subtract each row's maximum first, which changes nothing"


@exercise("softmax at a temperature")
def softmax(attempt: Callable) -> Verdict:
    """Check ``attempt(logits (N, classes), temperature) -> (N, classes)``: the softmax of logits / temperature."""

    def right(z, t):
        return (z / t).softmax(1)

    mistakes = [
        (lambda z, t: (z * t).softmax(1), "divide by the temperature: a high one makes an exit less confident"),
        (lambda z, t: z.softmax(1), "the temperature has no effect: divide the logits by it"),
        (lambda z, t: z.softmax(1) / t, "divide the logits, not the probabilities, whose sum is no longer 1"),
        (lambda z, t: (z / t).softmax(0), "the classes are in dimension 1: each row adds up to 1"),
        (lambda z, t: (z / t).exp(), "divide by each row's sum: probabilities add up to 1"),
        (lambda z, t: (z / t).exp() / (z / t).exp().sum(), "divide by the sum of each row, not of all rows"),
        (
            lambda z, t: (z / t - (z / t).amax(1, keepdim=True)).exp(),
            "divide by each row's sum: probabilities add up to 1",
        ),
        (lambda z, t: (z / t**2).softmax(1), "divide by the temperature once, not twice"),
        (lambda z, t: (z / t).sigmoid(), "that is a sigmoid: in a softmax, the classes share a probability of 1"),
        (
            lambda z, t: z / t / (z / t).sum(1, keepdim=True),
            "exp is missing: each probability is a share of the row's exp(z / t)",
        ),
        (
            lambda z, t: _shifted(z / t, (z / t).mean(1, keepdim=True)),
            TOO_LARGE,
        ),
        (lambda z, t: _shifted(z.clamp(max=80) / t, 0), "do not cut the logits: subtract each row's maximum"),
        (lambda z, t: (z / t).log_softmax(1), "that is the logarithm of the probabilities"),
        (
            lambda z, t: _shifted(z / t, (z / t).max()),
            "each row has its own maximum: subtract that, or a row far below another becomes 0 / 0",
        ),
        (
            lambda z, t: _shifted(z / t, 0),
            TOO_LARGE,
        ),
    ]
    large = [[1000.0, 999.0, 0.0], [0.0, 1.0, 2.0], [-1000.0, 0.0, 1000.0]]
    cases = tensors(([[1.0, 2.0, 4.0], [0.0, 1.0, -1.0]], 2.0), (large, 1.0), (large, 0.5), ([[-3.0]], 0.7))
    cases += [(scale * torch.randn(N, C), t) for scale, N, C, t in ((2, 4, 3, 2.0), (3, 7, 10, 0.4), (200, 5, 6, 1.2))]
    return compare(attempt, right, cases, mistakes, bounds=FRACTION)


def _shifted(z: Tensor, by: Tensor | float) -> Tensor:
    """The softmax of z, computed after a shift."""
    return (z - by).exp() / (z - by).exp().sum(1, keepdim=True)


@exercise("the calibration error")
def calibration_error(attempt: Callable) -> Verdict:
    """Check ``attempt(confidence (N,), correct bool (N,), bins) -> number``: an exit's expected calibration error."""

    def extra_bin(confidence, correct, bins):
        bin = (confidence * bins).long()  # from 0 to bins, the last only for a confidence of 1
        return torch.bincount(bin, confidence.double() - correct.double()).abs().sum() / len(correct)

    def rounded_bin(confidence, correct, bins):
        bin = (confidence * bins).round().long()
        return torch.bincount(bin, confidence.double() - correct.double()).abs().sum() / len(correct)

    right = _binned(lambda gap, share: (gap.abs() * share).sum())
    mistakes = [
        (_binned(lambda gap, share: (gap * share).sum().abs()), "opposite gaps must not cancel: add their sizes"),
        (_binned(lambda gap, share: (gap * share).sum()), "take the gap of each bin without its sign"),
        (_binned(lambda gap, share: gap[share > 0].abs().mean()), "weight each bin by its share of the images"),
        (_binned(lambda gap, share: gap.abs().mean()), "weight each bin by its share of the images"),
        (_binned(lambda gap, share: (gap.abs() * share).mean()), "add the weighted bins, do not average them"),
        (_binned(lambda gap, share: gap.abs().max()), "that is the worst bin: the expected error is a mean over all"),
        (
            _binned(lambda gap, share: (gap.abs() * share).where(share > 0, torch.nan).sum()),
            "an empty bin has no mean, 0 / 0 is nan: leave it out",
        ),
        (lambda s, r, bins: (s - r.float()).abs().mean(), "compare the means of a bin: one image is right or wrong"),
        (_binned(lambda gap, share: (gap**2 * share).sum().sqrt()), "take the size of a gap, abs(), not its square"),
        (_binned(lambda gap, share: (gap**2 * share).sum()), "take the size of a gap, abs(), not its square"),
        (
            _binned(lambda gap, share: (gap.clamp(min=0) * share).sum()),
            "an exit may also be underconfident: take abs() of the gap",
        ),
        (_binned(lambda gap, share: gap.abs().sum()), "weight each bin by its share of the images"),
        (lambda s, r, bins: right(s, r, bins + 1), "one bin too many: there are `bins` of them"),
        (lambda s, r, bins: right(s, r, max(bins - 1, 1)), "one bin too few: there are `bins` of them"),
        (rounded_bin, "a bin begins at k / bins: cut confidence * bins off, .long(), instead of rounding it"),
        (lambda *case: right(*case) * len(case[0]), "divide by the number of images"),
        (extra_bin, "a confidence of 1 belongs to the last bin: clamp the bins to at most bins - 1"),
    ]
    return compare(attempt, right, _calibration_error_cases(), mistakes, bounds=FRACTION)


def _calibration_error_cases() -> list[tuple]:
    cases = tensors(
        ([0.1, 0.3, 0.9, 1.0], [True, False, True, False], 4),  # a confidence of exactly 1, and an empty bin
        ([0.1, 0.2, 0.45], [False, True, False], 4),
        ([0.6, 0.9], [True, False], 1),
        ([1.0], [True], 10),
        ([0.3], [True], 2),
    )
    for N, bins in ((300, 5), (400, 10), (40, 15)):
        confidence = 0.2 + 0.8 * torch.rand(N)
        confidence[: N // 10] = 1  # float32 rounds near certainty to 1
        cases.append((confidence, torch.rand(N) < 0.6, bins))
    return cases


def _binned(value: Callable) -> Callable:
    """Apply value(gap, share): of each bin, confidence minus accuracy (0 if empty), and its share of images."""

    def function(confidence, correct, bins):
        label = torch.ones(len(correct), dtype=torch.int64)
        outputs = inference.Outputs(confidence[None], correct[None].long(), label, "validation")
        reliability = inference.reliability(outputs, bins)
        gap = (reliability.confidence - reliability.accuracy)[0].nan_to_num()
        return value(gap, reliability.count[0] / len(correct))

    return function


@exercise("the margin")
def margin(attempt: Callable) -> Verdict:
    """Check ``attempt(p (N, classes)) -> (N,)``: how far the largest probability is above the second largest."""
    right: Callable = inference.CRITERIA["margin"]

    mistakes = [
        (lambda p: p.amax(1), "that is the confidence: subtract the second largest"),
        (lambda p: -right(p), "the largest minus the second largest, not the other way round"),
        (lambda p: p.amax(1) - p.amin(1), "that is the largest minus the smallest"),
        (lambda p: p[:, 0] - p[:, 1], "those are classes 0 and 1: sort the probabilities first, or use topk"),
        (lambda p: p.sort(1).values[:, 1] - p.sort(1).values[:, 0], "sort is in ascending order: the last two count"),
        (lambda p: p.amax(1) - p.median(1).values, "subtract the second largest, not the median"),
        (lambda p: p.amax(1) - p.mean(1), "subtract the second largest, not the mean"),
        (lambda p: p.amax(1) / p.topk(2, dim=1).values[:, 1], "return the difference of the two, not their ratio"),
        (lambda p: (p[:, 0] - p[:, 1]).abs(), "those are classes 0 and 1: sort the probabilities first, or use topk"),
        (lambda p: p[:, -1] - p[:, -2], "those are the last classes: sort the probabilities first, or use topk"),
        (lambda p: right(p).mean(), "return one margin for each image"),
        (
            lambda p: p.sort(1).values.diff(dim=1).amax(1),
            "that is the largest gap between any two neighbours: take that between the two largest",
        ),
        (lambda p: 2 * p.amax(1) - 1, "1 - the largest is the sum of all other classes, not the second largest"),
        (lambda p: p.topk(2, dim=1).values[:, 1], "that is the second largest: subtract it from the largest"),
        (lambda p: p.topk(2, dim=0).values.diff(dim=0)[0].neg(), "the classes are in dimension 1"),
        (
            lambda p: p.amax(1) - p.masked_fill(p == p.amax(1, keepdim=True), 0).amax(1),
            "if two classes share the largest probability, the second largest is the same: the margin is 0",
        ),
    ]
    cases = tensors(
        ([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]],),
        ([[0.25, 0.75]],),
        ([[0.1, 0.3, 0.4, 0.2, 0.0]],),
    )
    cases += [((2 * torch.randn(N, C)).softmax(1),) for N, C in ((5, 3), (20, 10), (50, 100))]
    return compare(attempt, right, cases, mistakes, bounds=FRACTION)
