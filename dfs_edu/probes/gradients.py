"""The gradient of every exit's own loss, stage by stage, without ever holding K gradients of the whole trunk.

The forward pass is cut into segments, one per stage. Backward, the segments are walked from the deepest to the first,
all exits in step: at segment k the exits k..K each pull once on its parameters and pass on the gradient of its input.
So an exit's pass goes exactly as deep as that exit lies: K (K + 1) / 2 stage passes in all. Fewer are impossible, since
each gives a gradient that no other gives.

Besides the activations of one forward pass, only the gradients of one stage and of the features at its two ends are
held at any time. They are freed as soon as they have been used; a stage's activations, by the last pull on it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfs_edu.answers import rule_of
from dfs_edu.modes import as_found
from dfs_edu.multiexit import MultiExit, State
from dfs_edu.probes.checks import check_images, check_labels, check_network

Gradients = list[Tensor | None]  # of several tensors, in their order; None stands for one that is exactly zero


@dataclass(frozen=True)
class Segment:
    """One stage's part of a forward pass, detached from the stages before and after it."""

    parameters: Sequence[Tensor]  # the trainable ones of the stage
    entered: list[Tensor]  # the state that came in, as leaves; empty at the first stage, as images need no gradient
    feature: list[Tensor]  # the stage's output, before the junction
    onward: list[Tensor]  # what the next stage gets
    loss: Tensor  # () of this stage's exit

    def backward(self, upstream: list[Gradients]) -> tuple[list[dict[Tensor, Tensor | None]], list[Gradients]]:
        """Return the gradients of ``parameters`` and those of ``entered``, each as a list over this and deeper exits.

        Args:
            upstream: for every deeper exit, its gradients of ``onward``. The list is empty afterwards, and the segment
                used up.
        """
        inputs, pulls = [*self.parameters, *self.entered], []
        while upstream:
            pulls.append(pull(self.onward, upstream.pop(0), inputs))
        pulls.insert(0, self.own(inputs, keep=False))
        n = len(self.parameters)
        return [dict(zip(self.parameters, p[:n], strict=True)) for p in pulls], [p[n:] for p in pulls]

    def own(self, inputs: list[Tensor], keep: bool = True) -> Gradients:
        """Return the gradients of this stage's own exit; keep=False frees the activations on the way."""
        return pull([self.loss], [torch.ones_like(self.loss)], inputs, keep)


def pull(outputs: list[Tensor], gradients: Gradients, inputs: Sequence[Tensor], keep: bool = True) -> Gradients:
    """Return the gradients of the inputs, given those of the outputs; keep: other pulls on the same outputs follow."""
    starts = [(t, g) for t, g in zip(outputs, gradients, strict=True) if g is not None and t.requires_grad]
    trained = [t for t in inputs if t.requires_grad]  # without the output of stages that are frozen
    if not starts or not trained:
        return [None] * len(inputs)
    start = _Start.apply([g for _, g in starts], *(t for t, _ in starts))
    del gradients, starts  # if the caller has let go of them too, they are freed as soon as the pass has used them
    grads = torch.autograd.grad(start, trained, retain_graph=keep, allow_unused=True)
    nonzero = {t: g for t, g in zip(trained, grads, strict=True) if g is not None and g.any()}
    return [nonzero.get(t) for t in inputs]  # a pass that has died out goes no deeper


class _Start(torch.autograd.Function):
    """Where a backward pass begins with given gradients; ``autograd.grad`` would hold them until it has ended."""

    @staticmethod
    def forward(ctx, gradients: list[Tensor], *outputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx, *_: Tensor) -> tuple:
        gradients = (None, *ctx.gradients)
        ctx.gradients = None
        return gradients


@contextmanager
def in_segments(net: MultiExit, images: Tensor, labels: Tensor) -> Generator[list[Segment], None, None]:
    """Run a forward pass as in training, one segment per stage, first to last; afterwards the network is as it was.

    The loss of an exit is its mean cross-entropy.

    Raises:
        TypeError: for another kind of network.
        ValueError: for invalid images, for labels that the classifiers do not have, and for a parameter that a stage
            shares with another stage or a head.
        FloatingPointError: for a loss that is not finite.
    """
    check_network(net)
    check_images(images)
    check_labels(labels, len(images))
    _check_owners(net)
    with as_found(net), torch.enable_grad():
        net.train()
        yield _forward(net, images, labels)


def _forward(net: MultiExit, images: Tensor, labels: Tensor) -> list[Segment]:
    segments: list[Segment] = []
    state, entered = images.detach(), []
    rule, carried = rule_of(net.answers), None
    for k, (stage, junction, head) in enumerate(zip(net.stages, net.junctions, net.heads, strict=True), start=1):
        feature = stage(state)
        onward, seen = junction(feature)
        logits, carried = rule(head(seen), carried, k)
        carried = None if carried is None else carried.detach()  # no exit pulls through another one's answer
        if labels.max() >= logits.shape[1]:  # on a GPU, cross_entropy would end the process instead
            raise ValueError(f"labels up to {labels.max()}: exit {k} has {logits.shape[1]} classes, 0 the first")
        loss = nn.functional.cross_entropy(logits, labels)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss of exit {k} is {loss.item()}: its gradient has no direction")
        trainable = [p for p in stage.parameters() if p.requires_grad]
        segments.append(Segment(trainable, entered, _tensors(feature), _tensors(onward), loss))
        # The next stage reads leaves, so that its backward pass ends there.
        entered = [t.detach().requires_grad_(t.requires_grad) for t in segments[-1].onward]
        state = entered[0] if isinstance(onward, Tensor) else entered
    return segments


def _tensors(state: State) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else state


def _check_owners(net: MultiExit) -> None:
    """Raise ValueError if a parameter of a stage belongs to another stage or a head as well."""
    owner = {}
    for s, stage in enumerate(net.stages):
        for parameter in stage.parameters():
            if owner.setdefault(parameter, s) != s:
                raise ValueError(f"stages {owner[parameter]} and {s} share a parameter: it belongs to no one layer")
    for k, head in enumerate(net.heads):
        for parameter in head.parameters():
            if parameter in owner:
                raise ValueError(f"stage {owner[parameter]} and head {k} share a parameter: it belongs to no one layer")
