"""Cutting a traced network into stages."""

from __future__ import annotations

import operator
from typing import cast

from torch import fx

from dfs_edu.backbones.attachment.stage import Stage
from dfs_edu.backbones.attachment.trace import Trace
from dfs_edu.backbones.attachment.trial import Trial, channels, channels_last, problem


def cut(
    trace: Trace, places: list[str], fc: str, readers: list[list[str]], input_shape: tuple[int, int, int]
) -> list[Stage]:
    """Return the stages: stage k is what exit k needs and no earlier exit does. ``fc`` reads the last one's feature."""
    (classifier,) = trace.calls_of(fc)
    ends = [cast(fx.Node, trace.find(place)) for place in places] + [classifier.all_input_nodes[0]]
    stage_of = _stage_of(ends, places, fc)
    trial = Trial(trace.root, trace.graph, input_shape)
    images = next(node for node in trace.graph.nodes if node.op == "placeholder")
    stages, incoming, permuted = [], [images], False
    for k, end in enumerate(ends):
        name = [*places, fc][k]

        # What the stage computes, and what of everything computed so far the next ones read
        nodes = [node for node in trace.graph.nodes if stage_of.get(node) == k and node is not images]
        so_far = [node for node in trace.graph.nodes if stage_of.get(node, k + 1) <= k and node is not end]
        outgoing = [node for node in so_far if any(stage_of.get(user, 0) > k for user in node.users)] + [end]
        for node in outgoing:
            if fault := problem(trial, node, feature=node is end):
                crossing = trace.node_to_qualname.get(node, node.name)
                raise ValueError(f"at: a cut at {name!r} would be crossed by {crossing!r}, {fault}")

        # The stage itself
        permuted_before, permuted = permuted, channels_last(trial, end)
        stage = Stage(trace.root, _piece(nodes, incoming, outgoing, permuted_before, permuted))
        paths = {path for path, _ in stage.named_modules()}
        stage.meta["readers"] = [path for path in readers[k - 1] if path in paths] if k else []
        stage.meta["end"] = name
        stage.meta["channels"] = [*(trial.value[n].shape[1] for n in outgoing[:-1]), channels(trial, end)]
        stages.append(stage)
        incoming = outgoing
    return stages


def _stage_of(ends: list[fx.Node], places: list[str], fc: str) -> dict[fx.Node, int]:
    """The first stage, from 0, that needs each node. Weights belong to what reads them; unneeded nodes are left out."""
    stage_of: dict[fx.Node, int] = {}
    for k, end in enumerate(ends):
        if end in stage_of:
            j = stage_of[end]
            if k == len(places):
                raise ValueError(f"at: {places[j]!r} is not before {fc!r}, where the network's own end is the exit")
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


def _piece(
    nodes: list[fx.Node], incoming: list[fx.Node], outgoing: list[fx.Node], permuted_in: bool, permuted_out: bool
) -> fx.Graph:
    """The graph of one stage. A feature that is (B, H, W, C) in the network crosses the cut as (B, C, H, W)."""
    graph = fx.Graph()
    state = graph.placeholder("x")
    if len(incoming) == 1:
        copied = {incoming[0]: state}
    else:
        copied = {node: graph.call_function(operator.getitem, (state, i)) for i, node in enumerate(incoming)}
    if permuted_in:
        copied[incoming[-1]] = graph.call_method("permute", (copied[incoming[-1]], 0, 2, 3, 1))

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copied:
            copied[node] = graph.node_copy(node, copy_of)
        return copied[node]

    for node in nodes:
        copy_of(node)
    out = [copied[node] for node in outgoing]
    if permuted_out:
        out[-1] = graph.call_method("permute", (out[-1], 0, 3, 1, 2))
    graph.output(out if len(out) > 1 else out[0])
    return graph
