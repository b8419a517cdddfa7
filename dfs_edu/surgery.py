"""Junctions: what happens to a feature, and to its gradients, where an exit leaves the trunk.

Between a stage and what follows it is a junction. It takes the feature f and hands out two views of it:

    onward  feeds the next stage; back from it comes the gradient of all deeper exits
    seen    feeds this exit's head; back from it comes the gradient of this exit alone

Both views have the values of f. A junction is one rule: **which gradient does f receive**, given those of its views?

    Joint         g = g_onward + g_seen                             plain joint training (DSN, MSDNet)
    Detached      g = g_onward                                      the exits only watch; the last one trains the trunk
    Equilibrium   g = (K-k)/(K-k+1) g_onward + 1/(K-k+1) g_seen     gradient equilibrium (IMTA, Li et al., ICCV 2019)
    Surgery       g = [g_onward+, g_seen-]                          Deep Feature Surgery (Gong et al., ECCV 2024)

Glossary, name and symbol of the paper:

    k, exits     exit k of K, counted from 1, shallow to deep
    f            the feature that leaves stage k, channels split in two: f = [f+, f-]
    beta         share of the channels of f that is f+
    shared       f+, the first round(C * beta) channels: they alone carry the deeper exits' gradients
    specific     f-, the exit-specific rest: it carries the gradient of exit k
    partition    cutting f in two; each side sees its own part and zeros (reference=False)
    reference    each side sees the other's part as well, detached: [f+, f- detached] and [f+ detached, f-]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Detached", "Equilibrium", "Joint", "Junction", "Surgery"]


class _Views(torch.autograd.Function):
    """Two views of f whose gradients come together again by the junction's own rule."""

    @staticmethod
    def forward(f: Tensor, junction: Junction) -> tuple[Tensor, Tensor]:
        return junction.values(f)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.junction = inputs[1]

    @staticmethod
    def backward(ctx, g_onward: Tensor, g_seen: Tensor):
        return ctx.junction.gradient(g_onward, g_seen), None


@dataclass(frozen=True)
class Junction:
    """feature -> (onward, seen). Stateless, so that one network's weights fit every junction.

    The feature: a tensor (B, C, H, W), (B, C) or (B, N, C), or a list of them, MSDNet's scales from fine to coarse.
    """

    linear = True  # whether the gradient of a sum of losses is the sum of their gradients

    def __call__(self, feature: Tensor | list[Tensor]) -> tuple:
        if isinstance(feature, Tensor):
            return self.split(feature)
        scales = [self.on_scale(i, len(feature)).split(f) for i, f in enumerate(feature)]
        return tuple(map(list, zip(*scales, strict=True)))

    def at(self, k: int, exits: int) -> Junction:
        """The junction as it stands at exit k of `exits`; nothing is split at the last."""
        return Joint() if k == exits else self

    def on_scale(self, i: int, scales: int) -> Junction:
        """The junction as it stands on scale i, from 0, of a list of so many."""
        return self

    def split(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """(onward, seen) of one tensor f, of its shape."""
        return _Views.apply(f, self)

    def values(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """What onward and seen hold: f, unless a subclass says otherwise."""
        return f.view_as(f), f.view_as(f)

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        """The rule: what f receives, given the gradients of its views; all three of f's shape."""
        raise NotImplementedError

    def live(self, channels: int) -> tuple[Tensor, Tensor]:
        """True for the channels of f that receive gradient from (onward, seen), bool (C,) each, on the CPU.

        What reads f may skip the others.
        """
        every = torch.ones(channels, dtype=torch.bool, device="cpu")
        return every, every


@dataclass(frozen=True)
class Joint(Junction):
    """All exits pull on every channel: the plain sum of their losses (DSN, Lee et al., AISTATS 2015; MSDNet)."""

    def split(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return f, f


@dataclass(frozen=True)
class Detached(Junction):
    """The exits watch without touching: only the last exit trains the trunk, so nothing can conflict."""

    def split(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return f, f.detach()

    def live(self, channels: int) -> tuple[Tensor, Tensor]:
        every, _ = super().live(channels)
        return every, ~every


@dataclass(frozen=True)
class Equilibrium(Junction):
    """Gradient equilibrium: every weight sees a gradient of bounded scale, however many exits follow.

    `following` is K - k + 1, this exit and all deeper ones; `at` fills it in (Li et al., ICCV 2019, section 3.3).
    """

    following: int = 2

    def at(self, k: int, exits: int) -> Junction:
        return Joint() if k == exits else Equilibrium(exits - k + 1)

    def on_scale(self, i: int, scales: int) -> Junction:
        """Only the coarsest scale, the last, is rescaled, as in the authors' code: no other one feeds the exit."""
        return self if i == scales - 1 else Joint()

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        return g_onward * ((self.following - 1) / self.following) + g_seen * (1 / self.following)


@dataclass(frozen=True)
class Surgery(Junction):
    """Deep Feature Surgery: partition f by beta, let each side reference the other's part.

    beta           share of the channels that is f+, in [0, 1]; round(C * beta) channels
    reference      True: both sides see all of f. False: partition only, the other part is zeros
    exit_gradient  "own": exit k's gradient reaches f- alone (the paper's text; its VGG, ResNet and BERT code)
                   "all": it reaches f+ as well, which the exit then always sees (its MSDNet and ViT code)
    scales         of a list of scales, partition the "last", coarsest one (as published) or "all"

    At beta = 1, "all" is Joint here; in the published code, which splits off an empty part and detaches the rest, it is
    Detached. Raises ValueError, naming the value, for anything else.
    """

    beta: float = 0.5
    reference: bool = True
    exit_gradient: str = "own"
    scales: str = "last"

    def __post_init__(self):
        check_share("beta", self.beta)
        if not isinstance(self.reference, bool):
            raise ValueError(f"reference={self.reference!r}: use True or False")
        if self.exit_gradient not in ("own", "all"):
            raise ValueError(f'exit_gradient={self.exit_gradient!r}: use "own" or "all"')
        if self.scales not in ("last", "all"):
            raise ValueError(f'scales={self.scales!r}: use "last" or "all"')

    def on_scale(self, i: int, scales: int) -> Junction:
        """The exits read the coarsest scale, the last; as published, the finer ones pass on uncut."""
        return self if self.scales == "all" or i == scales - 1 else Joint()

    def shared(self, channels: int) -> int:
        """How many of so many channels are f+."""
        return round(channels * self.beta)

    def mask(self, channels: int, device: torch.device | str = "cpu") -> Tensor:
        """True for the channels that are f+: (C,)."""
        return torch.arange(channels, device=device) < self.shared(channels)

    def is_shared(self, t: Tensor) -> Tensor:
        """True for the channels of t+, shaped to broadcast over t."""
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


def check_share(field: str, value, what: str = "the shared part of the channels") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{field}={value!r}: {what} is a number from 0 to 1")


def channel_dim(t: Tensor) -> int:
    """Channels come second, (B, C, ...), except in tokens (B, N, C), where they come last."""
    return 2 if t.ndim == 3 else 1
