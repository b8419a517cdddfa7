"""A copy of a network whose gradients are the derivatives of what it computes, with places that captum can hook.

A junction keeps values and cuts gradients, and split convolutions skip those that a cut drops: good for training, but
what flows back is then not the derivative of the function. Here junctions keep their values, also where a partition
puts zeros, and autograd differentiates just these. captum looks at modules, which junctions are not: so the feature of
each exit goes through a module that changes nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from dfs_edu.multiexit import MultiExit
from dfs_edu.surgery import Junction


@dataclass(frozen=True)
class Watched(Junction):
    """The values of another junction and their true derivative; `place` passes on the feature, or its last scale."""

    of: Junction
    place: nn.Module

    def at(self, k: int, exits: int) -> Junction:
        return self  # `of` stands at its exit already

    def on_scale(self, i: int, scales: int) -> Junction:
        return Watched(self.of.on_scale(i, scales), self.place if i == scales - 1 else nn.Identity())

    def split(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return self.of.values(self.place(f))


def watched(net: MultiExit) -> MultiExit:
    """A copy in evaluation mode, frozen; `junctions[k].place` is the module that passes on the feature of exit k."""
    net = copy.deepcopy(net).eval().requires_grad_(False)
    junctions = [Watched(junction, nn.Identity()) for junction in net.junctions]
    return MultiExit(net.stages, net.heads, junctions, net.smallest)  # it hears every channel


@torch.no_grad()
def maps(net: MultiExit, images: Tensor) -> list[nn.Module]:
    """For each exit of a watched network, the module that passes on the last map (B, C, H, W) before its answer.

    That is the exit's feature. Only the last stage of an attached network ends behind its pooling: there it is what
    the pooling reads. Raises ValueError for a feature that is no map, as a transformer's tokens are none.
    """
    places, state = [], images[:1]
    for k, (stage, junction) in enumerate(zip(net.stages, net.junctions, strict=True), start=1):
        made = stage(state)
        feature = made if isinstance(made, Tensor) else made[-1]
        place = junction.place if is_map(feature.shape) else _before_pooling(stage, state)
        if place is None:
            shape = ", ".join(["B", *map(str, feature.shape[1:])])
            raise ValueError(
                f"exit {k}, a {type(net.heads[k - 1]).__module__}.{type(net.heads[k - 1]).__name__}, sees a feature "
                f"({shape}): Grad-CAM needs a map (B, C, H, W) of more than one position; integrated gradients do not"
            )
        places.append(place)
        state = junction(made)[0]
    return places


def is_map(shape: torch.Size) -> bool:
    return len(shape) == 4 and shape[2:].numel() > 1


def _before_pooling(stage: nn.Module, state) -> nn.Module | None:
    """A new module in an attached stage, behind the last map that all that follows is made of; None if there is none.

    From the stage's end one goes back through vectors, (B, C) and (B, C, 1, 1), as long as each is made of one tensor.
    """
    if not isinstance(stage, fx.GraphModule):
        return None
    ShapeProp(stage).propagate(state)
    node = next(iter(reversed(stage.graph.nodes))).args[0]  # what the stage returns: the feature, or a list with it
    node = node if isinstance(node, fx.Node) else node[-1]
    while not is_map(shape := node.meta["tensor_meta"].shape):
        if len(shape) != 2 and shape[2:].numel() > 1:
            return None
        made_of = [n for n in node.all_input_nodes if n.op != "get_attr" and _is_tensor(n)]
        if len(made_of) != 1:
            return None
        (node,) = made_of
    stage.add_module("last_map", nn.Identity())
    with stage.graph.inserting_after(node):
        place = stage.graph.call_module("last_map", (node,))
    node.replace_all_uses_with(place, delete_user_cb=lambda user: user is not place)
    stage.recompile()
    return stage.last_map


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("tensor_meta"), TensorMetadata)
