"""Exercises on junctions: what is cut, which exit reaches which part, and what it saves."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from dfs_edu.course.checks.answers import Verdict, Wrong, compare, exercise, tensors, untried
from dfs_edu.surgery import Detached, Joint, Junction, Surgery, channel_dim

CUTS = ((8, 0.5), (7, 0.5), (5, 0.5), (10, 0.33), (6, 0.0), (7, 1.0), (1, 1.0))  # channels, beta
OTHER_ROUNDINGS = (math.floor, math.ceil, lambda x: math.floor(x + 0.5))
ROUND = "round(C * beta) channels are f+, rounded as Python does: round(3.5) is 4, round(2.5) is 2"


@exercise("the partition")
def partition(attempt: Callable) -> Verdict:
    """Check ``attempt(f (B, C, H, W), beta) -> (onward, seen)``: the partition [f+, 0] and [0, f-]."""

    def swapped(f, beta):
        onward, seen = Surgery(beta, reference=False)(f)
        return seen, onward

    mistakes = [
        (_traced(swapped), "the two are swapped: f+ goes onward, f- to this exit"),
        (_traced(lambda f, beta: Surgery(beta)(f)), "that is referencing: partitioning puts zeros in the other part"),
        (_traced(lambda f, beta: (f, f)), "nothing is cut yet"),
        (_traced(lambda f, beta: Surgery(1 - beta, reference=False)(f)), "f+ is the first round(C * beta) channels"),
        *_rounded_otherwise(reference=False),
    ]
    cases = [(torch.randn(2, C, 3, 4), beta) for C, beta in CUTS]
    right = _traced(lambda f, beta: Surgery(beta, reference=False)(f))
    return compare(_traced(attempt), right, cases, mistakes)


@exercise("weights that never learn")
def silent(attempt: Callable) -> Verdict:
    """Check ``attempt(channels, beta) -> fraction``: the weights reading a partitioned ``onward`` that never learn."""
    mistakes = [
        (lambda C, b: round(C * b) / C, "those are the weights that do learn: they read f+"),
        (lambda C, b: 1 - b, "channels are indivisible: round(C * beta) of them are f+"),
        (lambda C, b: C - round(C * b), "that is the number of channels: divide by C"),
        *[(lambda C, b, rounded=rounded: 1 - rounded(C * b) / C, ROUND) for rounded in OTHER_ROUNDINGS],
    ]
    cases = [(16, 0.5), *CUTS, (64, 0.0), (3, 1.0)]
    return compare(attempt, lambda C, b: 1 - round(C * b) / C, cases, mistakes)


@exercise("surgery")
def surgery(attempt: Callable) -> Verdict:
    """Check ``attempt(f (B, C, H, W), beta) -> (onward, seen)``: partitioned by beta, referenced, exit gradient own."""

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
        (_traced(swapped), "the two are swapped: f+ receives the gradient of onward, f- that of seen"),
        (_traced(joint), "nothing is cut yet: detach f- in onward, and f+ in seen"),
        (_traced(zeros), "that is partitioning alone: replace the zeros with the other part, detached"),
        (_traced(exit_everywhere), "the exit's gradient reaches f+ too: in seen, f+ is detached"),
        *_rounded_otherwise(),
    ]
    cases = [(torch.randn(2, C, 3, 4), beta) for C, beta in CUTS]
    return compare(_traced(attempt), _traced(lambda f, beta: Surgery(beta)(f)), cases, mistakes)


@exercise("the junction")
def junction(attempt: Callable) -> Verdict:
    """Check a class of your own, built as ``attempt(beta)``: what it does to a feature is what ``Surgery(beta)`` does.

    Features are (B, C, H, W), (B, C), or tokens (B, N, C).
    """

    rules = ("__call__", "split", "values", "gradient")

    def by(build: Callable) -> Callable:
        return _traced(lambda f, beta: build(beta)(f), torch.tanh)  # the gradient of tanh needs f as it was

    def mine(f, beta):
        if isinstance(attempt, Junction):
            raise Wrong("give the check your class itself, MySurgery, and not MySurgery(0.5)")
        if isinstance(attempt, type) and all(getattr(attempt, r, None) is getattr(Junction, r) for r in rules):
            return None
        own = attempt(beta)
        if untried(own):
            return None
        if not isinstance(own, Junction):
            raise Wrong("derive your class from dfs.Junction")
        if type(own).gradient is not Junction.gradient and untried(own.gradient(f.detach(), f.detach())):
            return None
        return own(f)

    def swapped(beta):
        return lambda f: Surgery(beta)(f)[::-1]

    def tokens_first(beta):
        def split(f):
            onward, seen = Surgery(beta).split(f.mT)
            return onward.mT, seen.mT

        return lambda f: split(f) if f.ndim == 3 else Surgery(beta)(f)

    def of(shared):  # (C, beta) -> how many channels are f+
        def surgery(beta):
            return lambda f: Surgery(shared(f.shape[channel_dim(f)], beta) / f.shape[channel_dim(f)])(f)

        return by(surgery)

    mistakes = [
        (by(swapped), "the two are swapped: f+ receives the gradient of onward, f- that of seen"),
        (by(lambda beta: Joint()), "nothing is cut yet: f+ takes its gradient from onward, f- from seen"),
        (by(lambda beta: Detached()), "that is Detached: f- receives the gradient of seen"),
        (by(lambda beta: Surgery(beta, reference=False)), "that is partitioning alone: both views hold all of f"),
        (by(lambda beta: Surgery(beta, exit_gradient="all")), "the exit's gradient must reach f- only, not f+"),
        (of(lambda C, beta: C - round(C * beta)), "f+ is the first round(C * beta) channels"),
        (by(lambda beta: Surgery(0.5)), "beta is always 0.5: keep the given one, self.beta = beta"),
        (by(tokens_first), "the channels of tokens (B, N, C) are in the last dimension: see dfs.surgery.channel_dim"),
        *[(of(lambda C, beta, how=how: how(C * beta)), ROUND) for how in OTHER_ROUNDINGS],
    ]
    cases = [(torch.randn(2, C, 3, 4), beta) for C, beta in CUTS]
    cases += [(torch.randn(2, 5, 7), 0.5), (torch.randn(2, 4, 9), 0.25), (torch.randn(3, 5), 0.5)]
    return compare(_traced(mine, torch.tanh), by(Surgery), cases, mistakes)


@exercise("the gradient that f receives")
def received(attempt: Callable) -> Verdict:
    """Check ``attempt(g_onward, g_seen, n) -> (B, C, H, W)``: what f receives under "all", with n channels of f+."""

    def own(g_onward, g_seen, n):
        return torch.cat([g_onward[:, :n], g_seen[:, n:]], 1)

    def right(g_onward, g_seen, n):
        return torch.cat([(g_onward + g_seen)[:, :n], g_seen[:, n:]], 1)

    mistakes = [
        (own, 'that is "own": under "all" this exit\'s gradient reaches f+ as well'),
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
        (lambda beta: (1 + beta) / 2, "that is what is left: return the fraction that is saved"),
    ]
    return compare(attempt, lambda beta: (1 - beta) / 2, [(b,) for b in (0.0, 0.25, 0.75, 1.0)], mistakes)


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
        (lambda m, c, b: 1 - right(m, c, b), "that is what is left: return the fraction that is saved"),
        (lambda m, c, b: (1 - b) * m[c].sum(), "return a fraction: divide by the cost of a joint step"),
    ]
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
    return compare(attempt, right, cases, mistakes)


def _rounded_otherwise(**options) -> list[tuple[Callable, str]]:
    """The mistakes of a surgery with these options that rounds the number of channels of f+ in another way."""

    def surgery(rounded: Callable) -> Callable:
        return lambda f, beta: Surgery(rounded(f.shape[1] * beta) / f.shape[1], **options)(f)

    return [(_traced(surgery(rounded)), ROUND) for rounded in OTHER_ROUNDINGS]


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
