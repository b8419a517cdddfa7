"""Exercises on serving a network: who goes on, and the time that an answer takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dfs_edu.course.checks.answers import FRACTION, Verdict, compare, exercise, tensors


@exercise("who goes on")
def going_on(attempt: Callable) -> Verdict:
    """Check ``attempt(here (n,), score (n,), threshold) -> numbers``: the images of ``here`` that go on, in order."""

    def right(here, score, threshold):
        return here[score < threshold]

    mistakes = [
        (lambda h, s, t: h[s >= t], "those are the images that leave"),
        (lambda h, s, t: h[s <= t], "an image whose score just reaches the threshold leaves"),
        (lambda h, s, t: (s < t).nonzero()[:, 0], "those are places among the images still here: return their numbers"),
        (lambda h, s, t: h[s > t], "those images leave: return the others"),
        (lambda h, s, t: right(h, s, t).sort().values, "keep the order of here"),
        (
            lambda h, s, t: h[s.argsort(stable=True)][: int((s < t).sum())],
            "keep the order of here, do not sort by score",
        ),
        (lambda h, s, t: right(h, s, t) if (s < t).any() else h, "if all leave, none go on: return an empty tensor"),
        (lambda h, s, t: (s < t).sum(), "that is how many go on: return their numbers"),
        (lambda h, s, t: h[h < t], "compare the scores with the threshold, not the numbers"),
        (lambda h, s, t: s[s < t], "those are their scores: return their numbers"),
        (lambda h, s, t: s < t, "that is a mask: index `here` with it"),
    ]
    cases = tensors(
        ([5, 9, 2, 7], [0.75, 0.125, 0.5, 0.25], 0.5),  # sorted neither by number nor by score
        ([5, 2], [0.25, 0.0], 0.5),
        ([5, 2], [0.5, 1.0], 0.5),  # all leave
        ([3], [0.25], 0.25),
        ([3], [0.25], 0.5),
    )
    cases += [(torch.randperm(20)[:n], torch.randint(8, (n,)) / 8, 0.5) for n in (7, 12)]
    return compare(attempt, right, cases, mistakes)


@exercise("the break-even")
def break_even(attempt: Callable) -> Verdict:
    """Check ``attempt(choosing, rest) -> fraction``: how many images must leave at an exit for it to save time.

    Every image pays ``choosing`` there; those that stay pay ``rest`` as well; without the exit, all pay ``rest``.
    """
    mistakes = [
        (lambda c, r: r / c, "the other way round: the price, divided by what each image that leaves saves"),
        (lambda c, r: c / (c + r), "an image that leaves saves only the rest: the choosing was paid"),
        (lambda c, r: 1 - c / r, "that is the fraction that may stay"),
        (lambda c, r: c * r, "divide: choosing = fraction * rest"),
        (lambda c, r: r - c, "return a fraction: choosing = fraction * rest"),
        (lambda c, r: c / (r - c), "the rest is saved in full: choosing = fraction * rest"),
        (lambda c, r: c // r, "// drops the remainder: divide by /"),
        (lambda c, r: r / (c + r), "leaving saves the rest: choosing = fraction * rest"),
    ]
    cases = [(0.1, 1.0), (0.3, 0.7), (2.0, 8.0), (3.0, 3.0), (0.0, 5.0)]
    return compare(attempt, lambda choosing, rest: choosing / rest, cases, mistakes, bounds=FRACTION)


@exercise("the time within which")
def within(attempt: Callable) -> Verdict:
    """Check ``attempt(seconds (N,), q) -> number``: the shortest of these times in which a fraction q is answered.

    At least that fraction of the images; q is above 0 and at most 1.
    """

    def right(seconds, q):
        return seconds.sort().values[math.ceil(q * len(seconds) - 1e-9) - 1]

    def above(seconds, q):
        return seconds.sort().values[min(int(q * len(seconds)), len(seconds) - 1)]

    mistakes = [
        (lambda s, q: s[math.ceil(q * len(s) - 1e-9) - 1], "sort the times first"),
        (lambda s, q: right(-s, q).neg(), "a fraction q is *slower* than that: sort from fast to slow"),
        (above, "one place too far: places count from 0, so the m-th time is at m - 1"),
        (lambda s, q: s.quantile(q), "that is between two times: return one of the measured times"),
        (lambda s, q: q * s.max(), "take a fraction of the images, not of the longest time"),
        (
            lambda s, q: s.sort().values[max(int(q * len(s)) - 1, 0)],
            "too few are answered by then: round q * N up, by ceil",
        ),
        (
            lambda s, q: s.sort().values[max(round(q * len(s)) - 1, 0)],
            "too few are answered by then: round q * N up, by ceil",
        ),
        (lambda s, q: s.median(), "the median answers q = 0.5 only"),
        (lambda s, q: s.max(), "that is the slowest image: only a fraction q is asked for"),
        (
            lambda s, q: s.sort().values[: math.ceil(q * len(s) - 1e-9)].mean(),
            "return the time of the last of them, not their mean",
        ),
        (
            lambda s, q: s.sort().values[: math.ceil(q * len(s) - 1e-9)].sum(),
            "return the time of the last of them, not their sum",
        ),
        (lambda s, q: right(s, 1 - q) if q < 1 else s.min(), "that is the fraction 1 - q: sort from fast to slow"),
        (lambda s, q: s.mean(), "the mean says nothing about the slow images"),
    ]
    return compare(attempt, right, _within_cases(), mistakes)


def _within_cases() -> list[tuple]:
    # If q * N is a whole number, q is a sum of halves and quarters, so that rounding cannot move it
    cases = tensors(
        ([3.0, 1.0, 2.0, 4.0], 0.5),  # 2 of 4, exactly
        ([8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0, 9.0], 0.25),  # 2.25: the third
        ([8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0], 0.25),
        ([1.0, 2.0, 1.0, 1.0], 0.75),
        ([2.0, 1.0, 5.0], 0.75),
        ([2.0, 1.0, 5.0], 1.0),
        ([2.0, 1.0, 5.0], 0.1),
        ([7.0], 0.5),
        dtype=torch.float64,
    )
    cases += [(torch.rand(N, dtype=torch.float64), q) for N, q in ((20, 0.75), (30, 0.95), (101, 0.5), (10, 1.0))]
    return cases


@exercise("a batch that waits")
def together(attempt: Callable) -> Verdict:
    """Check ``attempt(exit (batches, n), seconds (K,)) -> number``: mean time of batches that wait for all images."""
    mistakes = [
        (lambda exit, seconds: seconds[exit].mean(), "a batch is as slow as its slowest image, not as its mean image"),
        (lambda exit, seconds: seconds[exit.max()], "each batch has its own slowest image"),
        (lambda exit, seconds: seconds[exit.amax(0)].mean(), "the images of a batch are in dimension 1"),
        (lambda exit, seconds: seconds[exit.amin(1)].mean(), "the slowest image left last: max, not min"),
        (lambda exit, seconds: seconds[exit.amax(1)].sum(), "return the mean over the batches, not their sum"),
        (lambda exit, seconds: seconds[exit.amax(1)], "return the mean over the batches"),
        (lambda exit, seconds: seconds[exit.amax(1)].median(), "take the mean over the batches, not the median"),
        (lambda exit, seconds: seconds[exit[:, -1]].mean(), "the slowest image may be anywhere in a batch: amax(1)"),
        (lambda exit, seconds: exit.amax(1).double().mean(), "that is an exit: look up its seconds"),
        (
            lambda exit, seconds: seconds[exit.amax(1)].mean() / exit.shape[1],
            "return the mean time of a batch, not of an image",
        ),
        (
            lambda exit, seconds: seconds.cumsum(0)[exit.amax(1)].mean(),
            "seconds already counts everything up to the exit",
        ),
        (lambda exit, seconds: seconds[exit].sum(1).mean(), "the images of a batch are processed at the same time"),
    ]
    seconds = [1.0, 2.0, 4.0]
    cases = tensors(([[1, 0], [0, 2], [0, 0], [0, 1]], seconds), ([[1]], seconds), dtype=torch.float64)
    for K, n in ((6, 4), (7, 8)):
        exit = (torch.rand(20, n) ** 3 * K).long()
        cases.append((exit, torch.rand(K, dtype=torch.float64).cumsum(0)))
    return compare(attempt, lambda exit, seconds: seconds[exit.amax(1)].mean(), cases, mistakes)
