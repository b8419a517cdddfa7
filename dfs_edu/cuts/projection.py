"""Nothing is cut: gradients that oppose each other are projected."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfs_edu.precision import at_least_float32
from dfs_edu.surgery import Junction


@dataclass(frozen=True)
class Projection(Junction):
    """Nothing is cut: where the two gradients of a picture's feature oppose each other, they stop doing so.

    PCGrad (Yu et al., NeurIPS 2020) at the junction, picture by picture, for two tasks: this exit, and all deeper
    ones. Both gradients are there in one backward pass, so no further one is needed.

    who    "both": each loses its component along the other; "exit": only the exit's gradient yields

    This rule is not linear: it needs the gradients of all exits in one backward pass. Pulled one by one, as conflict
    probes pull and methods that weigh gradients do, exits never meet here.
    """

    linear = False
    who: str = "both"

    def __post_init__(self):
        if self.who not in ("both", "exit"):
            raise ValueError(f'who={self.who!r}: use "both" or "exit"')

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        seen = _without(g_seen, g_onward)
        return seen + (_without(g_onward, g_seen) if self.who == "both" else g_onward)


def _without(g: Tensor, other: Tensor) -> Tensor:
    """g without its component along `other`, for each picture where the two oppose each other; (B, ...) both."""
    a, b = (at_least_float32(t.flatten(1)) for t in (g, other))  # squares of small bfloat16 gradients would underflow
    along = (a * b).sum(1).clamp(max=0) / (b * b).sum(1).clamp(min=torch.finfo(b.dtype).tiny)
    return g - along.to(g.dtype).view(-1, *[1] * (g.ndim - 1)) * other
