"""Exits for a network that somebody else wrote: torchvision's, timm's, or your own.

torch.fx traces the network, the graph is cut where the exits are to leave it, and the pieces are the stages. Nodes have
the names of torchvision.models.feature_extraction ("layer2", "layer2.1.add", "blocks.3"). Only the modules that a cut
runs through are taken apart; all others are kept whole and run as their authors wrote them, in training as well as in
evaluation, with the original's weights and, inside their stage, the original's names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import nn

from dfs_edu.backbones.attachment.cutting import cut
from dfs_edu.backbones.attachment.last import classifier, linear_classifier
from dfs_edu.backbones.attachment.places import evenly, named
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
    """Stages and heads of `model`, which is copied and stays as it is; the model's own classifier is the last exit.

    at           where exits leave, shallow to deep: node names or modules of the model (then: behind their last node),
                 or how many, placed at block ends and evenly in MACs of the whole network
    classes      number of classes; None: as many as the model's last nn.Linear has, which then keeps its weights; it
                 does so, too, where the number is the same
    head         (channels, classes) -> module for each exit but the last; None: mean over positions, LayerNorm, linear.
                 It gets the feature, or the whole list where more than the feature crosses the cut (see Stage); be it a
                 `multiexit.Head`, whose classifier is `fc`, for distillation and for runs that are read back
    input_shape  (C, H, W) of the pictures in the trial run, which computes shapes and costs, no numbers

    A feature is (B, C, H, W), (B, N, C) or (B, C); one that the network has as (B, H, W, C) reaches junction and head
    as (B, C, H, W). A classifier that is a 1x1 convolution becomes the nn.Linear of the same weights. Where
    convolutions read a feature directly, on a CPU they skip input gradients that the junction drops (splitgrad).
    In-place activations become out-of-place ones: nothing may change a feature.

    Raises TypeError or ValueError, naming the value, for a node that does not exist or lies too deep, a list out of
    order, more exits than places, a model that torch.fx cannot trace, that does not end in nn.Linear, or that shares
    weights between stages, a cut that something other than tensors (B, ...) would cross, and whatever a graph would
    lose of the network and of the modules that a cut opens: hooks, a forward or __call__ of their own, a part under
    another gradient or autocast mode, checkpointing, random numbers drawn in forward.
    """
    model = unwrapped(model)
    check(model, at, classes, input_shape)
    paths = {module: path for path, module in model.named_modules()}
    model = copy.deepcopy(model)
    modes = [(module, module.training) for module in model.modules()]
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    guard(model)
    check_beside(model, ())
    whole = _taken_apart(model, input_shape)
    fc = classifier(whole)
    places = evenly(whole, fc, at, input_shape) if isinstance(at, int) else [named(whole, paths, a) for a in at]
    readers = [split_readers(whole, place) for place in places]

    opened = {path.rsplit(".", i)[0] for path in [*places, fc.target] for i in range(1, path.count(".") + 1)}
    check_beside(model, opened)
    trace, other = Trace(model.train(), opened), Trace(model.eval(), opened)
    choose_by_mode(trace.graph, other.graph)
    for module, mode in modes:
        module.training = mode
    stages = cut(trace, places, fc.target, readers, input_shape)

    last = model.get_submodule(fc.target)
    like = {"device": last.weight.device, "dtype": last.weight.dtype}
    classes = classes or last.out_features
    check_classes(classes)
    channels = [stage.meta["channels"][-1] for stage in stages]
    heads = [(head or Exit)(C, classes) for C in channels[:-1]]
    if not all(isinstance(h, nn.Module) for h in heads):
        raise TypeError(f"head={head!r}: it is called with (channels, classes) and returns a module")
    if classes != last.out_features:
        last = nn.Linear(last.in_features, classes, bias=last.bias is not None)
    heads = [h.to(**like) for h in [*heads, Last(last)]]
    check_owners(stages, heads)
    return stages, heads


def _taken_apart(model: nn.Module, input_shape: tuple[int, int, int]) -> Trace:
    """The graph of the whole network in evaluation mode, by which places are named; its classifier is linear."""
    with autocasting():
        whole = Trace(model.eval())
        return Trace(model) if linear_classifier(model, whole, input_shape) else whole
