"""ResNet for small images (He et al., CVPR 2016) with the exits of "Be Your Own Teacher" (Zhang et al., ICCV 2019).

The trunk is ResNet18 with a 3x3 stem and no max-pooling; an exit leaves after each of its four groups of blocks. The
heads of the first three weight their feature by an attention map. Separable convolutions then bring it to the size and
the channels of the last exit's feature, so that the two can be compared when the last exit teaches the others.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from dfs_edu.backbones import initial
from dfs_edu.backbones.families import family
from dfs_edu.multiexit import Head as BaseHead
from dfs_edu.splitgrad import Conv2d


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the size changes."""

    readers = ("conv1", "shortcut")  # of its input: behind a cut they can skip gradients (splitgrad.py)

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels_in != channels:
            conv = Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, H, W) -> (B, C, H/stride, W/stride)
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def separable(channels_in: int, channels: int) -> nn.Sequential:
    """Return two depthwise separable convolutions, the first with stride 2: (B, C_in, H, W) -> (B, C, H/2, W/2)."""
    return nn.Sequential(
        OrderedDict(
            depthwise1=Conv2d(channels_in, channels_in, 3, 2, padding=1, groups=channels_in, bias=False),
            pointwise1=Conv2d(channels_in, channels_in, 1, bias=False),
            norm1=nn.BatchNorm2d(channels_in),
            relu1=nn.ReLU(),
            depthwise2=Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
            pointwise2=Conv2d(channels_in, channels, 1, bias=False),
            norm2=nn.BatchNorm2d(channels),
            relu2=nn.ReLU(),
        )
    )


class Attention(nn.Module):
    """Multiplies a feature by an attention map in [0, 1], which is computed from it at half its size."""

    readers = ("separable",)  # the product reads it as well: it needs every channel's gradient, and costs little

    def __init__(self, channels: int):
        super().__init__()
        self.separable = separable(channels, channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, f: Tensor) -> Tensor:
        small = F.relu(self.norm(self.separable(f)))
        return f * F.interpolate(small, f.shape[2:], mode="bilinear").sigmoid()


class Head(BaseHead):
    """Attention, one pair of separable convolutions for each later group of blocks, mean over positions, linear.

    Args:
        channels: Channels of this exit's feature, and of those of all deeper exits.
        classes: Number of classes.
    """

    readers = ("attention",)

    def __init__(self, channels: list[int], classes: int):
        super().__init__()
        self.bring_down = nn.Sequential(*(separable(a, b) for a, b in pairwise(channels)))
        self.attention = Attention(channels[0]) if len(channels) > 1 else nn.Identity()
        self.fc = nn.Linear(channels[-1], classes)

    def embed(self, seen: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C_K)
        return self.bring_down(self.attention(seen)).mean((2, 3))


@family("resnet18", pixels=32, smallest=8)
def resnet18(classes: int, width: int = 64, depth: int = 2):
    """ResNet18 for images of 32x32 pixels: four stages and exits.

    Args:
        classes: Number of classes.
        width: Channels of the first stage; each further stage doubles them.
        depth: Blocks per stage.
    """
    channels = [width, 2 * width, 4 * width, 8 * width]
    stages, heads, channels_in = [], [], width
    for k, C in enumerate(channels):
        stem = [] if k else [Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        blocks = [Block(channels_in if i == 0 else C, C, stride=2 if k and i == 0 else 1) for i in range(depth)]
        stages.append(nn.Sequential(*stem, *blocks))
        heads.append(Head(channels[k:], classes))
        channels_in = C
    initial.he([*stages, *heads])
    return stages, heads
