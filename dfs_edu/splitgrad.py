"""A convolution whose backward pass skips the input gradient of channels that nobody listens to.

A step of a layer costs three units of work: forward 1, weight gradient 1, input gradient 1. Behind a cut, only the
shared channels of the input pass a gradient on, so the input gradient costs beta, and the step 2 + beta (Gong et al.,
ECCV 2024, section 3.4). Concatenating a detached half does not save that: autograd computes the whole input gradient
and then throws a part away.

On a GPU nothing is skipped: there, slicing and putting together again took longer than what was saved, on every network
that was timed (docs/measured.md). The junction alone cuts, and the gradients are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight


class _SplitConv2d(torch.autograd.Function):
    """conv2d(x, weight, bias) that sends gradient only to the live channels of x; the others receive exact zeros."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, live: tuple[slice, ...], geometry: dict) -> Tensor:
        return F.conv2d(x, weight, bias, **geometry)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, ctx.live, ctx.geometry = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, g: Tensor):
        x, weight = ctx.saved_tensors
        g_x = g_weight = g_bias = None
        if ctx.needs_input_grad[0]:
            g_x = _input_gradient(x, weight, g, ctx.live, ctx.geometry) if ctx.live else torch.zeros_like(x)
        if ctx.needs_input_grad[1]:
            g_weight = conv2d_weight(x, weight.shape, g, **ctx.geometry)
        if ctx.needs_input_grad[2]:
            g_bias = g.sum((0, 2, 3))
        return g_x, g_weight, g_bias, None, None


def _input_gradient(x: Tensor, weight: Tensor, g: Tensor, live: tuple[slice, ...], geometry: dict) -> Tensor:
    """The live channels' input gradient, one convolution for all of them, with zeros in the gaps."""
    counts = [run.stop - run.start for run in live]
    size = (x.shape[0], sum(counts), *x.shape[2:])
    if geometry["groups"] == 1:
        g_x = conv2d_input(size, _take(weight, live, 1), g, **geometry)
    else:  # depthwise: each channel has a filter, and a gradient, of its own
        gradient = _turned if _turns(g, weight, geometry) else conv2d_input
        g_x = gradient(size, _take(weight, live, 0), _take(g, live, 1), **geometry | {"groups": sum(counts)})
    pieces = g_x.split(counts, 1)
    before = [live[0].start] + [0] * (len(live) - 1)
    after = [until - run.stop for run, until in zip(live, [*(r.start for r in live[1:]), x.shape[1]], strict=True)]
    padded = [F.pad(p, (0, 0, 0, 0, b, a)) for p, b, a in zip(pieces, before, after, strict=True)]
    return padded[0] if len(padded) == 1 else torch.cat(padded, 1)  # (B, C_in, H, W)


def _turns(g: Tensor, weight: Tensor, geometry: dict) -> bool:
    """Where `_turned` is the faster way: a filter a channel, on a CPU."""
    reach = _reach(weight, geometry["dilation"])
    fits = all(p <= r for p, r in zip(geometry["padding"], reach, strict=True))
    return fits and geometry["groups"] > 1 and g.device.type == "cpu"


def _turned(size: tuple, weight: Tensor, g: Tensor, stride, padding, dilation, groups: int) -> Tensor:
    """The input gradient as what it is: a convolution of g, spread out by the stride, with the filters turned round.

    oneDNN has no kernel of its own for the input gradient of a depthwise convolution in channels-last or with a
    stride; the forward one is 10 to 200 times as fast.
    """
    reach = _reach(weight, dilation)
    if max(stride) > 1:
        sides = [n + 2 * p - r for n, p, r in zip(size[2:], padding, reach, strict=True)]  # of an output at stride 1
        nhwc = g.is_contiguous(memory_format=torch.channels_last)
        spread = g.new_zeros(*size[:2], *sides)
        spread = spread.to(memory_format=torch.channels_last) if nhwc else spread
        spread[..., :: stride[0], :: stride[1]] = g
        g = spread
    padding = [r - p for p, r in zip(padding, reach, strict=True)]
    return F.conv2d(g, weight.flip(2, 3), padding=padding, dilation=dilation, groups=groups)  # (B, C, H, W)


def _reach(weight: Tensor, dilation) -> list[int]:
    """Pixels from the first to the last that a filter looks at, less one, per side."""
    return [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]


def _take(t: Tensor, live: tuple[slice, ...], dim: int) -> Tensor:
    parts = [t.narrow(dim, run.start, run.stop - run.start) for run in live]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class Conv2d(nn.Conv2d):
    """nn.Conv2d, weights, names and values included, that can be told which input channels pass a gradient on.

    live = None (all: the plain convolution), or slices that do not touch, in order; a network sets it by `listen`.
    One group or depthwise (a filter a channel); zero padding in numbers. Double backward is right behind a junction,
    which stops what it sends to the other channels. Raises ValueError for what it cannot do.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        depthwise = self.groups == self.in_channels == self.out_channels
        if not (self.groups == 1 or depthwise) or self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(
                f"groups={self.groups}, padding_mode={self.padding_mode!r}, padding={self.padding!r}: a split "
                "convolution has one group, or one for each channel, and zero padding given in numbers"
            )
        self.live: tuple[slice, ...] | None = None

    def listen(self, heard: np.ndarray | None) -> np.ndarray:
        """Skip what is not heard: bool (C_in,), False where nobody uses the gradient of an input channel.

        heard = None says that everybody listens. Returns which of its own channels do, (C_out,): all of them, for
        their gradients reach the weights.
        """
        self.live = None if heard is None or heard.all() else runs(heard)
        return np.ones(self.out_channels, bool)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x (B, C_in, H, W); what differs is its backward pass."""
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        if x.device.type == "cpu" and overruns(self):
            x, geometry["stride"] = x[..., :: self.stride[0], :: self.stride[1]], (1, 1)  # the pixels that it reads
        live = None if x.is_cuda else self.live
        if live is None and _turns(x, self.weight, geometry):
            live = (slice(0, self.in_channels),)  # all of them, by the faster way
        if live is None or not torch.is_grad_enabled():
            return F.conv2d(x, self.weight, self.bias, **geometry)
        weight, bias = self.weight, self.bias
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)  # a Function's saved tensors are not cast for it: cast first
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return _SplitConv2d.apply(x, weight, bias, live, geometry)  # (B, C_out, H, W)


def overruns(conv: nn.Conv2d) -> bool:
    """Whether oneDNN could write past its memory in the weight gradient of this convolution.

    On processors with AVX2 but without AVX-512 it copies every s-th pixel of a strided 1x1 convolution in vectors of 8
    channels, into a buffer that ends behind the last channel. With fewer than 8 input channels in channels-last, the
    last vector corrupts the heap (oneDNN 3.12, as built into torch 2.14; docs/inside.md
    has a reproduction). Such a
    convolution is computed without a stride, on the pixels that it reads.
    """
    strided = max(conv.stride) > 1 and conv.padding in ((0, 0), "valid")
    return strided and conv.kernel_size == (1, 1) and conv.groups == 1 and conv.in_channels < 8


def guard(model: nn.Module) -> None:
    """Make plain convolutions that `overruns` compute the same by `Conv2d`; weights, names and hooks stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d and overruns(module):
            module.__class__, module.padding, module.live = Conv2d, (0, 0), None


def runs(heard: np.ndarray) -> tuple[slice, ...]:
    """Where a mask is True, as slices: [False, True, True, False, True] -> (1:3, 4:5).

    >>> runs(np.array([False, True, True, False, True]))
    (slice(1, 3, None), slice(4, 5, None))
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], heard, [False]]).astype(np.int8)))
    return tuple(slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2))
