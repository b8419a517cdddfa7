"""Ablation: what each exit loses when a part of one exit's feature is taken away from a trained network.

The part is taken out of f itself, so it is missing from both views. Each exit is fed by one of them, so one experiment
tells them apart: what exit k loses, it loses through `seen`; what a deeper exit loses, it loses through `onward`; and
an exit before k loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfs_edu.modes import as_found, evaluating, in_any_mode
from dfs_edu.multiexit import MultiExit, State
from dfs_edu.probes.extraction import PARTS, Batches, cuts
from dfs_edu.surgery import Junction, Surgery

FILLS = ("mean", "zero")


@dataclass(frozen=True)
class Ablation:
    """What `ablation` found in K exits.

    whole     (K,), accuracy of each exit as the network is, a fraction
    without   part -> (K, K): row k, column j, the accuracy of exit j without that part of the feature of exit k; NaN
              where exit j lies before k, and in the rows of exits that are not cut
    """

    whole: np.ndarray
    without: dict[str, np.ndarray]

    def loss(self, part: str) -> np.ndarray:
        """(K, K): the accuracy that exit j loses without that part of the feature of exit k."""
        return self.whole - self.without[part]


@in_any_mode
def ablation(net: MultiExit, batches: Batches, beta: float | None = None, fill: str = "mean") -> Ablation:
    """Accuracy of every exit without f+, and without f-, of the feature of every exit in turn.

    batches   yields (images (B, 3, H, W), labels (B,)) on the network's device; with fill="mean" it is gone through
              twice, so give a list or `data.Batches`
    beta      where the features count as cut; None: where the network's junctions cut them (see `features`)
    fill      what stands in the place of the part. "zero": zeros. But what reads f may never have seen zeros there, and
              then they are a disturbance, not an absence. "mean": the mean of f over all pictures, at each position, so
              that a channel keeps what it says of every picture and loses what it says of this one

    Of a list of scales, those that the junction cuts; the finer ones pass whole. Behind the feature, the network works
    as it is, its own junctions included. The cost is a forward pass, and for each cut exit and part the rest of one.

    The network works in eval mode without gradients and is left as found. Raises TypeError for another network, and
    ValueError for another fill, for no pictures, and where nothing is cut.
    """
    cut, K = cuts(net, beta), len(net.stages)
    if fill not in FILLS:
        raise ValueError(f"fill={fill!r}: use one of {', '.join(FILLS)}")
    if not any(cut):
        raise ValueError("nothing is cut in this network: beta=0.5, say, asks as if it were")
    right, right_without, seen = np.zeros(K), {part: np.zeros((K, K)) for part in PARTS}, 0
    with as_found(net), evaluating(net):
        fills = _means(net, batches) if fill == "mean" else [None] * K
        for images, labels in batches:
            seen += len(labels)
            for k, (feature, logits) in enumerate(_exits(net, net.stages[0](images))):
                right[k] += _hits(logits, labels)
                for part in PARTS if cut[k] else ():
                    ablated = _without(feature, cut[k], part, fills[k])
                    for j, (_, logits) in enumerate(_exits(net, ablated, k), start=k):
                        right_without[part][k, j] += _hits(logits, labels)
    if not seen:
        raise ValueError("batches holds no pictures, or none a second time: give a list")
    told = np.triu(np.ones((K, K), bool)) & np.array([c is not None for c in cut])[:, None]
    return Ablation(right / seen, {part: np.where(told, hits / seen, np.nan) for part, hits in right_without.items()})


def _exits(net: MultiExit, feature: State, k: int = 0) -> Iterator[tuple[State, Tensor]]:
    """The feature and the logits of exit k, from 0, and of each deeper one, from the feature of exit k on."""
    for j in range(k, len(net.stages)):
        onward, seen = net.junctions[j](feature)
        yield feature, net.heads[j](seen)
        if j + 1 < len(net.stages):
            feature = net.stages[j + 1](onward)


def _without(feature: State, cut: Junction, part: str, fill: State | None) -> State:
    """The feature with `fill`, or zeros, in the place of a part."""
    if not isinstance(feature, Tensor):
        fills = fill or [None] * len(feature)
        each = [cut.on_scale(i, len(feature)) for i in range(len(feature))]
        return [_without(f, c, part, m) for f, c, m in zip(feature, each, fills, strict=True)]
    if not isinstance(cut, Surgery):
        return feature
    shared = cut.is_shared(feature)
    taken = shared if part == "shared" else ~shared
    return torch.where(taken, feature.new_zeros(()) if fill is None else fill, feature)


def _means(net: MultiExit, batches: Batches) -> list[State]:
    """The mean feature of each exit over all pictures, without a batch dimension."""
    sums, seen = [], 0
    for images, labels in batches:
        seen += len(labels)
        found = [_each(lambda f: f.sum(0), feature) for feature, _ in _exits(net, net.stages[0](images))]
        sums = [_each(torch.add, *pair) for pair in zip(sums, found, strict=True)] if sums else found
    return [_each(lambda s: s / seen, total) for total in sums]


def _each(rule: Callable, *states: State) -> State:
    """The rule on tensors, or on each scale of lists of them."""
    if isinstance(states[0], Tensor):
        return rule(*states)
    return [rule(*scales) for scales in zip(*states, strict=True)]


def _hits(logits: Tensor, labels: Tensor) -> int:
    return (logits.argmax(1) == labels).sum().item()
