"""Leakage: by which paths the deeper exits still reach what an exit calls its own.

A surgery at exit k says: f-, the exit-specific channels, belong to exit k. Two things can still be asked.

At the cut: which channels of f_k does the gradient of a deeper exit reach? Behind a cut, f- gets exactly none. But of
a list of scales the published surgery cuts the coarsest alone, and the finer ones pass on whole.

In the weights: f- is written by weights of stage k. Do these belong to exit k, too? Only if they write nothing else.
In a chain such as VGG, where a stage is one convolution, they do not leak: a filter writes one channel. Where a stage
has several layers, the earlier ones feed f- and f+ (or a finer scale) at once, and gradients meet again there. So they
do in all earlier stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes.gradients import Gradients, Leg, in_legs, pull
from dfs_edu.probes.paths import add, cut_of, squares
from dfs_edu.surgery import Surgery


@dataclass(frozen=True)
class Leakage:
    """What `leakage` found for K exits and S scales, fine to coarse; S is 1 where the state is a tensor.

    A path is a part of the state that stage k hands on: of a scale, the shared channels (0) or the specific ones (1).

    at_cut   (K - 1, K, S, 2): length of exit j's gradient of that part of f_k, for exit k and the deeper ones; NaN for
             j < k and for a scale that is not there
    through  (K - 1, S, 2): length of the deeper exits' gradient that comes by this path alone, in the weights of stage
             k that write the specific channels of f_k's last scale, the one that exits read; NaN as above
    own      (K - 1,): length of exit k's gradient in the same weights; 0 where there are none
    """

    at_cut: np.ndarray
    through: np.ndarray
    own: np.ndarray

    def ratio(self) -> np.ndarray:
        """(K - 1, S, 2): `through` over `own`; 1 where the others pull as hard as the owner, NaN where it pulls not."""
        own = np.where(self.own > 0, self.own, np.nan)
        return self.through / own[:, None, None]


@in_any_mode
def leakage(net: MultiExit, images: Tensor, labels: Tensor, beta: float = 0.5) -> Leakage:
    """By which paths the deeper exits reach the channels and weights of each exit but the last, for one batch.

    beta   which channels are specific at a junction that is no surgery: as if it cut there; a surgery's own beta counts

    The weights that write f- are those, entry by entry, that exit k's loss reaches through f-. Paths add up: what all
    of them bring together is the gradient that the deeper exits have in these weights.

    Images, labels, what is left as it was found and what is raised are as in `conflict`. The cost is that of `conflict`
    and 2 S + 2 more passes through each stage but the last.
    """
    with in_legs(net, images, labels) as legs:
        K, S = len(legs), max(len(leg.feature) for leg in legs)
        at_cut, through = np.full((K, K, S, 2), np.nan), np.full((K, S, 2), np.nan)
        own = np.zeros(K)
        wanted: list[Gradients] = []
        for k in reversed(range(K)):
            leg, cut = legs.pop(), cut_of(net, k, Surgery(beta))
            present = slice(S - len(leg.feature), S)
            pulls = [leg.own(leg.feature), *(pull(leg.onward, g, leg.feature) for g in wanted)]
            at_cut[k, k:, present] = [_lengths(leg.feature, p, cut) for p in pulls]
            if k < K - 1:
                own[k], through[k, present] = _in_weights(leg, pulls, cut)
            wanted = [pull(leg.feature, p, leg.entered) for p in pulls]
    return Leakage(at_cut[:-1], through[:-1], own[:-1])


def _lengths(feature: list[Tensor], gradients: Gradients, cut: Surgery) -> list[list[float]]:
    """Of the gradients of each scale's shared and specific channels."""
    found = [(squares(g, f), cut.is_shared(f).flatten().cpu().numpy()) for f, g in zip(feature, gradients, strict=True)]
    return [[np.sqrt(channels[part].sum()) for part in (shared, ~shared)] for channels, shared in found]


def _in_weights(leg: Leg, pulls: list[Gradients], cut: Surgery) -> tuple[float, list[list[float]]]:
    """(length of the exit's own gradient, of the deeper ones' by each scale and part), in the weights that write f-."""
    last = len(leg.feature) - 1
    mine = pull(leg.feature, _only(pulls[0], last, False, cut), leg.parameters)
    write = [None if g is None else g != 0 for g in mine]
    deeper = pulls[1]
    for p in pulls[2:]:
        deeper = add(deeper, p)

    def length(gradients: Gradients) -> float:
        found = pull(leg.feature, gradients, leg.parameters)
        heard = [g[w] for g, w in zip(found, write, strict=True) if g is not None and w is not None]
        return torch.cat(heard).cpu().double().norm().item() if heard else 0.0

    paths = [[length(_only(deeper, i, shared, cut)) for shared in (True, False)] for i in range(last + 1)]
    return length(pulls[0]), paths


def _only(gradients: Gradients, scale: int, shared: bool, cut: Surgery) -> Gradients:
    """The gradients with all but one part of one scale taken away."""
    g = gradients[scale]
    part = None if g is None else torch.where(cut.is_shared(g) == shared, g, 0)
    return [part if i == scale else None for i in range(len(gradients))]
