"""What a method is, and the names that methods go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

NAMED: dict[str, type[Method]] = {}


class Method:
    """How K losses become one update. A subclass gives `backward`, and the rest where it differs.

    by_exit   `backward` goes through the graph once for every exit, which DDP does not allow
    takes     what can be chosen: "weights", of the losses, and "step_length"
    """

    by_exit = False
    takes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Method:
        """The method of this name, with what was chosen."""
        return cls()

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Add to `.grad` of the trunk's parameters, and of the others, heads above all; losses K x ().

        `trunk` is empty in epochs in which the trunk is frozen.
        """
        raise NotImplementedError

    def state_dict(self) -> dict:
        """What the next step needs to know of those before it, for checkpoints."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` said."""


def named(*names: str) -> Callable[[type[Method]], type[Method]]:
    """Decorates a class of methods: recipes and the command line know it by these names."""

    def register(method: type[Method]) -> type[Method]:
        NAMED.update(dict.fromkeys(names, method))
        return method

    return register
