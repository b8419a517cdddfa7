"""Exercises on statistics: intervals, seeds, and choosing without the test split."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.special import stdtrit
from torch import Tensor

from dfs_edu import intervals
from dfs_edu.course.checks.answers import FRACTION, Verdict, compare, exercise, tensors


@exercise("the interval")
def interval(attempt: Callable) -> Verdict:
    """Check ``attempt(differences (n,)) -> (mean, half)``: mean of n seeds, half width of its 95 % t-interval."""

    def right(d):
        mean, half = intervals.interval(d[:, None].numpy())
        return torch.tensor([mean[0], half[0]])

    def scaled(factor):
        return lambda d: right(d) * torch.tensor([1, factor(len(d))], dtype=torch.float64)

    mistakes = [
        (scaled(lambda n: n**0.5), "that is the spread of the seeds: their mean varies less, by the root of n"),
        (scaled(lambda n: ((n - 1) / n) ** 0.5), "divide by n - 1: the mean was estimated from the same seeds"),
        (scaled(lambda n: 1.959964 / _t95(n)), "1.96 is for very many seeds: use t of n - 1 degrees"),
        (scaled(lambda n: _t95(n, 0.95) / _t95(n)), "2.5 % lie beyond either end: t at 0.975, not at 0.95"),
        (scaled(lambda n: _t95(n + 1) / _t95(n)), "n seeds leave n - 1 degrees of freedom, not n"),
        (scaled(lambda n: _t95(n - 1) / _t95(n)), "n seeds leave n - 1 degrees of freedom, not n - 2"),
        (scaled(lambda n: _t95(3) / _t95(n)), "t depends on the number of seeds: that is always t of 3"),
        (scaled(lambda n: n**-0.5), "divide by the root of n, not by n"),
        (scaled(lambda n: (n / (n - 1)) ** 0.5), "divide by the root of n: n - 1 is inside the deviation"),
        (scaled(lambda n: 1 / _t95(n)), "that is the standard error: multiply by t"),
        (
            lambda d: torch.stack([d.mean(), right(d)[1] * d.std()]),
            "use the standard deviation, the root of the variance",
        ),
        (lambda d: torch.stack([d.abs().mean(), right(d)[1]]), "keep the signs of the differences"),
        (lambda d: torch.stack([d.median(), right(d)[1]]), "take the mean, not the median"),
        (lambda d: right(d)[0] + right(d)[1] * torch.tensor([-1, 1]), "the mean and half the width, not the two ends"),
        (lambda d: right(d).flip(0), "the mean first, then half the width"),
        (scaled(lambda n: 2), "half the width: from the mean to one end"),
        (lambda d: right(d)[0], "return two numbers, the mean and the half width"),
    ]
    cases = tensors(
        ([-1.0, -2.0, -4.0],),
        ([0.5, 0.5, 0.5],),  # seeds that agree
        ([-0.25, 0.25, 0.0, 0.5, -0.5],),  # a mean of 0
        dtype=torch.float64,
    )
    cases += [(torch.randn(n, dtype=torch.float64),) for n in (3, 5, 10)]
    return compare(attempt, right, cases, mistakes)


@exercise("the bootstrap interval")
def bootstrap(attempt: Callable) -> Verdict:
    """Check ``attempt(right (N,), drawn (R, N)) -> (low, high)``: the 95 % percentile interval of the accuracy.

    ``drawn`` holds R resamples: the indices of the N images in each.
    """

    def ends(values: Tensor, low=0.025, high=0.975):
        return values.double().quantile(torch.tensor([low, high], dtype=torch.float64))

    def right(right, drawn):
        return ends(right[drawn].double().mean(1))

    def normal(right, drawn):
        means = right[drawn].double().mean(1)
        return means.mean() + 1.96 * means.std() * torch.tensor([-1, 1])

    mistakes = [
        (lambda r, d: ends(r[d].double().sum(1)), "that counts right answers: an accuracy is their mean"),
        (lambda r, d: ends(r[d].double().mean(1), 0.05, 0.95), "95 % are in between: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(1), 0, 1), "that is the range: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(0)), "average over the images of a resample, dimension 1"),
        (lambda r, d: ends(r), "those are quantiles of the images: resample, average, then take the quantiles"),
        (normal, "that assumes a normal distribution: take the quantiles of the resamples' accuracies"),
        (lambda r, d: ends(r[d].double().mean(1), 0.005, 0.995), "95 % are in between, not 99 %"),
        (lambda r, d: ends(r[d].double().mean(1), 0.25, 0.75), "95 % are in between, not 50 %"),
        (lambda r, d: ends(r[d].double().mean(1), 0, 0.95), "leave out 2.5 % at either end, not 5 % at one"),
        (lambda r, d: r.double().mean().repeat(2), "that is the accuracy itself: take the quantiles of the resamples'"),
        (
            lambda r, d: r[d].double().mean(1),
            "those are the accuracies of all resamples: return two of their quantiles",
        ),
        (lambda r, d: ends(r[d].double().mean(1)).diff(), "that is the width: return the two ends"),
        (lambda r, d: right(r, d).flip(0), "the lower end first"),
    ]
    # With 40 n + 1 resamples both ends are the accuracy of a resample, so all definitions of a quantile agree
    cases = [_staircase()]
    cases += [(torch.rand(N) < 0.3 + 0.5 * torch.rand(1), torch.randint(N, (401, N))) for N in (50, 200)]
    return compare(attempt, right, cases, mistakes, bounds=FRACTION)


def _staircase(N: int = 50, R: int = 41) -> tuple[Tensor, Tensor]:
    """Resamples with 0, 1, ... 40 right answers out of 50, shuffled, so that no two quantiles are equal."""
    right = torch.arange(N) < N // 2
    count = torch.arange(R) * 7 % R
    drawn = torch.where(torch.arange(N) < count[:, None], 0, N - 1)  # the first image is right, the last one wrong
    return right, drawn


@exercise("seeds needed")
def seeds_needed(attempt: Callable) -> Verdict:
    """Check ``attempt(deviation, gain) -> n``: the smallest n >= 2 whose 95 % t-interval reaches no further than gain.

    ``deviation`` is that of the difference between two arms from seed to seed, and ``gain`` is a difference, both in
    the same unit. Half the width of the interval counts: around a mean of ``gain``, it then excludes zero.
    """

    def right(s, gain, t=_t95):
        return next((n for n in range(2, 1000) if t(n) * s / math.sqrt(n) <= gain), 1000)

    mistakes = [
        (lambda s, g: right(s, g, lambda n: 1.959964), "1.96 is for very many seeds: use t of n - 1 degrees"),
        (lambda s, g: math.ceil((1.959964 * s / g) ** 2), "1.96 is for very many seeds: use t of n - 1 degrees"),
        (lambda s, g: right(s, g / 2), "half the width counts: from the mean to one end"),
        (lambda s, g: right(s, g, lambda n: _t95(n + 1)), "n seeds leave n - 1 degrees of freedom"),
        (lambda s, g: right(s, g, lambda n: _t95(n) * math.sqrt(n)), "a mean of n seeds varies less"),
        (lambda s, g: right(s, g, lambda n: _t95(n, 0.95)), "2.5 % lie beyond either end: t at 0.975, not at 0.95"),
        (lambda s, g: right(s, g, lambda n: _t95(n) * math.sqrt(n / (n - 1))), "divide by the root of n, not of n - 1"),
        (lambda s, g: right(s, g, lambda n: _t95(n) / math.sqrt(n)), "divide by the root of n, not by n"),
        (lambda s, g: right(s**2, g), "the deviation is given: do not square it"),
        (lambda s, g: max(right(s, g), 3), "2 seeds may be enough"),
        (lambda s, g: min(right(s, g), 100), "do not stop at 100 seeds"),
        (lambda s, g: right(s, g) - 1, "one too few: the interval still reaches further than gain"),
        (lambda s, g: (s / g) ** 2 * 1.959964**2, "return a whole number, and use t: try n = 2, 3, ..."),
        (lambda s, g: right(s, g) + 1, "one seed fewer is enough"),
    ]
    cases = [(1.0, 1.0), (0.4, 0.9), (1.5, 0.5), (0.1, 1.0), (0.2, 0.9), (1.0, 0.1)]
    return compare(attempt, right, cases, mistakes)


@exercise("false alarms")
def at_least_one(attempt: Callable) -> Verdict:
    """Check ``attempt(m) -> chance``: at least one of m independent 95 % intervals around true zeros excludes 0."""
    mistakes = [
        (lambda m: 0.05 * m, "that is the expected number; a chance is never above 1"),
        (lambda m: 0.95**m, "that is the chance that all of them contain 0"),
        (lambda m: 1 - 0.05**m, "that is the chance that not all of them exclude 0"),
        (lambda m: min(0.05 * m, 1.0), "chances do not add up: take 1 minus the chance that none excludes 0"),
        (
            lambda m: m * 0.05 * 0.95 ** (m - 1),
            "that is the chance of exactly one: at least one is 1 minus the chance of none",
        ),
        (lambda m: 1 - 0.95 ** (m - 1), "that is for m - 1 intervals"),
        (lambda m: 1 - 0.95 ** (m + 1), "that is for m + 1 intervals"),
        (lambda m: 0.05, "that is the chance of one interval"),
        (lambda m: 0.05 / m, "that is a corrected level: the chance of a false alarm grows with m"),
        (lambda m: 1 - 0.975**m, "5 % of the intervals exclude 0, on both sides together: use 0.95"),
        (lambda m: 1 - 0.05 * m, "the chance grows with m, and never leaves 0 to 1: use 0.95 ** m"),
        (lambda m: 0.05**m, "that is the chance that all of them exclude 0"),
    ]
    return compare(attempt, lambda m: 1 - 0.95**m, [(m,) for m in (1, 2, 6, 72)], mistakes, bounds=FRACTION)


@exercise("the accuracy to report")
def chosen(attempt: Callable) -> Verdict:
    """Check ``attempt(validation (A,), test (A,)) -> accuracy``: on test, of the arm (of A) chosen on validation."""
    mistakes = [
        (lambda v, t: t.max(), "the choice has looked at the test split: the accuracy will look better than it is"),
        (lambda v, t: v.max(), "the best of many on validation was lucky there: report its accuracy on test"),
        (lambda v, t: t[(v + t).argmax()], "the choice has looked at the test split, too: choose on validation alone"),
        (lambda v, t: (v.max() + t[v.argmax()]) / 2, "report the accuracy on test alone"),
        (lambda v, t: t[v.argmin()], "that is the worst arm on validation"),
        (lambda v, t: t.median(), "one arm was chosen: report its accuracy"),
        (lambda v, t: t[0], "the chosen arm may be any of them: v.argmax() is its place"),
        (lambda v, t: t[-1], "the chosen arm may be any of them: v.argmax() is its place"),
        (lambda v, t: t.min(), "report the arm that was best on validation"),
        (lambda v, t: v.argmax(), "that is the place of the arm: report its accuracy on test"),
        (lambda v, t: v[t.argmax()], "the other way round: choose on validation, report on test"),
        (lambda v, t: t.mean(), "one arm was chosen: report its accuracy"),
    ]
    cases = tensors(
        ([0.7, 0.9, 0.8], [0.95, 0.6, 0.5]),
        ([0.9, 0.7, 0.8], [0.6, 0.95, 0.5]),
        ([0.7, 0.8, 0.9], [0.95, 0.6, 0.5]),
        ([0.5], [0.4]),
    )
    cases += [(torch.rand(A), torch.rand(A)) for A in (8, 20)]
    return compare(attempt, lambda v, t: t[v.argmax()], cases, mistakes, bounds=FRACTION)


@exercise("what sharing costs")
def shared_cost(attempt: Callable) -> Verdict:
    """Check ``attempt(alone (n, K, K), joint (n, K)) -> (K,)``: alone minus joint at each exit, mean over n seeds.

    ``alone[i, k, j]`` is the accuracy of exit j, seed i, in the network that was trained for exit k alone.
    """

    def own(alone: Tensor) -> Tensor:  # (n, K)
        return alone.diagonal(dim1=1, dim2=2)

    def right(alone, joint):
        return (own(alone) - joint).mean(0)

    def shifted(alone, joint):
        return (own(alone).roll(1, 1) - joint).mean(0)

    mistakes = [
        (lambda a, j: -right(a, j), "the other way round: alone minus joint, so that a cost is positive"),
        (lambda a, j: right(a, j).clamp(min=0), "keep the sign: an exit may be better off in company"),
        (lambda a, j: right(a, j).abs(), "keep the sign: an exit may be better off in company"),
        (lambda a, j: (a.amax(1) - j).mean(0), "exit k belongs to network k, whichever network does best at it"),
        (lambda a, j: (a.mean(1) - j).mean(0), "exit k belongs to network k: the other networks did not train it"),
        (
            lambda a, j: (a.mean(2) - j).mean(0),
            "only exit k of network k was trained: take it, not the mean of its exits",
        ),
        (lambda a, j: (a[:, -1] - j).mean(0), "that is the network of the last exit: each exit has its own"),
        (lambda a, j: (a[:, 0] - j).mean(0), "that is the network of the first exit: each exit has its own"),
        (shifted, "exit k belongs to network k, not to the one beside it"),
        (lambda a, j: own(a) - j, "one number per exit: take the mean over the seeds, dimension 0"),
        (lambda a, j: (own(a) - j).mean(1), "the mean over the seeds, dimension 0, not over the exits"),
        (lambda a, j: right(a, j).mean(), "one number per exit, not one for all"),
        (lambda a, j: (own(a) - j).sum(0), "the mean over the seeds, not the sum"),
        (lambda a, j: (own(a) - j).median(0).values, "the mean over the seeds, not the median"),
        (lambda a, j: own(a).mean(0), "subtract what joint training reaches"),
        (lambda a, j: (own(a) / j).mean(0), "a difference, not a ratio"),
    ]
    cases = tensors(
        ([[[0.6, 0.2], [0.3, 0.9]], [[0.5, 0.1], [0.2, 0.7]]], [[0.7, 0.5], [0.6, 0.6]]),  # exit 1 gains in company
        (
            [[[0.5, 0.1, 0.3], [0.6, 0.7, 0.2], [0.1, 0.4, 0.9]], [[0.4, 0.3, 0.1], [0.2, 0.8, 0.3], [0.2, 0.1, 0.8]]],
            [[0.3, 0.6, 0.7], [0.4, 0.9, 0.8]],
        ),
    )
    cases += [(torch.rand(n, K, K), torch.rand(n, K)) for n, K in ((3, 2), (5, 6), (4, 4))]
    return compare(attempt, right, cases, mistakes, bounds=(-1, 1))


def _t95(n: int, level: float = 0.975) -> float:
    """The quantile of Student's t for n seeds; at 0.975, that of a 95 % interval."""
    return float(stdtrit(n - 1, level))
