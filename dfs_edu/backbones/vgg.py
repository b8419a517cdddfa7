"""VGG with an exit after every convolution (Gong et al., ECCV 2024, section 4; VGG: Simonyan and Zisserman, 2015).

A stage is convolution 3x3, ReLU, BatchNorm and, at the end of a group, 2x2 max-pooling; a head is global average
pooling and a linear classifier. As published, the convolutions after the first and the classifiers have no bias.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from dfs_edu.backbones.families import family
from dfs_edu.multiexit import Head as BaseHead
from dfs_edu.splitgrad import Conv2d


class Stage(nn.Module):
    def __init__(self, channels_in: int, channels: int, bias: bool, pool: bool):
        super().__init__()
        self.conv = Conv2d(channels_in, channels, 3, padding=1, bias=bias)
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def listen(self, heard: np.ndarray | None) -> np.ndarray:
        return self.conv.listen(heard)

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, H, W) -> (B, C, H, W) or (B, C, H/2, W/2)
        return self.pool(self.norm(self.relu(self.conv(x))))


class Head(BaseHead):
    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.fc = nn.Linear(channels, classes, bias=False)

    def embed(self, f: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C)
        return f.mean((2, 3))


def _stages_and_heads(groups: list[list[int]], classes: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Stages and heads; groups holds the channels of the convolutions between two poolings."""
    stages, heads, channels_in = [], [], 3
    for group in groups:
        for i, channels in enumerate(group, start=1):
            stages.append(Stage(channels_in, channels, bias=not stages, pool=i == len(group)))
            heads.append(Head(channels, classes))
            channels_in = channels
    return stages, heads


@family("vgg7-64", pixels=32, smallest=8)
def vgg7(classes: int, width: int = 64):
    """Six convolutions, six exits; 32x32 pictures."""
    return _stages_and_heads([[width] * 2, [2 * width] * 2, [4 * width] * 2], classes)


@family("vgg16-64", pixels=224, smallest=32)
def vgg16(classes: int, width: int = 64):
    """Thirteen convolutions, thirteen exits; 224x224 pictures."""
    return _stages_and_heads([[width] * 2, [2 * width] * 2, [4 * width] * 3, [8 * width] * 3, [8 * width] * 3], classes)
