"""Ablation: what each exit loses when a part of one exit's feature is removed from a trained network.

The part is removed from f itself, so both views lack it. Each exit is fed by one of them, so one experiment separates
them: what exit k loses, it loses through ``seen``; what a deeper exit loses, it loses through ``onward``; and an exit
before k loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfs_edu.answers import rule_of
from dfs_edu.modes import as_found, evaluating, in_any_mode
from dfs_edu.multiexit import MultiExit, State
from dfs_edu.probes.extraction import PARTS, Batches, cuts
from dfs_edu.surgery import Junction, Surgery

FILLS = ("mean", "zero")


@dataclass(frozen=True)
class Ablation:
    """The accuracy of K exits with and without parts of features, as ``ablation`` measures it.

    Attributes:
        whole: (K,), accuracy of each exit of the whole network, a fraction.
        without: part -> (K, K); row k, column j is the accuracy of exit j without that part of the feature of exit k.
            NaN where exit j lies before k, and in the rows of exits that are not cut.
    """

    whole: np.ndarray
    without: dict[str, np.ndarray]

    def loss(self, part: str) -> np.ndarray:
        """Return (K, K), the accuracy that exit j loses without that part of the feature of exit k."""
        return self.whole - self.without[part]


@in_any_mode
def ablation(net: MultiExit, batches: Batches, beta: float | None = None, fill: str = "mean") -> Ablation:
    """Measure the accuracy of every exit without f+, and without f-, of the feature of every exit in turn.

    Of a list of scales, the part is removed from those that the junction cuts; the finer ones stay whole. Behind the
    feature, the network works unchanged, its own junctions included. The cost is one forward pass and, for each cut
    exit and part, the rest of one. The network works in eval mode without gradients and is left as it was.

    Args:
        net: the network.
        batches: yields (images (B, 3, H, W), labels (B,)) on the network's device. With fill="mean" it is iterated
            twice, so pass a list or ``data.Batches``.
        beta: where the features count as cut; None: where the network's junctions cut them (see ``features``).
        fill: what replaces the part. "zero": zeros. But the layers that read f may never have seen zeros there, and
            then they are a disturbance, not an absence. "mean": the mean of f over all images, at each position, so
            that a channel keeps what it says of every image and loses what it says of this one.

    Raises:
        TypeError: for another kind of network.
        ValueError: for another fill, if there are no images, and if nothing is cut.
    """
    cut, K = cuts(net, beta), len(net.stages)
    if fill not in FILLS:
        raise ValueError(f"fill={fill!r}: use one of {', '.join(FILLS)}")
    if not any(cut):
        raise ValueError("nothing is cut in this network: with beta=0.5, for example, it is probed as if it were")
    right, right_without, total = np.zeros(K), {part: np.zeros((K, K)) for part in PARTS}, 0
    with as_found(net), evaluating(net):
        fills = _means(net, batches) if fill == "mean" else [None] * K
        for images, labels in batches:
            total += len(labels)
            for k, (feature, logits, carried) in enumerate(_exits(net, net.stages[0](images))):
                right[k] += _right(logits, labels)
                # Once more from here, without either part.
                if (surgery := cut[k]) is None:
                    continue
                for part in PARTS:
                    ablated = _without(feature, surgery, part, fills[k])
                    for j, (_, logits, _) in enumerate(_exits(net, ablated, k, carried), start=k):
                        right_without[part][k, j] += _right(logits, labels)
    if not total:
        raise ValueError("batches holds no images, or none a second time: give a list")
    measured = np.triu(np.ones((K, K), bool)) & np.array([c is not None for c in cut])[:, None]
    without = {part: np.where(measured, count / total, np.nan) for part, count in right_without.items()}
    return Ablation(right / total, without)


def _exits(
    net: MultiExit, feature: State, k: int = 0, carried: Tensor | None = None
) -> Iterator[tuple[State, Tensor, Tensor | None]]:
    """The feature and the answer of exit k, from 0, and of each deeper one, computed from the feature of exit k.

    Third comes what was carried on to that exit's answer from the exits before it (see answers.py).
    """
    rule = rule_of(net.answers)
    for j in range(k, len(net.stages)):
        onward, seen = net.junctions[j](feature)
        answer, following = rule(net.heads[j](seen), carried, j + 1)
        yield feature, answer, carried
        carried = following
        if j + 1 < len(net.stages):
            feature = net.stages[j + 1](onward)


def _without(feature: State, cut: Junction, part: str, fill: State | None) -> State:
    """The feature with ``fill``, or zeros, in place of a part, on every scale that is cut."""
    fill = _each(lambda f: f.new_zeros(()), feature) if fill is None else fill
    if isinstance(feature, Tensor) and isinstance(fill, Tensor):
        return _filled(feature, cut, part, fill)
    S = len(feature)
    return [_filled(f, cut.on_scale(i, S), part, m) for i, (f, m) in enumerate(zip(feature, fill, strict=True))]


def _filled(f: Tensor, cut: Junction, part: str, fill: Tensor) -> Tensor:
    if not isinstance(cut, Surgery):
        return f
    shared = cut.is_shared(f)
    return torch.where(shared if part == "shared" else ~shared, fill, f)


def _means(net: MultiExit, batches: Batches) -> list[State]:
    """The mean feature of each exit over all images, without a batch dimension."""
    sums, total = [], 0
    for images, labels in batches:
        total += len(labels)
        batch = [_each(lambda f: f.sum(0), feature) for feature, *_ in _exits(net, net.stages[0](images))]
        sums = [_each(torch.add, *pair) for pair in zip(sums, batch, strict=True)] if sums else batch
    return [_each(lambda s: s / total, state) for state in sums]


def _each(rule: Callable, *states: State) -> State:
    """The rule applied to tensors, or to each scale of lists of them."""
    if isinstance(states[0], Tensor):
        return rule(*states)
    return [rule(*scales) for scales in zip(*states, strict=True)]


def _right(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())
