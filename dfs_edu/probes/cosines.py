"""Gradient conflict: how far the exits of a network agree on where each layer of the trunk should go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.precision import widest
from dfs_edu.probes.gradients import Leg, in_legs


@dataclass(frozen=True)
class Conflict:
    """What `conflict` found in L layers and K exits; exits run from shallow to deep.

    layers   L names, first to last, as in the state_dict without the parameter's own: "stages.0.conv"
    cosine   (L, K, K), in [-1, 1], between the gradients of two exits; negative is conflict, 1 on the diagonal
    norm     (L, K), the length of each exit's gradient

    Both are float64, and NaN where an exit does not reach a layer.
    """

    layers: list[str]
    cosine: np.ndarray
    norm: np.ndarray

    def pairs(self) -> np.ndarray:
        """(L, K(K-1)/2): the cosine of each pair of different exits, once; (1, 2), (1, 3), ..., (K-1, K)."""
        first, second = np.triu_indices(self.norm.shape[1], k=1)
        return self.cosine[:, first, second]

    def conflicting(self) -> np.ndarray:
        """(L,): the fraction with a negative cosine among the pairs of exits that both reach the layer; NaN if none."""
        pairs = self.pairs()
        met = (~np.isnan(pairs)).sum(1)
        return np.where(met > 0, (pairs < 0).sum(1) / np.maximum(met, 1), np.nan)

    def by_stage(self) -> Conflict:
        """The same with the layers of each stage put end to end: K rows, "stages.0" ... instead of L.

        The row of a stage without parameters is NaN.
        """
        stages = [".".join(name.split(".")[:2]) for name in self.layers]
        names = [f"stages.{s}" for s in range(self.norm.shape[1])]
        dots = np.nan_to_num(self.cosine * self.norm[:, :, None] * self.norm[:, None])  # (L, K, K)
        dot = np.stack([dots[[s == name for s in stages]].sum(0) for name in names])  # (K, K, K)
        norm = np.sqrt(np.diagonal(dot, axis1=1, axis2=2))  # (K, K)
        norm = np.where(norm > 0, norm, np.nan)
        return Conflict(names, np.clip(dot / (norm[:, :, None] * norm[:, None]), -1, 1), norm)

    def exit_norm(self) -> np.ndarray:
        """(K,): the length of each exit's gradient of the whole trunk; 0 for one that reaches no layer."""
        return np.sqrt(np.nansum(self.norm**2, 0))

    def exit_conflict(self) -> np.ndarray:
        """(K,): how often an exit pulls against another one, of all its meetings with one in a layer; NaN if none."""
        K = self.norm.shape[1]
        cosine = self.cosine[:, ~np.eye(K, dtype=bool)].reshape(
            len(self.layers), K, K - 1
        )  # (L, K, K - 1), without itself
        met = (~np.isnan(cosine)).sum((0, 2))
        return np.where(met > 0, (cosine < 0).sum((0, 2)) / np.maximum(met, 1), np.nan)


@in_any_mode
def conflict(net: MultiExit, images: Tensor, labels: Tensor) -> Conflict:
    """Cosines and norms of the exits' gradients in every layer of the trunk, for one batch.

    images   (B, C, H, W), floating point, as the network gets them in training
    labels   (B,), int64

    A layer is a module of `net.stages` that owns parameters; its gradient is that of its trainable parameters put end
    to end, so a bias counts with its weight. The loss of an exit is its mean cross-entropy. Heads are not reported:
    nobody shares them. "Does not reach": the gradient is exactly zero, because a junction cuts it off, the exit lies
    before the layer, the layer is frozen, or every unit is dead.

    The batch is seen as training sees it, so BatchNorm uses its statistics and dropout drops, for all exits the same;
    afterwards mode, buffers, `.grad` and random state are as they were. The cost is one forward pass and, for each
    exit, a backward pass as deep as that exit lies; memory is explained in gradients.py.

    Exits are told apart one by one, so a `cuts.Projection`, which needs them together, shows as if it were joint.

    Raises TypeError or ValueError, naming what is wrong, for other inputs and for a parameter that a stage shares with
    another stage or a head, and FloatingPointError for a loss that is not finite.

    >>> from dfs_edu.backbones import build
    >>> report = conflict(build("vgg7-16", classes=10), torch.rand(8, 3, 32, 32), torch.arange(8))
    >>> report.cosine.shape, report.layers[2]
    ((12, 6, 6), 'stages.1.conv')
    >>> np.isnan(report.norm[2]).tolist()  # exit 1 lies before the second stage
    [True, False, False, False, False, False]
    """
    with in_legs(net, images, labels) as legs:
        return _walk(net, legs)


def _walk(net: MultiExit, legs: list[Leg]) -> Conflict:
    """The legs from the deepest to the first; they are used up."""
    K = len(legs)
    stages = [_layers(stage, f"stages.{s}") for s, stage in enumerate(net.stages)]
    names = [name for layers in stages for name in layers]
    cosine, norm = np.full((len(names), K, K), np.nan), np.full((len(names), K), np.nan)
    wanted = []
    for s in reversed(range(K)):
        gradients, wanted = legs.pop().backward(wanted)
        for name, layer in stages[s].items():
            row = names.index(name)
            cosine[row, s:, s:], norm[row, s:] = _compare([_flat(layer, found) for found in gradients])
        del gradients  # before the next stage's come
    return Conflict(names, cosine, norm)


def _layers(stage: nn.Module, prefix: str) -> dict[str, list[Tensor]]:
    """The modules of a stage that own parameters, by name, first to last."""
    owned = {f"{prefix}.{name}".rstrip("."): list(m.parameters(recurse=False)) for name, m in stage.named_modules()}
    return {name: parameters for name, parameters in owned.items() if parameters}


def _flat(layer: list[Tensor], found: dict[Tensor, Tensor | None]) -> Tensor | None:
    """One exit's gradient of a layer, (P,), or None where it is zero."""
    parts = [(p, found.get(p)) for p in layer]
    if all(g is None for _, g in parts):
        return None
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in parts])


def _compare(gradients: list[Tensor | None]) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (n, n) and norms (n,) of n gradients (P,)."""
    n = len(gradients)
    cosine, norm = np.full((n, n), np.nan), np.full(n, np.nan)
    reached = [i for i, g in enumerate(gradients) if g is not None]
    if reached:
        matrix = widest(torch.stack([gradients[i] for i in reached]))
        lengths = matrix.norm(dim=1)
        unit = matrix / lengths[:, None]
        cosine[np.ix_(reached, reached)] = (unit @ unit.T).clamp(-1, 1).cpu()
        norm[reached] = lengths.cpu()
    return cosine, norm
