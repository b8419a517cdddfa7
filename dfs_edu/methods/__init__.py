"""How K losses become one update of the trunk.

    sum          the plain sum of the losses, or a weighted one: a single backward pass
    all others   look at the K gradients of the trunk, one by one, and choose the weights of their sum at every step

Whatever the others weigh in the trunk, a head gets the gradient of its own loss; the weights of a sum scale heads,
too. Gradient equilibrium is no method here but a junction (`Equilibrium`): it needs no gradient by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from dfs_edu.methods.aggregated import WEIGHTINGS, Aggregated
from dfs_edu.methods.weighted import Weighted

METHODS = ("sum", *WEIGHTINGS)
LENGTHS = ("sum", "own")

__all__ = ["LENGTHS", "METHODS", "Aggregated", "Method", "Weighted", "make"]


class Method(Protocol):
    """What the training loop asks of a method.

    by_exit   whether `backward` goes through the graph once for every exit, which DDP does not allow
    """

    by_exit: bool

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Add to `.grad` of the trunk's parameters, and of the others, heads above all; losses K x ()."""

    def state_dict(self) -> dict:
        """What a resumed run has to know to go on as if it had not stopped; plain values and tensors."""

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` said."""


def make(name: str, exits: int, weights: Sequence[float] = (), length: str = "sum") -> Method:
    """The method of this name for so many exits.

    weights   of the losses, K numbers from 0, for "sum"; none: all 1
    length    of the others' step: "sum", as long as the sum of the gradients would be, so that one learning rate is
              fair to all and only the direction differs; "own", what the method's authors have

    Raises ValueError, naming the value, for anything else.

    >>> import torch
    >>> gramian = torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double()  # of two gradients at a right angle, 1 and 2 long
    >>> make("mgda", exits=2, length="own").weights(gramian).numpy().round(3)
    array([0.8, 0.2])
    """
    if name not in METHODS:
        raise ValueError(f"method={name!r}: use one of {', '.join(METHODS)}")
    if name == "sum":
        return Weighted(exits, weights)
    if weights:
        raise ValueError(f"weights={tuple(weights)}: method {name!r} chooses them itself")
    return Aggregated(name, length)
