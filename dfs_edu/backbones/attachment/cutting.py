"""A traced network cut into stages."""

from __future__ import annotations

import operator

from torch import fx

from dfs_edu.backbones.attachment.stage import Stage
from dfs_edu.backbones.attachment.trace import Trace
from dfs_edu.backbones.attachment.trial import Trial, channels, channels_last, problem


def cut(
    trace: Trace, places: list[str], fc: str, readers: list[list[str]], input_shape: tuple[int, int, int]
) -> list[Stage]:
    """The stages: what each exit needs that no earlier exit does. The last one's feature is what `fc` reads."""
    (classifier,) = trace.calls_of(fc)
    ends = [*map(trace.find, places), classifier.args[0]]
    stage_of = _stage_of(ends, places, fc)
    trial = Trial(trace.root, trace.graph, input_shape)
    pictures = next(node for node in trace.graph.nodes if node.op == "placeholder")
    stages, incoming, turned = [], [pictures], False
    for k, end in enumerate(ends):
        nodes = [node for node in trace.graph.nodes if stage_of.get(node) == k and node is not pictures]
        so_far = [node for node in trace.graph.nodes if stage_of.get(node, k + 1) <= k and node is not end]
        outgoing = [node for node in so_far if any(stage_of.get(user, 0) > k for user in node.users)] + [end]
        for node in outgoing:
            if fault := problem(trial, node, feature=node is end):
                name = trace.node_to_qualname.get(node, node.name)
                raise ValueError(f"at: a cut at {[*places, fc][k]!r} would be crossed by {name!r}, {fault}")
        before, turned = turned, channels_last(trial, end)
        stage = Stage(trace.root, _piece(nodes, incoming, outgoing, before, turned))
        held = {path for path, _ in stage.named_modules()}
        stage.meta["readers"] = [path for path in readers[k - 1] if path in held] if k else []
        stage.meta["end"] = [*places, fc][k]
        stage.meta["channels"] = [*(trial.value[n].shape[1] for n in outgoing[:-1]), channels(trial, end)]
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


def _piece(
    nodes: list[fx.Node], incoming: list[fx.Node], outgoing: list[fx.Node], turned_in: bool, turned_out: bool
) -> fx.Graph:
    """The graph of one stage. A feature that is channels-last in the network, (B, H, W, C), crosses as (B, C, H, W)."""
    graph = fx.Graph()
    state = graph.placeholder("x")
    if len(incoming) == 1:
        copied = {incoming[0]: state}
    else:
        copied = {node: graph.call_function(operator.getitem, (state, i)) for i, node in enumerate(incoming)}
    if turned_in:
        copied[incoming[-1]] = graph.call_method("permute", (copied[incoming[-1]], 0, 2, 3, 1))

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copied:
            copied[node] = graph.node_copy(node, copy_of)
        return copied[node]

    for node in nodes:
        copy_of(node)
    out = [copied[node] for node in outgoing]
    if turned_out:
        out[-1] = graph.call_method("permute", (out[-1], 0, 3, 1, 2))
    graph.output(out if len(out) > 1 else out[0])
    return graph
