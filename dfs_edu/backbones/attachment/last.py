"""The network's own classifier: the nn.Linear, or 1x1 convolution, whose output is the network's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx, nn

from dfs_edu.backbones.attachment.trace import Trace
from dfs_edu.backbones.attachment.trial import Trial

SHAPING = (nn.Identity, nn.Flatten, nn.Unflatten)  # what may come after it


def linear_classifier(model: nn.Module, whole: Trace, input_shape: tuple[int, int, int]) -> bool:
    """Put a linear layer of the same weights in the place of a classifier that is a 1x1 convolution; True if it was."""
    node = _end(whole)
    conv = _module(whole, node)
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or conv.groups != 1:
        return False
    H, W = Trial(whole.root, whole.graph, input_shape).value[node.args[0]].shape[2:]
    if (H, W) != (1, 1):
        raise ValueError(f"the classifier {node.target!r} is a convolution over {H}x{W} places: pool before it")
    like = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None, **like)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        if conv.bias is not None:
            linear.bias.copy_(conv.bias)
    shaped = nn.Unflatten(1, (conv.out_channels, 1, 1))
    model.set_submodule(node.target, nn.Sequential(nn.Flatten(1), linear, shaped))
    return True


def classifier(whole: Trace) -> fx.Node:
    """The nn.Linear that makes the network's output; only what changes nothing may come after it.

    Raises ValueError where the network ends in anything else, naming it.
    """
    node = _end(whole)
    if isinstance(_module(whole, node), nn.Linear) and len(whole.calls_of(node.target)) == 1:
        return node
    name, end = type(whole.root).__name__, whole.node_to_qualname.get(node, node)
    if not isinstance(node, fx.Node):
        raise ValueError(f"{name} answers with a {type(node).__name__}: the last exit's answer is one tensor of logits")
    several = list(dict.fromkeys(_linears_before(whole, node)))
    if len(several) > 1:
        raise ValueError(
            f"{name} computes its output {end!r} from several classifiers, {' and '.join(map(repr, several))}: the "
            "last exit has one. Merge them, or keep one, in a forward of your own"
        )
    raise ValueError(
        f"{name} ends in {end!r}: the last exit is the network's own classifier, an nn.Linear whose output is the "
        "network's"
    )


def _end(whole: Trace):
    """What makes the network's output: the last node, before those that only change the shape."""
    (output,) = (node for node in whole.graph.nodes if node.op == "output")
    node = output.args[0]
    while isinstance(node, fx.Node) and (
        isinstance(_module(whole, node), SHAPING)
        or (node.op != "call_module" and node.target in ("flatten", torch.flatten))
    ):
        node = node.args[0]
    return node


def _module(whole: Trace, node) -> nn.Module | None:
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return whole.root.get_submodule(node.target) if is_call else None


def _linears_before(whole: Trace, node: fx.Node) -> Iterator[str]:
    """The classifiers that a sum or mean at the end is made of."""
    for read in node.all_input_nodes:
        if isinstance(_module(whole, read), nn.Linear):
            yield read.target
        elif read.op in ("call_function", "call_method"):
            yield from _linears_before(whole, read)
