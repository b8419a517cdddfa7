"""How K losses become one update of the trunk.

* ``Weighted`` ("sum") adds up the losses, plain or weighted, and needs a single backward pass.
* ``Aggregated`` (all others) computes the K gradients of the trunk one by one, and from them, at every step, the
  weights of their sum.

However the others weight the trunk's gradients, a head gets the gradient of its own loss; the weights of a sum scale
the heads' gradients as well. Gradient equilibrium is not a method here but a junction (``Equilibrium``), since it does
not need each exit's gradient by itself.

A method is one file; importing it here, one line, makes its names known.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from dfs_edu.methods.aggregated import Aggregated  # noqa: F401
from dfs_edu.methods.method import NAMED, Method
from dfs_edu.methods.weighted import Weighted  # noqa: F401

LENGTHS = ("sum", "own")
LARGEST = 1e30  # of weights: far below the largest float32


def names() -> tuple[str, ...]:
    """Return the names of all methods imported so far, your own included: the plain sum first."""
    return tuple(sorted(NAMED, key=lambda name: name != "sum"))


METHODS = names()


def check(name: str, weights: Sequence[float] = (), length: str = "sum") -> type[Method]:
    """Return the class of a method. Raises ValueError, naming the value, for an unknown name or an option it lacks."""
    if name not in NAMED:
        raise ValueError(f"method={name!r}: use one of {', '.join(names())}")
    method = NAMED[name]
    if length not in LENGTHS:
        raise ValueError(f"step_length={length!r}: use one of {', '.join(LENGTHS)}")
    if length != "sum" and "step_length" not in method.takes:
        raise ValueError(f"step_length={length!r}: method {name!r} has no other length")
    if weights and "weights" not in method.takes:
        raise ValueError(f"weights={tuple(weights)}: method {name!r} chooses them itself")
    if weights and not (all(_is_weight(w) for w in weights) and any(weights)):
        raise ValueError(f"weights={tuple(weights)}: finite numbers from 0 to {LARGEST:g}, at least one above 0")
    return method


def _is_weight(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= LARGEST


def make(name: str, exits: int, weights: Sequence[float] = (), length: str = "sum") -> Method:
    """Return the method of this name for a number of exits.

    Args:
        name: "sum" or another one of ``names()``.
        exits: Number of exits, K.
        weights: Weights of the losses for "sum", K numbers from 0; empty: all 1.
        length: Length of the other methods' step. "sum": as long as the sum of the gradients would be, so that one
            learning rate is fair to all methods and only the direction differs. "own": as in each method's paper.

    Raises:
        ValueError: Any of these has another value; the message names it.

    >>> import torch
    >>> gramian = torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double()  # of two orthogonal gradients of length 1 and 2
    >>> make("mgda", exits=2, length="own").weights(gramian).numpy().round(3)
    array([0.8, 0.2])
    """
    return check(name, weights, length).of(name, exits, weights, length)
