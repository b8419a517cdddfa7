"""How K losses become one update of the trunk.

    sum          the plain sum of the losses, or a weighted one: a single backward pass
    aggregated   all others look at the K gradients of the trunk, one by one, and choose the weights of their sum at
                 every step

Whatever the others weigh in the trunk, a head gets the gradient of its own loss; the weights of a sum scale heads,
too. Gradient equilibrium is no method here but a junction (`Equilibrium`): it needs no gradient by itself.

A method is one file; importing it here, one line, makes its names known.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

from dfs_edu.methods.aggregated import Aggregated  # noqa: F401
from dfs_edu.methods.method import NAMED, Method
from dfs_edu.methods.weighted import Weighted  # noqa: F401

LENGTHS = ("sum", "own")
LARGEST = 1e30  # of weights: far from where float32 ends


def names() -> tuple[str, ...]:
    """All methods that are known by now, yours among them: the plain sum first, the others as they come."""
    return tuple(sorted(NAMED, key=lambda name: name != "sum"))


METHODS = names()


def check(name: str, weights: Sequence[float] = (), length: str = "sum") -> type[Method]:
    """What goes by this name; ValueError, naming the value, for no method, or for what it does not take."""
    if name not in NAMED:
        raise ValueError(f"method={name!r}: use one of {', '.join(names())}")
    takes = NAMED[name].takes
    if length not in LENGTHS:
        raise ValueError(f"step_length={length!r}: use one of {', '.join(LENGTHS)}")
    if length != "sum" and "step_length" not in takes:
        raise ValueError(f"step_length={length!r}: method {name!r} has no other length")
    if weights and "weights" not in takes:
        raise ValueError(f"weights={tuple(weights)}: method {name!r} chooses them itself")
    if weights and not (all(_is_weight(w) for w in weights) and any(weights)):
        raise ValueError(f"weights={tuple(weights)}: finite numbers from 0 to {LARGEST:g}, one of them above 0")
    return NAMED[name]


def _is_weight(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= LARGEST


def make(name: str, exits: int, weights: Sequence[float] = (), length: str = "sum") -> Method:
    """The method of this name for so many exits.

    weights   of the losses, K numbers from 0, for "sum"; none: all 1
    length    of the aggregated methods' step: "sum", as long as the sum of the gradients would be, so that one learning
              rate is fair to all and only the direction differs; "own", what the method's authors have

    Raises ValueError, naming the value, for anything else.

    >>> import torch
    >>> gramian = torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double()  # of two gradients at a right angle, 1 and 2 long
    >>> make("mgda", exits=2, length="own").weights(gramian).numpy().round(3)
    array([0.8, 0.2])
    """
    return check(name, weights, length).of(name, exits, weights, length)
