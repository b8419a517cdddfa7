"""The gradient of every exit's own loss, stage by stage, without ever holding K gradients of the whole trunk.

The forward pass is cut into legs, one a stage, where a stage hands on to the next. Backward, the legs are walked from
the deepest to the first, all exits in step: at leg k the exits k..K each pull once on its parameters and pass on what
they want of its input. So an exit's pass goes exactly as deep as that exit lies, and beside the activations of one
forward pass there are at any time the gradients of one stage, and of the features at its two ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfs_edu.multiexit import MultiExit


@dataclass(frozen=True)
class Leg:
    """One stage's part of a forward pass, cut off from the stages before and after it."""

    parameters: list[Tensor]  # the trainable ones of the stage
    entered: list[Tensor]  # the state that came in, as leaves; none for the first stage: nobody asks for a picture's
    onward: list[Tensor]  # what the next stage gets
    loss: Tensor  # () of this stage's exit

    def backward(self, wanted: list[list[Tensor | None]]) -> tuple[list[dict], list[list[Tensor | None]]]:
        """(gradient of each of `parameters`, gradients of `entered`), each a list over the exits from this one to K.

        wanted   for every deeper exit, its gradients of `onward`

        Everywhere None stands for a gradient that is exactly zero.
        """
        pulls = [self._pull([self.loss], [torch.ones_like(self.loss)])]
        pulls += [self._pull(self.onward, gradients) for gradients in wanted]
        own = len(self.parameters)
        return [dict(zip(self.parameters, p[:own], strict=True)) for p in pulls], [p[own:] for p in pulls]

    def _pull(self, outputs: list[Tensor], gradients: list[Tensor | None]) -> list[Tensor | None]:
        inputs = [*self.parameters, *self.entered]
        heard = [(t, g) for t, g in zip(outputs, gradients, strict=True) if g is not None and t.requires_grad]
        if not heard or not inputs:
            return [None] * len(inputs)
        outputs, gradients = zip(*heard, strict=True)
        found = torch.autograd.grad(outputs, inputs, gradients, retain_graph=True, allow_unused=True)
        return [g if g is not None and g.any() else None for g in found]  # a pass that has died out goes no deeper


def forward_in_legs(net: MultiExit, images: Tensor, labels: Tensor) -> list[Leg]:
    """One leg a stage; the loss of an exit is its mean cross-entropy. The network runs in the mode that it is in.

    Raises ValueError for labels that the classifiers do not have, FloatingPointError for a loss that is not finite.
    """
    legs, state, entered = [], images.detach(), []
    for k, (stage, junction, head) in enumerate(zip(net.stages, net.junctions, net.heads, strict=True), start=1):
        onward, seen = junction(stage(state))
        logits = head(seen)
        if labels.max() >= logits.shape[1]:  # on a GPU, cross_entropy would end the process instead
            raise ValueError(f"labels up to {labels.max()}: exit {k} has {logits.shape[1]} classes, 0 the first")
        loss = nn.functional.cross_entropy(logits, labels)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss of exit {k} is {loss.item()}: its gradient has no direction")
        trainable = [p for p in stage.parameters() if p.requires_grad]
        tensors = [onward] if isinstance(onward, Tensor) else onward
        legs.append(Leg(trainable, entered, tensors, loss))
        entered = [t.detach().requires_grad_() for t in tensors]
        state = entered[0] if isinstance(onward, Tensor) else entered
    return legs


@contextmanager
def as_found(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Whatever happens inside, the modes and buffers of the network and torch's random state are put back after it.

    The random state is the CPU's and, where `device` is a CUDA device, that one's.
    """
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(m, name, b, b.clone()) for m in net.modules() for name, b in m.named_buffers(recurse=False)]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    setattr(module, name, buffer.copy_(value))
