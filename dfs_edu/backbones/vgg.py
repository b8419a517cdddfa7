"""VGG with an exit after every convolution (Gong et al., ECCV 2024, section 4; VGG: Simonyan and Zisserman, 2015).

A stage is convolution 3x3, ReLU, BatchNorm and, at the end of a group, 2x2 max-pooling; a head is global average
pooling and a linear classifier. As published, the convolutions after the first and the classifiers have no bias.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from dfs_edu.backbones.families import family
from dfs_edu.multiexit import Head as BaseHead
from dfs_edu.splitgrad import Conv2d


def stage(channels_in: int, channels: int, bias: bool, pool: bool) -> nn.Sequential:
    """Return a convolution with what follows it: (B, C_in, H, W) -> (B, C, H, W), or (B, C, H/2, W/2) with pooling."""
    return nn.Sequential(
        OrderedDict(
            conv=Conv2d(channels_in, channels, 3, padding=1, bias=bias),
            relu=nn.ReLU(),
            norm=nn.BatchNorm2d(channels),
            pool=nn.MaxPool2d(2) if pool else nn.Identity(),
        )
    )


class Head(BaseHead):
    """Global average pooling and a linear classifier."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.fc = nn.Linear(channels, classes, bias=False)

    def embed(self, seen: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C)
        return seen.mean((2, 3))


def _stages_and_heads(groups: list[list[int]], classes: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return stages and heads; each group lists the output channels of the convolutions between two poolings."""
    stages, heads, channels_in = [], [], 3
    for group in groups:
        for i, channels in enumerate(group, start=1):
            stages.append(stage(channels_in, channels, bias=not stages, pool=i == len(group)))
            heads.append(Head(channels, classes))
            channels_in = channels
    return stages, heads


@family("vgg7-64", pixels=32, smallest=8)
def vgg7(classes: int, width: int = 64):
    """VGG7: six convolutions, six exits, for images of 32x32 pixels."""
    return _stages_and_heads([[width] * 2, [2 * width] * 2, [4 * width] * 2], classes)


@family("vgg16-64", pixels=224, smallest=32)
def vgg16(classes: int, width: int = 64):
    """VGG16: thirteen convolutions, thirteen exits, for images of 224x224 pixels."""
    return _stages_and_heads([[width] * 2, [2 * width] * 2, [4 * width] * 3, [8 * width] * 3, [8 * width] * 3], classes)
