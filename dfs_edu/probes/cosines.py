"""Gradient conflict: how far the exits of a network agree on where each layer of the trunk should go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.precision import widest
from dfs_edu.probes.gradients import Gradients, Segment, in_segments


@dataclass(frozen=True)
class Conflict:
    """Cosines and norms of the exits' gradients in L layers, for K exits, shallow to deep.

    Both arrays are float64, and NaN where an exit does not reach a layer.

    Attributes:
        layers: L names, first to last, as in the state_dict without the parameter's own: "stages.0.conv".
        cosine: (L, K, K), in [-1, 1], between the gradients of two exits; negative is conflict, 1 on the diagonal.
        norm: (L, K), the length of each exit's gradient.
    """

    layers: list[str]
    cosine: np.ndarray
    norm: np.ndarray

    def pairs(self) -> np.ndarray:
        """Return each pair's cosine once, (L, K(K-1)/2): exits (1, 2), (1, 3), ..., (K-1, K)."""
        first, second = np.triu_indices(self.norm.shape[1], k=1)
        return self.cosine[:, first, second]

    def conflicting(self) -> np.ndarray:
        """Return (L,), the fraction of negative cosines among the pairs that both reach a layer; NaN if none does."""
        return _share_negative(self.pairs(), 1)

    def by_stage(self) -> Conflict:
        """Return the same for whole stages, the layers of each concatenated: K rows, "stages.0" ..., instead of L.

        The row of a stage without parameters is NaN.
        """
        stages = [".".join(name.split(".")[:2]) for name in self.layers]
        names = [f"stages.{s}" for s in range(self.norm.shape[1])]
        # Inner products of concatenated gradients are sums of inner products.
        dots = np.nan_to_num(self.cosine * self.norm[:, :, None] * self.norm[:, None])  # (L, K, K)
        dot = np.stack([dots[[s == name for s in stages]].sum(0) for name in names])  # (K, K, K)
        norm = np.sqrt(np.diagonal(dot, axis1=1, axis2=2))  # (K, K)
        norm = np.where(norm > 0, norm, np.nan)
        return Conflict(names, np.clip(dot / (norm[:, :, None] * norm[:, None]), -1, 1), norm)

    def exit_norm(self) -> np.ndarray:
        """Return (K,), the length of each exit's gradient of the whole trunk; 0 for one that reaches no layer."""
        return np.sqrt(np.nansum(self.norm**2, 0))

    def exit_conflict(self) -> np.ndarray:
        """Return (K,), in what fraction of its meetings with another exit in a layer an exit conflicts; NaN if none."""
        L, K = self.norm.shape
        others = self.cosine[:, ~np.eye(K, dtype=bool)].reshape(L, K, K - 1)
        return _share_negative(others, (0, 2))


def _share_negative(cosine: np.ndarray, axes: int | tuple[int, ...]) -> np.ndarray:
    """The fraction of negative values among those that are not NaN; NaN if all are."""
    met = (~np.isnan(cosine)).sum(axes)
    return np.where(met > 0, (cosine < 0).sum(axes) / np.maximum(met, 1), np.nan)


@in_any_mode
def conflict(net: MultiExit, images: Tensor, labels: Tensor) -> Conflict:
    """Compute cosines and norms of the exits' gradients in every layer of the trunk, for one batch.

    A layer is a module of ``net.stages`` that owns parameters; its gradient is that of its trainable parameters,
    concatenated, so a bias counts with its weight. The loss of an exit is its mean cross-entropy. Heads are not
    reported, since no two exits share them. An exit "does not reach" a layer if its gradient there is exactly zero:
    because a junction cuts it off, the exit lies before the layer, the layer is frozen, or every unit is dead.

    The batch is seen as in training: BatchNorm uses its statistics and dropout drops, the same for all exits.
    Afterwards modes, buffers, ``.grad`` and random state are as they were. The cost is one forward pass and, for each
    exit, a backward pass as deep as that exit lies; gradients.py explains the memory.

    Exits are probed one at a time, so a ``cuts.Projection``, which needs them together, looks like a joint network.

    Args:
        net: the network.
        images: (B, C, H, W), floating point, as the network gets them in training.
        labels: (B,), int64.

    Raises:
        TypeError: for another kind of network.
        ValueError: for invalid images or labels, and for a parameter that a stage shares with another stage or a head.
        FloatingPointError: for a loss that is not finite.

    >>> from dfs_edu.backbones import build
    >>> report = conflict(build("vgg7-16", classes=10), torch.rand(8, 3, 32, 32), torch.arange(8))
    >>> report.cosine.shape, report.layers[2]
    ((12, 6, 6), 'stages.1.conv')
    >>> np.isnan(report.norm[2]).tolist()  # exit 1 lies before the second stage
    [True, False, False, False, False, False]
    """
    with in_segments(net, images, labels) as segments:
        return _walk(net, segments)


def _walk(net: MultiExit, segments: list[Segment]) -> Conflict:
    """Walk the segments from the deepest to the first; they are used up."""
    K = len(segments)
    stages = [_layers(stage, f"stages.{s}") for s, stage in enumerate(net.stages)]
    names = [name for layers in stages for name in layers]
    cosine, norm = np.full((len(names), K, K), np.nan), np.full((len(names), K), np.nan)
    upstream: list[Gradients] = []
    for s in reversed(range(K)):
        gradients, upstream = segments.pop().backward(upstream)
        for name, layer in stages[s].items():
            row = names.index(name)
            cosine[row, s:, s:], norm[row, s:] = _compare([_concatenated(layer, exit) for exit in gradients])
        del gradients  # before the next stage's are computed
    return Conflict(names, cosine, norm)


def _layers(stage: nn.Module, prefix: str) -> dict[str, list[Tensor]]:
    """The parameters of a stage, by the name of the module that owns them, first to last."""
    owned = {f"{prefix}.{name}".rstrip("."): list(m.parameters(recurse=False)) for name, m in stage.named_modules()}
    return {name: parameters for name, parameters in owned.items() if parameters}


def _concatenated(layer: list[Tensor], gradients: dict[Tensor, Tensor | None]) -> Tensor | None:
    """One exit's gradient of a layer, (P,), or None if it is zero."""
    parts = [(p, gradients.get(p)) for p in layer]
    if all(g is None for _, g in parts):
        return None
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in parts])


def _compare(gradients: Gradients) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (n, n) and norms (n,) of n gradients (P,)."""
    n = len(gradients)
    cosine, norm = np.full((n, n), np.nan), np.full(n, np.nan)
    reaching = {i: g for i, g in enumerate(gradients) if g is not None}
    if reaching:
        matrix, rows = widest(torch.stack(list(reaching.values()))), list(reaching)
        lengths = matrix.norm(dim=1)
        unit = matrix / lengths[:, None]
        cosine[np.ix_(rows, rows)] = (unit @ unit.T).clamp(-1, 1).cpu()
        norm[rows] = lengths.cpu()
    return cosine, norm
