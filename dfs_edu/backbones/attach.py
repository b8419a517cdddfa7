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

from dfs_edu.multiexit import Head, MultiExit, State, check_classes, checked_shape
from dfs_edu.splitgrad import Conv2d, guard

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
                 It gets the feature, or the whole list where more than the feature crosses the cut (see Stage); be it a
                 `multiexit.Head`, whose classifier is `fc`, for distillation and for runs that are read back
    input_shape  (C, H, W) of the pictures in the trial run, which computes shapes and costs, no numbers

    A feature is (B, C, H, W), (B, N, C) or (B, C). Where convolutions read it directly, on a CPU they skip input
    gradients that the junction drops (splitgrad). In-place activations become out-of-place ones: nothing may change a
    feature.

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
    guard(model)
    whole = _Trace(model.eval())
    fc = _classifier(whole)
    places = _evenly(whole, fc, at, input_shape) if isinstance(at, int) else [_name(whole, paths, a) for a in at]
    readers = [_split_readers(whole, place) for place in places]

    opened = {path.rsplit(".", i)[0] for path in [*places, fc.target] for i in range(1, path.count(".") + 1)}
    trace, other = _Trace(model.train(), opened), _Trace(model.eval(), opened)
    _choose_by_mode(trace.graph, other.graph)
    for module, mode in modes:
        module.training = mode
    stages = _cut(trace, places, fc.target, readers, input_shape)

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
    if (at if isinstance(at, int) else len(at)) < 1:
        raise ValueError(f"at={at!r}: there must be one exit at least, besides the network's own end")
    if classes is not None:
        check_classes(classes)
    checked_shape(input_shape)


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
        self.opened, self.whole, self.ends, self.calls = opened, set(), {}, Counter()
        others = list(inspect.signature(model.forward).parameters.values())[1:]
        if needed := [p.name for p in others if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]:
            raise ValueError(f"{type(model).__name__}.forward asks for {', '.join(needed)} besides the pictures")
        try:
            self.trace(model, {p.name: p.default for p in others if p.default is not p.empty} or None)
        except Exception as error:  # a tracer runs the model's own code: anything may come
            raise ValueError(f"{type(model).__name__} cannot be traced by torch.fx: {error}") from error
        for node in self.graph.nodes:
            if node.kwargs.get("inplace") is True:
                node.kwargs = node.kwargs | {"inplace": False}
        self.named = {name: node for node, name in self.node_to_qualname.items() if node.op != "placeholder"}

    def is_leaf_module(self, m: nn.Module, path: str) -> bool:
        """Kept whole, whoever wrote them: what changes buffers or draws numbers, as BatchNorm and StochasticDepth do,
        and nn.Linear, for the classifier is one."""
        from_ops = m.__module__.startswith("torchvision.ops") and not isinstance(m, nn.Sequential)
        closed = path in self.whole or (self.opened is not None and path not in self.opened)
        kept = isinstance(m, nn.modules.batchnorm._NormBase | nn.Linear)
        return closed or from_ops or kept or super().is_leaf_module(m, path)

    def call_module(self, m: nn.Module, forward: Callable, args, kwargs):
        path, before = self.path_of_module(m), len(self.graph.nodes)
        try:
            out = super().call_module(m, forward, args, kwargs)
        except Exception:  # it branches on numbers, or the like: forget the attempt, the module stays whole
            for node in list(self.graph.nodes)[: before - 1 : -1]:
                self.node_to_qualname.pop(node, None)  # weights have no name
                self.graph.erase_node(node)
            for known in (self.ends, self.calls):
                for inner in [p for p in known if p.startswith(f"{path}.")]:
                    del known[inner]
            self.whole.add(path)
            out = super().call_module(m, forward, args, kwargs)
        self.calls[path] += 1
        if isinstance(out, fx.Proxy):
            self.ends[path] = out.node
        return out

    def calls_of(self, path: str) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "call_module" and node.target == path]

    def find(self, name: str) -> fx.Node | None:
        """The node of that name, or the end of the module of that name: of its last part, if it is a mere container."""
        parts = [node for path, node in self.ends.items() if path.startswith(f"{name}.")]
        return self.named.get(name) or self.ends.get(name) or (parts[-1] if parts else None)


def _name(whole: _Trace, paths: dict[nn.Module, str], a: str | nn.Module) -> str:
    """What the user gave, as a name that stands for one node."""
    if not isinstance(a, str | nn.Module):
        raise TypeError(f"at: {a!r} is a {type(a).__name__}; give node names or modules")
    if not isinstance(a, str) and a not in paths:
        raise ValueError(f"at: {a} is not a module of the model")
    name = a if isinstance(a, str) else paths[a]
    if whole.find(name) is None:
        known = list(dict.fromkeys([*whole.named, *whole.ends]))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
        raise ValueError(f"at: the network runs no node {name!r}; did you mean {' or '.join(map(repr, near))}?")
    if name not in whole.named and whole.calls[name] > 1:
        inner = next(known for known in whole.named if known.startswith(f"{name}."))
        raise ValueError(f"at: {name!r} runs {whole.calls[name]} times; name a node in it, such as {inner!r}")
    return name


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
    if len(train.nodes) - 1 != len(other.nodes) or any((a.op, a.target) != (b.op, b.target) for a, b in pairs):
        raise ValueError("the network takes another way in training than in evaluation, in a module that a cut opens")
    for a, b in pairs:
        constants: list = []
        map_aggregate((b.args, b.kwargs), lambda value, found=constants: found.append(twin.get(value, value)))
        left = iter(constants)

        def choose(value, left=left, node=a):
            evaluation = next(left)
            if value is evaluation or value == evaluation:
                return value
            with train.inserting_before(node):
                return train.call_function(operator.getitem, ((evaluation, value), mode))

        a.args, a.kwargs = map_aggregate((a.args, a.kwargs), choose)


class _Trial(fx.Interpreter):
    """A run in evaluation mode on the meta device: shapes and costs without numbers.

    value     what each node computed
    flops     the FLOPs up to and with each node
    modified  the nodes whose tensor something changed in place afterwards
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, input_shape: tuple[int, int, int]):
        super().__init__(copy.deepcopy(model).to("meta").eval(), graph=graph)
        self.extra_traceback = False
        self.input_shape = input_shape
        self.value, self.flops, self.versions = {}, {}, {}
        dtype = next((p.dtype for p in model.parameters()), None)
        pictures = torch.empty(BATCH, *input_shape, device="meta", dtype=dtype)
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as self.counter:
                self.run(pictures, enable_io_processing=False)
        except Exception as error:  # it runs the model's own code: anything may come
            raise ValueError(f"input_shape={input_shape}: the network cannot read such pictures ({error})") from error
        self.modified = {node for node, version in self.versions.items() if self.value[node]._version != version}

    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        self.value[node], self.flops[node] = value, self.counter.get_total_flops()
        if isinstance(value, Tensor):
            self.versions[node] = value._version
        return value


# Where exits may leave


def _evenly(whole: _Trace, fc: fx.Node, exits: int, input_shape: tuple[int, int, int]) -> list[str]:
    """The names of so many places, at equal distances in MACs of the whole network, as near as its blocks allow."""
    trial = _Trial(whole.root, whole.graph, input_shape)
    total, end = max(trial.flops.values()), trial.flops[fc.args[0]]
    places: dict[int, str] = {}  # FLOPs so far -> name
    for node in _bottlenecks(whole.graph):
        so_far = trial.flops[node]
        if 0 < so_far < end and _ends_block(whole, node) and not _problem(trial, node, True):
            names = [path for path, last in whole.ends.items() if last is node and whole.calls[path] == 1]
            name = min([*names, whole.node_to_qualname[node]], key=lambda name: name.count("."))
            # Of places that cost the same: the one named by the largest block, and of those the last, after pooling.
            if name.count(".") <= places.get(so_far, name).count("."):  # of equals, whole blocks, the last
                places[so_far] = name
    costs = sorted(places)
    if exits > len(costs):
        raise ValueError(
            f"at={exits}: this network has {len(costs)} block ends where a feature (B, C, H, W), (B, N, C) or (B, C) "
            "is all that goes on"
        )
    chosen = []
    for k in range(1, exits + 1):
        free = costs[costs.index(chosen[-1]) + 1 if chosen else 0 : len(costs) - (exits - k)]
        chosen.append(min(free, key=lambda cost, k=k: abs(cost - total * k / (exits + 1))))
    return [places[cost] for cost in chosen]


def _bottlenecks(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes whose value is all that the rest of the graph needs."""
    needed: dict[fx.Node, set] = {}  # node -> who will still read it
    for node in graph.nodes:
        for read in node.all_input_nodes:
            needed.get(read, set()).discard(node)
        if node.op != "get_attr":
            needed[node] = set(node.users)
        needed = {n: readers for n, readers in needed.items() if readers}
        if list(needed) == [node] and node.op != "placeholder":
            yield node


def _ends_block(whole: _Trace, node: fx.Node) -> bool:
    """Nobody in the same block reads on; a chain (nn.Sequential, or the network itself) is no block."""
    block = whole.node_to_qualname[node].rpartition(".")[0]
    while block and isinstance(whole.root.get_submodule(block), nn.Sequential):
        block = block.rpartition(".")[0]
    return not block or not any(whole.node_to_qualname[user].startswith(f"{block}.") for user in node.users)


def _problem(trial: _Trial, node: fx.Node, feature: bool) -> str | None:
    """Why what a node computes cannot cross a cut, or be an exit's feature."""
    value, (_, H, W) = trial.value[node], trial.input_shape
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}: only tensors can lose the pictures that leave"
    shape = tuple(value.shape)
    if value.ndim < 2 or len(value) != BATCH:
        return f"of shape {shape} for {BATCH} pictures: each picture must have its part of it, (B, ...)"
    if node in trial.modified:
        return "which what follows changes in place"
    if feature and (value.ndim > 4 or not value.is_floating_point()):
        return f"{value.dtype} of shape {shape}: a feature is (B, C, H, W), (B, N, C) or (B, C)"
    if feature and value.ndim == 4 and H == W and shape[1] == shape[2] != shape[3]:
        return f"of shape {shape}, channels last: choose a node where it is (B, C, H, W), behind a permute"
    return None


# Cutting


def _cut(
    trace: _Trace, places: list[str], fc: str, readers: list[list[str]], input_shape: tuple[int, int, int]
) -> list[Stage]:
    """The stages: what each exit needs that no earlier exit does. The last one's feature is what `fc` reads."""
    (classifier,) = trace.calls_of(fc)
    ends = [*map(trace.find, places), classifier.args[0]]
    stage_of = _stage_of(ends, places, fc)
    trial = _Trial(trace.root, trace.graph, input_shape)
    pictures = next(node for node in trace.graph.nodes if node.op == "placeholder")
    stages, incoming = [], [pictures]
    for k, end in enumerate(ends):
        nodes = [node for node in trace.graph.nodes if stage_of.get(node) == k and node is not pictures]
        before = [node for node in trace.graph.nodes if stage_of.get(node, k + 1) <= k and node is not end]
        outgoing = [node for node in before if any(stage_of.get(user, 0) > k for user in node.users)] + [end]
        for node in outgoing:
            if problem := _problem(trial, node, feature=node is end):
                name = trace.node_to_qualname.get(node, node.name)
                raise ValueError(f"at: a cut at {[*places, fc][k]!r} would be crossed by {name!r}, {problem}")
        stage = Stage(trace.root, _piece(nodes, incoming, outgoing))
        held = {path for path, _ in stage.named_modules()}
        stage.meta["readers"] = [path for path in readers[k - 1] if path in held] if k else []
        stage.meta["end"] = [*places, fc][k]
        stage.meta["channels"] = [trial.value[n].shape[2 if trial.value[n].ndim == 3 else 1] for n in outgoing]
        stages.append(stage)
        incoming = outgoing
    return stages


def _stage_of(ends: list[fx.Node], places: list[str], fc: str) -> dict[fx.Node, int]:
    """Node -> the first stage, from 0, that needs it. Weights go with who reads them; who is not needed is left out."""
    stage_of: dict[fx.Node, int] = {}
    for k, end in enumerate(ends):
        if end in stage_of:
            j = stage_of[end]
            if k == len(places):
                raise ValueError(f"at: {places[j]!r} is not before {fc!r}: there, the network's own end is the exit")
            if ends[j] is end:
                raise ValueError(f"at: {places[j]!r} and {places[k]!r} are the same place")
            raise ValueError(f"at: {places[k]!r} comes before {places[j]!r}; exits go from shallow to deep")
        needed = [end]
        while needed:
            node = needed.pop()
            if node not in stage_of and node.op != "get_attr":
                stage_of[node] = k
                needed += node.all_input_nodes
    return stage_of


def _piece(nodes: list[fx.Node], incoming: list[fx.Node], outgoing: list[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    state = graph.placeholder("x")
    if len(incoming) == 1:
        copied = {incoming[0]: state}
    else:
        copied = {node: graph.call_function(operator.getitem, (state, i)) for i, node in enumerate(incoming)}

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copied:
            copied[node] = graph.node_copy(node, copy_of)
        return copied[node]

    for node in nodes:
        copy_of(node)
    out = [copied[node] for node in outgoing]
    graph.output(out if len(out) > 1 else out[0])
    return graph


# Convolutions that skip gradients nobody uses


def _split_readers(whole: _Trace, place: str) -> list[str]:
    """Put split convolutions, with the same weights, where convolutions read the feature; returns their paths."""
    paths = list(dict.fromkeys(_readers(whole, whole.find(place))))
    for path in paths:
        old = whole.root.get_submodule(path)
        geometry = {name: getattr(old, name) for name in ("stride", "padding", "dilation", "groups")}
        new = Conv2d(old.in_channels, old.out_channels, old.kernel_size, **geometry, bias=False, device="meta")
        new.weight, new.bias = old.weight, old.bias
        whole.root.set_submodule(path, new.train(old.training))
    return paths


def _readers(whole: _Trace, feature: fx.Node) -> Iterator[str]:
    for user in feature.users:
        module = whole.root.get_submodule(user.target) if user.op == "call_module" else None
        if type(module) in BY_CHANNEL:
            yield from _readers(whole, user)
        elif type(module) in (nn.Conv2d, Conv2d) and whole.calls[user.target] == 1:
            depthwise = module.groups == module.in_channels == module.out_channels
            hooked = module._forward_pre_hooks or module._forward_hooks
            plain = module.padding_mode == "zeros" and not isinstance(module.padding, str) and not hooked
            if plain and (module.groups == 1 or depthwise):
                yield user.target
