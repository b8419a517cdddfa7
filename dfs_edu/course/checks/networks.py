"""Exercises on networks and their cost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dfs_edu.course.checks.answers import FRACTION, Verdict, compare, exercise, tensors
from dfs_edu.multiexit import MultiExit


@exercise("the accuracy")
def accuracy(attempt: Callable) -> Verdict:
    """Check ``attempt(prediction (N,), label (N,)) -> fraction``: the images that are predicted right."""

    def right(prediction, label):
        return (prediction == label).double().mean()

    mistakes = [
        (lambda p, y: (p == y).sum(), "that is their number: divide by the number of images"),
        (lambda p, y: 1 - right(p, y), "those are the images that are wrong"),
        (lambda p, y: 100 * right(p, y), "return a fraction, from 0 to 1, not in percent"),
        (
            lambda p, y: (p - y).double().abs().mean(),
            "that is a distance of class numbers: a prediction is right or wrong",
        ),
        (lambda p, y: ((p == y) & (y > 0)).double().mean(), "class 0 counts as well"),
        (lambda p, y: (p == y).double().sum() / (len(p) - 1), "divide by the number of images, len(label)"),
        (lambda p, y: ((p == y).double().mean() > 0.5).double(), "return the fraction itself, without rounding"),
        (lambda p, y: p.double().mean(), "compare the predictions with the labels"),
        (lambda p, y: p == y, "that is one answer per image: take the mean of these ones and zeros"),
    ]
    cases = tensors(
        ([0, 1, 2, 0, 2], [0, 2, 2, 1, 0]),
        ([1, 2, 0], [1, 2, 2]),
        ([0, 0], [0, 0]),
        ([1, 2], [2, 1]),
        ([3], [3]),
    )
    cases += [(torch.randint(0, 3, (N,)), torch.randint(0, 3, (N,))) for N in (10, 50, 200)]
    return compare(attempt, right, cases, mistakes, bounds=FRACTION)


@exercise("the loop")
def exits(attempt: Callable) -> Verdict:
    """Check ``attempt(stages, heads, x) -> list of K logits``: the loop of a multi-exit network."""

    def right(stages, heads, x):
        return MultiExit(stages, heads)(x)

    def forgets_to_go_on(stages, heads, x):
        return [head(stage(x)) for stage, head in zip(stages, heads, strict=True)]

    def first_stage_only(stages, heads, x):
        return [head(stages[0](x)) for head in heads]

    def last_only(stages, heads, x):
        for stage in stages:
            x = stage(x)
        return [heads[-1](x)]

    mistakes = [
        (forgets_to_go_on, "every stage was given the image: a stage reads the output of the stage before it"),
        (first_stage_only, "every head read the first stage: each stage is followed by its own head"),
        (lambda s, h, x: right(s, [h[0]] * len(h), x), "the first head was used throughout: each exit has its own"),
        (lambda s, h, x: right(s, h, x)[::-1], "the order is reversed: shallow to deep"),
        (
            lambda s, h, x: right(s, h, x)[-1],
            "that is the last exit alone: return all in a list",
        ),
        (lambda s, h, x: right(s, h, x)[0], "that is the first exit alone: is return inside the loop?"),
        (lambda s, h, x: right(s, h, x)[:1], "that is the first exit alone: is return inside the loop?"),
        (lambda s, h, x: right(s, h, x)[:-1], "the last exit is missing"),
        (lambda s, h, x: [z.softmax(1) for z in right(s, h, x)], "return the logits, without a softmax"),
        (lambda s, h, x: [z.argmax(1) for z in right(s, h, x)], "return the logits, not the predictions"),
        (_features_too, "return the logits only: the features of the trunk are not among them"),
        (lambda s, h, x: _features_too(s, h, x)[::2], "those are the features: return what the heads make of them"),
        (last_only, "only the last exit answered: each stage is followed by its own head"),
    ]
    return compare(attempt, right, [_exits_case(K) for K in (2, 1, 3, 4)], mistakes)


def _features_too(stages, heads, x):
    both = []
    for stage, head in zip(stages, heads, strict=True):
        x = stage(x)
        both += [x, head(x)]
    return both


def _exits_case(K: int) -> tuple:
    return [nn.Linear(4, 4) for _ in range(K)], [nn.Linear(4, 3) for _ in range(K)], torch.randn(5, 4)


@exercise("the cost of leaving")
def cumulative_macs(attempt: Callable) -> Verdict:
    """Check ``attempt(stage_macs (K,), head_macs (K,)) -> (K,)``: the cost of leaving at each exit, heads included."""

    def right(stages, heads):
        return (stages + heads).cumsum(0)

    mistakes = [
        (lambda s, h: s.cumsum(0), "the heads cost something too"),
        (lambda s, h: s.cumsum(0) + h, "an image that reaches exit 3 has been through heads 1 and 2 as well"),
        (lambda s, h: s + h.cumsum(0), "to reach exit k, an image goes through every stage before it"),
        (lambda s, h: (s + h).cumsum(0) - h, "the head of the exit itself counts as well"),
        (lambda s, h: (s + h).cumsum(0) - s - h, "an image that leaves at exit k has paid for stage k and head k, too"),
        (lambda s, h: h.cumsum(0), "the stages cost something too"),
        (lambda s, h: (s + h).flip(0).cumsum(0).flip(0), "the other way round: add up from the first stage onwards"),
        (lambda s, h: (s + h).sum(), "that is the cost of the last exit: return one cost for each exit"),
        (lambda s, h: (s + h).cumsum(0) / (s + h).sum(), "return MACs, not fractions"),
        (lambda s, h: s + h, "to reach exit k, an image goes through every stage before it"),
    ]
    cases = tensors(([10, 20, 5], [1, 3, 2]), ([10], [1]))
    cases += [(torch.randint(1, 99, (K,)), torch.randint(1, 9, (K,))) for K in (2, 5, 7)]
    return compare(attempt, right, cases, mistakes)


@exercise("the MACs of a convolution")
def conv_macs(attempt: Callable) -> Verdict:
    """Check ``attempt(channels_in, channels_out, kernel, side, groups) -> MACs``: a convolution that keeps the size.

    ``side`` is that of its square feature map.
    """

    def right(cin, cout, k, side, groups):
        return cin // groups * cout * k**2 * side**2

    mistakes = [
        (lambda i, o, k, s, g: i * o * k**2 * s**2, "with groups, an output channel reads only in/groups channels"),
        (lambda i, o, k, s, g: i // g * o * k**2, "those are the parameters: each is used at every position"),
        (lambda i, o, k, s, g: i // g * o * k * s**2, "a kernel has two sides"),
        (
            lambda i, o, k, s, g: (i // g) * (o // g) * k**2 * s**2,
            "each of the g groups costs that much: multiply by g",
        ),
        (
            lambda i, o, k, s, g: right(i, o, k, s, g) * g,
            "with groups, an output channel reads only in/groups channels",
        ),
        (lambda i, o, k, s, g: i // g * o * k**2 * s, "a feature map has two sides"),
        (
            lambda i, o, k, s, g: i // g * o * k**2 * (s - k + 1) ** 2,
            "padding keeps the size: there are side * side positions",
        ),
        (lambda i, o, k, s, g: (i // g * k**2 + 1) * o * s**2, "a bias is added, not multiplied: it costs no MAC"),
        (lambda i, o, k, s, g: (2 * i // g * k**2 - 1) * o * s**2, "those are FLOPs: a MAC is both of them"),
        (lambda i, o, k, s, g: o * k**2 * s**2, "each output channel reads in/groups channels: multiply by them"),
        (lambda i, o, k, s, g: i // g * k**2 * s**2, "that is one output channel: multiply by their number"),
        (lambda i, o, k, s, g: 2 * right(i, o, k, s, g), "those are FLOPs: a MAC is a multiplication and an addition"),
    ]
    cases = [(3, 64, 3, 32, 1), (16, 32, 5, 8, 4), (48, 48, 3, 7, 48), (8, 6, 1, 1, 1)]
    return compare(attempt, right, cases, mistakes)


@exercise("evenly placed exits")
def evenly(attempt: Callable) -> Verdict:
    """Check ``attempt(macs (P,), exits) -> places``: where to put evenly spaced exits.

    They are the places, counted from 0, whose cost is nearest to k/(exits + 1) of macs[-1], for k = 1 ... exits.
    """

    def nearest(macs, fractions):
        return (macs - macs[-1] * fractions[:, None]).abs().argmin(1)

    def fractions(exits, by):
        return torch.arange(1, exits + 1, dtype=torch.float64) / by

    def right(macs, exits):
        return nearest(macs, fractions(exits, exits + 1))

    def by_place(macs, exits):
        return (fractions(exits, exits + 1) * len(macs)).round().long().clamp(max=len(macs) - 1)

    def not_before(macs, exits, right=False):
        return torch.searchsorted(macs, macs[-1] * fractions(exits, exits + 1), right=right)

    places = "that counts places: one place may cost far more than another"
    mistakes = [
        (lambda m, n: nearest(m, fractions(n, n)), "the network's end already has an exit: divide by exits + 1"),
        (not_before, "that is the first place after each fraction: the one before it may be nearer"),
        (lambda m, n: not_before(m, n) - 1, "that is the last place before each fraction: the next may be nearer"),
        (lambda m, n: nearest(m, fractions(n, n + 1) * m.sum() / m[-1]), "macs is cumulative: the whole is macs[-1]"),
        (
            lambda m, n: nearest(m, fractions(n, n + 1) * (1 - m[0] / m[-1])),
            "the whole is macs[-1], without subtraction",
        ),
        (lambda m, n: nearest(m, fractions(n, n + 1) * m[-2] / m[-1]), "the whole is macs[-1], the last cost"),
        (
            lambda m, n: nearest(m, fractions(n, n + 1) - 1 / (n + 1)),
            "the first exit is at 1/(exits + 1)",
        ),
        (lambda m, n: right(m, n) + 1, "places count from 0"),
        (lambda m, n: not_before(m, n, right=True), "that is the first place above each fraction, not the nearest"),
        (lambda m, n: right(m, n).flip(0), "the order is reversed: begin with the first exit"),
        (lambda m, n: torch.linspace(0, len(m) - 1, n + 2)[1:-1].round().long(), places),
        (lambda m, n: m[-1] * fractions(n, n + 1), "those are the costs wanted: return the places nearest to them"),
        (by_place, places),
        (lambda m, n: m[right(m, n)], "return the places, not what they cost"),
    ]
    return compare(attempt, right, _evenly_cases(), mistakes)


def _evenly_cases() -> list[tuple]:
    cases = tensors(
        ([1.0, 5.0, 6.0, 12.0, 16.0, 20.0], 3),  # 5 is met exactly; 12 and 16 are the first after 10 and 15
        ([1.0, 7.0, 14.0, 16.0], 1),  # 7 is the last before 8
        ([1.0, 2.0, 3.0, 4.0], 1),
        ([1.0, 6.0, 11.0, 15.0], 2),  # 6 and 11 are just after 5 and 10
        dtype=torch.float64,
    )
    cases += [
        ((10 * torch.rand(P, dtype=torch.float64) ** 3 + 0.1).cumsum(0), n) for P, n in ((8, 2), (20, 3), (40, 5))
    ]
    return cases


@exercise("the front")
def front(attempt: Callable) -> Verdict:
    """Check ``attempt(macs (P,), accuracy (P,)) -> bool (P,)``: the points that no other point beats.

    One beats another if it is better in cost or accuracy and no worse in the other of the two.
    """

    def right(macs, accuracy):
        as_cheap, as_accurate = macs <= macs[:, None], accuracy >= accuracy[:, None]
        better = (macs < macs[:, None]) | (accuracy > accuracy[:, None])
        return ~(as_cheap & as_accurate & better).any(1)

    def record_so_far(macs, accuracy):
        return accuracy >= accuracy.cummax(0).values

    def twins_lose(macs, accuracy):
        as_good = (macs <= macs[:, None]) & (accuracy >= accuracy[:, None])
        return as_good.sum(1) == 1  # only itself

    def first_of_twins(macs, accuracy):
        same = (macs == macs[:, None]) & (accuracy == accuracy[:, None])
        return right(macs, accuracy) & ~same.tril(-1).any(1)

    def level(macs, accuracy):  # only a more accurate point that costs no more beats
        return ~((macs <= macs[:, None]) & (accuracy > accuracy[:, None])).any(1)

    def better_in_both(macs, accuracy):
        return ~((macs < macs[:, None]) & (accuracy > accuracy[:, None])).any(1)

    mistakes = [
        (lambda m, a: ~right(m, a), "those are the points that are beaten: return the others"),
        (twins_lose, "two equal points do not beat each other: one has to be better in cost or in accuracy"),
        (better_in_both, "being better in one of the two is enough if the other is equal"),
        (record_so_far, "the points come in any order: sort them by cost first, or compare every pair"),
        (lambda m, a: right(-m, a), "cheap is good: a point is beaten by one that costs less"),
        (first_of_twins, "two equal points do not beat each other: both stay"),
        (lambda m, a: a == a.max(), "cheaper points that are less accurate belong to the front, too"),
        (lambda m, a: m == m.min(), "more accurate points that cost more belong to the front, too"),
        (level, "a point that costs more and is no more accurate is beaten"),
        (lambda m, a: m[right(m, a)], "return a bool for each point, not their costs"),
        (lambda m, a: right(m, -a), "accurate is good: a point is beaten by one that is more accurate"),
        (lambda m, a: right(m, a).nonzero()[:, 0], "return a bool for each point, not their indices"),
    ]
    return compare(attempt, right, _front_cases(), mistakes)


def _front_cases() -> list[tuple]:
    cases = tensors(
        ([3, 1, 4, 2, 4], [0.50, 0.25, 0.50, 0.75, 0.875]),
        ([2, 1, 1, 3], [0.50, 0.25, 0.25, 0.50]),  # equal twins; as accurate, but more expensive
        ([1, 1], [0.25, 0.50]),  # as cheap, but less accurate
        ([1], [0.0]),
        ([2, 2, 2], [0.50, 0.50, 0.50]),
    )
    cases += [(torch.randint(1, P, (P,)), torch.randint(0, P, (P,)) / P) for P in (5, 12, 30)]
    return cases
