"""Exercises on what features represent: linear CKA, class selectivity, ablation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfs_edu import probes
from dfs_edu.course.checks.answers import FRACTION, Verdict, compare, exercise, tensors


@exercise("linear CKA")
def linear_cka(attempt: Callable) -> Verdict:
    """Check ``attempt(X (N, D1), Y (N, D2)) -> number``: linear CKA as first published, from 0 to 1."""

    def right(X, Y):
        return probes.cka(X, Y, unbiased=False)

    mistakes = [
        (_cka(lambda X: X), "subtract each channel's mean over the images first"),
        (_cka(lambda X: X - X.mean(1, keepdim=True)), "take the mean of each channel, dimension 0, not of each image"),
        (_cka(lambda X: X - X.mean()), "take one mean for each channel, not one for all of them"),
        (lambda X, Y: _cka(lambda X: X)(X - X.mean(0), Y), "subtract the means from Y as well"),
        (lambda X, Y: _cka(lambda X: X)(X, Y - Y.mean(0)), "subtract the means from X as well"),
        (_cka(root=0), "divide by the root of HSIC(X, X) HSIC(Y, Y): the result is from 0 to 1"),
        (_cka(root=1), "the square root of the denominator is missing"),
        (_cka(hsic=lambda X, Y: _hsic(X, Y).sqrt()), "sum the squared entries of X^T Y, and take no root"),
        (_cka(hsic=lambda X, Y: (X.T @ Y).sum()), "square the entries of X^T Y before summing them"),
        (_cka(hsic=lambda X, Y: (X.T @ Y).abs().sum()), "add up the squares of the entries, not their sizes"),
        (_cka_of_lengths, "HSIC(X, X) is made of X^T X: add up its squared entries, not those of X"),
        (_cka(lambda X: (X - X.mean(0)) / X.std(0)), "do not standardise the channels: they keep their scale"),
        (probes.cka, "that is the unbiased version: sum over all entries of X^T Y, leaving none out"),
    ]
    X = torch.tensor([[0, 1], [2, 1], [4, 3], [6, 3]], dtype=torch.float64)
    cases = [(X, -X)]  # the result is 1, whatever the sign
    cases.append((X[:, :1] - 3, torch.tensor([[1], [-1], [-1], [1]], dtype=torch.float64)))  # uncorrelated: 0
    cases.append((X[:, :1], torch.tensor([[10, 0], [11, 1], [15, -1], [12, 3]], dtype=torch.float64)))
    for N, D1, D2 in ((10, 3, 3), (20, 3, 5), (30, 8, 2)):
        X = torch.randn(N, D1, dtype=torch.float64) * torch.arange(1, D1 + 1) + torch.randn(D1)
        cases.append((X, X[:, :1] + torch.randn(N, D2, dtype=torch.float64) + 2))
    return compare(attempt, right, cases, mistakes, bounds=FRACTION)


def _hsic(X: Tensor, Y: Tensor) -> Tensor:
    return (X.T @ Y).square().sum()


def _cka_of_lengths(X: Tensor, Y: Tensor) -> Tensor:
    X, Y = X - X.mean(0), Y - Y.mean(0)
    return _hsic(X, Y) / (X.square().sum() * Y.square().sum())


def _cka(prepare: Callable = lambda X: X - X.mean(0), hsic: Callable = _hsic, root: float = 0.5) -> Callable:
    """CKA with another preparation of the features, another HSIC, or another root in the denominator."""

    def variant(X, Y):
        X, Y = prepare(X), prepare(Y)
        return hsic(X, Y) / (hsic(X, X) * hsic(Y, Y)) ** root

    return variant


@exercise("class selectivity")
def selectivity(attempt: Callable) -> Verdict:
    """Check ``attempt(a (N,), labels (N,)) -> number``: the class selectivity of a channel with activations a >= 0."""

    def right(a, labels):
        return probes.class_selectivity(a[:, None], labels)[0]

    def from_means(rule: Callable) -> Callable:
        return lambda a, labels: rule(torch.stack([a[labels == c].mean() for c in labels.unique()]))

    def index(first: Tensor, second: Tensor) -> Tensor:
        return (first - second) / (first + second)

    def by_image(a, labels):
        best = labels == max(labels.unique(), key=lambda c: a[labels == c].mean().item())
        return index(a[best].mean(), a[~best].mean())

    images = "compare means of classes, not activations of images"
    mistakes = [
        (from_means(lambda m: index(m.max(), m.mean())), "m2 averages the *other* classes: leave out the highest"),
        (from_means(lambda m: index(*m.topk(2).values)), "m2 averages all other classes, it is not the second highest"),
        (from_means(lambda m: index(m.max(), m.min())), "m2 averages all other classes, it is not the lowest"),
        (from_means(lambda m: index(m.max(), m.median())), "m2 is the mean of the other classes, not their median"),
        (from_means(lambda m: index(m.max(), (m.sum() - m.max()) / len(m))), "divide by the number of *other* classes"),
        (
            from_means(lambda m: index(m[0], m[1:].mean())),
            "m1 is the highest of the class means, whichever class it is",
        ),
        (
            from_means(lambda m: m.max() / (m.sum() - m.max()) * (len(m) - 1)),
            "that is m1 / m2: return (m1 - m2) / (m1 + m2)",
        ),
        (from_means(lambda m: 2 * m.max() - m.sum()), "average the other classes, then divide by m1 + m2"),
        (
            from_means(lambda m: m.max() - (m.sum() - m.max()) / (len(m) - 1)),
            "that is m1 - m2: divide by m1 + m2, so that a stronger channel is not a more selective one",
        ),
        (by_image, "each class counts equally: average over its images first, then over the classes"),
        (lambda a, y: index(a.max(), a.mean()), images),
        (lambda a, y: index(a.max(), (a.sum() - a.max()) / (len(a) - 1)), images),
    ]
    return compare(attempt, right, _selectivity_cases(), mistakes, bounds=FRACTION)


def _selectivity_cases() -> list[tuple]:
    cases = tensors(
        ([4.0, 2.0, 1.0, 1.0, 0.0], [1, 1, 0, 0, 2]),
        ([0.0, 5.0, 0.0], [0, 1, 2]),  # active for one class only: the result is 1
        ([2.0, 2.0, 2.0, 2.0], [0, 1, 1, 2]),  # the same for all classes: 0
        ([1.0, 3.0], [0, 1]),
        dtype=torch.float64,
    )
    for N, classes in ((30, 3), (80, 5), (200, 10)):
        labels = torch.cat([torch.arange(classes), (torch.rand(N - classes) ** 2 * classes).long()])  # uneven classes
        cases.append((torch.rand(N, dtype=torch.float64) * (1 + labels), labels))
    return cases


@exercise("the loss by ablation")
def ablation_loss(attempt: Callable) -> Verdict:
    """Check ``attempt(f (N, C), head, labels (N,), n) -> number``: the accuracy lost by ablating n channels.

    The first n channels are replaced with their means. ``head`` maps features (N, C) to logits (N, classes).
    """

    def loss(taken: Callable, fill: Callable) -> Callable:
        return lambda f, head, y, n: _accuracy(f, head, y) - _accuracy(_without(f, taken(n), fill), head, y)

    def first(n):
        return slice(0, n)

    def mean(part):
        return part.mean(0, keepdim=True)

    right = loss(first, mean)
    mistakes = [
        (loss(first, torch.zeros_like), "that is with zeros: fill in each channel's mean over the images"),
        (loss(lambda n: slice(n, None), mean), "those are the other channels: ablate the first n"),
        (loss(lambda n: slice(-n, None), mean), "those are the last n channels: ablate the first n"),
        (loss(lambda n: slice(n - 1, n), mean), "that is one channel: ablate all of the first n"),
        (loss(lambda n: slice(0, n - 1), mean), "one channel too few: the first n are [:, :n]"),
        (loss(lambda n: slice(0, n + 1), mean), "one channel too many: the first n are [:, :n]"),
        (loss(first, lambda p: p.median(0, keepdim=True).values), "fill in each channel's mean, not its median"),
        (loss(first, lambda p: p.flip(0)), "fill in each channel's mean over the images"),
        (loss(first, lambda p: p.mean(1, keepdim=True)), "average over the images, dimension 0, not over channels"),
        (loss(first, lambda p: p.mean()), "take one mean for each channel, not one for all of them"),
        (lambda *case: -right(*case), "the loss is accuracy before minus accuracy after"),
        (lambda *case: right(*case).abs(), "keep the sign: accuracy may also be gained"),
        (lambda *case: right(*case).clamp(min=0), "keep the sign: accuracy may also be gained"),
        (
            lambda f, head, y, n: right(f, head, y, n) / _accuracy(f, head, y),
            "return a difference, not a ratio",
        ),
        (
            lambda *case: torch.zeros(()),
            "that is always 0: was f overwritten before? Write into a clone",
        ),
        (
            lambda f, head, y, n: _accuracy(_without(f, first(n), mean), head, y),
            "that is what is left: return the loss",
        ),
        (lambda f, head, y, n: right(f, head, y, n) * len(y), "return a fraction of the images, not their number"),
    ]
    return compare(attempt, right, _ablation_loss_cases(), mistakes, bounds=(-1, 1))


def _accuracy(f: Tensor, head: Callable, labels: Tensor) -> Tensor:
    return (head(f).argmax(1) == labels).double().mean()


def _without(f: Tensor, taken: slice, fill: Callable) -> Tensor:
    """Features whose taken channels are replaced."""
    f = f.clone()
    f[:, taken] = fill(f[:, taken])
    return f


def _ablation_loss_cases() -> list[tuple]:
    f, labels = [[3.0, 1.0, 2.0], [0.0, 2.0, 1.0], [5.0, 4.0, 6.0], [1.0, 0.0, 0.5]], [0, 1, 2, 0]
    cases = tensors(
        (f, _logits_already, labels, 1),
        (f, _logits_already, labels, 2),
        (f, _logits_already, labels, 3),  # all channels: the same answer for every image
        ([[0.0, 1.0], [4.0, 1.0]], _logits_already, [0, 0], 1),  # accuracy is gained: the loss is negative
    )
    cases += [_ablation_case(n) for n in (2, 3, 5)]
    return cases


def _logits_already(features: Tensor) -> Tensor:
    return features


def _ablation_case(n: int, N: int = 400, classes: int = 4) -> tuple:
    """A head that reads the class from all of 6 channels, each with its own mean."""
    labels = torch.randint(classes, (N,))
    centres = 2 * torch.randn(classes, 6)
    f = centres[labels] + 0.7 * torch.randn(N, 6) + 3 * torch.randn(6)
    mean = f.mean(0)
    class_means = torch.stack([f[labels == c].mean(0) for c in range(classes)]) - mean  # (classes, 6)

    def head(features: Tensor) -> Tensor:  # the nearest class mean wins
        return -(features - mean - class_means[:, None]).square().sum(2).T

    return f, head, labels, n
