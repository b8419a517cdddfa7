"""The base class of losses in which exits teach exits, and the names that these losses go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from dfs_edu.multiexit import MultiExit
from dfs_edu.precision import at_least_float32

NAMED: dict[str, type[Teaching]] = {}


class Teaching(nn.Module):
    """K losses in which what an exit says is the target of another one, besides the labels.

    The teacher's side is always detached. What such a loss learns or remembers are parameters and buffers, which go
    into the checkpoints of a run.

    Args:
        smoothing: Of the labels, see ``exit_losses``.
    """

    embeds: ClassVar[bool] = False  # it reads embeddings besides logits
    in_parts: ClassVar[bool] = True  # the loss of a batch is the mean of those of its parts (gradient accumulation)

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing

    @classmethod
    def of(cls, net: MultiExit, smoothing: float = 0.0) -> Teaching:
        """Return the loss for a network, with its published settings, on the network's device."""
        return cls(smoothing=smoothing).to(next(net.parameters()).device)

    def forward(self, exits: Sequence[Any], labels: Tensor) -> list[Tensor]:
        """Return K losses () for labels as of ``exit_losses``.

        Args:
            exits: K logits (B, classes); with ``embeds``, what ``MultiExit.embed`` returns.
            labels: See ``exit_losses``.
        """
        raise NotImplementedError


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the cross-entropy () with the probabilities of a detached teacher, both at a temperature.

    Args:
        logits: (B, classes).
        teacher: Logits (B, classes).
        temperature: Divides both.
    """
    soft = (at_least_float32(teacher).detach() / temperature).softmax(1)
    return F.cross_entropy(at_least_float32(logits) / temperature, soft)


T = TypeVar("T", bound=type[Teaching])


def named(name: str) -> Callable[[T], T]:
    """Decorate a subclass of ``Teaching``: recipes and the command line know it by this name."""

    def register(loss: T) -> T:
        NAMED[name] = loss
        return loss

    return register
