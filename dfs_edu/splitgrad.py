"""A convolution whose backward pass skips the input gradient of channels where nothing uses it.

A training step of a layer costs three units of work: one forward, one for the weight gradient, one for the input
gradient. Behind a cut, only the shared channels of the input pass a gradient on, so the input gradient costs beta and
the step 2 + beta (Gong et al., ECCV 2024, section 3.4). Concatenating a detached half does not save that work: autograd
computes the whole input gradient and then throws a part of it away.

``propagate`` finds out which convolutions read a cut feature. On a GPU nothing is skipped: on every network that was
timed, slicing and reassembling took longer than it saved (docs/measured.md). There the junction alone cuts, and the
gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

# These act on each channel by itself and have no weights: their outputs' live channels are those of their inputs
BY_CHANNEL = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Identity)

Mask = np.ndarray | None  # (C,), True for live channels, whose gradient something uses; None: unknown, so all of them
Masks = np.ndarray | list | None  # of a feature, or a list of them, one for each scale


class _SplitConv2d(torch.autograd.Function):
    """conv2d(x, weight, bias) that sends gradient to the live channels of x only; the others receive exact zeros."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, live: tuple[slice, ...], geometry: dict) -> Tensor:
        return F.conv2d(x, weight, bias, **geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.live, ctx.geometry = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight) = gradients, ctx.saved_tensors
        g_x = g_weight = g_bias = None
        if ctx.needs_input_grad[0]:
            g_x = _input_gradient(x, weight, g, ctx.live, ctx.geometry) if ctx.live else torch.zeros_like(x)
        if ctx.needs_input_grad[1]:
            g_weight = conv2d_weight(x, weight.shape, g, **ctx.geometry)
        if ctx.needs_input_grad[2]:
            g_bias = g.sum((0, 2, 3))
        return g_x, g_weight, g_bias, None, None


def _input_gradient(x: Tensor, weight: Tensor, g: Tensor, live: tuple[slice, ...], geometry: dict) -> Tensor:
    """The input gradient (B, C_in, H, W): one convolution for all live channels, zeros in the gaps between them."""
    counts = [run.stop - run.start for run in live]
    size = (x.shape[0], sum(counts), *x.shape[2:])
    if geometry["groups"] == 1:
        g_x = conv2d_input(size, _take(weight, live, 1), g, **geometry)
    else:  # depthwise: each channel has a filter, and a gradient, of its own
        gradient = _forward_with_flipped_filters if _is_faster_flipped(g, weight, geometry) else conv2d_input
        g_x = gradient(size, _take(weight, live, 0), _take(g, live, 1), **geometry | {"groups": sum(counts)})

    # Put each run of live channels back where it belongs
    pieces = g_x.split(counts, 1)
    before = [live[0].start] + [0] * (len(live) - 1)
    after = [until - run.stop for run, until in zip(live, [*(r.start for r in live[1:]), x.shape[1]], strict=True)]
    padded = [F.pad(p, (0, 0, 0, 0, b, a)) for p, b, a in zip(pieces, before, after, strict=True)]
    return padded[0] if len(padded) == 1 else torch.cat(padded, 1)


def _is_faster_flipped(g: Tensor, weight: Tensor, geometry: dict) -> bool:
    """Whether ``_forward_with_flipped_filters`` applies and is faster: for depthwise convolutions on a CPU."""
    reach = _reach(weight, geometry["dilation"])
    fits = all(p <= r for p, r in zip(geometry["padding"], reach, strict=True))
    return fits and geometry["groups"] > 1 and g.device.type == "cpu"


def _forward_with_flipped_filters(size: tuple, weight: Tensor, g: Tensor, stride, padding, dilation, groups) -> Tensor:
    """The input gradient as what it is: a convolution of g, spread out by the stride, with flipped filters.

    oneDNN has no kernel of its own for the input gradient of a depthwise convolution in channels-last format or with a
    stride. Its forward kernel is 10 to 200 times as fast.
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


def _reach(weight: Tensor, dilation: tuple[int, ...]) -> list[int]:
    """How many pixels lie between the first and the last that a filter covers, along each side."""
    return [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]


def _take(t: Tensor, live: tuple[slice, ...], dim: int) -> Tensor:
    parts = [t.narrow(dim, run.start, run.stop - run.start) for run in live]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class Conv2d(nn.Conv2d):
    """nn.Conv2d, with the same weights, names and values, whose backward pass can skip input channels.

    ``live`` holds the channels whose input gradient is computed: None (all of them: the plain convolution), or disjoint
    slices in order. A network sets it (``propagate``, ``skip_all_but``). Double backward is right behind a junction,
    which stops whatever it would send to the other channels.

    Raises:
        ValueError: Several groups that are not depthwise (one filter per channel), or padding other than a number of
            zeros.
    """

    live: tuple[slice, ...] | None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        depthwise = self.groups == self.in_channels == self.out_channels
        if not (self.groups == 1 or depthwise) or self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(
                f"groups={self.groups}, padding_mode={self.padding_mode!r}, padding={self.padding!r}: a split "
                "convolution has one group, or one for each channel, and zero padding given in numbers"
            )
        self.live = None

    def skip_all_but(self, mask: Mask) -> None:
        """Compute the input gradient only of channels where the mask (C_in,) is True; None: of all of them."""
        self.live = None if mask is None or mask.all() else runs(mask)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C_in, H, W), as nn.Conv2d does. Only the backward pass differs."""
        x, weight, bias, device = input, self.weight, self.bias, input.device.type
        geometry: dict[str, Any] = {"stride": self.stride, "padding": self.padding}
        geometry |= {"dilation": self.dilation, "groups": self.groups}
        if device == "cpu" and overruns(self):
            x, geometry["stride"] = x[..., :: self.stride[0], :: self.stride[1]], (1, 1)  # the pixels that it reads
        live = None if x.is_cuda else self.live
        if live is None and _is_faster_flipped(x, weight, geometry):
            live = (slice(0, self.in_channels),)  # every channel, by the faster way
        if live is None or not torch.is_grad_enabled():
            return F.conv2d(x, weight, bias, **geometry)
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)  # autocast does not cast what a Function saves: cast first
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return _SplitConv2d.apply(x, weight, bias, live, geometry)  # (B, C_out, H, W)


def overruns(conv: nn.Conv2d) -> bool:
    """Return whether oneDNN could write past its memory in the weight gradient of this convolution.

    On processors with AVX2 but without AVX-512, it copies every s-th pixel of a strided 1x1 convolution in vectors of 8
    channels, into a buffer that ends after the last channel. With fewer than 8 input channels in channels-last format,
    the last vector corrupts the heap (oneDNN 3.12, as built into torch 2.14; docs/inside.md has a reproduction). Such a
    convolution is computed without a stride, on the pixels that it reads.
    """
    strided = max(conv.stride) > 1 and conv.padding in ((0, 0), "valid")
    return strided and conv.kernel_size == (1, 1) and conv.groups == 1 and conv.in_channels < 8


def guard(model: nn.Module) -> None:
    """Turn plain convolutions that ``overruns`` into ``Conv2d``, in place. Values, weights, names and hooks stay."""
    for module in model.modules():
        own = any(map(callable, vars(module).values()))  # it runs another forward than its class's
        if type(module) is nn.Conv2d and overruns(module) and not own:
            module.__class__ = Conv2d
            vars(module).update(padding=(0, 0), live=None)


def runs(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the slices where a mask is True: [False, True, True, False, True] -> (1:3, 4:5).

    >>> runs(np.array([False, True, True, False, True]))
    (slice(1, 3, None), slice(4, 5, None))
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return tuple(slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def propagate(module: nn.Module, live: Masks, masks: dict[Conv2d, Mask]) -> Masks:
    """Follow live channels from the input of a module to its output, noting what its split convolutions read.

    It knows ``Conv2d``, BatchNorm, activations, pooling, ``nn.Sequential`` and ``nn.ModuleList`` (one child per scale).
    In any other module nothing is skipped, unless the module declares one of these:

    * ``readers``: the names of those of its children that read its input. Their sum is its output; if it is not,
      ``out_channels`` holds the output's number of channels, or a list of such numbers.
    * ``wired(scales, read, join)``: its forward, where ``read(child, scale)`` is what a child makes of a scale and
      ``join`` concatenates channels.

    Args:
        module: A stage, a head or a part of one.
        live: The live channels of its input, or a list of masks if the input is a list of scales.
        masks: Gains the live input channels of every split convolution, over all the calls that were followed.

    Returns:
        The live channels of the output.
    """
    # Layers: behind weights every channel is live, since its gradient reaches them
    if isinstance(module, Conv2d):
        mask = live[-1] if isinstance(live, list) else live
        earlier = masks.get(module, mask)  # of a call in another place
        masks[module] = None if mask is None or earlier is None else mask | earlier
        return _every(module.out_channels)
    if isinstance(module, nn.BatchNorm2d):
        return _every(module.num_features)
    if type(module) in BY_CHANNEL:
        return live

    # Containers
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for child in module:
            live = propagate(child, live, masks)
        return live
    if isinstance(module, nn.ModuleList):
        scales = live if isinstance(live, list) else [live] * len(module)
        return [propagate(child, scale, masks) for child, scale in zip(module, scales, strict=True)]

    # Modules that say how they are wired
    wired, readers, channels = (getattr(module, name, None) for name in ("wired", "readers", "out_channels"))
    if wired is not None and isinstance(live, list):
        read = lambda child, scale: propagate(child, scale, masks)  # noqa: E731
        return wired(live, read, partial(_unless_unknown, np.concatenate))
    if readers is None:
        return None
    outputs = [propagate(module.get_submodule(name), live, masks) for name in readers]
    if channels is not None:
        return [_every(n) for n in channels] if isinstance(channels, list) else _every(channels)
    return _unless_unknown(partial(reduce, or_), outputs)


def _every(channels: int) -> np.ndarray:
    return np.ones(channels, bool)


def _unless_unknown(combine: Callable, masks: Sequence[Masks]) -> Masks:
    """Masks combined to one; None if one of them is unknown."""
    return None if any(mask is None for mask in masks) else combine(masks)
