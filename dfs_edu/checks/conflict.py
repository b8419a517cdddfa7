"""Exercises on gradients that oppose each other, and on junctions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfs_edu.checks.answers import compare, untried
from dfs_edu.surgery import Surgery


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
    cases = [(torch.randn(P), torch.randn(P)) for P in (2, 10, 1000)] + [(torch.ones(3), -torch.ones(3))]
    compare("the cosine", mine, right, cases, mistakes)


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
    compare("the cosine matrix", mine, right, [(torch.randn(K, P),) for K, P in ((2, 10), (4, 50), (7, 20))], mistakes)


def conflicting(mine: Callable) -> None:
    """mine(gradients (K, P)) -> the fraction of pairs of different exits whose gradients point apart."""

    def right(g):
        first, second = torch.triu_indices(len(g), len(g), offset=1)
        return ((g @ g.T)[first, second] < 0).double().mean()

    mistakes = [
        (lambda g: (g @ g.T < 0).double().mean(), "an exit does not conflict with itself: leave out the diagonal"),
        (lambda g: (g @ g.T < 0).sum() / 2, "that is their number: divide by the number of pairs, K (K - 1) / 2"),
        (lambda g: 1 - right(g), "those are the pairs that agree: conflict is a negative cosine"),
    ]
    compare("the share of conflict", mine, right, [(torch.randn(K, 20),) for K in (2, 4, 7)], mistakes)


def surgery(mine: Callable) -> None:
    """mine(f (B, C, H, W), beta) -> (onward, seen): partitioned by beta, referenced, exit gradient own."""

    def joint(f, beta):
        return f, f

    def zeros(f, beta):
        shared = torch.arange(f.shape[1])[:, None, None] < round(f.shape[1] * beta)
        return torch.where(shared, f, 0), torch.where(shared, 0, f)

    def swapped(f, beta):
        onward, seen = Surgery(beta)(f)
        return seen, onward

    def exit_everywhere(f, beta):
        return Surgery(beta, exit_gradient="all")(f)

    mistakes = [
        (_traced(swapped), "the two are exchanged: f+ listens to what comes back from onward, f- to seen"),
        (_traced(joint), "nothing is cut yet: detach f- in onward, and f+ in seen"),
        (_traced(zeros), "that is partitioning alone: put the other part, detached, in the place of the zeros"),
        (_traced(exit_everywhere), "the exit's gradient reaches f+ too: in seen, f+ is detached"),
    ]
    cases = [(torch.randn(2, C, 3, 3), beta) for C, beta in ((8, 0.5), (10, 0.3), (6, 0.0), (7, 1.0))]
    compare("surgery", _traced(mine), _traced(lambda f, beta: Surgery(beta)(f)), cases, mistakes)


def step_cost(mine: Callable) -> None:
    """mine(beta) -> the work of a training step behind a cut, where that of a joint step is 3."""
    mistakes = [
        (lambda beta: 3 * beta, "forward pass and weight gradient stay whole"),
        (lambda beta: 1 + 2 * beta, "the weight gradient stays whole: it needs all channels of the input"),
        (lambda beta: 3 - beta, "beta is the part that still passes a gradient on"),
    ]
    compare("the cost of a step", mine, lambda beta: 2 + beta, [(b,) for b in (0.0, 0.25, 0.5, 1.0)], mistakes)


def _traced(split: Callable) -> Callable:
    """What a junction does, as values: its two views, and what f receives from each."""

    def trace(f: Tensor, beta: float):
        f = f.clone().requires_grad_()
        views = split(f, beta)
        if untried(views):
            return None
        if not isinstance(views, tuple | list) or len(views) != 2 or not all(isinstance(v, Tensor) for v in views):
            raise TypeError("return two tensors, onward and seen")
        gradients = []
        for view in views:
            if view.shape != f.shape:
                raise ValueError(f"a view of shape {tuple(view.shape)} of a feature of shape {tuple(f.shape)}")
            g = (
                torch.autograd.grad(view.sum(), f, retain_graph=True, allow_unused=True)[0]
                if view.requires_grad
                else None
            )
            gradients.append(torch.zeros_like(f) if g is None else g)
        return [view.detach() for view in views] + gradients

    return trace
