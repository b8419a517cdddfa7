"""A network as a graph of torch.fx, and what a graph cannot hold."""

from __future__ import annotations

import inspect
import math
import operator
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, fx, nn
from torch._C import _autograd
from torch.fx.node import map_aggregate
from torchvision.models.feature_extraction import NodePathTracer

AUTOCAST = ("cpu", "cuda")
CONSTANT = "_tensor_constant"  # how torch.fx names a tensor that forward makes
DRAWS = "draws random numbers outside its modules (LayerDrop?): a graph would repeat the choice of this draw forever"


class Trace(NodePathTracer):
    """A model's graph, where every node has the name that torchvision gives it.

    Afterwards, ``whole`` holds the modules that cannot be taken apart, path -> reason; ``ends`` the last node of each
    module, by path; ``calls`` how often each module runs; ``named`` the nodes by name.

    Args:
        model: The network.
        opened: Paths of the modules to take apart; all others stay whole. None: take everything apart, down to
            torch.nn.

    Raises:
        ValueError: The network itself, or a module that must be opened, does something that a graph would lose (see
            ``_modes`` and ``_random_state``).
    """

    def __init__(self, model: nn.Module, opened: set[str] | None = None):
        super().__init__(autowrap_modules=(math, torchvision.ops))
        self.opened, self.calls = opened, Counter()
        self.whole: dict[str, str] = {}
        self.ends: dict[str, fx.Node] = {}
        self.modes, grad, defaults = _modes(), torch.is_grad_enabled(), _defaults(model)
        drawn = None if opened is None else _random_state()
        try:
            self.trace(model, defaults or None)
        except Exception as error:  # a tracer runs the model's own code: anything may come
            raise ValueError(f"{type(model).__name__} cannot be traced by torch.fx: {error}") from error
        finally:
            torch.set_grad_enabled(grad)  # forward may have been left before it put this back
        if opened is not None and drawn != _random_state():
            raise ValueError(f"{type(model).__name__} {DRAWS}")
        for node in self.graph.nodes:
            if node.kwargs.get("inplace") is True:
                node.kwargs = node.kwargs | {"inplace": False}
        self.named = {name: node for node, name in self.node_to_qualname.items() if node.op != "placeholder"}

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        """Whether a module stays whole.

        Besides modules of torch.nn these are, also in other libraries: modules that change buffers or draw random
        numbers, as BatchNorm and StochasticDepth do, and nn.Linear, since the classifier is one.
        """
        path = module_qualname
        from_ops = m.__module__.startswith("torchvision.ops") and not isinstance(m, nn.Sequential)
        closed = path in self.whole or (self.opened is not None and path not in self.opened)
        kept = isinstance(m, nn.modules.batchnorm._NormBase | nn.Linear)
        return closed or from_ops or kept or super().is_leaf_module(m, path)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        """Trace the call of a module. One that cannot be traced stays whole, unless a cut opens it."""
        path, before, grad = self.path_of_module(m), len(self.graph.nodes), torch.is_grad_enabled()
        must_open = self.opened is not None and path in self.opened
        drawn = _random_state() if must_open else None
        try:
            out = super().call_module(m, forward, args, kwargs)
        except Exception as error:  # it branches on numbers, or the like
            torch.set_grad_enabled(grad)
            if must_open:
                raise ValueError(f"{path!r}, which a cut opens: {error}") from error

            # Forget the attempt
            for node in list(self.graph.nodes)[: before - 1 : -1]:
                self.node_to_qualname.pop(node, None)  # weights have no name
                self.graph.erase_node(node)
            for known in (self.ends, self.calls):
                for inner in [p for p in known if p.startswith(f"{path}.")]:
                    del known[inner]
            self.whole[path] = str(error)  # from now on it is a leaf
            out = super().call_module(m, forward, args, kwargs)
        if must_open and drawn != _random_state():
            raise ValueError(f"{path!r}, which a cut opens, {DRAWS}")
        self.calls[path] += 1
        if isinstance(out, fx.Proxy):
            self.ends[path] = out.node
        return out

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Create a node. Raises ValueError if it runs in another mode than the network, which a graph would lose."""
        changed = [name for name, mode in _modes().items() if mode != self.modes[name]]
        if changed:
            raise ValueError(f"a part of it runs under {' and '.join(changed)}, which a graph would lose")
        return super().create_node(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        """Make a tensor that forward creates a buffer; equal ones, also of another trace, share one."""
        if not isinstance(a, Tensor) or a in self.tensor_attrs or any(a is p for p in _state(self.root)):
            return super().create_arg(a)
        constants = {name: b for name, b in self.root.named_buffers(recurse=False) if name.startswith(CONSTANT)}
        name = next((name for name, b in constants.items() if _equal(a, b)), f"{CONSTANT}{len(constants)}")
        if name not in constants:
            self.root.register_buffer(name, a.detach(), persistent=False)
        return self.create_node("get_attr", name, (), {})

    def calls_of(self, path: str) -> list[fx.Node]:
        """Return the nodes that call a module."""
        return [node for node in self.graph.nodes if node.op == "call_module" and node.target == path]

    def module_of(self, node: Any) -> nn.Module | None:
        """Return the module that a node calls; None if it calls none."""
        calls = isinstance(node, fx.Node) and node.op == "call_module"
        return self.root.get_submodule(str(node.target)) if calls else None

    def find(self, name: str) -> fx.Node | None:
        """Return the node of a name, or the end of the module of that name (of a container: of its last part)."""
        parts = [node for path, node in self.ends.items() if path.startswith(f"{name}.")]
        return self.named.get(name) or self.ends.get(name) or (parts[-1] if parts else None)


def _defaults(model: nn.Module) -> dict:
    """The defaults of forward's other arguments. Raises ValueError if one has none, or it takes ``*args``."""
    first, *others = inspect.signature(model.forward).parameters.values()
    if first.kind is first.VAR_POSITIONAL:
        raise ValueError(f"{type(model).__name__}.forward takes *{first.name}: name its one argument, the images")
    single = [p for p in others if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed := [p.name for p in single if p.default is p.empty]:
        raise ValueError(f"{type(model).__name__}.forward needs {', '.join(needed)} besides the images")
    return {p.name: p.default for p in single}


def _modes() -> dict:
    """The modes of torch in which a forward pass may run some of its parts."""
    return {
        "another gradient mode (torch.no_grad, set_grad_enabled, or a checkpoint)": torch.is_grad_enabled(),
        "torch.inference_mode": torch.is_inference_mode_enabled(),
        "another torch.autocast": tuple(torch.is_autocast_enabled(device) for device in AUTOCAST),
        "torch.utils.checkpoint": _autograd._top_saved_tensors_default_hooks(True) is None,
    }


@contextmanager
def autocasting() -> Generator[None]:
    """Pretend to be under autocast, so that a part of forward that turns it off is seen though nothing is computed."""
    before = {device: torch.is_autocast_enabled(device) for device in AUTOCAST}
    try:
        for device in AUTOCAST:
            torch.set_autocast_enabled(device, True)
        yield
    finally:
        for device, enabled in before.items():
            torch.set_autocast_enabled(device, enabled)


def _random_state() -> tuple:
    """The states of the random number generators on a CPU; they change if forward draws while it is traced."""
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 (the generator that other people draw from)
    return random.getstate(), state["key"].tobytes(), state["pos"], torch.get_rng_state().numpy().tobytes()


def _state(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _equal(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.device, a.shape) == (b.dtype, b.device, b.shape) and torch.equal(a, b)


def choose_by_mode(train: fx.Graph, other: fx.Graph) -> None:
    """Make the graph of training serve both modes.

    Wherever the two graphs differ in a constant, as in F.dropout(x, training=self.training), it becomes (constant in
    evaluation, constant in training)[self.training].

    Raises:
        ValueError: They differ in anything else.
    """
    # Pair the nodes of both graphs
    first = next(iter(train.nodes))
    with train.inserting_before(first):
        mode = train.create_node("get_attr", "training")  # of the Stage that will run it
    pairs = list(zip([node for node in train.nodes if node is not mode], other.nodes, strict=False))
    twin = {b: a for a, b in pairs}
    if len(train.nodes) - 1 != len(other.nodes) or any((a.op, a.target) != (b.op, b.target) for a, b in pairs):
        raise ValueError(
            "the network computes something else in training than in evaluation, in a module that a cut opens"
        )

    # Choose between the constants of a pair
    for a, b in pairs:
        constants: list = []
        map_aggregate((b.args, b.kwargs), lambda value, out=constants: out.append(twin.get(value, value)))
        remaining = iter(constants)

        def choose(value, remaining=remaining, node=a):
            evaluation = next(remaining)
            if value is evaluation or value == evaluation:
                return value
            with train.inserting_before(node):
                return train.call_function(operator.getitem, ((evaluation, value), mode))

        a.args, a.kwargs = map_aggregate((a.args, a.kwargs), choose)
