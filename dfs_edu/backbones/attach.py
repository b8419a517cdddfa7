"""Exits for a network that somebody else wrote: torchvision's, timm's, or your own.

torch.fx traces the network, the graph is cut where the exits are to leave it, and the pieces are the stages. Nodes have
the names of torchvision.models.feature_extraction ("layer2", "layer2.1.add", "blocks.3"). Only the modules that a cut
runs through are taken apart; all others are kept whole and run as their authors wrote them, in training as well as in
evaluation, with the original's weights and, inside their stage, the original's names.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import NodePathTracer

from dfs_edu.multiexit import Head, MultiExit, State
from dfs_edu.splitgrad import Conv2d

BATCH = 5  # pictures in the trial run: a number that is hardly any other dimension of a network
# What works on each channel by itself and has no weights: behind it, the same channels are heard as before it.
BY_CHANNEL = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Identity)


class Stage(fx.GraphModule):
    """One piece of the network, from cut to cut.

    It takes and returns a tensor where only the exit's feature crosses the cut, else a list, the feature last.
    """

    def listen(self, heard: np.ndarray | list | None) -> np.ndarray | list:
        """Tell the convolutions that read the feature; of this stage's own channels all are heard (see MultiExit)."""
        for path in self.meta["readers"]:
            self.get_submodule(path).listen(heard[-1] if isinstance(heard, list) else heard)
        own = [np.ones(channels, bool) for channels in self.meta["channels"]]
        return own if len(own) > 1 else own[0]


class Exit(Head):
    """Mean over positions (or tokens, the class token among them), LayerNorm, linear: the head of ConvNeXt, and of a
    ViT that pools.

    The layers of a trained network differ in scale by orders of magnitude: LayerNorm makes one learning rate fit all
    exits and, unlike BatchNorm, does the same in training and evaluation, and with a batch of one.
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, classes)

    def embed(self, seen: State) -> Tensor:  # (B, C, H, W), (B, N, C) or (B, C) -> (B, C)
        f = seen if isinstance(seen, Tensor) else seen[-1]
        positions = {4: (2, 3), 3: (1,), 2: ()}[f.ndim]
        return self.norm(f.mean(positions) if positions else f)


class Last(Head):
    """The network's own classifier; what comes before it belongs to the last stage."""

    def __init__(self, fc: nn.Linear):
        super().__init__()
        self.fc = fc

    def embed(self, seen: Tensor) -> Tensor:  # (B, D)
        return seen


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
                 It gets the feature, or the whole list where more than the feature crosses the cut (see Stage)
    input_shape  (C, H, W) of the pictures in the trial run, which computes shapes and costs, no numbers

    A feature is (B, C, H, W), (B, N, C) or (B, C). Where convolutions read it directly, they skip input gradients that
    the junction drops (splitgrad). In-place activations become out-of-place ones: nothing may change a feature.

    Raises TypeError or ValueError, naming the value, for a node that does not exist or lies too deep, a list out of
    order, more exits than places, a model that torch.fx cannot trace, that does not end in nn.Linear, or that shares
    weights between stages, and a cut that something other than tensors (B, ...) would cross.
    """
    _check(model, at, classes, input_shape)
    paths = {module: path for path, module in model.named_modules()}
    model = copy.deepcopy(model)
    modes = [(module, module.training) for module in model.modules()]
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    whole = _Trace(model.eval())
    fc = _classifier(whole)
    places = _evenly(whole, fc, at, input_shape) if isinstance(at, int) else [_name(whole, paths, a) for a in at]
    _split_readers(whole, places)

    opened = {path.rsplit(".", i)[0] for path in [*places, fc.target] for i in range(1, path.count(".") + 1)}
    trace, other = _Trace(model.train(), opened), _Trace(model.eval(), opened)
    _choose_by_mode(trace.graph, other.graph)
    for module, mode in modes:
        module.training = mode
    (reader,) = trace.calls_of(fc.target)
    stages = _cut(trace, whole, [*places, fc.target], [*map(trace.find, places), reader.args[0]], input_shape)

    last = model.get_submodule(fc.target)
    like = {"device": last.weight.device, "dtype": last.weight.dtype}
    classes = classes or last.out_features
    channels = [stage.meta["channels"][-1] for stage in stages]
    heads = [(head or Exit)(C, classes) for C in channels[:-1]]
    if not all(isinstance(h, nn.Module) for h in heads):
        raise TypeError(f"head={head!r}: it is called with (channels, classes) and returns a module")
    if classes != last.out_features:
        last = nn.Linear(last.in_features, classes, bias=last.bias is not None)
    heads = [h.to(**like) for h in [*heads, Last(last)]]
    _check_owners(stages, heads)
    return stages, heads


def _check(model, at, classes, input_shape) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: give an nn.Module, such as torchvision's resnet50()")
    if isinstance(model, MultiExit):
        raise TypeError("model is a MultiExit: it has its exits already")
    if isinstance(at, bool) or not isinstance(at, int | list | tuple):
        raise TypeError(f"at={at!r}: give a list of node names or modules, or a number of exits")
    if isinstance(at, int) and at < 1 or not isinstance(at, int) and not at:
        raise ValueError(f"at={at!r}: there must be one exit at least, besides the network's own end")
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
        raise ValueError(f"classes={classes!r}: a classifier has at least 2 classes")
    if len(input_shape) != 3 or not all(isinstance(size, int) and size > 0 for size in input_shape):
        raise ValueError(f"input_shape={input_shape!r}: give channels, height, width: whole numbers above zero")


def _check_owners(stages: list[nn.Module], heads: list[nn.Module]) -> None:
    """Weights that two stages share have no one place, and no one exit's gradient."""
    owner = {}
    for k, pair in enumerate(zip(stages, heads, strict=True), start=1):
        for name, parameter in [named for module in pair for named in module.named_parameters()]:
            if owner.setdefault(parameter, (k, name))[0] != k:
                j, first = owner[parameter]
                raise ValueError(f"{first} of stage {j} and {name} of stage {k} are one parameter: cut elsewhere")


# Tracing


class _Trace(NodePathTracer):
    """A model's graph, where every node has the name that torchvision gives it.

    opened   paths of the modules to take apart; all others stay whole. None: take everything apart, down to torch.nn
    """

    def __init__(self, model: nn.Module, opened: set[str] | None = None):
        super().__init__(autowrap_modules=(math, torchvision.ops))
        self.opened, self.ends, self.calls = opened, {}, Counter()
        try:
            options = list(inspect.signature(model.forward).parameters.values())[1:]
            self.trace(model, {p.name: p.default for p in options if p.default is not p.empty} or None)
        except Exception as error:  # a tracer runs the model's own code: anything may come
            raise ValueError(f"{type(model).__name__} cannot be traced by torch.fx: {error}") from error
        self.named = {name: node for node, name in self.node_to_qualname.items() if node.op != "placeholder"}

    def is_leaf_module(self, m: nn.Module, path: str) -> bool:
        """BatchNorm and StochasticDepth change buffers or draw numbers: they stay whole, whoever wrote them."""
        whole = m.__module__.startswith("torchvision.ops") and not isinstance(m, nn.Sequential)
        whole = whole or isinstance(m, nn.modules.batchnorm._NormBase) or super().is_leaf_module(m, path)
        return whole or (self.opened is not None and path not in self.opened)

    def call_module(self, m: nn.Module, forward: Callable, args, kwargs):
        path = self.path_of_module(m)
        out = super().call_module(m, forward, args, kwargs)
        self.calls[path] += 1
        if isinstance(out, fx.Proxy):
            self.ends[path] = out.node
        return out

    def calls_of(self, path: str) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "call_module" and node.target == path]

    def find(self, name: str) -> fx.Node | None:
        """The node of that name, or the last one of the module of that name."""
        within = [node for known, node in self.named.items() if known.startswith(f"{name}.")]
        return self.named.get(name) or self.ends.get(name) or (within[-1] if within else None)


def _name(whole: _Trace, paths: dict[nn.Module, str], a: str | nn.Module) -> str:
    """What the user gave, as a name that stands for one node."""
    if not isinstance(a, str | nn.Module):
        raise TypeError(f"at: {a!r} is a {type(a).__name__}; give node names or modules")
    if not isinstance(a, str) and a not in paths:
        raise ValueError(f"at: {a} is not a module of the model")
    name = a if isinstance(a, str) else paths[a]
    if whole.find(name) is None:
        known = [*whole.named, *whole.calls]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
        raise ValueError(f"at: the network runs no node {name!r}; did you mean {' or '.join(map(repr, near))}?")
    if name not in whole.named and whole.calls[name] > 1:
        raise ValueError(f"at: {name!r} runs {whole.calls[name]} times; name a node, such as {within(whole, name)!r}")
    return name


def within(whole: _Trace, name: str) -> str:
    return next(known for known in whole.named if known.startswith(f"{name}."))


def _classifier(whole: _Trace) -> fx.Node:
    """The nn.Linear that makes the network's output; only what changes nothing may come after it."""
    (output,) = (node for node in whole.graph.nodes if node.op == "output")
    node = output.args[0]
    while isinstance(node, fx.Node) and node.op == "call_module":
        module = whole.root.get_submodule(node.target)
        if isinstance(module, nn.Linear) and len(whole.calls_of(node.target)) == 1:
            return node
        if not isinstance(module, nn.Identity | nn.Flatten):
            break
        node = node.args[0]
    raise ValueError(
        f"{type(whole.root).__name__} ends in {whole.node_to_qualname.get(node, node)!r}: the last exit is the "
        "network's own classifier, an nn.Linear whose output is the network's"
    )


def _choose_by_mode(train: fx.Graph, other: fx.Graph) -> None:
    """One graph for both modes: a constant in which the two differ, as in F.dropout(x, training=self.training), becomes
    (constant in evaluation, constant in training)[self.training].
    """
    first = next(iter(train.nodes))
    with train.inserting_before(first):
        mode = train.create_node("get_attr", "training")  # of the Stage that will run it
    pairs = list(zip([node for node in train.nodes if node is not mode], other.nodes, strict=False))
    twin = {b: a for a, b in pairs}
    same = len(train.nodes) - 1 == len(other.nodes) and all((a.op, a.target) == (b.op, b.target) for a, b in pairs)
    for a, b in pairs if same else []:
        constants: list = []
        map_aggregate((b.args, b.kwargs), lambda value: constants.append(twin.get(value, value)) or value)
