"""Exercises on what a number is worth."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.special import stdtrit
from torch import Tensor

from dfs_edu import intervals
from dfs_edu.course.checks.answers import compare, repeatable


@repeatable()
def interval(mine: Callable) -> None:
    """mine(differences (n,)) -> (mean, half width of its 95 % t-interval) of n seeds."""

    def right(d):
        mean, half = intervals.interval(d[:, None].numpy())
        return torch.tensor([mean[0], half[0]])

    def scaled(factor):
        return lambda d: right(d) * torch.tensor([1, factor(len(d))], dtype=torch.float64)

    mistakes = [
        (scaled(lambda n: n**0.5), "that is the spread of the seeds: the mean of n is known better by the root of n"),
        (scaled(lambda n: ((n - 1) / n) ** 0.5), "divide by n - 1: the mean was taken from the same seeds"),
        (scaled(lambda n: 1.959964 / _t95(n)), "1.96 is for very many seeds: for n few, t of n - 1 degrees of freedom"),
        (scaled(lambda n: 2), "half the width: from the mean to one end"),
        (lambda d: right(d)[0], "return two numbers, the mean and the half width"),
    ]
    edges = [[-1.0, -2.0, -4.0], [0.5, 0.5, 0.5], [-0.25, 0.25, 0.0, 0.5, -0.5]]  # seeds that agree; a mean of 0
    cases = [(torch.tensor(differences, dtype=torch.float64),) for differences in edges]
    cases += [(torch.randn(n, dtype=torch.float64),) for n in (3, 5, 10)]
    compare("the interval", mine, right, cases, mistakes)


@repeatable()
def bootstrap(mine: Callable) -> None:
    """mine(right (N,), drawn (R, N)) -> (low, high), the 95 % percentile interval of the accuracy.

    drawn   R resamples: of each, which N pictures it holds
    """

    def ends(of: Tensor, low=0.025, high=0.975):
        return of.double().quantile(torch.tensor([low, high], dtype=torch.float64))

    def right(right, drawn):
        return ends(right[drawn].double().mean(1))

    def normal(right, drawn):
        means = right[drawn].double().mean(1)
        return means.mean() + 1.96 * means.std() * torch.tensor([-1, 1])

    mistakes = [
        (lambda r, d: ends(r[d].double().sum(1)), "that counts right answers: an accuracy is their mean"),
        (lambda r, d: ends(r[d].double().mean(1), 0.05, 0.95), "95 % lie between: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(1), 0, 1), "that is the range: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(0)), "average over the pictures of a resample, dimension 1"),
        (lambda r, d: ends(r), "those are quantiles of the pictures: resample, average, then take the quantiles"),
        (normal, "that is an interval of a normal distribution: take the quantiles of the resamples' accuracies"),
        (lambda r, d: right(r, d).flip(0), "the lower end first"),
    ]
    # with 40 n + 1 resamples, both ends are the accuracy of a resample: every definition of a quantile gives the same
    cases = [_staircase()]
    cases += [(torch.rand(N) < 0.3 + 0.5 * torch.rand(1), torch.randint(N, (401, N))) for N in (50, 200)]
    compare("the bootstrap interval", mine, right, cases, mistakes)


def _staircase(N: int = 50, R: int = 41) -> tuple[Tensor, Tensor]:
    """Resamples with 0, 1, ... 40 right answers of 50, in no order, so that no two quantiles are equal."""
    right = torch.arange(N) < N // 2
    count = torch.arange(R) * 7 % R
    drawn = torch.where(torch.arange(N) < count[:, None], 0, N - 1)  # the first image is right, the last one wrong
    return right, drawn


@repeatable()
def seeds_needed(mine: Callable) -> None:
    """mine(deviation, gain) -> the least number of seeds, from 2, whose 95 % t-interval is at most as wide as the gain.

    deviation   of the difference of two arms from seed to seed; gain: a difference, in the same unit. What counts is
                half the width: an interval around a mean of `gain` then leaves zero out
    """

    def right(s, gain, t=_t95):
        return next((n for n in range(2, 1000) if t(n) * s / math.sqrt(n) <= gain), 1000)

    mistakes = [
        (lambda s, g: right(s, g, lambda n: 1.959964), "1.96 is for very many seeds: for n few, t of n - 1 degrees"),
        (lambda s, g: right(s, g / 2), "half the width counts: from the mean to one end"),
        (lambda s, g: right(s, g, lambda n: _t95(n + 1)), "n seeds leave n - 1 degrees of freedom"),
        (lambda s, g: right(s, g, lambda n: _t95(n) * math.sqrt(n)), "the mean of n is known better by the root of n"),
        (lambda s, g: right(s, g) + 1, "one seed fewer is enough"),
    ]
    cases = [(1.0, 1.0), (0.4, 0.9), (1.5, 0.5), (0.1, 1.0), (0.2, 0.9), (1.0, 0.1)]
    compare("seeds needed", mine, right, cases, mistakes)


@repeatable()
def at_least_one(mine: Callable) -> None:
    """mine(m) -> the chance that of m independent 95 % intervals around true zeros at least one leaves 0 out."""
    mistakes = [
        (lambda m: 0.05 * m, "that is how many to expect; a chance is never above 1"),
        (lambda m: 0.95**m, "that is the chance that all of them hold 0"),
        (lambda m: 1 - 0.05**m, "that is the chance that not all of them leave 0 out"),
        (lambda m: 0.05**m, "that is the chance that all of them leave 0 out"),
    ]
    compare("false alarms", mine, lambda m: 1 - 0.95**m, [(m,) for m in (1, 2, 6, 72)], mistakes)


@repeatable()
def chosen(mine: Callable) -> None:
    """mine(validation (A,), test (A,)) -> the accuracy to report, of A arms: the one chosen on validation, on test."""
    mistakes = [
        (lambda v, t: t.max(), "the choice has looked at the test split: it will look better than it is"),
        (lambda v, t: v.max(), "the best of many on validation was lucky there: report what it does on test"),
        (lambda v, t: t.mean(), "one arm was chosen: report that one"),
    ]
    edges = [
        ([0.7, 0.9, 0.8], [0.95, 0.6, 0.5]),
        ([0.9, 0.7, 0.8], [0.6, 0.95, 0.5]),
        ([0.7, 0.8, 0.9], [0.95, 0.6, 0.5]),
        ([0.5], [0.4]),
    ]
    cases = [(torch.tensor(validation), torch.tensor(test)) for validation, test in edges]
    cases += [(torch.rand(A), torch.rand(A)) for A in (8, 20)]
    compare("the accuracy to report", mine, lambda v, t: t[v.argmax()], cases, mistakes)


def _t95(n: int) -> float:
    return float(stdtrit(n - 1, 0.975))
