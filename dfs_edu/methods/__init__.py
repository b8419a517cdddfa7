"""How K losses become one update of the trunk.

* ``Weighted`` ("sum") adds up the losses, plain or weighted, in a single backward pass.
* ``Mixed`` and ``Gradual`` ("mixed-N", "gradual") add up the losses of some exits only, more of them as training goes
  on, also in a single pass.
* ``Shifting`` ("shifting") and ``Scalarized`` ("dwa", "famo" and others) weight the losses by the epoch, and by the
  losses themselves, also in a single pass.
* ``BlockDependent`` ("bdl", "bdl-final") lets each exit train only the blocks just before it, in several passes.
* ``Aggregated`` ("pcgrad" and others) computes the K gradients of the trunk one by one, and from their scalar products,
  at every step, the weights of their sum. ``FromTorchjd`` adds torchjd's other weightings ("dualproj" and others),
  ``ConflictFree`` ConFIG ("config"); ``SignDropout`` ("graddrop") combines the gradients number by number instead.
* ``MetaFusion`` ("meta-gf", "meta-gf-published") and ``WeightPrediction`` ("wpn") are training procedures: the first
  trains each exit for an epoch and fuses the weights, the second looks a step ahead to weight the losses of each image.

A head gets the gradient of its own loss, however the trunk's gradients are combined; the weights of a sum scale the
heads' gradients as well, and a loss that a curriculum has switched off gives its head none. Gradient equilibrium is not
a method here but a junction (``Equilibrium``), since it does not need each exit's gradient by itself.

A method is one file; importing it here, one line, makes its names known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import Any

from dfs_edu.methods.aggregated import Aggregated  # noqa: F401
from dfs_edu.methods.blocks import BlockDependent  # noqa: F401
from dfs_edu.methods.conflict_free import ConflictFree  # noqa: F401
from dfs_edu.methods.curricula import Gradual, Mixed  # noqa: F401
from dfs_edu.methods.graddrop import SignDropout  # noqa: F401
from dfs_edu.methods.meta_gf import MetaFusion  # noqa: F401
from dfs_edu.methods.method import NAMED, Method
from dfs_edu.methods.scalarized import Scalarized  # noqa: F401
from dfs_edu.methods.shifting import Shifting  # noqa: F401
from dfs_edu.methods.weighted import Weighted  # noqa: F401
from dfs_edu.methods.weightings import FromTorchjd  # noqa: F401
from dfs_edu.methods.wpn import WeightPrediction  # noqa: F401

LENGTHS = ("sum", "own")
LARGEST = 1e30  # of weights: far below the largest float32


def names() -> tuple[str, ...]:
    """Return the names of all methods imported so far, your own included: the plain sum first.

    N at the end of a name stands for a whole number.
    """
    return tuple(sorted(NAMED, key=lambda name: name != "sum"))


METHODS = tuple(re.sub("-N$", "-0", name) for name in names())  # one of every kind, to try them all


def find(name: str) -> type[Method] | None:
    """Return the class of a method, None if there is no method of this name.

    >>> find("mixed-3").__name__
    'Mixed'
    """
    if name.endswith("-N"):
        return None
    return NAMED.get(name) or NAMED.get(re.sub("-(0|[1-9][0-9]{0,8})$", "-N", name))


def check(
    name: str,
    weights: Sequence[float] = (),
    length: str = "sum",
    epochs: int | None = None,
    exits: int | None = None,
) -> type[Method]:
    """Return the class of a method.

    Args:
        name: See ``make``.
        weights: See ``make``.
        length: See ``make``.
        epochs: Of the run, if they are known.
        exits: Of the network, if they are known.

    Raises:
        ValueError: There is no such method, it lacks an option, or the run is too short for it or of another length
            than it needs; the message names the value.
    """
    method = find(name)
    if method is None:
        raise ValueError(f"method={name!r}: use one of {', '.join(names())}")
    if length not in LENGTHS:
        raise ValueError(f"step_length={length!r}: use one of {', '.join(LENGTHS)}")
    if length != "sum" and "step_length" not in method.takes:
        raise ValueError(f"step_length={length!r}: method {name!r} has no other length")
    if weights and "weights" not in method.takes:
        raise ValueError(f"weights={tuple(weights)}: method {name!r} chooses them itself")
    if weights and not (all(_is_weight(w) for w in weights) and any(weights)):
        raise ValueError(f"weights={tuple(weights)}: finite numbers from 0 to {LARGEST:g}, at least one above 0")
    if epochs is not None:
        method.check(name, epochs, exits)
    return method


def _is_weight(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= LARGEST


def make(
    name: str, exits: int, weights: Sequence[float] = (), length: str = "sum", epochs: int | None = None
) -> Method:
    """Return the method of this name for a number of exits.

    Args:
        name: "sum" or another one of ``names()``.
        exits: Number of exits, K.
        weights: Weights of the losses for "sum", K numbers from 0; empty: all 1.
        length: Length of the other methods' step. "sum": as long as the sum of the gradients would be, so that one
            learning rate is fair to all methods and only the direction differs. "own": as in each method's paper.
        epochs: Of the run, if they are known: a method may need a certain number of them.

    Raises:
        ValueError: Any of these has another value; the message names it.

    >>> import torch
    >>> gramian = torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double()  # of two orthogonal gradients of length 1 and 2
    >>> make("mgda", exits=2, length="own").weights(gramian).numpy().round(3)
    array([0.8, 0.2])
    """
    return check(name, weights, length, epochs, exits).of(name, exits, weights, length)
