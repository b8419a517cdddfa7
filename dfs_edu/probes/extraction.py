"""Each exit's feature of each image: one row per image, one column per channel; which columns are f+ and f-."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfs_edu.modes import as_found, evaluating, in_any_mode
from dfs_edu.multiexit import MultiExit, State
from dfs_edu.probes.checks import check_network
from dfs_edu.surgery import Surgery, channel_dim

PARTS = ("shared", "specific")  # f+ and f-
Batches = Iterable[tuple[Tensor, Tensor]]  # (images (B, 3, H, W), labels (B,)) on the network's device


@dataclass(frozen=True)
class Features:
    """The features of K exits for N images, as ``features`` collects them.

    Attributes:
        pooled: K tensors float32 (N, C_k) on the CPU, the channels of f+ first.
        label: int64 (N,), the true class.
        shared: K numbers: how many of exit k's channels, the first ones, are f+; None if the feature is not cut.
    """

    pooled: list[Tensor]
    label: Tensor
    shared: list[int | None]

    def part(self, exit: int, part: str) -> Tensor:
        """Return (N, C), the channels of one part of an exit's feature.

        Args:
            exit: index of the exit, from 0.
            part: "shared" (f+), "specific" (f-) or "whole".

        Raises:
            ValueError: for another part, and for a part of a feature that is not cut.
        """
        if part not in (*PARTS, "whole"):
            raise ValueError(f"part={part!r}: use one of {', '.join(PARTS)}, whole")
        f, n = self.pooled[exit], self.shared[exit]
        if part == "whole":
            return f
        if n is None:
            raise ValueError(f"the feature of exit {exit + 1} is not cut: it has no {part} part")
        return f[:, :n] if part == "shared" else f[:, n:]


@in_any_mode
def features(net: MultiExit, batches: Batches, beta: float | None = None) -> Features:
    """Collect the feature that leaves each stage, for every image of the batches, in their order.

    A channel is pooled to one number per image: its mean over all positions, which is all that a linear exit reads, or
    over all tokens, including the class token. If the state is a list of scales, it is the coarsest, which the exits
    read. Only the activations of one batch are held, and N numbers per channel; no head is run.

    The network works in eval mode without gradients and is left as it was.

    Args:
        net: the network.
        batches: yields (images (B, 3, H, W), labels (B,)) on the network's device.
        beta: where the features count as cut, at every exit but the last; None: where the network's junctions cut them.
            So a joint network can be probed as if it had been cut: the control of every finding about f+ and f-.

    Raises:
        TypeError: for another kind of network.
        ValueError: if there are no images, and for features that are not finite.
    """
    cut = cuts(net, beta)
    rows, labels = [[] for _ in cut], []
    with as_found(net), evaluating(net):
        for images, label in batches:
            labels.append(label.cpu())
            state = images
            for k, (stage, junction) in enumerate(zip(net.stages, net.junctions, strict=True)):
                feature = stage(state)
                rows[k].append(_pool(feature).float().cpu())
                state, _ = junction(feature)
    if not labels:
        raise ValueError("batches holds no images")

    pooled = [_shared_first(torch.cat(row), c) for row, c in zip(rows, cut, strict=True)]
    for k, f in enumerate(pooled, start=1):
        if not f.isfinite().all():
            raise ValueError(f"the feature of exit {k} holds {f[~f.isfinite()][0].item()}: it is not finite")
    shared = [None if c is None else c.shared(f.shape[1]) for c, f in zip(cut, pooled, strict=True)]
    return Features(pooled, torch.cat(labels), shared)


def cuts(net: MultiExit, beta: float | None = None) -> list[Surgery | None]:
    """Return the cut of each exit's feature: its junction's, or with beta one at beta, except at the last exit.

    It is None if a feature is not cut.

    Raises:
        TypeError: for another kind of network.
        ValueError: for a beta that is not a number from 0 to 1.
    """
    check_network(net)
    if beta is not None:
        return [*[Surgery(beta)] * (len(net.junctions) - 1), None]
    return [junction if isinstance(junction, Surgery) else None for junction in net.junctions]


def _shared_first(f: Tensor, cut: Surgery | None) -> Tensor:
    """(N, C), the channels of f+ first; some cuts take other channels than the first."""
    if cut is None:
        return f
    shared = cut.is_shared(f)  # (C,)
    return torch.cat([f[:, shared], f[:, ~shared]], 1)


def _pool(feature: State) -> Tensor:
    f = feature if isinstance(feature, Tensor) else feature[-1]
    positions = [dim for dim in range(1, f.ndim) if dim != channel_dim(f)]
    return f.mean(positions) if positions else f  # (B, C)
