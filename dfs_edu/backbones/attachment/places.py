"""Where exits may leave a network: by name, or evenly along its cost."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator

import numpy as np
from torch import fx, nn

from dfs_edu.backbones.attachment.trace import Trace
from dfs_edu.backbones.attachment.trial import Trial, problem


def name_of(whole: Trace, paths: dict[nn.Module, str], place: str | nn.Module) -> str:
    """Return the name of one node for what the user gave: a name, or a module of the model.

    Raises:
        TypeError: It is neither.
        ValueError: The network has no such node (the message lists similar names), or runs the module several times.
    """
    if not isinstance(place, str | nn.Module):
        raise TypeError(f"at: {place!r} is a {type(place).__name__}; give node names or modules")
    if not isinstance(place, str) and place not in paths:
        raise ValueError(f"at: {place} is not a module of the model")
    name = place if isinstance(place, str) else paths[place]
    if whole.find(name) is None:
        known = list(dict.fromkeys([*whole.named, *whole.ends]))
        closed = [path for path in whole.whole if name.startswith(f"{path}.")]
        reason = f" {closed[0]!r} cannot be taken apart: {whole.whole[closed[0]]}" if closed else ""
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
        suggestions = " or ".join(map(repr, near))
        raise ValueError(f"at: the network runs no node {name!r}; did you mean {suggestions}?{reason}")
    if name not in whole.named and whole.calls[name] > 1:
        inner = next(known for known in whole.named if known.startswith(f"{name}."))
        raise ValueError(f"at: {name!r} runs {whole.calls[name]} times; name a node in it, such as {inner!r}")
    return name


def evenly(whole: Trace, fc: str, exits: int, input_shape: tuple[int, int, int]) -> list[str]:
    """Return the names of the given number of places, as evenly spaced in MACs as the network's blocks allow.

    Raises:
        ValueError: The network has fewer block ends than that.
    """
    places, total = _block_ends(whole, fc, input_shape)
    costs = sorted(places)
    if exits > len(costs):
        raise ValueError(
            f"at={exits}: this network has {len(costs)} block ends where a feature (B, C, H, W), (B, N, C) or (B, C) "
            "is all that goes on"
        )

    # For each exit the nearest block end that leaves enough of them for the exits after it
    chosen: list[int] = []
    for k in range(1, exits + 1):
        free = costs[costs.index(chosen[-1]) + 1 if chosen else 0 : len(costs) - (exits - k)]
        chosen.append(min(free, key=lambda cost, k=k: abs(cost - total * k / (exits + 1))))
    gaps = np.diff([0, *chosen, total]) / total
    if min(gaps) < 0.25 / (exits + 1):
        shares = ", ".join(f"{100 * cost / total:.0f} %" for cost in chosen)
        warnings.warn(
            f"at={exits}: the nearest block ends lie at {shares} of the cost, not evenly; name the places instead, or "
            "ask for fewer",
            stacklevel=4,
        )
    return [places[cost] for cost in chosen]


def _block_ends(whole: Trace, fc: str, input_shape: tuple[int, int, int]) -> tuple[dict[int, str], int]:
    """The ends of blocks where exits may leave, FLOPs up to there -> name; and the FLOPs of the whole network."""
    trial = Trial(whole.root, whole.graph, input_shape)
    total, end = max(trial.flops.values()), trial.flops[whole.calls_of(fc)[0].all_input_nodes[0]]
    places: dict[int, str] = {}
    for node in _bottlenecks(whole.graph):
        so_far = trial.flops[node]
        if 0 < so_far < end and _ends_block(whole, node) and not problem(trial, node, True):
            names = [path for path, last in whole.ends.items() if last is node and whole.calls[path] == 1]
            name = min([*names, whole.node_to_qualname[node]], key=lambda name: name.count("."))
            # Of places that cost the same: the one named by the largest block, and of those the last, after pooling
            if name.count(".") <= places.get(so_far, name).count("."):
                places[so_far] = name
    return places, total


def _bottlenecks(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes whose value is all that the rest of the graph needs."""
    needed: dict[fx.Node, set] = {}  # node -> the nodes that will still read it
    for node in graph.nodes:
        for source in node.all_input_nodes:
            needed.get(source, set()).discard(node)
        if node.op != "get_attr":
            needed[node] = set(node.users)
        needed = {n: readers for n, readers in needed.items() if readers}
        if list(needed) == [node] and node.op != "placeholder":
            yield node


def _ends_block(whole: Trace, node: fx.Node) -> bool:
    """Whether nothing in the same block reads a node. A chain (nn.Sequential, or the network itself) is no block."""
    block = whole.node_to_qualname[node].rpartition(".")[0]
    while block and isinstance(whole.root.get_submodule(block), nn.Sequential):
        block = block.rpartition(".")[0]
    return not block or not any(whole.node_to_qualname[user].startswith(f"{block}.") for user in node.users)
