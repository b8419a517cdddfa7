"""Exercises on rival answers to conflict."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfs_edu.course.checks.answers import compare, repeatable


@repeatable()
def pcgrad(mine: Callable) -> None:
    """mine(g, h) -> the update (P,) that PCGrad makes of two exits' gradients (P,): a sum, not a mean."""

    def without(g: Tensor, h: Tensor) -> Tensor:
        return g - (g @ h).clamp(max=0) / (h @ h) * h

    def right(g, h):
        return without(g, h) + without(h, g)

    def always(g, h):
        return g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g

    mistakes = [
        (lambda g, h: g + h, "that is the plain sum: take away what opposes"),
        (always, "where the two agree, g @ h > 0, nothing is taken away"),
        (lambda g, h: right(g, h) / 2, "that is the mean; PCGrad takes the sum"),
        (lambda g, h: without(g, h) + h, "the second yields as well, to the first as it *was*, not as it has become"),
        (
            lambda g, h: g - (g @ h).clamp(max=0) / h.norm() * h + h - (g @ h).clamp(max=0) / g.norm() * g,
            "the component of g along h is (g @ h) / (h @ h) * h: divide by the *square* of the length",
        ),
    ]
    edges = [([2, 0], [-1, 1]), ([1, 2], [-2, -4]), ([1, 0], [0, 3]), ([1, 2], [1, 2]), ([1, 2], [3, 1])]
    cases = [_floats(g, h) for g, h in edges]  # opposed: in part, wholly; perpendicular, equal, in agreement
    g = torch.randn(3, 20)
    cases += [(g[0], g[1] - 0.8 * g[0]), (g[0], g[1] + 0.8 * g[0]), (g[1] - 2 * g[2], g[2])]
    compare("PCGrad", mine, right, cases, mistakes)


@repeatable()
def shortest(mine: Callable) -> None:
    """mine(g, h) -> the weight w, from 0 to 1, that makes w g + (1 - w) h as short as possible (MGDA for two)."""

    def unlimited(g, h):
        return (h - g) @ h / ((g - h) @ (g - h))

    def right(g, h):
        return unlimited(g, h).clamp(0, 1)

    mistakes = [
        (unlimited, "a weight is from 0 to 1: beyond an end, that end is the shortest"),
        (lambda g, h: 1 - right(g, h), "that is the weight of h; w is that of g"),
        (lambda g, h: torch.tensor(0.5), "the mean is the shortest only where both are equally long"),
        (
            lambda g, h: ((h - g) @ h / (g - h).norm()).clamp(0, 1),
            "divide by the *square* of the length of g - h",
        ),
    ]
    edges = [([3, 0], [0, 1]), ([1, 2], [1, 0]), ([2, 4], [1, 2]), ([1, 2], [3, 6]), ([1, -1], [-1, 1])]
    cases = [_floats(g, h) for g, h in edges]  # between; just at an end; beyond either end; opposed
    g = torch.randn(4, 20)
    cases += [(g[0], g[1]), (g[2], 5 * g[2] + g[3]), (3 * g[3] + g[2], g[3]), (g[1], 0.5 * g[0] - g[1])]
    compare("the shortest combination", mine, right, cases, mistakes)


@repeatable()
def as_long(mine: Callable) -> None:
    """mine(weights (K,), gramian (K, K)) -> the weights, scaled so that the step is as long as the plain sum's."""

    def right(w, G):
        return w * (G.sum() / (w @ G @ w)).sqrt()

    mistakes = [
        (lambda w, G: w, "they are unchanged"),
        (lambda w, G: w * G.sum() / (w @ G @ w), "w @ G @ w is the *square* of a length"),
        (lambda w, G: w / w.sum() * len(w), "weights of equal sum do not make steps of equal length"),
        (lambda w, G: w / (w @ G @ w).sqrt(), "that step has length 1; the plain sum's length is G.sum().sqrt()"),
        (
            lambda w, G: w * G.diagonal().sqrt().sum() / (w @ G @ w).sqrt(),
            "the sum of the lengths is not the length of the sum",
        ),
    ]
    edges = [([1, 0], [[4, -2], [-2, 9]]), ([0.5, 0.5], [[1, -0.5], [-0.5, 1]]), ([2], [[4]])]
    cases = [tuple(torch.tensor(values, dtype=torch.float64) for values in edge) for edge in edges]
    for K in (2, 4, 6):
        J = torch.randn(K, 30, dtype=torch.float64)
        cases.append((torch.rand(K, dtype=torch.float64) + 0.1, J @ J.T))
    compare("a step as long as the sum's", mine, right, cases, mistakes)


def _floats(*vectors: list) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(vector, dtype=torch.float32) for vector in vectors)
