"""A computation recorded as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """Record a call as a CUDA graph, and return what replays it. Its tensors stay where they are."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is made only once, such as momentum, is made before
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
