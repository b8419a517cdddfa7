"""A convolution whose backward pass skips the input gradient of channels that nobody listens to.

A step of a layer costs three units of work: forward 1, weight gradient 1, input gradient 1. Behind a cut, only the
shared channels of the input pass a gradient on, so the input gradient costs beta, and the step 2 + beta (Gong et al.,
ECCV 2024, section 3.4). Concatenating a detached half does not save that: autograd computes the whole input gradient
and then throws a part away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight


class _SplitConv2d(torch.autograd.Function):
    """conv2d(x, weight, bias) that sends gradient only to x[:, live]; the other channels receive exact zeros."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, live: slice, geometry: dict) -> Tensor:
        return nn.functional.conv2d(x, weight, bias, **geometry)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, _, ctx.live, ctx.geometry = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, g: Tensor):
        x, weight = ctx.saved_tensors
        live, channels = ctx.live, x.shape[1]
        g_x = g_weight = g_bias = None
        if ctx.needs_input_grad[0]:
            if live.start == live.stop:
                g_x = torch.zeros_like(x)
            else:
                size = (x.shape[0], live.stop - live.start, *x.shape[2:])
                g_live = conv2d_input(size, weight[:, live], g, **ctx.geometry)
                g_x = nn.functional.pad(g_live, (0, 0, 0, 0, live.start, channels - live.stop))
        if ctx.needs_input_grad[1]:
            g_weight = conv2d_weight(x, weight.shape, g, **ctx.geometry)
        if ctx.needs_input_grad[2]:
            g_bias = g.sum((0, 2, 3))
        return g_x, g_weight, g_bias, None, None


class Conv2d(nn.Conv2d):
    """nn.Conv2d, weights, names and values included; `live` says which input channels pass a gradient on.

    live = None (all, the plain convolution) or a slice with start and stop. A network sets it from its junctions.
    Double backward is right behind a junction, which stops what it sends to the other channels. No groups, zero
    padding only.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.groups != 1 or self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(
                f"groups={self.groups}, padding_mode={self.padding_mode!r}, padding={self.padding!r}: "
                "a split convolution has one group and zero padding given in numbers"
            )
        self.live: slice | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.live is None or self.live == slice(0, self.in_channels) or not torch.is_grad_enabled():
            return super().forward(x)
        weight, bias = self.weight, self.bias
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)  # a Function's saved tensors are not cast for it: cast first
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return _SplitConv2d.apply(x, weight, bias, self.live, geometry)  # (B, C_out, H, W)
