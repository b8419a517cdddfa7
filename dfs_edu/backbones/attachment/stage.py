"""The parts of an attached network: stages, which lie between two cuts, and the heads of its exits."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, fx, nn

from dfs_edu.multiexit import Head, State


class Stage(fx.GraphModule):
    """The piece of the network between two cuts.

    It takes and returns a tensor if only the exit's feature crosses the cut; otherwise a list, the feature last.
    """

    def __reduce__(self) -> tuple:
        """Pickle graph and meta as they are. torch's own way traces again, which bakes in what depends on the mode."""
        _, (body, _) = super().__reduce__()
        return _restored, (body, copy.deepcopy(self.graph))  # a copy has no owner, which would be pickled again

    @property
    def readers(self) -> list[str]:
        """Paths of the convolutions that read the feature before this stage, see ``splitgrad.propagate``."""
        return self.meta["readers"]

    @property
    def out_channels(self) -> int | list[int]:
        """Channels of what the stage returns, or a list of such numbers if it returns a list."""
        channels = self.meta["channels"]
        return channels if len(channels) > 1 else channels[0]


def _restored(body: dict[str, Any], graph: fx.Graph) -> Stage:
    root = nn.Module()
    root.__dict__.update(body)
    stage = Stage(root, graph)
    stage.__dict__.update(body)  # meta, mode, hooks
    return stage


class Exit(Head):
    """Mean over positions (or over tokens, class token included), LayerNorm, linear.

    It is the head of ConvNeXt, and of a ViT that pools.

    The features of a trained network differ in scale by orders of magnitude. LayerNorm makes one learning rate fit all
    exits and, unlike BatchNorm, does the same in training and evaluation, and on a batch of one.
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
    """The network's own classifier. What comes before it belongs to the last stage."""

    def __init__(self, fc: nn.Module):
        super().__init__()
        self.fc = fc

    def embed(self, seen: Tensor) -> Tensor:  # (B, D)
        return seen
