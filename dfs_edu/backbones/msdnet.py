"""Multi-Scale DenseNet (Huang et al., ICLR 2018): every layer keeps features at several scales, fine to coarse.

So even the first exit reads a coarse feature with a large receptive field. Each layer appends new channels to those it
reads (dense concatenation). As the network deepens, the finest scales are dropped one by one, since no exit will need
them, and after each drop a transition halves the channels that remain.

The state of the trunk is a list of scales; exits read the last, the coarsest. Scale s has n * factors[s] channels,
where n is the same for all scales and grows by ``growth`` with every layer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, cat, nn

from dfs_edu.backbones import initial
from dfs_edu.backbones.families import family
from dfs_edu.multiexit import Head as BaseHead
from dfs_edu.splitgrad import Conv2d

Scales = list[Tensor]  # (B, C_s, H/2^s, W/2^s), fine to coarse


def convolution(channels_in: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return convolution, BatchNorm and ReLU: (B, C_in, H, W) -> (B, C, H/stride, W/stride)."""
    conv = Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True)))


def bottleneck(channels_in: int, channels: int, factor: int, stride: int = 1) -> nn.Sequential:
    """Return a 1x1 convolution to at most factor * channels, then a 3x3 one to the given number of channels."""
    inner = min(channels_in, factor * channels)
    squeeze = convolution(channels_in, inner, 1)
    return nn.Sequential(OrderedDict(squeeze=squeeze, conv=convolution(inner, channels, 3, stride)))


class Layer(nn.Module):
    """At each scale, append new channels, computed from that scale and from the next finer one, to the old ones.

    Args:
        n: Scale s of the input has n * factors[s] channels.
        growth: New channels, in the same units.
        factors: One entry per scale of the input, fine to coarse.
        bottlenecks: Widths of the bottlenecks that read each scale, see ``bottleneck``.
        drop: Read the finest scale once more, but leave it out of the output.
    """

    def __init__(self, n: int, growth: int, factors: list[int], bottlenecks: list[int], drop: bool):
        super().__init__()
        self.drop = drop
        self.down, self.same = nn.ModuleList(), nn.ModuleList()  # from the finer scale; from the scale itself
        for s, factor in enumerate(factors):
            if s == 0:
                if not drop:
                    self.same.append(bottleneck(n * factor, growth * factor, bottlenecks[0]))
                continue
            half = growth * factor // 2
            self.down.append(bottleneck(n * factors[s - 1], half, bottlenecks[s - 1], stride=2))
            self.same.append(bottleneck(n * factor, half, bottlenecks[s]))

    def forward(self, x: Scales) -> Scales:
        return self.wired(x, lambda conv, scale: conv(scale), lambda parts: cat(parts, 1))

    def wired(self, x: list, read: Callable, join: Callable) -> list:
        """Connect the parts: ``read`` computes new channels from a scale, ``join`` puts them after the old ones.

        Tensors flow through it in ``forward``; splitgrad.py sends masks of channels instead.
        """
        down = [read(conv, finer) for conv, finer in zip(self.down, x[:-1], strict=True)]
        kept = x[1:] if self.drop else x
        same = [read(conv, own) for conv, own in zip(self.same, kept, strict=True)]
        if self.drop:
            return [join(parts) for parts in zip(kept, down, same, strict=True)]
        finest = join((kept[0], same[0]))  # nothing finer to read
        return [finest, *(join(parts) for parts in zip(kept[1:], down, same[1:], strict=True))]


class Transition(nn.Module):
    """A 1x1 convolution at each scale, to fewer channels."""

    readers = ("scales",)  # of its input, see splitgrad.py

    def __init__(self, n_in: int, n: int, factors: list[int]):
        super().__init__()
        self.scales = nn.ModuleList(convolution(n_in * factor, n * factor, 1) for factor in factors)

    def forward(self, x: Scales) -> Scales:
        return [conv(x_s) for conv, x_s in zip(self.scales, x, strict=True)]


class Stem(nn.Module):
    """The first layer: a feature at every scale, the finest from the image, each other from the next finer one."""

    readers = ("scales",)

    def __init__(self, n: int, factors: list[int], first: nn.Module):
        super().__init__()
        coarser = [convolution(n * a, n * b, 3, stride=2) for a, b in pairwise(factors)]
        self.scales = nn.ModuleList([first, *coarser])

    def forward(self, x: Tensor) -> Scales:  # (B, 3, H, W)
        out = []
        for conv in self.scales:
            x = conv(x)
            out.append(x)
        return out


class Head(BaseHead):
    """Two 3x3 convolutions with stride 2 on the coarsest scale, 2x2 average pooling, mean over positions, linear.

    At the published sizes the pooling leaves one position. ``dropout`` is a fraction; Gong et al. train with 0.5.
    """

    readers = ("convs",)

    def __init__(self, channels_in: int, channels: int, classes: int, dropout: float):
        super().__init__()
        self.convs = nn.Sequential(
            convolution(channels_in, channels, 3, stride=2), convolution(channels, channels, 3, stride=2)
        )
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)

    def embed(self, seen: Scales) -> Tensor:  # -> (B, C)
        return self.pool(self.convs(seen[-1])).mean((2, 3))

    def both(self, seen: Scales) -> tuple[Tensor, Tensor]:
        """Return embedding and logits. Dropout applies to the classifier only: embeddings are compared whole."""
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
    """Return stages and heads: ``blocks`` exits, the first after ``base`` layers, then one every ``step`` layers.

    Args:
        classes: Number of classes.
        blocks: Number of exits.
        base: Layers before the first exit.
        step: Layers between two exits.
        growth: New channels per layer, in units of ``factors``.
        width: Channels of the stem's finest scale.
        factors: Channels of each scale, fine to coarse, in units of n.
        bottlenecks: Width of each scale's bottlenecks, see ``bottleneck``.
        stem: Makes the finest scale from an image.
        head_channels: Channels of the convolutions in the heads; None: as many as the coarsest scale has.
        dropout: Fraction that the heads drop before their classifiers.
    """
    layers, S, n = base + (blocks - 1) * step, len(factors), width
    interval = math.ceil(layers / S)  # layers between two drops of a scale
    ends = [base + step * k for k in range(blocks)]
    stages, heads = [], []
    parts: list[nn.Module] = [Stem(width, factors, stem)]
    for layer in range(1, layers + 1):
        # A layer, and a transition if it drops a scale
        comes_in, comes_out = (S - max(0, past) // interval for past in (layer - 2, layer - 1))
        parts.append(Layer(n, growth, factors[-comes_in:], bottlenecks[-comes_in:], drop=comes_out < comes_in))
        n += growth
        if comes_out < comes_in:
            parts.append(Transition(n, n // 2, factors[-comes_out:]))
            n //= 2

        # An exit
        if layer in ends:
            coarsest = n * factors[-1]
            stages.append(nn.Sequential(*parts))
            heads.append(Head(coarsest, head_channels or coarsest, classes, dropout))
            parts = []
    initial.he([*stages, *heads])
    return stages, heads


@family("msdnet-cifar", pixels=32, smallest=17)
def msdnet_cifar(classes: int, blocks=7, base=4, step=2, growth=16, width=16, dropout=0):
    """MSDNet for CIFAR: scales of 32x32, 16x16 and 8x8, seven exits as published.

    ``dropout``, in percent, applies before the classifiers of the heads.
    """
    widths = {"factors": [1, 2, 4], "bottlenecks": [1, 2, 4]}
    stem = convolution(3, width, 3)
    return _network(
        classes, blocks, base, step, growth, width, **widths, stem=stem, head_channels=128, dropout=dropout / 100
    )


@family("msdnet-imagenet", pixels=224, smallest=129)
def msdnet_imagenet(classes: int, blocks=5, base=4, step=4, growth=16, width=32, dropout=0):
    """MSDNet for images of 224x224 pixels: scales of 56x56 down to 7x7, five exits as published.

    ``dropout``, in percent, applies before the classifiers of the heads.
    """
    widths = {"factors": [1, 2, 4, 4], "bottlenecks": [1, 2, 4, 4]}
    stem = nn.Sequential(
        Conv2d(3, width, 7, stride=2, padding=3),  # as published, with a bias
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    return _network(
        classes, blocks, base, step, growth, width, **widths, stem=stem, head_channels=None, dropout=dropout / 100
    )
