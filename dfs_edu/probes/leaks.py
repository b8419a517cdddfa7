"""Leakage: by which paths the deeper exits still reach the channels that belong to an exit.

A surgery at exit k says: f-, the exit-specific channels, belong to exit k. Two questions remain.

At the cut: which channels of f_k does the gradient of a deeper exit reach? Behind a cut, f- receives exactly none. But
of a list of scales the published surgery cuts the coarsest alone, and the finer ones pass on whole.

In the weights: f- is written by weights of stage k. Do these belong to exit k, too? Only if they write nothing else. In
a chain such as VGG, where a stage is one convolution, nothing leaks: a filter writes one channel. If a stage has
several layers, the earlier ones feed f- and f+ (or a finer scale) at once, and gradients meet again there, as they do
in all earlier stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes.extraction import cuts
from dfs_edu.probes.gradients import Gradients, Segment, in_segments, pull
from dfs_edu.probes.paths import add, squares
from dfs_edu.surgery import Surgery


@dataclass(frozen=True)
class Leakage:
    """Lengths of gradients by path, for K exits and S scales, fine to coarse; S is 1 if the state is a tensor.

    A path is a part of the state that stage k passes on: of one scale, the shared channels (0) or the specific ones
    (1).

    Attributes:
        at_cut: (K - 1, K, S, 2), length of exit j's gradient of that part of f_k, for exit k and the deeper ones; NaN
            for j < k and for a missing scale.
        through: (K - 1, S, 2), length of the deeper exits' gradient that comes by this path alone, in the weights of
            stage k that write the specific channels of f_k's last scale, which exits read; NaN for a missing scale.
        own: (K - 1,), length of exit k's gradient in the same weights; 0 if there are none.
    """

    at_cut: np.ndarray
    through: np.ndarray
    own: np.ndarray

    def ratio(self) -> np.ndarray:
        """Return ``through`` over ``own``, (K - 1, S, 2): 1 if the others pull as hard as the owner.

        NaN if the owner does not pull.
        """
        own = np.where(self.own > 0, self.own, np.nan)
        return self.through / own[:, None, None]


@in_any_mode
def leakage(net: MultiExit, images: Tensor, labels: Tensor, beta: float = 0.5) -> Leakage:
    """Measure by which paths the deeper exits reach the channels and weights of each exit but the last, for one batch.

    The weights that write f- are those, entry by entry, that exit k's loss reaches through f-. Paths add up: their sum
    is the gradient that the deeper exits have in these weights.

    The network is left as it was. The cost is that of ``conflict`` and 2 S + 2 more passes through each stage but the
    last.

    Args:
        net: the network.
        images: as for ``conflict``.
        labels: as for ``conflict``.
        beta: which channels count as specific at a junction that is no surgery; a surgery's own beta counts.

    Raises:
        ValueError: for an invalid beta, and as for ``conflict``, like all other errors.
    """
    otherwise = Surgery(beta)
    with in_segments(net, images, labels) as segments:
        K, S = len(segments), max(len(segment.feature) for segment in segments)
        at_cut, through = np.full((K, K, S, 2), np.nan), np.full((K, S, 2), np.nan)
        own, surgeries = np.zeros(K), [cut or otherwise for cut in cuts(net)]
        upstream: list[Gradients] = []  # of the deeper exits, at what the stage passes on
        for k in reversed(range(K)):
            segment, cut = segments.pop(), surgeries[k]
            f = segment.feature
            present = slice(S - len(f), S)  # a state with fewer scales has the coarsest
            # What each exit from k onwards pulls on the feature: at the cut, and by it on the weights.
            pulls = [segment.own(f), *(pull(segment.onward, g, f) for g in upstream)]
            at_cut[k, k:, present] = [lengths(f, p, cut) for p in pulls]
            if k < K - 1:
                own[k], through[k, present] = _in_weights(segment, pulls, cut)
            upstream = [pull(f, p, segment.entered) for p in pulls]
    return Leakage(at_cut[:-1], through[:-1], own[:-1])


def lengths(feature: list[Tensor], gradients: Gradients, cut: Surgery) -> list[list[float]]:
    """Return the lengths of the gradients of each scale's shared and specific channels, (S, 2)."""
    found = []
    for f, g in zip(feature, gradients, strict=True):
        channels, shared = squares(g, f), cut.is_shared(f).flatten().cpu().numpy()
        found.append([np.sqrt(channels[part].sum()) for part in (shared, ~shared)])
    return found


def _in_weights(segment: Segment, pulls: list[Gradients], cut: Surgery) -> tuple[float, list[list[float]]]:
    """(length of the exit's own gradient, of the deeper ones' by each scale and part), in the weights that write f-."""
    last = len(segment.feature) - 1
    through_specific = pull(segment.feature, _only(pulls[0], last, False, cut), segment.parameters)
    writes = [None if g is None else g != 0 for g in through_specific]  # entry by entry
    deeper = pulls[1]
    for p in pulls[2:]:
        deeper = add(deeper, p)

    def length(gradients: Gradients) -> float:
        weights = pull(segment.feature, gradients, segment.parameters)
        entries = [g[w] for g, w in zip(weights, writes, strict=True) if g is not None and w is not None]
        return torch.cat(entries).cpu().double().norm().item() if entries else 0.0

    paths = [[length(_only(deeper, i, shared, cut)) for shared in (True, False)] for i in range(last + 1)]
    return length(pulls[0]), paths


def _only(gradients: Gradients, scale: int, shared: bool, cut: Surgery) -> Gradients:
    """The gradients of one part of one scale, without all others."""
    g = gradients[scale]
    part = None if g is None else torch.where(cut.is_shared(g) == shared, g, 0)
    return [part if i == scale else None for i in range(len(gradients))]
