"""Exercises on methods that answer conflict by changing the update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfs_edu.course.checks.answers import Verdict, compare, exercise, tensors


@exercise("PCGrad")
def pcgrad(attempt: Callable) -> Verdict:
    """Check ``attempt(g (P,), h (P,)) -> (P,)``: PCGrad's update from the gradients of two exits, as a sum."""

    def without(g: Tensor, h: Tensor) -> Tensor:
        return g - (g @ h).clamp(max=0) / (h @ h) * h

    def right(g, h):
        return without(g, h) + without(h, g)

    def always(g, h):
        return g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g

    mistakes = [
        (lambda g, h: g + h, "that is the plain sum: subtract the component that opposes the other gradient"),
        (always, "if the two agree, g @ h > 0, nothing is subtracted"),
        (lambda g, h: right(g, h) / 2, "that is the mean; PCGrad takes the sum"),
        (without, "h yields as well: add what is left of it"),
        (lambda g, h: without(h, g), "g yields as well: add what is left of it"),
        (lambda g, h: 2 * (g + h) - right(g, h), "subtract the opposing component: it was added"),
        (
            lambda g, h: g + h if g @ h > 0 else 0 * g,
            "do not drop the update: subtract only the component that opposes",
        ),
        (
            lambda g, h: g + h - (g @ h).clamp(max=0) * (h + g),
            "divide by the square of the length: (g @ h) / (h @ h) * h",
        ),
        (
            lambda g, h: without(g, h) + without(h, without(g, h)),
            "the second yields as well, to the first as it *was*, before it yielded",
        ),
        (
            lambda g, h: g - (g @ h).clamp(max=0) / (g @ g) * h + h - (g @ h).clamp(max=0) / (h @ h) * g,
            "the component of g along h is (g @ h) / (h @ h) * h: divide by the length of the *other*",
        ),
        (lambda g, h: without(g, h) + h, "the second yields as well, to the first as it *was*, before it yielded"),
        (
            lambda g, h: g - (g @ h).clamp(max=0) / h.norm() * h + h - (g @ h).clamp(max=0) / g.norm() * g,
            "the component of g along h is (g @ h) / (h @ h) * h: divide by the *square* of the length",
        ),
    ]
    return compare(attempt, right, _pcgrad_cases(), mistakes)


def _pcgrad_cases() -> list[tuple]:
    cases = tensors(
        ([2.0, 0.0], [-1.0, 1.0]),  # opposed in part
        ([1.0, 2.0], [-2.0, -4.0]),  # opposed entirely
        ([1.0, 0.0], [0.0, 3.0]),  # perpendicular
        ([1.0, 2.0], [1.0, 2.0]),  # equal
        ([1.0, 2.0], [3.0, 1.0]),  # in agreement
    )
    g = torch.randn(3, 20)
    cases += [(g[0], g[1] - 0.8 * g[0]), (g[0], g[1] + 0.8 * g[0]), (g[1] - 2 * g[2], g[2])]
    return cases


@exercise("the shortest combination")
def shortest(attempt: Callable) -> Verdict:
    """Check ``attempt(g (P,), h (P,)) -> w``: the weight in [0, 1] that makes w g + (1 - w) h shortest (MGDA)."""

    def unlimited(g, h):
        return (h - g) @ h / ((g - h) @ (g - h))

    def right(g, h):
        return unlimited(g, h).clamp(0, 1)

    mistakes = [
        (unlimited, "a weight is from 0 to 1: beyond an end, the end itself is the shortest"),
        (
            lambda g, h: unlimited(g, h).clamp(min=0),
            "a weight is from 0 to 1: beyond an end, the end itself is the shortest",
        ),
        (
            lambda g, h: unlimited(g, h).clamp(max=1),
            "a weight is from 0 to 1: beyond an end, the end itself is the shortest",
        ),
        (lambda g, h: unlimited(g, h).abs().clamp(max=1), "below 0 the shortest is at 0: clamp, do not take abs()"),
        (lambda g, h: h.norm() / (g.norm() + h.norm()), "the lengths are not enough: the angle counts as well"),
        (lambda g, h: h @ h / (g @ g + h @ h), "that is right only if the two are perpendicular: g @ h counts as well"),
        (
            lambda g, h: (h.norm() > g.norm()).double(),
            "that is the shorter of the two: one between them may be shorter still",
        ),
        (lambda g, h: right(g, h) * g + (1 - right(g, h)) * h, "that is the combination: return its weight w"),
        (lambda g, h: (right(g, h) * g + (1 - right(g, h)) * h).norm(), "that is the length: return the weight w"),
        (
            lambda g, h: (-(h - g) @ h / ((g - h) @ (g - h))).clamp(0, 1),
            "the sign is wrong: it is (h - g) @ h that counts",
        ),
        (lambda g, h: 1 - right(g, h), "that is the weight of h; w is the weight of g"),
        (lambda g, h: torch.tensor(0.5), "the mean is the shortest only if both are equally long"),
        (lambda g, h: ((h - g) @ h / (g - h).norm()).clamp(0, 1), "divide by the *square* of the length of g - h"),
    ]
    return compare(attempt, right, _shortest_cases(), mistakes, bounds=(0, 1))


def _shortest_cases() -> list[tuple]:
    cases = tensors(
        ([3.0, 0.0], [0.0, 1.0]),  # between the ends
        ([1.0, 2.0], [1.0, 0.0]),  # exactly at an end
        ([2.0, 4.0], [1.0, 2.0]),  # beyond one end
        ([1.0, 2.0], [3.0, 6.0]),  # beyond the other
        ([1.0, -1.0], [-1.0, 1.0]),  # opposed
    )
    g = torch.randn(4, 20)
    cases += [(g[0], g[1]), (g[2], 5 * g[2] + g[3]), (3 * g[3] + g[2], g[3]), (g[1], 0.5 * g[0] - g[1])]
    return cases


@exercise("a step as long as the sum's")
def as_long(attempt: Callable) -> Verdict:
    """Check ``attempt(weights (K,), gramian (K, K)) -> (K,)``: weights scaled to the step length of the plain sum."""

    def right(w, G):
        return w * (G.sum() / (w @ G @ w)).sqrt()

    mistakes = [
        (lambda w, G: w, "the weights are unchanged"),
        (
            lambda w, G: w * (w @ G @ w / G.sum()).sqrt(),
            "the other way round: multiply by the length of the plain sum, divide by that of the step",
        ),
        (
            lambda w, G: w * (G.trace() / (w @ G @ w)).sqrt(),
            "G.sum() is the squared length of the sum, G.trace() is not",
        ),
        (lambda w, G: w * (G.sum() / (w**2 @ G.diagonal())).sqrt(), "w @ G @ w: the gradients are not perpendicular"),
        (lambda w, G: w * G.sum().sqrt(), "divide by the length of the weighted sum, (w @ G @ w).sqrt()"),
        (lambda w, G: w / w.norm(), "the length of the step counts, not that of the weights: w @ G @ w"),
        (
            lambda w, G: w / w.norm() * len(w) ** 0.5,
            "the length of the step counts, not that of the weights: w @ G @ w",
        ),
        (lambda w, G: (G.sum() / (w @ G @ w)).sqrt(), "that is the factor: return the scaled weights"),
        (lambda w, G: w * G.sum() / (w @ G @ w), "w @ G @ w is the *square* of a length"),
        (lambda w, G: w / w.sum() * len(w), "weights with the same sum do not make steps of the same length"),
        (lambda w, G: w / (w @ G @ w).sqrt(), "that step has length 1; the plain sum's length is G.sum().sqrt()"),
        (
            lambda w, G: w * G.diagonal().sqrt().sum() / (w @ G @ w).sqrt(),
            "the sum of the lengths is not the length of the sum",
        ),
    ]
    cases = tensors(
        ([1.0, 0.0], [[4.0, -2.0], [-2.0, 9.0]]),
        ([0.5, 0.5], [[1.0, -0.5], [-0.5, 1.0]]),
        ([2.0], [[4.0]]),
        dtype=torch.float64,
    )
    for K in (2, 4, 6):
        J = torch.randn(K, 30, dtype=torch.float64)
        cases.append((torch.rand(K, dtype=torch.float64) + 0.1, J @ J.T))
    return compare(attempt, right, cases, mistakes)
