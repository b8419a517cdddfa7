"""A copy of a network whose gradients are the derivatives of what it computes, with modules that captum can hook.

A junction keeps values and cuts gradients, and split convolutions skip what a cut drops. That is good for training, but
what flows back is then not the derivative of the function. In the copy, junctions keep their values (including the
zeros of a partition) and autograd differentiates those. Captum hooks modules, which junctions are not, so the feature
of each exit passes through a module that changes nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from dfs_edu.multiexit import MultiExit, State
from dfs_edu.surgery import Junction


@dataclass(frozen=True)
class Watched(Junction):
    """The values of another junction and their true derivative; ``place`` passes on the feature, or its last scale."""

    junction: Junction
    place: nn.Module

    def at(self, k: int, exits: int) -> Junction:
        return self  # the junction inside stands at its exit already

    def on_scale(self, i: int, scales: int) -> Junction:
        return Watched(self.junction.on_scale(i, scales), self.place if i == scales - 1 else nn.Identity())

    def split(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return self.junction.values(self.place(f))


def watched(net: MultiExit) -> tuple[MultiExit, list[nn.Module]]:
    """Return a frozen copy in eval mode, and for each exit the module that passes on its feature."""
    net = copy.deepcopy(net).eval().requires_grad_(False)
    places: list[nn.Module] = [nn.Identity() for _ in net.junctions]
    junctions = [Watched(junction, place) for junction, place in zip(net.junctions, places, strict=True)]
    # It skips no gradient
    return MultiExit(list(net.stages), list(net.heads), junctions, net.smallest, net.answers), places


@torch.no_grad()
def maps(net: MultiExit, places: Sequence[nn.Module], images: Tensor) -> list[nn.Module]:
    """Return for each exit of a watched network the module that passes on the last map (B, C, H, W) before its logits.

    That map is the exit's feature, except at the last exit of an attached network: that stage ends behind the pooling,
    and the map is what the pooling reads.

    Raises:
        ValueError: if a feature is not a map, such as a transformer's tokens.
    """
    last_maps, state = [], images[:1]
    stages = zip(net.stages, net.junctions, places, strict=True)
    for k, (stage, junction, passes_on) in enumerate(stages, start=1):
        feature = stage(state)
        shape = (feature if isinstance(feature, Tensor) else feature[-1]).shape
        place = passes_on if is_map(shape) else _before_pooling(stage, state)
        if place is None:
            head, sizes = type(net.heads[k - 1]), ", ".join(["B", *map(str, shape[1:])])
            raise ValueError(
                f"exit {k}, a {head.__module__}.{head.__name__}, sees a feature ({sizes}): Grad-CAM needs a map "
                "(B, C, H, W) of more than one position; integrated gradients do not"
            )
        last_maps.append(place)
        state = junction(feature)[0]
    return last_maps


def is_map(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is a map (B, C, H, W) of more than one position."""
    return len(shape) == 4 and math.prod(shape[2:]) > 1


def _before_pooling(stage: nn.Module, state: State) -> nn.Module | None:
    """A new module behind the last map that all of an attached stage's output is computed from; None if there is none.

    The search goes back from the stage's end through vectors, (B, C) and (B, C, 1, 1), each computed from one tensor.
    """
    if not isinstance(stage, fx.GraphModule):
        return None
    ShapeProp(stage).propagate(state)
    node = next(iter(reversed(stage.graph.nodes))).args[0]  # what the stage returns: the feature, or a list with it
    node = node if isinstance(node, fx.Node) else node[-1]
    while not is_map(shape := node.meta["tensor_meta"].shape):
        if len(shape) != 2 and math.prod(shape[2:]) > 1:
            return None
        sources = [n for n in node.all_input_nodes if n.op != "get_attr" and _is_tensor(n)]
        if len(sources) != 1:
            return None
        (node,) = sources

    # Let the map pass through a module of its own.
    last_map = nn.Identity()
    stage.add_module("last_map", last_map)
    with stage.graph.inserting_after(node):
        place = stage.graph.call_module("last_map", (node,))
    node.replace_all_uses_with(place, delete_user_cb=lambda user: user is not place)
    stage.recompile()
    return last_map


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("tensor_meta"), TensorMetadata)
