"""Wiring: which channels each exit sees, and where its gradient arrives, in the whole network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes.extraction import cuts
from dfs_edu.probes.gradients import Segment, in_segments, pull
from dfs_edu.probes.leaks import lengths
from dfs_edu.probes.pulling import pulls
from dfs_edu.surgery import Junction, Surgery, channel_dim


@dataclass(frozen=True)
class Wiring:
    """Who sees and who pulls, for K exits; f_k is the feature that exit k reads, of a list of scales the last.

    A weight is one number of a trainable parameter of a stage. An exit pulls on it if the gradient of its loss is not
    zero there.

    Attributes:
        views: K arrays (4, C_k), what the junction does to each channel of f_k, as ``pulls`` returns it.
        shared: K masks (C_k,), True for the channels of f+; None if f_k is not cut.
        reach: (K, K, 2) bool; [k, j]: whether the gradient of exit j arrives at f+ and at f- of f_k. If f_k is not cut,
            both say whether it arrives at all.
        weights: (K,) int64, the number of weights of each stage.
        pulled: (K, K) int64; [s, j]: on how many weights of stage s exit j pulls.
        several: (K,) int64, on how many of them two or more exits pull.
        opposed: (K,) int64, how many of them are in conflict: two exits pull in opposite directions.
        scales: The largest number of scales of the trunk's state; 1 if it is a tensor.
    """

    views: list[np.ndarray]
    shared: list[np.ndarray | None]
    reach: np.ndarray
    weights: np.ndarray
    pulled: np.ndarray
    several: np.ndarray
    opposed: np.ndarray
    scales: int


@in_any_mode
def wiring(net: MultiExit, images: Tensor, labels: Tensor) -> Wiring:
    """Return which channels each exit sees, where its gradient arrives, and which weights are in conflict.

    What is seen follows from the junctions (``pulls``). Where gradients arrive is measured for one batch: at the
    features as in ``leakage``, and at each weight. In a small batch some units may be dead, and pull on nothing.

    The network is left as it was. The cost is that of ``conflict``.

    Args:
        net: the network.
        images: as for ``conflict``.
        labels: as for ``conflict``.

    Raises:
        ValueError: as for ``conflict``, like all other errors.

    >>> from dfs_edu.backbones import build
    >>> net = build("vgg7-16", classes=10, junction=Surgery(beta=0.5))
    >>> found = wiring(net, torch.rand(8, 3, 32, 32), torch.arange(8))
    >>> found.reach[0, :, 1].tolist()  # f- of exit 1 belongs to exit 1 alone
    [True, False, False, False, False, False]
    """
    with in_segments(net, images, labels) as segments:
        features = [segment.feature for segment in segments]
        channels = [f[-1].shape[channel_dim(f[-1])] for f in features]
        cut, reach = cuts(net), np.zeros((len(segments), len(segments), 2), bool)
        counts = _walk(segments, cut, reach)
    return Wiring(
        [_views(junction, len(f), C) for junction, f, C in zip(net.junctions, features, channels, strict=True)],
        [None if c is None else c.mask(C).numpy() for c, C in zip(cut, channels, strict=True)],
        reach,
        scales=max(map(len, features)),
        **counts,
    )


def _views(junction: Junction, scales: int, channels: int) -> np.ndarray:
    return pulls(junction.on_scale(scales - 1, scales) if scales > 1 else junction, channels)


def _walk(segments: list[Segment], cut: list[Surgery | None], reach: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``Wiring``'s numbers of weights and fill in its reach, from the deepest stage; segments are used up."""
    K = len(segments)
    counts = {name: np.zeros(K, np.int64) for name in ("weights", "several", "opposed")}
    pulled, upstream = np.zeros((K, K), np.int64), []
    for s in reversed(range(K)):
        segment = segments.pop()
        f, n = segment.feature, len(segment.parameters)
        # What each exit from s onwards pulls: on the feature, on the weights, on what came in
        inputs = [*f, *segment.parameters, *segment.entered]
        found = [segment.own(inputs), *(pull(segment.onward, g, inputs) for g in upstream)]
        parts = np.array([lengths(f, g[: len(f)], cut[s] or Surgery()) for g in found])[:, -1] > 0
        reach[s, s:] = parts if cut[s] else parts.any(1, keepdims=True)
        for i, p in enumerate(segment.parameters, start=len(f)):
            signs = torch.stack([torch.zeros_like(p) if g is None else g.sign() for g in (exit[i] for exit in found)])
            pulled[s, s:] += (signs != 0).flatten(1).sum(1).cpu().numpy()
            counts["weights"][s] += p.numel()
            counts["several"][s] += int(((signs != 0).sum(0) > 1).sum())
            counts["opposed"][s] += int(((signs.amin(0) < 0) & (signs.amax(0) > 0)).sum())
        upstream = [g[len(f) + n :] for g in found]
    return counts | {"pulled": pulled}
