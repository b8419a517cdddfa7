"""Curricula: which losses count changes from epoch to epoch. Those that count are added up, in one backward pass.

* "mixed-N": the last exit alone for N epochs, then all exits: mixed training (arXiv 2407.14320, ICML 2025). There, each
  phase has its own schedule; here, one recipe's schedule spans both.
* "gradual": exit l of L joins when the fraction of the epochs that are over reaches (L - l) / 2L, so deep exits come
  first and all are there after half of the run; the last is always on (LayerSkip's early-exit curriculum, ACL 2024, as
  in torchtune). There, fractions count steps; here, epochs.

While a loss is off, the parameters of its head have no gradient (``.grad`` is None, not zero): neither the gradient nor
weight decay nor momentum moves them, and the optimizer's state for them does not change. The running averages of
BatchNorm layers in the head do move, in every forward pass. A gradient of zero would not do: in a long
first phase, weight decay alone would shrink the heads to nothing.

Cost: one backward pass through the trunk, as for the plain sum, and the passes of the heads that are on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dfs_edu import distributed
from dfs_edu.methods.method import Method, named


class Curriculum(Method):
    """The sum of the losses that are on; all of them are until an epoch begins.

    Args:
        exits: Number of exits.
    """

    by_exit = True  # heads without a gradient
    in_parts = True

    def __init__(self, exits: int):
        self.exits = exits
        self.on = list(range(exits))

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Curriculum:
        return cls(exits)

    def is_on(self, exit: int, epoch: int, epochs: int) -> bool:
        """Tell whether an exit's loss counts in an epoch; both are counted from 0."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.on = [k for k in range(self.exits) if self.is_on(k, epoch, epochs)]

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Run one backward pass of the sum of the losses that are on."""
        torch.stack([losses[k] for k in self.on]).sum().backward()
        distributed.average(p.grad for p in (*trunk, *others) if p.grad is not None)


@named("mixed-N")
class Mixed(Curriculum):
    """The last exit's loss alone for a number of epochs, then the sum of all.

    Args:
        exits: Number of exits.
        alone: Number of epochs, N.
    """

    def __init__(self, exits: int, alone: int):
        super().__init__(exits)
        self.alone = alone

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Mixed:
        return cls(exits, _number(name))

    @classmethod
    def check(cls, name: str, epochs: int, exits: int | None = None) -> None:
        if _number(name) >= epochs:
            raise ValueError(f"method={name!r}: the last exit alone for fewer than the {epochs} epochs of the run")

    def is_on(self, exit: int, epoch: int, epochs: int) -> bool:
        return epoch >= self.alone or exit == self.exits - 1


@named("gradual")
class Gradual(Curriculum):
    """Exits join one by one, the deepest first; see the top of this file."""

    def is_on(self, exit: int, epoch: int, epochs: int) -> bool:
        deeper = self.exits - 1 - exit  # L - l
        return 2 * self.exits * epoch >= deeper * epochs


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])
