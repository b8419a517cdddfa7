"""The network's own classifier: the nn.Linear, or 1x1 convolution, whose output is the network's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from dfs_edu.backbones.attachment.trace import Trace
from dfs_edu.backbones.attachment.trial import Trial

SHAPING = (nn.Identity, nn.Flatten, nn.Unflatten)  # what may come after it


def linear_classifier(model: nn.Module, whole: Trace, input_shape: tuple[int, int, int]) -> bool:
    """Replace a classifier that is a 1x1 convolution by a linear layer of the same weights. True if it was one."""
    node = _end(whole)
    conv = whole.module_of(node)
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or conv.groups != 1:
        return False
    H, W = Trial(whole.root, whole.graph, input_shape).value[node.args[0]].shape[2:]
    if (H, W) != (1, 1):
        raise ValueError(f"the classifier {node.target!r} is a convolution over {H}x{W} places: pool before it")
    linear = nn.Linear(
        conv.in_channels,
        conv.out_channels,
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        if conv.bias is not None:
            linear.bias.copy_(conv.bias)
    shaped = nn.Unflatten(1, (conv.out_channels, 1, 1))
    model.set_submodule(node.target, nn.Sequential(nn.Flatten(1), linear, shaped))
    return True


def classifier(whole: Trace) -> str:
    """Return the path of the nn.Linear that makes the network's output; only changes of shape may come after it.

    Raises:
        ValueError: The network ends in anything else; the message names it.
    """
    node = _end(whole)
    if isinstance(whole.module_of(node), nn.Linear) and len(whole.calls_of(node.target)) == 1:
        return node.target
    name, end = type(whole.root).__name__, whole.node_to_qualname.get(node, node)
    if not isinstance(node, fx.Node):
        raise ValueError(f"{name} returns a {type(node).__name__}: the last exit returns one tensor of logits")
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


def _end(whole: Trace) -> Any:
    """What makes the network's output, normally a node: the last one before those that only change the shape."""
    (output,) = (node for node in whole.graph.nodes if node.op == "output")
    node = output.args[0]
    while isinstance(node, fx.Node) and (
        isinstance(whole.module_of(node), SHAPING)
        or (node.op != "call_module" and node.target in ("flatten", torch.flatten))
    ):
        node = node.args[0]
    return node


def _linears_before(whole: Trace, node: fx.Node) -> Iterator[str]:
    """Paths of the classifiers in the sum or mean at the end."""
    for source in node.all_input_nodes:
        if isinstance(whole.module_of(source), nn.Linear):
            yield str(source.target)
        elif source.op in ("call_function", "call_method"):
            yield from _linears_before(whole, source)
