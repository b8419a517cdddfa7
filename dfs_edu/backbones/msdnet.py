"""Multi-Scale DenseNet (Huang et al., ICLR 2018): every layer keeps features at several scales, fine to coarse.

So even the first exit reads a coarse, widely seeing feature. Each layer adds new channels to what is there already (a
dense concatenation), and whatever is no longer needed is let go: as the network deepens, the finest scales are dropped
one by one, and after each drop a transition halves the channels that remain.

The state of the trunk is a list of scales; the exits read the last, the coarsest. Scale s has n * factors[s] channels,
with one n for all scales that grows by `growth` a layer.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from torch import Tensor, cat, nn

from dfs_edu.backbones import initial
from dfs_edu.backbones.families import family
from dfs_edu.multiexit import Head as BaseHead
from dfs_edu.splitgrad import Conv2d

Scales = list[Tensor]  # (B, C_s, H/2^s, W/2^s), fine to coarse


class Conv(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def listen(self, heard: np.ndarray | None) -> np.ndarray:
        return self.conv.listen(heard)

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, H, W) -> (B, C, H/stride, W/stride)
        return self.relu(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """A 1x1 convolution to at most `factor` times as many channels as come out in the end, then a 3x3 one."""

    def __init__(self, channels_in: int, channels: int, factor: int, stride: int = 1):
        super().__init__()
        inner = min(channels_in, factor * channels)
        self.squeeze = Conv(channels_in, inner, 1)
        self.conv = Conv(inner, channels, 3, stride)

    def listen(self, heard: np.ndarray | None) -> np.ndarray:
        self.squeeze.listen(heard)
        return np.ones(self.conv.conv.out_channels, bool)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.squeeze(x))


class Layer(nn.Module):
    """At each scale, new channels computed from that scale and from the next finer one are put behind the old ones.

    n            channels of scale s that come in, in units of factors[s]; all lists hold one entry a scale, fine to
                 coarse, of those that come in
    drop         True: the finest scale is read once more and does not come out
    """

    def __init__(self, n: int, growth: int, factors: list[int], bottlenecks: list[int], drop: bool):
        super().__init__()
        self.drop = drop
        self.down, self.same = nn.ModuleList(), nn.ModuleList()  # from the finer scale; from the scale itself
        for s, factor in enumerate(factors):
            if s == 0:
                if not drop:
                    self.same.append(Bottleneck(n * factor, growth * factor, bottlenecks[0]))
                continue
            half = growth * factor // 2
            self.down.append(Bottleneck(n * factors[s - 1], half, bottlenecks[s - 1], stride=2))
            self.same.append(Bottleneck(n * factor, half, bottlenecks[s]))

    def listen(self, heard: list[np.ndarray | None]) -> list[np.ndarray]:
        down = [conv.listen(finer) for conv, finer in zip(self.down, heard[:-1], strict=True)]
        kept = heard[1:] if self.drop else heard
        same = [conv.listen(own) for conv, own in zip(self.same, kept, strict=True)]
        return [np.concatenate([own, *new]) for own, *new in self._beside(kept, down, same)]

    def forward(self, x: Scales) -> Scales:
        down = [conv(finer) for conv, finer in zip(self.down, x[:-1], strict=True)]
        kept = x[1:] if self.drop else x
        same = [conv(own) for conv, own in zip(self.same, kept, strict=True)]
        return [cat([own, *new], 1) for own, *new in self._beside(kept, down, same)]

    def _beside(self, kept: list, down: list, same: list) -> list[list]:
        """What comes out of each scale: the old channels, those from the finer scale if there is one, its own."""
        if self.drop:
            return [list(parts) for parts in zip(kept, down, same, strict=True)]
        return [[kept[0], same[0]], *map(list, zip(kept[1:], down, same[1:], strict=True))]


class Transition(nn.Module):
    """A 1x1 convolution at each scale, to fewer channels."""

    def __init__(self, n_in: int, n: int, factors: list[int]):
        super().__init__()
        self.scales = nn.ModuleList(Conv(n_in * factor, n * factor, 1) for factor in factors)

    def listen(self, heard: list[np.ndarray]) -> list[np.ndarray]:
        return [conv.listen(h) for conv, h in zip(self.scales, heard, strict=True)]

    def forward(self, x: Scales) -> Scales:
        return [conv(x_s) for conv, x_s in zip(self.scales, x, strict=True)]


class Stem(nn.Module):
    """The first layer: the picture at every scale, each from the next finer one."""

    def __init__(self, n: int, factors: list[int], first: nn.Module):
        super().__init__()
        coarser = [Conv(n * a, n * b, 3, stride=2) for a, b in pairwise(factors)]
        self.scales = nn.ModuleList([first, *coarser])
        self.channels = [n * factor for factor in factors]

    def listen(self, heard: None) -> list[np.ndarray]:
        return [np.ones(channels, bool) for channels in self.channels]

    def forward(self, x: Tensor) -> Scales:  # (B, 3, H, W)
        out = []
        for conv in self.scales:
            x = conv(x)
            out.append(x)
        return out


class Stage(nn.Sequential):
    """The layers between two exits."""

    def listen(self, heard):
        for layer in self:
            heard = layer.listen(heard)
        return heard


class Head(BaseHead):
    """Of the coarsest scale: two 3x3 convolutions of stride 2, 2x2 average pooling, the mean of what is left, linear.

    At the published sizes one value a channel is left. `dropout` is a fraction (Gong et al. drop half, in training).
    """

    def __init__(self, channels_in: int, channels: int, classes: int, dropout: float):
        super().__init__()
        self.convs = nn.Sequential(Conv(channels_in, channels, 3, stride=2), Conv(channels, channels, 3, stride=2))
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)

    def listen(self, heard: list[np.ndarray]) -> None:
        self.convs[0].listen(heard[-1])

    def embed(self, x: Scales) -> Tensor:  # -> (B, C)
        return self.pool(self.convs(x[-1])).mean((2, 3))

    def both(self, seen: Scales) -> tuple[Tensor, Tensor]:
        """The classifier alone reads what is left after dropout: features are compared whole."""
        embedding = self.embed(seen)
        return embedding, self.fc(self.dropout(embedding))  # (B, C), (B, classes)


def _network(
    classes: int,
    blocks: int,
    base: int,
    step: int,
    growth: int,
    width: int,
    factors: list[int],
    bottlenecks: list[int],
    stem: nn.Module,
    head_channels: int | None,
    dropout: float,
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Stages and heads: `blocks` exits, the first after `base` layers and one every `step` layers from there on.

    width           channels of the stem's finest scale
    factors         channels of each scale in units of n; bottlenecks: of each scale, see Bottleneck
    head_channels   of the convolutions in the heads; None: as many as the coarsest scale has
    """
    layers, S, n = base + (blocks - 1) * step, len(factors), width
    interval = math.ceil(layers / S)  # layers between two drops of a scale
    ends = [base + step * k for k in range(blocks)]
    stages, heads, parts = [], [], [Stem(width, factors, stem)]
    for layer in range(1, layers + 1):
        comes_in, comes_out = (S - max(0, past) // interval for past in (layer - 2, layer - 1))
        parts.append(Layer(n, growth, factors[-comes_in:], bottlenecks[-comes_in:], drop=comes_out < comes_in))
        n += growth
        if comes_out < comes_in:
            parts.append(Transition(n, n // 2, factors[-comes_out:]))
            n //= 2
        if layer in ends:
            coarsest = n * factors[-1]
            stages.append(Stage(*parts))
            heads.append(Head(coarsest, head_channels or coarsest, classes, dropout))
            parts = []
    initial.he([*stages, *heads])
    return stages, heads


@family("msdnet-cifar", pixels=32, smallest=17)
def msdnet_cifar(classes: int, blocks=7, base=4, step=2, growth=16, width=16, dropout=0):
    """Three scales of 32x32, 16x16 and 8x8; seven exits as published. dropout: percent, in the heads."""
    sizes = {"blocks": blocks, "base": base, "step": step, "growth": growth, "width": width}
    stem = Conv(3, width, 3)
    return _network(
        classes, **sizes, factors=[1, 2, 4], bottlenecks=[1, 2, 4], stem=stem, head_channels=128, dropout=dropout / 100
    )


@family("msdnet-imagenet", pixels=224, smallest=129)
def msdnet_imagenet(classes: int, blocks=5, base=4, step=4, growth=16, width=32, dropout=0):
    """Four scales of 56x56 down to 7x7 for pictures of 224x224; five exits as published. dropout: percent."""
    sizes = {"blocks": blocks, "base": base, "step": step, "growth": growth, "width": width}
    stem = nn.Sequential(
        Conv2d(3, width, 7, stride=2, padding=3),  # as published, with a bias
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    factors = {"factors": [1, 2, 4, 4], "bottlenecks": [1, 2, 4, 4]}
    return _network(classes, **sizes, **factors, stem=stem, head_channels=None, dropout=dropout / 100)
