"""Exercises on junctions: what is cut, which exit reaches which part, and what it saves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from dfs_edu.course.checks.answers import FRACTION, Mistakes, Verdict, Wrong, compare, exercise, tensors, untried
from dfs_edu.surgery import Junction, Surgery, channel_dim

CUTS = ((8, 0.5), (7, 0.5), (5, 0.5), (10, 0.33), (6, 0.0), (7, 1.0), (1, 1.0))  # channels, beta
OTHER_ROUNDINGS = (math.floor, math.ceil, lambda x: math.floor(x + 0.5))
ROUND = "round(C * beta) channels are f+, rounded as Python does: round(3.5) is 4, round(2.5) is 2"


@exercise("the partition")
def partition(attempt: Callable) -> Verdict:
    """Check ``attempt(f (B, C, H, W), beta) -> (onward, seen)``: the partition [f+, 0] and [0, f-]."""

    def right(f, beta):
        return Surgery(beta, reference=False)(f)

    mistakes = [
        (lambda f, beta: Surgery(beta)(f), "that is referencing: partitioning puts zeros in the other part"),
        (lambda f, beta: (right(f, beta)[0], f), "seen still holds f+: put zeros there"),
        (lambda f, beta: (f, right(f, beta)[1]), "onward still holds f-: put zeros there"),
        (lambda f, beta: (0 * f, 0 * f), "all is zero: are both views the same tensor? Write into clones of f"),
        (lambda f, beta: (right(f, beta)[0], 0 * f), "seen is all zero: was f overwritten before? Clone it first"),
        (lambda f, beta: right(f.detach(), beta), "nothing is detached here: f+ and f- keep their gradients"),
        *_wrong_cuts(right),
    ]
    cases = [(torch.randn(2, C, 3, 4), beta) for C, beta in CUTS]
    return compare(_traced(attempt), _traced(right), cases, _all_traced(mistakes))


@exercise("weights that never learn")
def silent(attempt: Callable) -> Verdict:
    """Check ``attempt(channels, beta) -> fraction``: the weights reading a partitioned ``onward`` that never learn."""
    mistakes = [
        (lambda C, b: round(C * b), "that is the number of channels that do learn"),
        (lambda C, b: int(C * b) / C, "those are the weights that do learn: they read f+"),
        (lambda C, b: b, "those are the weights that do learn; and channels are indivisible, round(C * beta) are f+"),
        (lambda C, b: C * (1 - b), "that is a number of channels: divide by C, and round(C * beta) of them are f+"),
        (lambda C, b: round(C * (1 - b)) / C, ROUND),
        (lambda C, b: 1 - (round(C * b) / C) ** 2, "a weight reads one channel of onward: do not square"),
        (lambda C, b: round(C * b) / C, "those are the weights that do learn: they read f+"),
        (lambda C, b: 1 - b, "channels are indivisible: round(C * beta) of them are f+"),
        (lambda C, b: C - round(C * b), "that is the number of channels: divide by C"),
        *[(lambda C, b, rounded=rounded: 1 - rounded(C * b) / C, ROUND) for rounded in OTHER_ROUNDINGS],
    ]
    cases = [(16, 0.5), *CUTS, (64, 0.0), (3, 1.0)]
    return compare(attempt, lambda C, b: 1 - round(C * b) / C, cases, mistakes, bounds=FRACTION)


@exercise("surgery")
def surgery(attempt: Callable) -> Verdict:
    """Check ``attempt(f (B, C, H, W), beta) -> (onward, seen)``: partitioned by beta, referenced, exit gradient own."""

    def right(f, beta):
        return Surgery(beta)(f)

    cases = [(torch.randn(2, C, 3, 4), beta) for C, beta in CUTS]
    return compare(_traced(attempt), _traced(right), cases, _all_traced(_wrong_surgery()))


@exercise("the junction")
def junction(attempt: Callable) -> Verdict:
    """Check a class of your own, built as ``attempt(beta)``: what it does to a feature is what ``Surgery(beta)`` does.

    Features are (B, C, H, W), (B, C), or tokens (B, N, C).
    """

    rules = ("__call__", "split", "values", "gradient")

    def mine(f, beta):
        if isinstance(attempt, Junction):
            raise Wrong("give the check your class itself, MySurgery, and not MySurgery(0.5)")
        if isinstance(attempt, type) and all(getattr(attempt, r, None) is getattr(Junction, r) for r in rules):
            raise NotImplementedError
        own = attempt(beta)
        if untried(own):
            raise NotImplementedError
        if not isinstance(own, Junction):
            raise Wrong("derive your class from dfs.Junction")
        if type(own).gradient is not Junction.gradient and untried(own.gradient(f.detach(), f.detach())):
            raise NotImplementedError
        views = own(f)
        if untried(views):
            raise NotImplementedError
        return views

    def right(f, beta):
        return Surgery(beta)(f)

    def tokens_first(f, beta):
        onward, seen = Surgery(beta).split(f.mT if f.ndim == 3 else f)
        return (onward.mT, seen.mT) if f.ndim == 3 else (onward, seen)

    mistakes = [
        (lambda f, beta: Surgery(0.5)(f), "beta is always 0.5: keep the given one, self.beta = beta"),
        (tokens_first, "the channels of tokens (B, N, C) are in the last dimension: see dfs.surgery.channel_dim"),
        *_wrong_surgery(),
    ]
    cases = [(torch.randn(2, C, 3, 4), beta) for C, beta in CUTS]
    cases += [(torch.randn(2, 5, 7), 0.5), (torch.randn(2, 4, 9), 0.25), (torch.randn(3, 5), 0.5)]
    layer = torch.tanh  # its gradient needs f as it was
    return compare(_traced(mine, layer), _traced(right, layer), cases, _all_traced(mistakes, layer))


@exercise("the gradient that f receives")
def received(attempt: Callable) -> Verdict:
    """Check ``attempt(g_onward, g_seen, n) -> (B, C, H, W)``: what f receives under "all", with n channels of f+."""

    def own(g_onward, g_seen, n):
        return torch.cat([g_onward[:, :n], g_seen[:, n:]], 1)

    def right(g_onward, g_seen, n):
        return torch.cat([(g_onward + g_seen)[:, :n], g_seen[:, n:]], 1)

    mistakes = [
        (own, 'that is "own": under "all" this exit\'s gradient reaches f+ as well'),
        (lambda a, b, n: torch.cat([(a + b)[:, :n] / 2, b[:, n:]], 1), "f+ receives the sum of both, not their mean"),
        (lambda a, b, n: torch.cat([(a + b)[:, :n], 0 * b[:, n:]], 1), "f- receives the gradient of this exit"),
        (
            lambda a, b, n: torch.cat([a[:, :n], 0 * b[:, n:]], 1),
            "this exit's gradient is missing: it reaches all of f",
        ),
        (lambda a, b, n: b, "deeper exits reach f+: add their gradient there"),
        (lambda a, b, n: a, "that is the gradient of deeper exits alone, and it reaches f+ only"),
        (lambda a, b, n: right(a, b, n + 1), "one channel too many: f+ is [:, :n]"),
        (lambda a, b, n: right(a, b, max(n - 1, 0)), "one channel too few: f+ is [:, :n]"),
        (lambda a, b, n: right(a, b, a.shape[1] - n), "f+ is the first n channels"),
        (lambda a, b, n: a + b, "that is joint training: no deeper exit may reach f-"),
        (lambda a, b, n: right(b, a, n), "the two are swapped: deeper exits reach f+ only, this exit all of f"),
        (lambda a, b, n: torch.cat([a[:, :n], (a + b)[:, n:]], 1), "f+ receives both gradients, f- only this exit's"),
    ]
    cases = [(torch.randn(2, C, 3, 4), torch.randn(2, C, 3, 4), round(C * beta)) for C, beta in CUTS]
    return compare(attempt, right, cases, mistakes)


@exercise("what is spared")
def backward_saved(attempt: Callable) -> Verdict:
    """Check ``attempt(beta) -> fraction``: how much of a layer's backward pass is saved behind a cut."""
    mistakes = [
        (lambda beta: (1 - beta) / 3, "that is of the whole step: the backward pass is two of its three products"),
        (lambda beta: 1 - beta, "that is of the input gradient: the weight gradient is backward, too"),
        (lambda beta: beta / 2, "beta is the fraction that still passes a gradient on: 1 - beta is saved"),
        (
            lambda beta: (1 - beta) * 2 / 3,
            "the backward pass is two products, and 1 - beta of one of them is saved",
        ),
        (lambda beta: beta, "the backward pass is two products, and 1 - beta of one of them is saved"),
        (lambda beta: 0.5, "that is right for beta = 0 only: at beta = 1 nothing is saved"),
        (lambda beta: (1 - beta**2) / 2, "the cost is proportional to the channels: do not square"),
        (lambda beta: (1 - beta) ** 2 / 2, "the cost is proportional to the channels: do not square"),
        (lambda beta: (1 + beta) / 2, "that is what is left: return the fraction that is saved"),
    ]
    return compare(
        attempt, lambda beta: (1 - beta) / 2, [(b,) for b in (0.0, 0.25, 0.75, 1.0)], mistakes, bounds=FRACTION
    )


@exercise("what surgery saves")
def saved(attempt: Callable) -> Verdict:
    """Check ``attempt(macs (L,), cut (L,) bool, beta) -> fraction``: what surgery saves of a joint step in L layers."""

    def step(macs):
        return 3 * macs.sum() - macs[0]

    def right(macs, cut, beta):
        return (1 - beta) * macs[cut].sum() / step(macs)

    mistakes = [
        (lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum()), "the first layer reads the image: it costs 2, not 3"),
        (lambda m, c, b: b * m[c].sum() / step(m), "beta is the fraction that is still computed: 1 - beta is saved"),
        (lambda m, c, b: (1 - b) * m.sum() / step(m), "only the layers that read a cut feature save anything"),
        (lambda m, c, b: (1 - b) * m[c].sum() / m.sum(), "of a whole step: divide by forward and backward"),
        (
            lambda m, c, b: (1 - b) * m[c].sum() / (2 * m.sum() - m[0]),
            "a whole step is three products: one forward, two backward",
        ),
        (lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum() - m[-1]), "the *first* layer costs 2: it reads the image"),
        (
            lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum() - 1),
            "the first layer skips one of its three products: subtract macs[0], not 1",
        ),
        (lambda m, c, b: (1 - b) * c.double().mean() / 3, "layers do not cost the same: weight them by macs"),
        (
            lambda m, c, b: 2 * right(m, c, b),
            "the weight gradient is computed in full: only the input gradient is saved",
        ),
        (lambda m, c, b: (1 - b) * m[~c].sum() / step(m), "those are the layers that are not cut"),
        (lambda m, c, b: m[c].sum() / step(m), "the fraction beta is still computed: 1 - beta is saved"),
        (lambda m, c, b: 1 - right(m, c, b), "that is what is left: return the fraction that is saved"),
        (lambda m, c, b: (1 - b) * m[c].sum(), "return a fraction: divide by the cost of a joint step"),
    ]
    return compare(attempt, right, _saved_cases(), mistakes, bounds=FRACTION)


def _saved_cases() -> list[tuple]:
    cases = tensors(
        ([4.0, 2.0, 1.0], [False, True, False], 0.5),
        ([4.0, 2.0, 1.0], [False, True, True], 0.0),
        ([4.0, 2.0, 1.0], [False, True, True], 1.0),  # everything is shared: nothing is saved
        ([4.0, 2.0, 1.0], [False, False, False], 0.5),  # nothing is cut
        ([4.0, 2.0], [False, True], 0.25),
        dtype=torch.float64,
    )
    for L, beta in ((3, 0.5), (6, 0.25), (9, 0.9)):
        cut = torch.rand(L) < 0.6
        cut[:2] = torch.tensor([False, True])  # the first layer reads the image, and something is cut
        cases.append((10 * torch.rand(L, dtype=torch.float64) + 1, cut, beta))
    return cases


def _wrong_surgery() -> Mistakes:
    """What goes wrong with referenced surgery."""

    def right(f, beta):
        return Surgery(beta)(f)

    alone = "that is partitioning alone: put the other part, detached, in place of the zeros"
    nothing = "f receives nothing: detach only one part, in a tensor of its own (by cat, or in a clone)"
    overwritten = "f- receives nothing from seen: was f overwritten before? Clone it first"
    return [
        (lambda f, beta: Surgery(beta, reference=False)(f), alone),
        (lambda f, beta: (right(f, beta)[0], f), "the exit's gradient reaches f+ too: in seen, f+ is detached"),
        (lambda f, beta: (f, right(f, beta)[1]), "deeper exits still reach f-: in onward, f- is detached"),
        (lambda f, beta: (f, f.detach()), "that is Detached: in seen, detach f+ alone"),
        (lambda f, beta: (f.detach(), f), "that detaches all of onward: detach f- alone, and in seen f+"),
        (lambda f, beta: (f.detach(), f.detach()), nothing),
        (lambda f, beta: (right(f, beta)[0], f.detach()), overwritten),
        *_wrong_cuts(right),
    ]


def _wrong_cuts(right: Callable) -> Mistakes:
    """What goes wrong with where a feature is cut.

    Args:
        right: Maps f and beta to (onward, seen).
    """

    def at(shared: Callable) -> Callable:  # (C, beta) -> the number of channels of f+
        def split(f, beta):
            C = f.shape[channel_dim(f)]
            return right(f, min(max(shared(C, beta), 0), C) / C)

        return split

    def from_behind(f, beta):
        d = channel_dim(f)
        return [view.flip(d) for view in right(f.flip(d), beta)]

    def by_image(f, beta):
        return [view.transpose(0, 1) for view in right(f.transpose(0, 1), beta)]

    first = "f+ is the first round(C * beta) channels"
    return [
        (lambda f, beta: right(f, beta)[::-1], "the two are swapped: f+ belongs to onward, f- to seen"),
        (lambda f, beta: (f, f), "nothing is cut yet: onward is for f+, seen for f-"),
        (lambda f, beta: (right(f, beta)[0],) * 2, "both views are the same: seen is for f-"),
        (at(lambda C, beta: C - round(C * beta)), first),
        (at(lambda C, beta: round(C * (1 - beta))), first),
        (from_behind, first),
        (at(lambda C, beta: round(C * beta) + 1), f"{first}: one fewer"),
        (at(lambda C, beta: round(C * beta) - 1), f"{first}: one more"),
        (by_image, "channels are dimension 1, f[:, :n]: dimension 0 is that of images"),
        *[(at(lambda C, beta, rounded=rounded: rounded(C * beta)), ROUND) for rounded in OTHER_ROUNDINGS],
    ]


def _all_traced(mistakes: Mistakes, layer: Callable = torch.clone) -> Mistakes:
    return [(_traced(wrong, layer), why) for wrong, why in mistakes]


def _traced(split: Callable, layer: Callable = torch.clone) -> Callable:
    """A function that returns what a junction does, by name: its two views, and f's gradient from each.

    Args:
        split: Maps f and beta to (onward, seen).
        layer: Computes f from the tensor that gradients are taken for, which is a leaf and so cannot be written to.
    """

    @wraps(split)
    def trace(f: Tensor, beta: float):
        leaf = f.clone().requires_grad_()
        views = split(layer(leaf), beta)
        if untried(views):
            return None
        if not isinstance(views, tuple | list) or len(views) != 2 or not all(isinstance(v, Tensor) for v in views):
            raise Wrong("return two tensors, onward and seen")
        traced = {}
        for name, view in zip(("onward", "seen"), views, strict=True):
            if view.shape != f.shape:
                shapes = f"{name} has shape {tuple(view.shape)}, the feature has {tuple(f.shape)}"
                raise Wrong(f"{shapes}: both views keep all C channels")
            g = None
            if view.requires_grad:
                weight = torch.arange(1.0, f.numel() + 1).reshape(f.shape)  # another gradient for every value
                (g,) = torch.autograd.grad((weight * view).sum(), leaf, retain_graph=True, allow_unused=True)
            traced[name] = view.detach()
            traced[f"the gradient that f receives from {name}"] = torch.zeros_like(f) if g is None else g
        return traced

    return trace
