"""Projection of gradients that oppose each other, instead of a cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfs_edu.precision import at_least_float32
from dfs_edu.surgery import Junction


@dataclass(frozen=True)
class Projection(Junction):
    """PCGrad at the junction, image by image, for two tasks: this exit, and all deeper ones.

    Where the two gradients of an image's feature oppose each other, they lose the components that do. Both are there in
    the same backward pass, so no further one is needed.

    The rule is not linear: it needs the gradients of all exits in one backward pass. Conflict probes, and methods that
    weight gradients, run one backward pass per exit; there the two gradients never meet.

    Args:
        who: "both": each gradient loses its component along the other; "exit": only the exit's gradient does.

    Source:
        Yu et al., NeurIPS 2020.
    """

    linear: ClassVar[bool] = False
    words: ClassVar[dict[str, tuple[str, object]]] = {"exit": ("who", "exit")}

    who: str = "both"

    def __post_init__(self):
        if self.who not in ("both", "exit"):
            raise ValueError(f'who={self.who!r}: use "both" or "exit"')

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        seen = _without(g_seen, g_onward)
        return seen + (_without(g_onward, g_seen) if self.who == "both" else g_onward)


def _without(g: Tensor, other: Tensor) -> Tensor:
    """g (B, ...) without its component along ``other`` (B, ...), for every image where the two oppose each other."""
    a, b = (at_least_float32(t.flatten(1)) for t in (g, other))  # squares of small bfloat16 gradients would underflow
    along = (a * b).sum(1).clamp(max=0) / (b * b).sum(1).clamp(min=torch.finfo(b.dtype).tiny)
    return g - along.to(g.dtype).view(-1, *[1] * (g.ndim - 1)) * other
