"""VGG with an exit after every convolution (Gong et al., ECCV 2024, section 4; VGG: Simonyan and Zisserman, 2015).

A stage is convolution 3x3, ReLU, BatchNorm and, at the end of a group, 2x2 max-pooling; a head is global average
pooling and a linear classifier. As published, the convolutions after the first and the classifiers have no bias. The
size ``convs`` gives the first head convolutions of its own: does exit 1 lack a better head, or a better trunk?
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
    """Global average pooling and a linear classifier, behind ``convs`` convolutions of the head's own."""

    readers = ("convs",)

    def __init__(self, channels: int, classes: int, convs: int = 0):
        super().__init__()
        self.convs = nn.Sequential(*(stage(channels, channels, bias=False, pool=False) for _ in range(convs)))
        self.fc = nn.Linear(channels, classes, bias=False)

    def embed(self, seen: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C)
        return self.convs(seen).mean((2, 3))


def _stages_and_heads(groups: list[list[int]], classes: int, convs: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return stages and heads; each group lists the output channels of the convolutions between two poolings."""
    stages, heads, channels_in = [], [], 3
    for group in groups:
        for i, channels in enumerate(group, start=1):
            stages.append(stage(channels_in, channels, bias=not stages, pool=i == len(group)))
            heads.append(Head(channels, classes, 0 if heads else convs))
            channels_in = channels
    return stages, heads


@family("vgg7-64", pixels=32, smallest=8)
def vgg7(classes: int, width: int = 64, convs: int = 0):
    """VGG7: six convolutions, six exits, for images of 32x32 pixels; ``convs`` more in the head of exit 1."""
    return _stages_and_heads([[width] * 2, [2 * width] * 2, [4 * width] * 2], classes, convs)


@family("vgg16-64", pixels=224, smallest=32)
def vgg16(classes: int, width: int = 64, convs: int = 0):
    """VGG16: thirteen convolutions, thirteen exits, for images of 224x224 pixels; ``convs`` more in exit 1's head."""
    groups = [[width] * 2, [2 * width] * 2, [4 * width] * 3, [8 * width] * 3, [8 * width] * 3]
    return _stages_and_heads(groups, classes, convs)
