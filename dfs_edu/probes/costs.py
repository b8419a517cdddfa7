"""What a network costs: MACs and parameters of leaving at each exit, and the FLOPs of a training step.

Units: a MAC is one multiplication with its addition, two FLOPs. Convolutions, linear layers and attention's products
are counted (torch's FlopCounterMode); BatchNorm, pooling, activations and the loss are not.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit, checked_shape
from dfs_edu.probes.checks import check_network


@dataclass(frozen=True)
class Cost:
    """MACs, parameters and FLOPs for K exits, shallow to deep, as ``cost`` counts them.

    Attributes:
        macs: (K,) int64, MACs of one image that leaves at exit k: the trunk and all heads up to k.
        params: (K,) int64, parameters of the trunk and all heads up to k.
        head_macs: (K,) int64, MACs of head k alone.
        head_params: (K,) int64, parameters of head k alone.
        forward_flops: FLOPs of one image in a training step: forward through all exits.
        backward_flops: the same, backward from the sum of all exits' losses, counted as it runs.
        backward_theory: the same by theory: see ``cost``.
    """

    macs: np.ndarray
    params: np.ndarray
    head_macs: np.ndarray
    head_params: np.ndarray
    forward_flops: int
    backward_flops: int
    backward_theory: int

    @property
    def path_macs(self) -> np.ndarray:
        """(K,) MACs of the path to exit k if no other head runs, as some papers count."""
        return self.macs - self.head_macs.cumsum() + self.head_macs

    @property
    def path_params(self) -> np.ndarray:
        """(K,) parameters of the path to exit k, without the other heads."""
        return self.params - self.head_params.cumsum() + self.head_params


@in_any_mode
def cost(net: MultiExit, input_shape: tuple[int, int, int] = (3, 32, 32)) -> Cost:
    """Count what the network costs for one image, without computing anything; the network is not touched.

    In the theory of the backward pass, a layer costs as much as forward for its weights' gradient, and as much again
    for its input's. Of the latter only the channels that receive a gradient behind a cut are computed: round(C * beta)
    of C. Attention's products pass a gradient to both factors. Which channels count is read from the layers
    (``splitgrad.Conv2d.live``). The count as it runs shows that they keep to it, on a CPU; on a GPU they skip nothing,
    and a step of surgery costs what a joint one does. (For a depthwise input gradient with a stride, a CPU multiplies
    zeros as well; they are not counted.)

    Args:
        net: the network.
        input_shape: (C, H, W) of the image.

    Raises:
        TypeError: for another kind of network.
        ValueError: naming input_shape, if it is not the shape of an image or the network cannot read it.

    Source:
        Gong et al., ECCV 2024, section 3.4.

    >>> from dfs_edu.backbones import build
    >>> from dfs_edu.surgery import Surgery
    >>> joint, cut = cost(build("vgg7-64", 100)), cost(build("vgg7-64", 100, Surgery(beta=0.5)))
    >>> (joint.macs / 1e6).round(1).tolist()  # MMACs
    [1.8, 39.5, 58.4, 96.2, 115.1, 152.9]
    >>> round(cut.backward_flops / joint.backward_flops, 3)
    0.752
    """
    check_network(net)
    shape = checked_shape(input_shape)
    # Tensors on the meta device have shapes but no numbers. Eval mode: BatchNorm cannot normalise over one image.
    net = copy.deepcopy(net).to("meta").eval()
    image = torch.empty(1, *shape, device="meta", dtype=next((p.dtype for p in net.parameters()), None))
    try:
        macs, head_macs = _macs(net, image)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"input_shape={shape}: the network cannot read such an image ({error})") from error
    params, head_params = _params(net)
    return Cost(macs, params, head_macs, head_params, *_step_flops(net, image))


def _macs(net: MultiExit, image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(K,) MACs of leaving at each exit, and (K,) of each head."""
    before_heads = []
    with torch.no_grad(), _counting() as counter:

        def mark(*_) -> None:
            before_heads.append(counter.get_total_flops())

        hooks = [head.register_forward_pre_hook(mark) for head in set(net.heads)]
        exits = [counter.get_total_flops() for _ in net.exits(image)]  # read as each exit is reached
        heads = [after - before for before, after in zip(before_heads, exits, strict=True)]
        for hook in hooks:
            hook.remove()
    return np.array(exits) // 2, np.array(heads) // 2


def _params(net: MultiExit) -> tuple[np.ndarray, np.ndarray]:
    seen, counts = set(), []
    for stage, head in zip(net.stages, net.heads, strict=True):
        seen |= {*stage.parameters(), *head.parameters()}  # a set: what is shared counts once
        counts.append(sum(p.numel() for p in seen))
    return np.array(counts), np.array([sum(p.numel() for p in head.parameters()) for head in net.heads])


def _step_flops(net: MultiExit, image: Tensor) -> tuple[int, int, int]:
    """FLOPs of a training step: forward as counted, backward as counted, backward by theory."""
    label = torch.zeros(1, dtype=torch.int64, device=image.device)
    # Hooks note the theory of every layer while torch counts: FLOPs forward, and backward if the loss depends on it.
    layers, theory = [], []
    hooks = [
        module.register_forward_hook(lambda *call: _expect(*call, layers, theory))
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.enable_grad():
        with _counting() as forward:
            loss = torch.stack([nn.functional.cross_entropy(logits, label) for logits in net(image)]).sum()
        with _counting() as backward:
            if loss.requires_grad:  # unless every parameter is frozen
                loss.backward()
    for hook in hooks:
        hook.remove()
    # What no layer's hook has seen are attention's products; each passes a gradient to both factors.
    attention = forward.get_total_flops() - sum(layers)
    return forward.get_total_flops(), backward.get_total_flops(), sum(theory) + 2 * attention * bool(theory)


def _expect(layer: nn.Conv2d | nn.Linear, inputs: tuple, out: Tensor, layers: list[int], theory: list[int]) -> None:
    """Note what a layer costs forward, and what it should cost backward once a gradient arrives at its output."""
    channels = layer.weight.shape[1] * getattr(layer, "groups", 1)  # of its input
    unit = 2 * out.numel() * layer.weight[0].numel()
    layers.append(unit)
    if out.requires_grad:
        live = getattr(layer, "live", None)
        reached = channels if live is None else sum(run.stop - run.start for run in live)
        backward = unit * layer.weight.requires_grad + unit * reached // channels * inputs[0].requires_grad
        out.register_hook(lambda _: theory.append(backward))


def _counting() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(g_shape, x_shape, w_shape, *args, out_shape=None, **kwargs) -> int:
    """Each of the two gradients costs what the convolution costs forward. (torch's own count forgets the groups.)"""
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, (wants_input, wants_weight, _) = args
    batch, _, *size = x_shape if transposed else g_shape
    return 2 * batch * math.prod(size) * math.prod(w_shape) * (wants_input + wants_weight)
