"""The gradient of every exit's own loss, stage by stage, without ever holding K gradients of the whole trunk.

The forward pass is cut into legs, one a stage, where a stage hands on to the next. Backward, the legs are walked from
the deepest to the first, all exits in step: at leg k the exits k..K each pull once on its parameters and pass on what
they want of its input. So an exit's pass goes exactly as deep as that exit lies: K (K + 1) / 2 stage passes in all, and
fewer cannot be, for each gives a gradient that no other gives.

Beside the activations of one forward pass there are at any time the gradients of one stage, and of the features at its
two ends. These are let go as soon as they have been used, the activations of a stage by the last pull on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfs_edu.modes import as_found
from dfs_edu.multiexit import MultiExit, State

Gradients = list[Tensor | None]  # of some tensors, in their order; None stands for one that is exactly zero


@dataclass(frozen=True)
class Leg:
    """One stage's part of a forward pass, cut off from the stages before and after it."""

    parameters: list[Tensor]  # the trainable ones of the stage
    entered: list[Tensor]  # the state that came in, as leaves; none for the first stage: nobody asks for a picture's
    feature: list[Tensor]  # what the stage made, before the junction
    onward: list[Tensor]  # what the next stage gets
    loss: Tensor  # () of this stage's exit

    def backward(self, wanted: list[Gradients]) -> tuple[list[dict], list[Gradients]]:
        """(gradient of each of `parameters`, gradients of `entered`), each a list over the exits from this one to K.

        wanted   for every deeper exit, its gradients of `onward`; the list is empty afterwards, and the leg used up
        """
        inputs, pulls = [*self.parameters, *self.entered], []
        while wanted:
            pulls.append(pull(self.onward, wanted.pop(0), inputs))
        pulls.insert(0, self.own(inputs, keep=False))
        own = len(self.parameters)
        return [dict(zip(self.parameters, p[:own], strict=True)) for p in pulls], [p[own:] for p in pulls]

    def own(self, inputs: list[Tensor], keep: bool = True) -> Gradients:
        """What this stage's exit alone wants of the inputs; keep=False lets the activations go on the way."""
        return pull([self.loss], [torch.ones_like(self.loss)], inputs, keep)


def pull(outputs: list[Tensor], gradients: Gradients, inputs: list[Tensor], keep: bool = True) -> Gradients:
    """The gradients of the inputs, given those of the outputs; keep: other pulls on the same outputs follow."""
    heard = [(t, g) for t, g in zip(outputs, gradients, strict=True) if g is not None and t.requires_grad]
    wanted = [t for t in inputs if t.requires_grad]  # not what a frozen start of the trunk has made
    if not heard or not wanted:
        return [None] * len(inputs)
    start = _Start.apply([g for _, g in heard], *(t for t, _ in heard))
    del gradients, heard  # where the caller has let go of them too, nobody holds them longer than the pass needs them
    grads = torch.autograd.grad(start, wanted, retain_graph=keep, allow_unused=True)
    found = {t: g for t, g in zip(wanted, grads, strict=True) if g is not None and g.any()}
    return [found.get(t) for t in inputs]  # a pass that has died out goes no deeper


class _Start(torch.autograd.Function):
    """Where a backward pass begins with given gradients; `autograd.grad` would hold them until it has ended."""

    @staticmethod
    def forward(ctx, gradients: list[Tensor], *outputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx, _one: Tensor) -> tuple:
        gradients = (None, *ctx.gradients)
        ctx.gradients = None
        return gradients


@contextmanager
def in_legs(net: MultiExit, images: Tensor, labels: Tensor) -> Iterator[list[Leg]]:
    """A forward pass as in training, one leg a stage, first to last; afterwards the network is as it was found.

    The loss of an exit is its mean cross-entropy. Raises TypeError or ValueError, naming what is wrong, for other
    inputs, for labels that the classifiers do not have and for a parameter that a stage shares with another stage or a
    head, and FloatingPointError for a loss that is not finite.
    """
    _check(net, images, labels)
    with as_found(net), torch.enable_grad():
        net.train()
        yield _forward(net, images, labels)


def _forward(net: MultiExit, images: Tensor, labels: Tensor) -> list[Leg]:
    legs, state, entered = [], images.detach(), []
    for k, (stage, junction, head) in enumerate(zip(net.stages, net.junctions, net.heads, strict=True), start=1):
        feature = stage(state)
        onward, seen = junction(feature)
        logits = head(seen)
        if labels.max() >= logits.shape[1]:  # on a GPU, cross_entropy would end the process instead
            raise ValueError(f"labels up to {labels.max()}: exit {k} has {logits.shape[1]} classes, 0 the first")
        loss = nn.functional.cross_entropy(logits, labels)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss of exit {k} is {loss.item()}: its gradient has no direction")
        trainable = [p for p in stage.parameters() if p.requires_grad]
        legs.append(Leg(trainable, entered, _tensors(feature), _tensors(onward), loss))
        entered = [t.detach().requires_grad_(t.requires_grad) for t in legs[-1].onward]
        state = entered[0] if isinstance(onward, Tensor) else entered
    return legs


def _tensors(state: State) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else state


def _check(net: MultiExit, images: Tensor, labels: Tensor) -> None:
    if not isinstance(net, MultiExit):
        raise TypeError(f"net is a {type(net).__name__}: the exits' gradients are probed in a MultiExit")
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise ValueError(f"images: {_kind(images)}; give floating-point pictures (B, C, H, W), B at least 1")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(f"labels: {_kind(labels)}; give one int64 class for each of the {len(images)} pictures")
    if labels.min() < 0:
        raise ValueError(f"labels down to {labels.min()}: classes count from 0")
    owner = {}
    for s, stage in enumerate(net.stages):
        for parameter in stage.parameters():
            if owner.setdefault(parameter, s) != s:
                raise ValueError(f"stages {owner[parameter]} and {s} share a parameter: it belongs to no one layer")
    for k, head in enumerate(net.heads):
        for parameter in head.parameters():
            if parameter in owner:
                raise ValueError(f"stage {owner[parameter]} and head {k} share a parameter: it belongs to no one layer")


def _kind(value) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
