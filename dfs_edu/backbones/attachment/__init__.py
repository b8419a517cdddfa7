"""Exits for existing networks: torchvision's, timm's, or your own.

torch.fx traces the network, the graph is cut where exits leave it, and the pieces become the stages. Nodes have the
names of torchvision.models.feature_extraction ("layer2", "layer2.1.add", "blocks.3"). Only modules that a cut runs
through are taken apart. All others stay whole and run as their authors wrote them, in training as well as in
evaluation, with the original's weights and, within their stage, the original's names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import cast

from torch import nn

from dfs_edu.backbones.attachment.cutting import cut
from dfs_edu.backbones.attachment.last import classifier, linear_classifier
from dfs_edu.backbones.attachment.places import evenly, name_of
from dfs_edu.backbones.attachment.readers import split_readers
from dfs_edu.backbones.attachment.refused import check, check_beside, check_owners, unwrapped
from dfs_edu.backbones.attachment.stage import Exit, Last
from dfs_edu.backbones.attachment.trace import Trace, autocasting, choose_by_mode
from dfs_edu.multiexit import check_classes
from dfs_edu.splitgrad import guard


def attached(
    model: nn.Module,
    at: int | Sequence[str | nn.Module],
    classes: int | None = None,
    head: Callable[[int, int], nn.Module] | None = None,
    input_shape: tuple[int, int, int] = (3, 224, 224),
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return stages and heads made of a copy of ``model``, which stays as it is. Its classifier is the last exit.

    A feature is (B, C, H, W), (B, N, C) or (B, C); one that the network has as (B, H, W, C) reaches junction and head
    as (B, C, H, W). A classifier that is a 1x1 convolution becomes an nn.Linear with the same weights. Convolutions
    that read a feature directly skip, on a CPU, the input gradients that the junction drops (splitgrad.py). In-place
    activations become out-of-place ones: nothing may change a feature.

    Args:
        model: A classifier that torch.fx can trace.
        at: Where exits leave, shallow to deep: names of nodes, or modules of the model (an exit leaves after the last
            node of the module); or how many exits to place at block ends, evenly in MACs of the whole network.
        classes: Number of classes; None: as many as the model's last nn.Linear has. If the number is the same, that
            layer keeps its weights.
        head: A function (channels, classes) that returns the head of each exit but the last; None: mean over positions,
            LayerNorm, linear. A head reads the feature, or the whole list if more than the feature crosses the cut (see
            ``Stage``). For distillation, and for runs that are read back, return a ``multiexit.Head``.
        input_shape: (C, H, W) of the images in the trial run, which finds shapes and costs without computing numbers.

    Raises:
        TypeError: An argument is of the wrong type, or the network is scripted or quantized.
        ValueError: A node does not exist or is the network's end, places are out of order, there are more exits than
            places; torch.fx cannot trace the model, it does not end in an nn.Linear, or stages share weights; something
            other than tensors (B, ...) would cross a cut; or a graph would lose a part of the network or of a module
            that a cut opens: hooks, a forward or __call__ of its own, a part under another gradient or autocast mode,
            checkpointing, random numbers drawn in forward. The message names the cause.
    """
    # A copy without in-place operations
    model = unwrapped(model)
    check(model, at, classes, input_shape)
    paths = {module: path for path, module in model.named_modules()}
    model = copy.deepcopy(model)
    modes = [(module, module.training) for module in model.modules()]
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            vars(module)["inplace"] = False
    guard(model)
    check_beside(model, ())

    # The places of the exits, in the whole graph
    whole = _taken_apart(model, input_shape)
    fc = classifier(whole)
    places = evenly(whole, fc, at, input_shape) if isinstance(at, int) else [name_of(whole, paths, a) for a in at]
    readers = [split_readers(whole, place) for place in places]

    # Stages, cut from a graph in which only the modules around the cuts are open
    opened = {path.rsplit(".", i)[0] for path in [*places, fc] for i in range(1, path.count(".") + 1)}
    check_beside(model, opened)
    trace, other = Trace(model.train(), opened), Trace(model.eval(), opened)
    choose_by_mode(trace.graph, other.graph)
    for module, mode in modes:
        module.training = mode
    stages = cut(trace, places, fc, readers, input_shape)

    # Heads
    last = cast(nn.Linear, model.get_submodule(fc))
    device, dtype = last.weight.device, last.weight.dtype
    classes = classes or last.out_features
    check_classes(classes)
    heads = [(head or Exit)(stage.meta["channels"][-1], classes) for stage in stages[:-1]]
    if not all(isinstance(h, nn.Module) for h in heads):
        raise TypeError(f"head={head!r}: it is called with (channels, classes) and returns a module")
    if classes != last.out_features:
        last = nn.Linear(last.in_features, classes, bias=last.bias is not None)
    heads = [h.to(device, dtype) for h in [*heads, Last(last)]]
    check_owners(stages, heads)
    return list(stages), heads


def _taken_apart(model: nn.Module, input_shape: tuple[int, int, int]) -> Trace:
    """The graph of the whole network in evaluation mode, which names the places; its classifier becomes linear."""
    with autocasting():
        whole = Trace(model.eval())
        return Trace(model) if linear_classifier(model, whole, input_shape) else whole
