"""Exercises on gradients that oppose each other."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dfs_edu.course.checks.answers import FRACTION, Verdict, compare, exercise, tensors

SIGN = "keep the sign: it distinguishes conflict from agreement"


@exercise("the cosine")
def cosine(attempt: Callable) -> Verdict:
    """Check ``attempt(g (P,), h (P,)) -> number``: the cosine of the angle between two gradients."""

    def right(g, h):
        return torch.cosine_similarity(g, h, dim=0)

    mistakes = [
        (lambda g, h: g @ h, "that is the inner product: divide by both lengths"),
        (lambda g, h: g * h / (g.norm() * h.norm()), "add up the products: g @ h"),
        (lambda g, h: g @ h / ((g @ g) * (h @ h)), "a length is the square root of g @ g"),
        (lambda g, h: g @ h / (g.abs().sum() * h.abs().sum()), "a length is the root of the sum of *squares*"),
        (lambda g, h: g @ h / (g.norm() + h.norm()), "multiply the two lengths, do not add them"),
        (lambda g, h: g @ h / g.norm(), "divide by the length of h as well"),
        (lambda g, h: g @ h / h.norm(), "divide by the length of g as well"),
        (lambda g, h: right(g, h).abs(), SIGN),
        (lambda g, h: right(g, h).clamp(min=0), SIGN),
        (lambda g, h: right(g, h).clamp(-1, 1).acos(), "that is the angle: return its cosine"),
        (lambda g, h: right(g, h).sign(), "that is only the sign: divide g @ h by both lengths"),
        (lambda g, h: right(g - g.mean(), h - h.mean()), "that is the correlation: do not subtract the means"),
        (lambda g, h: 1 - right(g, h), "that is a distance: 1 means the same direction, -1 the opposite"),
    ]
    cases = tensors(
        ([3.0, 4.0], [-6.0, 8.0]),
        ([1.0, 2.0], [-2.0, -4.0]),  # opposed
        ([1.0, 0.0], [0.0, 2.0]),  # perpendicular
        ([2.0], [5.0]),
    )
    cases += [(torch.randn(P), torch.randn(P)) for P in (2, 10, 1000)]
    return compare(attempt, right, cases, mistakes, bounds=(-1, 1))


@exercise("the cosine matrix")
def cosine_matrix(attempt: Callable) -> Verdict:
    """Check ``attempt(gradients (K, P)) -> (K, K)``: the cosine of every pair of exits, 1 on the diagonal."""

    def right(g):
        unit = g / g.norm(dim=1, keepdim=True)
        return unit @ unit.T

    both = "divide by both lengths: that of row i and that of row j"
    mistakes = [
        (lambda g: g @ g.T, "those are the inner products: divide each row by its length first"),
        (lambda g: g @ g.T / g.norm(dim=1, keepdim=True), both),
        (lambda g: g @ g.T / g.norm(dim=1), both),
        (lambda g: g @ g.T / g.square().sum(1, keepdim=True), both),
        (lambda g: right(g.T), "the exits are the rows: the matrix is (K, K)"),
        (lambda g: (g / g.norm()) @ (g / g.norm()).T, "every row has its own length: norm(dim=1, keepdim=True)"),
        (lambda g: (g / g.norm(dim=0)) @ (g / g.norm(dim=0)).T, "a length is that of a row: norm(dim=1, keepdim=True)"),
        (lambda g: right(g).abs(), SIGN),
        (lambda g: right(g).clamp(min=0), SIGN),
        (lambda g: right(g) - torch.eye(len(g)), "the diagonal is 1: an exit agrees with itself"),
        (lambda g: right(g).triu(), "fill both halves: the cosine of i and j is that of j and i"),
        (lambda g: right(g).tril(), "fill both halves: the cosine of i and j is that of j and i"),
        (lambda g: right(g).diagonal(), "that compares each exit with itself: compare every pair of rows"),
        (lambda g: right(g)[*torch.triu_indices(len(g), len(g), 1)], "return the matrix (K, K), not a list of pairs"),
        (lambda g: right(g - g.mean(1, keepdim=True)), "that is the correlation: do not subtract the means"),
        (lambda g: torch.cdist(g, g), "those are distances; the cosine is that of the angle between two gradients"),
    ]
    cases = tensors(([[1.0, 2.0], [-2.0, -4.0], [2.0, -1.0]],), ([[3.0, 4.0]],))
    cases += [(torch.randn(K, P),) for K, P in ((2, 10), (4, 50), (7, 20))]
    return compare(attempt, right, cases, mistakes, bounds=(-1, 1))


@exercise("the share of conflict")
def conflicting(attempt: Callable) -> Verdict:
    """Check ``attempt(gradients (K, P)) -> number``: the fraction of pairs of different exits that conflict."""

    def pairs(g):
        first, second = torch.triu_indices(len(g), len(g), offset=1)
        return (g @ g.T)[first, second]

    def right(g):
        return (pairs(g) < 0).double().mean()

    def number(g):
        return (pairs(g) < 0).sum().double()

    mistakes = [
        (lambda g: (g @ g.T < 0).double().mean(), "an exit does not conflict with itself: leave out the diagonal"),
        (lambda g: number(g) / (len(g) * (len(g) + 1) / 2), "leave out the diagonal: there are K (K - 1) / 2 pairs"),
        (number, "that is their number: divide by the number of pairs, K (K - 1) / 2"),
        (lambda g: 2 * number(g), "that is their number, each pair twice: divide by K (K - 1)"),
        (lambda g: right(g) / 2, "there are only K (K - 1) / 2 pairs, unless (i, j) and (j, i) both count"),
        (lambda g: 2 * right(g), "each pair was counted twice, as (i, j) and as (j, i): divide by K (K - 1)"),
        (lambda g: number(g) / len(g), "divide by the number of pairs, K (K - 1) / 2, not by that of exits"),
        (lambda g: (g @ g.T < 0).any(1).double().mean(), "count pairs that conflict, not exits that do"),
        (lambda g: (pairs(g) > 0).double().mean(), "those are the pairs that agree: a conflict is a negative cosine"),
        (lambda g: 1 - right(g), "those are the pairs that agree: a conflict is a negative cosine"),
        (lambda g: (pairs(g) <= 0).double().mean(), "a cosine of exactly 0 is not negative: that is no conflict"),
        (lambda g: ((g[1:] * g[:-1]).sum(1) < 0).double().mean(), "compare every pair of exits, not only neighbours"),
    ]
    cases = tensors(
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]],),
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]],),
        ([[1.0, 0.0], [-2.0, 0.0]],),
        ([[1.0, 0.0], [2.0, 0.0]],),
        ([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]],),
    )
    cases += [(torch.randn(K, 20),) for K in (2, 4, 7)]
    return compare(attempt, right, cases, mistakes, bounds=FRACTION)
