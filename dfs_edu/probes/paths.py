"""Which channels carry the conflict: the feature of an exit, channel by channel, f+ against f-."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.precision import widest
from dfs_edu.probes.gradients import Gradients, in_legs, pull
from dfs_edu.surgery import Surgery, channel_dim


@dataclass(frozen=True)
class Channels:
    """What pulls on the C channels of f_k, the feature that exit k reads; of a list of scales, the last.

    dot      (C,) inner product of exit k's gradient and that of all deeper exits together; negative is conflict
    own      (C,) length of exit k's gradient
    deeper   (C,) length of the deeper exits'
    shared   (C,) bool: True for f+, False for f-

    All but `shared` are float64. A sum over pictures and places: with g_j the gradient of exit j's mean loss with
    respect to f_k, as the junction lets it through,

        dot_c = sum over b, x, y of g_k[b, c, x, y] * (g_k+1 + ... + g_K)[b, c, x, y]
    """

    dot: np.ndarray
    own: np.ndarray
    deeper: np.ndarray
    shared: np.ndarray

    def cosine(self) -> np.ndarray:
        """(C,): of the two gradients of each channel, in [-1, 1]; NaN where one of them is zero."""
        lengths = self.own * self.deeper
        return np.clip(_over(self.dot, lengths), -1, 1)

    def contribution(self) -> np.ndarray:
        """(C,): what each channel adds to the cosine of the whole feature; their sum is that cosine.

        0 where one of the two does not reach; NaN where one of them reaches no channel at all.
        """
        return _over(self.dot, np.linalg.norm(self.own) * np.linalg.norm(self.deeper))


@in_any_mode
def channels(net: MultiExit, images: Tensor, labels: Tensor, beta: float = 0.5) -> list[Channels]:
    """One `Channels` for each exit but the last, which has no deeper ones, for one batch.

    beta   which channels are f+ at a junction that is no surgery: as if it cut there; a surgery's own cut counts

    `Conflict` compares what arrives at weights; here it is told apart where it comes from. Behind a surgery with
    exit_gradient="own", every `dot` is exactly 0: f+ hears no exit k, f- no deeper exit. Where the trunk is frozen up
    to an exit, nobody pulls on its feature, and all is 0.

    Images, labels, what is left as it was found, what is raised and what is said of `cuts.Projection` are as in
    `conflict`. The cost is one training step: all exits go down together, each is told apart at its own feature.
    """
    cut = Surgery(beta)
    found = []
    with in_legs(net, images, labels) as legs:
        wanted = [None] * len(legs[-1].onward)
        while legs:
            leg = legs.pop()
            own, deeper = leg.own(leg.feature), pull(leg.onward, wanted, leg.feature)
            found.append(_channels(leg.feature[-1], own[-1], deeper[-1], cut_of(net, len(legs), cut)))
            wanted = pull(leg.feature, add(own, deeper), leg.entered, keep=False)
    return found[:0:-1]


def cut_of(net: MultiExit, k: int, otherwise: Surgery) -> Surgery:
    """The surgery of junction k, from 0; `otherwise` where it is another junction."""
    return net.junctions[k] if isinstance(net.junctions[k], Surgery) else otherwise


def add(a: Gradients, b: Gradients) -> Gradients:
    return [x if y is None else y if x is None else x + y for x, y in zip(a, b, strict=True)]


def squares(g: Tensor | None, f: Tensor) -> np.ndarray:
    """(C,): the sum of g * g over all but the channels of f, float64; g = None is zero."""
    return _dot(g, g, f)


def _channels(f: Tensor, own: Tensor | None, deeper: Tensor | None, cut: Surgery) -> Channels:
    lengths = [np.sqrt(squares(g, f)) for g in (own, deeper)]
    return Channels(_dot(own, deeper, f), *lengths, cut.is_shared(f).flatten().cpu().numpy())


def _dot(a: Tensor | None, b: Tensor | None, f: Tensor) -> np.ndarray:
    """(C,): the sum of a * b over all but the channels of f."""
    dim = channel_dim(f)
    if a is None or b is None:
        return np.zeros(f.shape[dim])
    return (widest(a) * widest(b)).sum([d for d in range(f.ndim) if d != dim]).double().cpu().numpy()


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full_like(a, np.nan), where=np.asarray(b) > 0)
