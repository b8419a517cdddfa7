"""ResNet for small pictures (He et al., CVPR 2016) with the exits of "Be Your Own Teacher" (Zhang et al., ICCV 2019).

The trunk is ResNet18 with a 3x3 stem and no max-pooling; an exit leaves after each of its four groups of blocks. The
first three see their feature through an attention map, and bring it by separable convolutions to the size and the
channels of the last one, so that features can be compared when the last exit teaches the others.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from dfs_edu.backbones import initial
from dfs_edu.backbones.families import family
from dfs_edu.multiexit import Head as BaseHead
from dfs_edu.splitgrad import Conv2d


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the size changes."""

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

    def listen(self, heard: np.ndarray | None) -> np.ndarray:
        if not len(self.shortcut):  # an identity passes on every channel's gradient, wanted or not
            return np.ones(self.conv1.in_channels, bool)
        self.shortcut[0].listen(heard)
        return self.conv1.listen(heard)

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, H, W) -> (B, C, H/stride, W/stride)
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Stage(nn.Sequential):
    """A stem (the first stage's only) and the blocks of one size."""

    def listen(self, heard: np.ndarray | None) -> np.ndarray:
        for block in self:
            heard = block.listen(heard) if isinstance(block, Block) else None
        return heard


class Separable(nn.Module):
    """Twice a convolution in each channel, one across channels, BatchNorm and ReLU; the first halves the size."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.depthwise1 = Conv2d(channels_in, channels_in, 3, 2, padding=1, groups=channels_in, bias=False)
        self.pointwise1 = Conv2d(channels_in, channels_in, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.depthwise2 = Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False)
        self.pointwise2 = Conv2d(channels_in, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def listen(self, heard: np.ndarray | None) -> None:
        self.depthwise1.listen(heard)

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, H, W) -> (B, C, H/2, W/2)
        x = F.relu(self.norm1(self.pointwise1(self.depthwise1(x))))
        return F.relu(self.norm2(self.pointwise2(self.depthwise2(x))))


class Attention(nn.Module):
    """The feature times a map of itself, in [0, 1], drawn at half its size."""

    def __init__(self, channels: int):
        super().__init__()
        self.separable = Separable(channels, channels)
        self.norm = nn.BatchNorm2d(channels)

    def listen(self, heard: np.ndarray | None) -> None:
        self.separable.listen(heard)  # the product itself needs every channel's gradient, and costs little

    def forward(self, f: Tensor) -> Tensor:
        small = F.relu(self.norm(self.separable(f)))
        return f * F.interpolate(small, f.shape[2:], mode="bilinear").sigmoid()


class Head(BaseHead):
    """Attention, a separable convolution for each group of blocks that is still to come, mean, linear."""

    def __init__(self, channels: list[int], classes: int):
        """channels: of this exit's feature and of all deeper ones'."""
        super().__init__()
        pairs = pairwise(channels)
        self.bring_down = nn.Sequential(*(Separable(a, b) for a, b in pairs))
        self.attention = Attention(channels[0]) if len(channels) > 1 else nn.Identity()
        self.fc = nn.Linear(channels[-1], classes)

    def listen(self, heard: np.ndarray | None) -> None:
        if isinstance(self.attention, Attention):
            self.attention.listen(heard)

    def embed(self, f: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C_K)
        return self.bring_down(self.attention(f)).mean((2, 3))


@family("resnet18", pixels=32, smallest=8)
def resnet18(classes: int, width: int = 64, depth: int = 2):
    """Four stages of `depth` blocks with width, 2 width, 4 width and 8 width channels; four exits; 32x32 pictures."""
    channels = [width, 2 * width, 4 * width, 8 * width]
    stages, heads, channels_in = [], [], width
    for k, C in enumerate(channels):
        stem = [] if k else [Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        blocks = [Block(channels_in if i == 0 else C, C, stride=2 if k and i == 0 else 1) for i in range(depth)]
        stages.append(Stage(*stem, *blocks))
        heads.append(Head(channels[k:], classes))
        channels_in = C
    initial.he([*stages, *heads])
    return stages, heads
