"""Exercises on gradients that oppose each other."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dfs_edu.course.checks.answers import Verdict, compare, exercise, tensors


@exercise("the cosine")
def cosine(attempt: Callable) -> Verdict:
    """Check ``attempt(g (P,), h (P,)) -> number``: the cosine of the angle between two gradients."""

    def right(g, h):
        return torch.cosine_similarity(g, h, dim=0)

    mistakes = [
        (lambda g, h: g @ h, "that is the inner product: divide by both lengths"),
        (lambda g, h: g @ h / ((g @ g) * (h @ h)), "a length is the square root of g @ g"),
        (lambda g, h: (g @ h).abs() / (g.norm() * h.norm()), "keep the sign: it distinguishes conflict from agreement"),
        (lambda g, h: g @ h / g.norm(), "divide by the length of h as well"),
    ]
    cases = tensors(
        ([3.0, 4.0], [-6.0, 8.0]),
        ([1.0, 2.0], [-2.0, -4.0]),  # opposed
        ([1.0, 0.0], [0.0, 2.0]),  # perpendicular
        ([2.0], [5.0]),
    )
    cases += [(torch.randn(P), torch.randn(P)) for P in (2, 10, 1000)]
    return compare(attempt, right, cases, mistakes)


@exercise("the cosine matrix")
def cosine_matrix(attempt: Callable) -> Verdict:
    """Check ``attempt(gradients (K, P)) -> (K, K)``: the cosine of every pair of exits, 1 on the diagonal."""

    def right(g):
        unit = g / g.norm(dim=1, keepdim=True)
        return unit @ unit.T

    mistakes = [
        (lambda g: g @ g.T, "those are the inner products: divide each row by its length first"),
        (lambda g: g @ g.T / g.norm(dim=1, keepdim=True), "divide by both lengths: that of row i and that of row j"),
        (lambda g: g @ g.T / g.norm(dim=1), "divide by both lengths: that of row i and that of row j"),
        (lambda g: right(g.T), "the exits are the rows: the matrix is (K, K)"),
        (lambda g: (g / g.norm()) @ (g / g.norm()).T, "every row has its own length: norm(dim=1, keepdim=True)"),
        (lambda g: right(g).abs(), "keep the sign: it distinguishes conflict from agreement"),
        (lambda g: right(g) - torch.eye(len(g)), "the diagonal is 1: an exit agrees with itself"),
        (lambda g: right(g).triu(), "fill both halves: the cosine of i and j is that of j and i"),
        (lambda g: torch.cdist(g, g), "those are distances; the cosine is that of the angle between two gradients"),
    ]
    cases = tensors(([[1.0, 2.0], [-2.0, -4.0], [2.0, -1.0]],), ([[3.0, 4.0]],))
    cases += [(torch.randn(K, P),) for K, P in ((2, 10), (4, 50), (7, 20))]
    return compare(attempt, right, cases, mistakes)


@exercise("the share of conflict")
def conflicting(attempt: Callable) -> Verdict:
    """Check ``attempt(gradients (K, P)) -> number``: the fraction of pairs of different exits that conflict."""

    def pairs(g):
        first, second = torch.triu_indices(len(g), len(g), offset=1)
        return (g @ g.T)[first, second]

    def right(g):
        return (pairs(g) < 0).double().mean()

    mistakes = [
        (lambda g: (g @ g.T < 0).double().mean(), "an exit does not conflict with itself: leave out the diagonal"),
        (lambda g: (g @ g.T < 0).sum() / 2, "that is their number: divide by the number of pairs, K (K - 1) / 2"),
        (lambda g: 1 - right(g), "those are the pairs that agree: a conflict is a negative cosine"),
        (lambda g: (pairs(g) <= 0).double().mean(), "a cosine of exactly 0 is not negative: that is no conflict"),
    ]
    cases = tensors(
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]],),
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]],),
        ([[1.0, 0.0], [-2.0, 0.0]],),
        ([[1.0, 0.0], [2.0, 0.0]],),
        ([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]],),
    )
    cases += [(torch.randn(K, 20),) for K in (2, 4, 7)]
    return compare(attempt, right, cases, mistakes)
