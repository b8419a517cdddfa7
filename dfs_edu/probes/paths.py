"""Which channels carry the conflict: the feature of an exit, channel by channel, f+ against f-."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.precision import widest
from dfs_edu.probes.extraction import cuts
from dfs_edu.probes.gradients import Gradients, in_segments, pull
from dfs_edu.surgery import Surgery, channel_dim


@dataclass(frozen=True)
class Channels:
    """What pulls on the C channels of f_k, the feature that exit k reads; of a list of scales, the last.

    A dot product is a sum over images and positions. With g_j the gradient of exit j's mean loss with respect to f_k,
    as the junction lets it through::

        dot_c = sum over b, x, y of g_k[b, c, x, y] * (g_k+1 + ... + g_K)[b, c, x, y]

    Attributes:
        dot: (C,) float64, inner product of exit k's gradient and the sum of all deeper exits'; negative is conflict.
        own: (C,) float64, length of exit k's gradient.
        deeper: (C,) float64, length of the sum of the deeper exits' gradients.
        shared: (C,) bool, True for f+, False for f-.
    """

    dot: np.ndarray
    own: np.ndarray
    deeper: np.ndarray
    shared: np.ndarray

    def cosine(self) -> np.ndarray:
        """Return the cosine of the two gradients of each channel, (C,), in [-1, 1]; NaN if one of them is zero."""
        lengths = self.own * self.deeper
        return np.clip(_over(self.dot, lengths), -1, 1)

    def contribution(self) -> np.ndarray:
        """Return what each channel adds to the cosine of the whole feature, (C,); their sum is that cosine.

        0 if one of the two does not reach the channel; NaN if one of them reaches no channel at all.
        """
        return _over(self.dot, np.linalg.norm(self.own) * np.linalg.norm(self.deeper))


@in_any_mode
def channels(net: MultiExit, images: Tensor, labels: Tensor, beta: float = 0.5) -> list[Channels]:
    """Compute one ``Channels`` for each exit but the last, which has no deeper ones, for one batch.

    ``Conflict`` compares gradients where they arrive, at the weights; this compares them where they come from. Behind a
    surgery with exit_gradient="own", every ``dot`` is exactly 0: no exit k reaches f+, no deeper exit f-. If the trunk
    is frozen up to an exit, nothing pulls on its feature, and all values are 0.

    The network is left as it was, and ``cuts.Projection`` looks joint, as for ``conflict``. The cost is one training
    step: all exits go down together, and are separated at each feature.

    Args:
        net: the network.
        images: as for ``conflict``.
        labels: as for ``conflict``.
        beta: which channels count as f+ at a junction that is no surgery; a surgery's own cut counts.

    Raises:
        ValueError: for an invalid beta, and as for ``conflict``, like all other errors.
    """
    otherwise = Surgery(beta)
    reports = []
    with in_segments(net, images, labels) as segments:
        surgeries = [cut or otherwise for cut in cuts(net)]
        upstream: Gradients = [None] * len(segments[-1].onward)  # of all deeper exits together
        while segments:
            segment = segments.pop()
            own, deeper = segment.own(segment.feature), pull(segment.onward, upstream, segment.feature)
            reports.append(_channels(segment.feature[-1], own[-1], deeper[-1], surgeries[len(segments)]))
            upstream = pull(segment.feature, add(own, deeper), segment.entered, keep=False)
    return reports[:0:-1]  # from shallow to deep, without the last exit, which was the first to be walked


def add(a: Gradients, b: Gradients) -> Gradients:
    """Return the sums of gradients, one by one."""
    return [x if y is None else y if x is None else x + y for x, y in zip(a, b, strict=True)]


def squares(g: Tensor | None, f: Tensor) -> np.ndarray:
    """Return the sum of g * g over all dimensions but the channels of f, (C,) float64; g = None is zero."""
    return _dot(g, g, f)


def _channels(f: Tensor, own: Tensor | None, deeper: Tensor | None, cut: Surgery) -> Channels:
    lengths = [np.sqrt(squares(g, f)) for g in (own, deeper)]
    return Channels(_dot(own, deeper, f), *lengths, cut.is_shared(f).flatten().cpu().numpy())


def _dot(a: Tensor | None, b: Tensor | None, f: Tensor) -> np.ndarray:
    """(C,): the sum of a * b over all dimensions but the channels of f."""
    dim = channel_dim(f)
    if a is None or b is None:
        return np.zeros(f.shape[dim])
    return (widest(a) * widest(b)).sum([d for d in range(f.ndim) if d != dim]).double().cpu().numpy()


def _over(a: np.ndarray, b: np.ndarray | np.floating) -> np.ndarray:
    """a / b, NaN where b is zero."""
    return np.divide(a, b, out=np.full_like(a, np.nan), where=np.asarray(b) > 0)
