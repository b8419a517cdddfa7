"""Exercises on what features hold: linear CKA, class selectivity, ablation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfs_edu import probes
from dfs_edu.course.checks.answers import compare, repeatable


@repeatable()
def linear_cka(mine: Callable) -> None:
    """mine(X (N, D1), Y (N, D2)) -> linear CKA as first published, a number from 0 to 1."""

    def right(X, Y):
        return probes.cka(X, Y, unbiased=False)

    def of(hsic: Callable, bring: Callable = lambda X: X - X.mean(0), root: float = 0.5) -> Callable:
        """CKA with another HSIC, another way to bring features in, or another root below the fraction."""

        def wrong(X, Y):
            X, Y = bring(X), bring(Y)
            return hsic(X, Y) / (hsic(X, X) * hsic(Y, Y)) ** root

        return wrong

    def squared(X, Y):
        return (X.T @ Y).square().sum()

    mistakes = [
        (of(squared, lambda X: X), "subtract each channel's mean over the pictures first"),
        (of(squared, lambda X: X - X.mean(1, keepdim=True)), "the mean of each channel, dimension 0, not of a picture"),
        (of(squared, lambda X: X - X.mean()), "a mean for each channel, not one for all of them"),
        (of(squared, root=0), "divide by the root of HSIC(X, X) HSIC(Y, Y): the result is from 0 to 1"),
        (of(squared, root=1), "the square root is missing, of the product below the fraction"),
        (of(lambda X, Y: squared(X, Y).sqrt()), "square the entries of X^T Y before they are summed, and take no root"),
        (of(lambda X, Y: (X.T @ Y).sum()), "square the entries of X^T Y before they are summed"),
        (of(squared, lambda X: (X - X.mean(0)) / X.std(0)), "do not divide by the deviations: no channel is rescaled"),
        (lambda X, Y: probes.cka(X, Y), "that is the unbiased one: sum over all entries of X^T Y, nothing left out"),
    ]
    X = torch.tensor([[0, 1], [2, 1], [4, 3], [6, 3]], dtype=torch.float64)
    cases = [(X, -X)]  # 1, whatever the sign
    cases.append((X[:, :1] - 3, torch.tensor([[1], [-1], [-1], [1]], dtype=torch.float64)))  # uncorrelated: 0
    cases.append((X[:, :1], torch.tensor([[10, 0], [11, 1], [15, -1], [12, 3]], dtype=torch.float64)))
    for N, D1, D2 in ((10, 3, 3), (20, 3, 5), (30, 8, 2)):
        X = torch.randn(N, D1, dtype=torch.float64) * torch.arange(1, D1 + 1) + torch.randn(D1)
        cases.append((X, X[:, :1] + torch.randn(N, D2, dtype=torch.float64) + 2))
    compare("linear CKA", mine, right, cases, mistakes)


@repeatable()
def selectivity(mine: Callable) -> None:
    """mine(a (N,), labels (N,)) -> the class selectivity of one channel with activations a, none below 0."""

    def right(a, labels):
        return probes.class_selectivity(a[:, None], labels)[0]

    def from_means(rule: Callable) -> Callable:
        return lambda a, labels: rule(torch.stack([a[labels == c].mean() for c in labels.unique()]))

    def index(first: Tensor, second: Tensor) -> Tensor:
        return (first - second) / (first + second)

    def of_pictures(a, labels):
        best = labels == max(labels.unique(), key=lambda c: a[labels == c].mean())
        return index(a[best].mean(), a[~best].mean())

    mistakes = [
        (from_means(lambda m: index(m.max(), m.mean())), "m2 is of the *other* classes: leave out the highest"),
        (from_means(lambda m: index(*m.topk(2).values)), "m2 is the mean of all other classes, not the second highest"),
        (from_means(lambda m: index(m.max(), m.min())), "m2 is the mean of all other classes, not the lowest"),
        (from_means(lambda m: 2 * m.max() - m.sum()), "the mean of the other classes, then divide by m1 + m2"),
        (
            from_means(lambda m: m.max() - (m.sum() - m.max()) / (len(m) - 1)),
            "that is m1 - m2: divide by m1 + m2, and a louder channel is not a more selective one",
        ),
        (of_pictures, "each class counts alike: average over its pictures first, then over the classes"),
        (
            lambda a, y: (a.max() - a.mean()) / (a.max() + a.mean()),
            "of classes, not of pictures: take their means",
        ),
    ]
    edges = [
        ([4, 2, 1, 1, 0], [1, 1, 0, 0, 2]),
        ([0, 5, 0], [0, 1, 2]),  # silent but for one class: 1
        ([2, 2, 2, 2], [0, 1, 1, 2]),  # the same for all: 0
        ([1, 3], [0, 1]),
    ]
    cases = [(torch.tensor(a, dtype=torch.float64), torch.tensor(labels)) for a, labels in edges]
    for N, classes in ((30, 3), (80, 5), (200, 10)):
        labels = torch.cat([torch.arange(classes), (torch.rand(N - classes) ** 2 * classes).long()])  # uneven classes
        cases.append((torch.rand(N, dtype=torch.float64) * (1 + labels), labels))
    compare("class selectivity", mine, right, cases, mistakes)


@repeatable()
def ablation_loss(mine: Callable) -> None:
    """mine(f (N, C), head, labels (N,), n) -> accuracy that a head loses when the first n channels become their mean.

    head   features (N, C) -> logits (N, classes)
    """

    def accuracy(f, head, labels):
        return (head(f).argmax(1) == labels).double().mean()

    def without(f, taken: slice, fill):
        f = f.clone()
        f[:, taken] = fill(f[:, taken])
        return f

    def loss(taken: Callable, fill: Callable) -> Callable:
        return lambda f, head, y, n: accuracy(f, head, y) - accuracy(without(f, taken(n), fill), head, y)

    def first(n):
        return slice(0, n)

    def mean(part):
        return part.mean(0, keepdim=True)

    right = loss(first, mean)
    mistakes = [
        (loss(first, torch.zeros_like), "that is with zeros: put each channel's mean over the pictures there"),
        (loss(lambda n: slice(n, None), mean), "those are the other channels: the first n are taken away"),
        (loss(first, lambda p: p.mean(1, keepdim=True)), "the mean over the pictures, dimension 0, not over channels"),
        (loss(first, lambda p: p.mean()), "a mean for each channel, not one for all of them"),
        (lambda *case: -right(*case), "a loss is accuracy before minus accuracy after"),
        (
            lambda f, head, y, n: accuracy(without(f, first(n), mean), head, y),
            "that is what is left: return what is lost",
        ),
        (lambda f, head, y, n: right(f, head, y, n) * len(y), "a fraction of the pictures, not their number"),
    ]
    f = torch.tensor([[3, 1, 2], [0, 2, 1], [5, 4, 6], [1, 0, 0.5]])
    labels = torch.tensor([0, 1, 2, 0])
    cases = [
        (f, _logits_already, labels, 1),
        (f, _logits_already, labels, 2),
        (f, _logits_already, labels, 3),  # all of them: the same answer for every image
        (torch.tensor([[0.0, 1.0], [4.0, 1.0]]), _logits_already, torch.tensor([0, 0]), 1),  # a gain: below 0
    ]
    cases += [_ablation_case(n) for n in (2, 3, 5)]
    compare("the loss by ablation", mine, right, cases, mistakes)


def _logits_already(features: Tensor) -> Tensor:
    return features


def _ablation_case(n: int, pictures: int = 400, classes: int = 4) -> tuple:
    """A head that reads the class from all of 6 channels, of which each has a mean of its own."""
    labels = torch.randint(classes, (pictures,))
    centres = 2 * torch.randn(classes, 6)
    f = centres[labels] + 0.7 * torch.randn(pictures, 6) + 3 * torch.randn(6)
    middle = f.mean(0)
    seen = torch.stack([f[labels == c].mean(0) for c in range(classes)]) - middle  # (classes, 6)

    def head(features: Tensor) -> Tensor:  # nearest mean of a class
        return -(features - middle - seen[:, None]).square().sum(2).T

    return f, head, labels, n
