"""Exercises on gradients that oppose each other."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dfs_edu.course.checks.answers import compare, repeatable


@repeatable()
def cosine(mine: Callable) -> None:
    """mine(g, h) -> the cosine of the angle between two gradients (P,)."""

    def right(g, h):
        return torch.cosine_similarity(g, h, dim=0)

    mistakes = [
        (lambda g, h: g @ h, "that is the inner product: divide by both lengths"),
        (lambda g, h: g @ h / ((g @ g) * (h @ h)), "a length is the square root of g @ g"),
        (lambda g, h: (g @ h).abs() / (g.norm() * h.norm()), "keep the sign: it tells conflict from agreement"),
        (lambda g, h: g @ h / g.norm(), "divide by the length of h as well"),
    ]
    edges = [([3, 4], [-6, 8]), ([1, 2], [-2, -4]), ([1, 0], [0, 2]), ([2], [5])]  # opposed, perpendicular, one number
    cases = [(torch.tensor(g, dtype=torch.float32), torch.tensor(h, dtype=torch.float32)) for g, h in edges]
    cases += [(torch.randn(P), torch.randn(P)) for P in (2, 10, 1000)]
    compare("the cosine", mine, right, cases, mistakes)


@repeatable()
def cosine_matrix(mine: Callable) -> None:
    """mine(gradients (K, P)) -> (K, K): the cosine of every pair of exits, 1 on the diagonal."""

    def right(g):
        unit = g / g.norm(dim=1, keepdim=True)
        return unit @ unit.T

    mistakes = [
        (lambda g: g @ g.T, "those are the inner products: divide each row by its length first"),
        (lambda g: g @ g.T / g.norm(dim=1, keepdim=True), "divide by the length of both: of row i and of row j"),
        (lambda g: g @ g.T / g.norm(dim=1), "divide by the length of both: of row i and of row j"),
        (lambda g: right(g.T), "the exits are the rows: the matrix is (K, K)"),
        (lambda g: (g / g.norm()) @ (g / g.norm()).T, "every row has a length of its own: norm(dim=1, keepdim=True)"),
        (lambda g: right(g).abs(), "keep the sign: it tells conflict from agreement"),
        (lambda g: right(g) - torch.eye(len(g)), "on the diagonal stands 1: an exit agrees with itself"),
        (lambda g: right(g).triu(), "both halves: the cosine of i and j is that of j and i"),
        (lambda g: torch.cdist(g, g), "those are distances; the cosine is of the angle between two gradients"),
    ]
    cases = [(torch.tensor([[1.0, 2.0], [-2.0, -4.0], [2.0, -1.0]]),), (torch.tensor([[3.0, 4.0]]),)]
    cases += [(torch.randn(K, P),) for K, P in ((2, 10), (4, 50), (7, 20))]
    compare("the cosine matrix", mine, right, cases, mistakes)


@repeatable()
def conflicting(mine: Callable) -> None:
    """mine(gradients (K, P)) -> the fraction of pairs of different exits whose gradients point apart."""

    def pairs(g):
        first, second = torch.triu_indices(len(g), len(g), offset=1)
        return (g @ g.T)[first, second]

    def right(g):
        return (pairs(g) < 0).double().mean()

    mistakes = [
        (lambda g: (g @ g.T < 0).double().mean(), "an exit does not conflict with itself: leave out the diagonal"),
        (lambda g: (g @ g.T < 0).sum() / 2, "that is their number: divide by the number of pairs, K (K - 1) / 2"),
        (lambda g: 1 - right(g), "those are the pairs that agree: conflict is a negative cosine"),
        (lambda g: (pairs(g) <= 0).double().mean(), "a cosine of exactly 0 is not negative: it is no conflict"),
    ]
    edges = [
        [[1, 0], [0, 1], [-1, 0]],
        [[1, 0], [0, 1], [-1, 1]],
        [[1, 0], [-2, 0]],
        [[1, 0], [2, 0]],
        [[1, 0], [1, 0], [-1, 0], [0, 1]],
    ]
    cases = [(torch.tensor(g, dtype=torch.float32),) for g in edges]
    cases += [(torch.randn(K, 20),) for K in (2, 4, 7)]
    compare("the share of conflict", mine, right, cases, mistakes)
