"""Junctions: what happens to a feature, and to its gradients, where an exit leaves the trunk.

Between a stage of the trunk and whatever follows it sits a junction. It takes the feature f that the stage computed and
returns two views of it:

* **onward** is what the next stage reads. Its gradient comes from all deeper exits.
* **seen** is what this exit's head reads. Its gradient comes from this exit alone.

Both views hold the values of f. What defines a junction is one rule: **which gradient does f receive**, given the
gradients of its two views? ::

    Joint         g = g_onward + g_seen                             plain joint training (DSN, MSDNet)
    Detached      g = g_onward                                      the last exit alone trains the trunk
    Equilibrium   g = (K-k)/(K-k+1) g_onward + 1/(K-k+1) g_seen     gradient equilibrium (IMTA, Li et al., ICCV 2019)
    Surgery       g = [g_onward+, g_seen-]                          Deep Feature Surgery (Gong et al., ECCV 2024)

Glossary, from the names used here to the symbols of the paper::

    k, exits     exit k of K, counted from 1, shallow to deep
    f            the feature that leaves stage k; its channels fall into two parts, f = [f+, f-]
    beta         the fraction of channels that belong to f+
    shared       f+, the first round(C * beta) of C channels: only they carry the gradients of deeper exits
    specific     f-, the remaining channels: they carry the gradient of exit k
    partition    each view holds its own part of f, and zeros in place of the other (reference=False)
    reference    each view also holds the other part, detached: [f+, f- detached] and [f+ detached, f-]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["Detached", "Equilibrium", "Joint", "Junction", "Surgery"]

State = Tensor | list[Tensor]  # what flows through the trunk; MSDNet's is a list of scales, fine to coarse


class _Views(torch.autograd.Function):
    """Two views of f. Going backward, the junction's rule merges their gradients into one."""

    @staticmethod
    def forward(f: Tensor, junction: Junction) -> tuple[Tensor, Tensor]:
        return junction.values(f)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.junction = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.junction.gradient(*gradients), None


@dataclass(frozen=True)
class Junction:
    """Base class: a map from a feature f to two views of it, (onward, seen).

    A feature is a tensor (B, C, H, W), (B, C) or (B, N, C), or a list of them. Junctions are stateless, so the weights
    of a network fit every junction. A subclass defines ``gradient``, and ``live`` if some channels never receive any.
    """

    name: ClassVar[str]  # the class's name in lower case, by which recipes and the command line know it
    words: ClassVar[dict[str, tuple[str, object]]] = {}  # options spelled as words: word -> (field, value)
    linear: ClassVar[bool] = True  # whether the gradient of a sum of losses is the sum of their gradients

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__.lower()

    def __call__(self, feature: State) -> tuple[State, State]:
        """Return (onward, seen), each of the feature's own form."""
        if isinstance(feature, Tensor):
            return self.split(feature)
        scales = [self.on_scale(i, len(feature)).split(f) for i, f in enumerate(feature)]
        return [onward for onward, _ in scales], [seen for _, seen in scales]

    def at(self, k: int, exits: int) -> Junction:
        """Return the junction to use at exit k of K = ``exits``. The last exit is never split."""
        return Joint() if k == exits else self

    def on_scale(self, i: int, scales: int) -> Junction:
        """Return the junction to use on scale i, from 0, of a list with the given number of scales."""
        return self

    def split(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Return (onward, seen) of a single tensor f, both of its shape."""
        return _Views.apply(f, self)

    def values(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values that onward and seen hold: those of f, unless a subclass hides some."""
        return f.view_as(f), f.view_as(f)

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        """Return the gradient that f receives, given those of its views: the rule. All have the shape of f."""
        raise NotImplementedError

    def live(self, channels: int) -> tuple[Tensor, Tensor]:
        """Return two masks (C,) on the CPU: the channels of f that receive gradient from onward, and from seen.

        Layers that read a view need not compute the gradient of its other channels.
        """
        every = torch.ones(channels, dtype=torch.bool, device="cpu")
        return every, every


@dataclass(frozen=True)
class Joint(Junction):
    """Joint training on the sum of all losses: every exit trains every channel (DSN, Lee et al., AISTATS 2015)."""

    def split(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return f, f


@dataclass(frozen=True)
class Detached(Junction):
    """Exits read the trunk but do not train it: only the last exit does, so nothing can conflict."""

    def split(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return f, f.detach()

    def live(self, channels: int) -> tuple[Tensor, Tensor]:
        every, _ = super().live(channels)
        return every, ~every


@dataclass(frozen=True)
class Equilibrium(Junction):
    """Gradient equilibrium: the trunk's gradient keeps its scale, however many exits follow.

    Args:
        following: K - k + 1, the number of exits from this one onwards. ``at`` fills it in.

    Source:
        Li et al., ICCV 2019, section 3.3.
    """

    following: int = 2

    def at(self, k: int, exits: int) -> Junction:
        return Joint() if k == exits else Equilibrium(exits - k + 1)

    def on_scale(self, i: int, scales: int) -> Junction:
        """As in the authors' code, rescale the coarsest scale alone, the only one that feeds the exit."""
        return self if i == scales - 1 else Joint()

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        return g_onward * ((self.following - 1) / self.following) + g_seen * (1 / self.following)


@dataclass(frozen=True)
class Surgery(Junction):
    """Deep Feature Surgery: partition f by beta, and let each side reference the other part.

    At beta = 1, ``exit_gradient="all"`` is ``Joint`` here. In the published code, which splits off an empty part and
    detaches the rest, it is ``Detached``.

    Args:
        beta: Fraction of channels that belong to f+, in [0, 1]; round(C * beta) of C channels.
        reference: True: both views hold all of f. False: partition only, zeros replace the other part.
        exit_gradient: "own": the gradient of exit k reaches f- alone (the paper's text; its VGG, ResNet and BERT
            code). "all": it reaches f+ as well, which the exit then always sees (its MSDNet and ViT code).
        scales: Of a list of scales, partition the "last", coarsest one (as published), or "all" of them.

    Raises:
        ValueError: An option has another value; the message names it.
    """

    beta: float = 0.5
    reference: bool = True
    exit_gradient: str = "own"
    scales: str = "last"

    words: ClassVar[dict[str, tuple[str, object]]] = {
        "own": ("exit_gradient", "own"),
        "all": ("exit_gradient", "all"),
        "partition": ("reference", False),
        "scales": ("scales", "all"),
    }

    def __post_init__(self) -> None:
        check_fraction("beta", self.beta)
        if not isinstance(self.reference, bool):
            raise ValueError(f"reference={self.reference!r}: use True or False")
        if self.exit_gradient not in ("own", "all"):
            raise ValueError(f'exit_gradient={self.exit_gradient!r}: use "own" or "all"')
        if self.scales not in ("last", "all"):
            raise ValueError(f'scales={self.scales!r}: use "last" or "all"')

    def on_scale(self, i: int, scales: int) -> Junction:
        """As published, cut the coarsest scale alone, the one that exits read."""
        return self if self.scales == "all" or i == scales - 1 else Joint()

    def shared(self, channels: int) -> int:
        """Return how many of the given number of channels belong to f+."""
        return round(channels * self.beta)

    def mask(self, channels: int, device: torch.device | str = "cpu") -> Tensor:
        """Return a mask (C,) that is True for the channels of f+."""
        return torch.arange(channels, device=device) < self.shared(channels)

    def is_shared(self, t: Tensor) -> Tensor:
        """Return the mask of f+, shaped to broadcast over t, which has the shape of f."""
        dim = channel_dim(t)
        mask = self.mask(t.shape[dim], t.device)
        return mask.view(-1, *[1] * (t.ndim - dim - 1))

    def values(self, f: Tensor) -> tuple[Tensor, Tensor]:
        if self.reference:
            return f.view_as(f), f.view_as(f)
        shared, zero = self.is_shared(f), f.new_zeros(())
        onward = torch.where(shared, f, zero)
        return onward, f.view_as(f) if self.exit_gradient == "all" else torch.where(shared, zero, f)

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        if self.exit_gradient == "all":
            g_onward = g_onward + g_seen
        return torch.where(self.is_shared(g_onward), g_onward, g_seen)

    def live(self, channels: int) -> tuple[Tensor, Tensor]:
        shared = self.mask(channels)
        return shared, shared | True if self.exit_gradient == "all" else ~shared


def check_fraction(field: str, value: object, meaning: str = "the fraction of channels that exits share") -> None:
    """Raise ValueError, naming field and value, unless the value is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{field}={value!r}: {meaning} is a number from 0 to 1")


def channel_dim(t: Tensor) -> int:
    """Return the dimension of the channels: 1 of (B, C, ...), 2 of tokens (B, N, C)."""
    return 2 if t.ndim == 3 else 1
