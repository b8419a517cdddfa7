"""Exercises on what a number is worth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.special import stdtrit
from torch import Tensor

from dfs_edu import results
from dfs_edu.checks.answers import compare


def interval(mine: Callable) -> None:
    """mine(differences (n,)) -> (mean, half width of its 95 % t-interval) of n seeds."""

    def right(d):
        mean, half = results.interval(d[:, None].numpy())
        return [float(mean[0]), float(half[0])]

    def scaled(factor):
        return lambda d: [right(d)[0], right(d)[1] * factor(len(d))]

    mistakes = [
        (scaled(lambda n: n**0.5), "that is the spread of the seeds: the mean of n is known better by the root of n"),
        (scaled(lambda n: ((n - 1) / n) ** 0.5), "divide by n - 1: the mean was taken from the same seeds"),
        (scaled(lambda n: 1.959964 / _t95(n)), "1.96 is for very many seeds: for n few, t of n - 1 degrees of freedom"),
        (scaled(lambda n: 2), "half the width: from the mean to one end"),
        (lambda d: right(d)[0], "return two numbers, the mean and the half width"),
    ]
    cases = [(torch.randn(n, dtype=torch.float64),) for n in (3, 5, 10)]
    compare("the interval", mine, right, cases, mistakes)


def bootstrap(mine: Callable) -> None:
    """mine(right (N,), drawn (R, N)) -> (low, high), the 95 % percentile interval of the accuracy.

    drawn   R resamples: of each, which N pictures it holds
    """

    def ends(of: Tensor, low=0.025, high=0.975):
        return [float(of.double().quantile(q)) for q in (low, high)]

    def right(right, drawn):
        return ends(right[drawn].double().mean(1))

    def normal(right, drawn):
        means = right[drawn].double().mean(1)
        return [float(means.mean() + s * 1.96 * means.std()) for s in (-1, 1)]

    mistakes = [
        (lambda r, d: ends(r[d].double().sum(1)), "that counts right answers: an accuracy is their mean"),
        (lambda r, d: ends(r[d].double().mean(1), 0.05, 0.95), "95 % lie between: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(1), 0, 1), "that is the range: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(0)), "average over the pictures of a resample, dimension 1"),
        (lambda r, d: ends(r), "those are quantiles of the pictures: resample, average, then take the quantiles"),
        (normal, "that is an interval of a normal distribution: take the quantiles of the resamples' accuracies"),
        (lambda r, d: right(r, d)[::-1], "the lower end first"),
    ]
    cases = [(torch.rand(N) < 0.3 + 0.5 * torch.rand(1), torch.randint(N, (400, N))) for N in (50, 200, 1000)]
    compare("the bootstrap interval", mine, right, cases, mistakes)


def _t95(n: int) -> float:
    return float(stdtrit(n - 1, 0.975))
