"""The base class of methods, and the names that methods go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

NAMED: dict[str, type[Method]] = {}


class Training(Protocol):
    """What a method uses of the training that it is part of, see ``training.trainer.Trainer``.

    Attributes:
        losses: Images x, labels y -> the K losses () as they are now, without gradients; nothing else changes.
    """

    losses: Callable[[Tensor, Tensor], Sequence[Tensor]]

    @property
    def forward(self) -> nn.Module:
        """Network and loss: (x, y) -> losses K x (), logits K x (B, classes); with ``each=True``, losses K x (B,)."""
        ...

    @property
    def autocast(self) -> Callable[[], AbstractContextManager]:
        """What makes the context in which ``forward`` runs."""
        ...

    @property
    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Those that are trained now: of the trunk, and all others."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """What moves the parameters."""
        ...

    @property
    def schedule(self) -> LRScheduler:
        """The schedule of the learning rate, which advances once per batch, after ``Method.step``."""
        ...

    def gradients(self, x: Tensor, y: Tensor) -> None:
        """Compute the losses of a batch, and from them gradients by the method's ``backward``."""

    def update(self) -> None:
        """Move the weights along their gradients, and clear these."""


class Method:
    """A way to train a network on K losses. It may differ from plain training at three levels.

    * The weights of the losses over time: ``begin_epoch`` says how far training is.
    * The update from K losses: ``backward``.
    * A step as a whole: ``step``.
    """

    # `backward` walks the graph several times, or not to every head, which DDP does not allow: it averages by itself
    by_exit: ClassVar[bool] = False
    by_image: ClassVar[bool] = False  # `backward` gets the losses of each image, K x (B,), not their means
    in_parts: ClassVar[bool] = False  # a batch may come in parts, with a backward pass each (gradient accumulation)
    divides: ClassVar[int] = 1  # number of equal parts into which `step` itself divides a batch
    takes: ClassVar[tuple[str, ...]] = ()  # the options that it has: "weights", of the losses, and "step_length"
    refuses: ClassVar[tuple[str, ...]] = ()  # fields of a recipe that it does not work with: they keep their defaults

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Method:
        """Return the method of this name, for a number of exits and with the options that it takes."""
        return cls()

    @classmethod
    def check(cls, name: str, epochs: int, exits: int | None = None) -> None:
        """Raise ValueError, naming the value, unless the method of this name fits a run.

        Args:
            name: Of the method.
            epochs: Of the run.
            exits: Of the network; None as long as only the recipe is known.
        """

    def begin(self, stages: Sequence[Sequence[nn.Parameter]]) -> None:
        """Learn which parameters each of the K stages holds, shallow to deep. Called once, before the first epoch."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Prepare for an epoch, counted from 0, of a run with the given number of epochs. Also called on resuming."""

    def step(self, training: Training, x: Tensor, y: Tensor) -> None:
        """Make one update from a batch: images x (B, 3, H, W), labels y (B,)."""
        training.gradients(x, y)
        training.update()

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Add to ``.grad`` of the parameters.

        Args:
            losses: K losses (), one per exit; of a method with ``by_image``, K x (B,).
            trunk: Parameters that exits share; empty while the trunk is frozen.
            others: All other parameters, those of the heads above all.
        """
        raise NotImplementedError

    def state_dict(self) -> dict:
        """Return what the next step needs to know about earlier ones, for checkpoints."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what ``state_dict`` returned."""


M = TypeVar("M", bound=type[Method])


def named(*names: str) -> Callable[[M], M]:
    """Decorate a subclass of ``Method``: recipes and the command line know it by these names.

    A name that ends in "-N" stands for all that end in a whole number instead, as "mixed-3" does for "mixed-N".
    """

    def register(method: M) -> M:
        NAMED.update(dict.fromkeys(names, method))
        return method

    return register
