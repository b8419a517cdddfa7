"""Other cuts than the published one, built to be compared with it and with joint training on an equal recipe.

Each changes one thing about Deep Feature Surgery (surgery.py). What came out is in notebook 12 and the README.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfs_edu.surgery import Joint, Junction, Surgery, channel_dim, check_share


@dataclass(frozen=True)
class Projection(Junction):
    """Nothing is cut: where the two gradients of a picture's feature oppose each other, they stop doing so.

    PCGrad (Yu et al., NeurIPS 2020) at the junction, picture by picture, for two tasks: this exit, and all deeper
    ones. Both gradients are there in one backward pass, so no further one is needed.

    who    "both": each loses its component along the other; "exit": only the exit's gradient yields

    Unlike every other junction's, this rule is not linear: it needs the gradients of all exits in one backward pass.
    Pulled one by one, as conflict probes pull and methods that weigh gradients do, exits never meet here.
    """

    who: str = "both"

    def __post_init__(self):
        if self.who not in ("both", "exit"):
            raise ValueError(f'who={self.who!r}: use "both" or "exit"')

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        seen = _without(g_seen, g_onward)
        return seen + (_without(g_onward, g_seen) if self.who == "both" else g_onward)


def _without(g: Tensor, other: Tensor) -> Tensor:
    """g without its component along `other`, for each picture where the two oppose each other; (B, ...) both."""
    a, b = g.flatten(1).float(), other.flatten(1).float()  # squares of small bfloat16 gradients would underflow
    along = (a * b).sum(1).clamp(max=0) / (b * b).sum(1).clamp(min=torch.finfo(b.dtype).tiny)
    return g - along.to(g.dtype).view(-1, *[1] * (g.ndim - 1)) * other


@dataclass(frozen=True)
class Interleaved(Surgery):
    """Surgery whose shared channels are spread evenly over all of them, instead of being the first."""

    def is_shared(self, t: Tensor) -> Tensor:
        dim = channel_dim(t)
        mask = torch.from_numpy(self._mask(t.shape[dim])).to(t.device)
        return mask.view(-1, *[1] * (t.ndim - dim - 1))

    def live(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        shared = self._mask(channels)
        return shared, np.ones(channels, bool) if self.exit_gradient == "all" else ~shared

    def _mask(self, channels: int) -> np.ndarray:
        return np.diff(np.arange(channels + 1) * self.shared(channels) // max(channels, 1)) > 0  # (C,)


@dataclass(frozen=True)
class Graded(Surgery):
    """Surgery whose beta goes evenly from `beta`, at exit 1, to `last`, at the last exit that is cut, K - 1."""

    last: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_share("last", self.last)

    def at(self, k: int, exits: int) -> Junction:
        if k == exits:
            return Joint()
        way = (k - 1) / max(exits - 2, 1)
        return Surgery(self.beta + way * (self.last - self.beta), self.reference, self.exit_gradient, self.scales)


@dataclass(frozen=True)
class Damped(Surgery):
    """Between "own" and "all": the exit's gradient reaches f+ as well, `damping` times as strong as f-."""

    exit_gradient: str = "all"
    damping: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_share("damping", self.damping, "how strong the exit's gradient is in f+")
        if self.exit_gradient != "all":
            raise ValueError(f'exit_gradient={self.exit_gradient!r}: damping is for "all"')

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        return torch.where(self.is_shared(g_onward), g_onward + self.damping * g_seen, g_seen)
