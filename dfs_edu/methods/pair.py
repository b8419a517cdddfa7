"""The weights of two gradients in closed form: what the page computes for the two arrows (static/arrows.js), in Python.

For two gradients that conflict, PCGrad takes from each its component along the other, and so does UPGrad; the first
adds up the two results, the second averages them. So both point the same way, and the order in which PCGrad visits the
gradients plays no part. From three gradients onwards neither is true.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIRED = ("sum", "pcgrad", "upgrad")


def weights_of_two(gramian: Tensor, length: str = "sum") -> dict[str, Tensor]:
    """Return the weights of two gradients in each method's step, name -> float64 (2,), given their Gramian (2, 2).

    They are those of ``methods.make(name, 2, length=length).weights(gramian)``; UPGrad's are exact here, while torchjd
    adds 0.0001 of the trace to the diagonal of the Gramian before it solves.

    Args:
        gramian: Scalar products of the two gradients. One that is zero gets the weight 0, except in the sum.
        length: "sum": each step is as long as the sum of the gradients; "own": as in each method's paper.

    Raises:
        ValueError: The Gramian is not two by two and finite, or the length is neither.

    >>> weights_of_two(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]), "own")["pcgrad"].tolist()
    [2.0, 1.5]
    """
    if gramian.shape != (2, 2) or not gramian.isfinite().all():
        raise ValueError(f"gramian={gramian.tolist()}: give the finite scalar products (2, 2) of two gradients")
    if length not in ("sum", "own"):
        raise ValueError(f'length={length!r}: use "sum" or "own"')
    G = gramian.double().cpu()
    squares, dot = G.diagonal(), G[0, 1]

    # Each gradient loses its component along the other, if they conflict
    weights = (squares > 0).double()
    factor = torch.tensor(0.5 if weights.sum() == 2 else 1.0).double()
    if dot < 0 and weights.all():
        weights = 1 - dot / squares
    found = {"sum": torch.ones(2).double(), "pcgrad": weights, "upgrad": factor * weights}
    return found if length == "own" else {name: _as_long_as_the_sum(w, G) for name, w in found.items()}


def _as_long_as_the_sum(weights: Tensor, gramian: Tensor) -> Tensor:
    """The weights times a number, such that the step has the length of the sum's; unchanged if it has none."""
    own, target = ((w @ gramian @ w).clamp(min=0).sqrt() for w in (weights, torch.ones(2).double()))
    return weights * (target / own) if own > 0 else weights
