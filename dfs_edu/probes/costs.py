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


@dataclass(frozen=True)
class Cost:
    """What `cost` counted, for K exits, shallow to deep.

    macs                     (K,) int64, MACs of one picture that leaves at exit k: the trunk and all heads up to k
    params                   (K,) int64, parameters of the trunk and all heads up to k
    head_macs, head_params   (K,) int64, of head k alone
    forward_flops            int, FLOPs of one picture in a training step: forward through all exits
    backward_flops           int, the same backward from the sum of all exits' losses, counted as it runs
    backward_theory          int, the same by theory: see `cost`
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
        """(K,) MACs of the path to exit k alone, no other head run: how some papers count."""
        return self.macs - self.head_macs.cumsum() + self.head_macs

    @property
    def path_params(self) -> np.ndarray:
        """(K,) parameters of the path to exit k alone."""
        return self.params - self.head_params.cumsum() + self.head_params


@in_any_mode
def cost(net: MultiExit, input_shape: tuple[int, int, int] = (3, 32, 32)) -> Cost:
    """Count what `net` costs for one picture of input_shape (C, H, W). Nothing is computed and `net` is not touched.

    The theory of the backward pass (Gong et al., ECCV 2024, section 3.4): a layer costs as much as forward for its
    weights' gradient, and as much again for its input's, of which only the channels that are heard behind a cut are
    computed: round(C * beta) of C. Attention's products pass a gradient to both factors. What counts as heard is read
    from the layers (`splitgrad.Conv2d.live`); that they keep to it is what the count as it runs shows, on a CPU: on a
    GPU they skip nothing, and a step of surgery costs what a joint one does. (Where a CPU computes a depthwise input
    gradient with a stride, it multiplies zeros as well; they are not counted.)

    Raises TypeError for another kind of network and ValueError, naming input_shape, where it is no shape of a picture
    or the network cannot read it.

    >>> from dfs_edu.backbones import build
    >>> from dfs_edu.surgery import Surgery
    >>> joint, cut = cost(build("vgg7-64", 100)), cost(build("vgg7-64", 100, Surgery(beta=0.5)))
    >>> (joint.macs / 1e6).round(1).tolist()  # MMACs
    [1.8, 39.5, 58.4, 96.2, 115.1, 152.9]
    >>> round(cut.backward_flops / joint.backward_flops, 3)
    0.752
    """
    if not isinstance(net, MultiExit):
        raise TypeError(f"net is a {type(net).__name__}: the cost of exits is counted in a MultiExit")
    shape = checked_shape(input_shape)
    # On the meta device there are shapes but no numbers. Evaluation mode: one picture is no batch to normalise over.
    net = copy.deepcopy(net).to("meta").eval()
    picture = torch.empty(1, *shape, device="meta", dtype=next((p.dtype for p in net.parameters()), None))
    try:
        macs, head_macs = _macs(net, picture)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"input_shape={shape}: the network cannot read such a picture ({error})") from error
    params, head_params = _params(net)
    return Cost(macs, params, head_macs, head_params, *_step_flops(net, picture))


def _macs(net: MultiExit, picture: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of leaving at each exit, and of each head."""
    marks = []
    with torch.no_grad(), _counting() as counter:

        def mark(*_) -> None:
            marks.append(counter.get_total_flops())

        hooks = [head.register_forward_pre_hook(mark) for head in set(net.heads)]
        exits = [counter.get_total_flops() for _ in net.exits(picture)]  # read as each exit is reached
        heads = [after - before for before, after in zip(marks, exits, strict=True)]
        for hook in hooks:
            hook.remove()
    return np.array(exits) // 2, np.array(heads) // 2


def _params(net: MultiExit) -> tuple[np.ndarray, np.ndarray]:
    seen, counts = set(), []
    for stage, head in zip(net.stages, net.heads, strict=True):
        seen |= {*stage.parameters(), *head.parameters()}  # a set: what is shared counts once
        counts.append(sum(p.numel() for p in seen))
    return np.array(counts), np.array([sum(p.numel() for p in head.parameters()) for head in net.heads])


def _step_flops(net: MultiExit, picture: Tensor) -> tuple[int, int, int]:
    """Forward as counted, backward as counted, backward by theory."""
    label = torch.zeros(1, dtype=torch.int64, device=picture.device)
    layers, theory = [], []  # forward FLOPs of each layer; backward FLOPs of each that the loss depends on
    hooks = [
        module.register_forward_hook(lambda *seen: _expect(*seen, layers, theory))
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.enable_grad():
        with _counting() as forward:
            loss = sum(nn.functional.cross_entropy(logits, label) for logits in net(picture))
        with _counting() as backward:
            if loss.requires_grad:  # not where every parameter is frozen
                loss.backward()
    for hook in hooks:
        hook.remove()
    attention = forward.get_total_flops() - sum(layers)
    return forward.get_total_flops(), backward.get_total_flops(), sum(theory) + 2 * attention * bool(theory)


def _expect(layer: nn.Conv2d | nn.Linear, inputs: tuple, out: Tensor, layers: list[int], theory: list[int]) -> None:
    """Note what a layer costs forward, and what it should cost backward once a gradient arrives at its output."""
    channels = layer.weight.shape[1] * getattr(layer, "groups", 1)  # of its input
    unit = 2 * out.numel() * layer.weight[0].numel()
    layers.append(unit)
    if out.requires_grad:
        live = getattr(layer, "live", None)
        heard = channels if live is None else sum(run.stop - run.start for run in live)
        pulls = unit * layer.weight.requires_grad + unit * heard // channels * inputs[0].requires_grad
        out.register_hook(lambda _: theory.append(pulls))


def _counting() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(g_shape, x_shape, w_shape, *args, out_shape=None, **kwargs) -> int:
    """Each of the two gradients costs what the convolution costs forward. (torch's own count forgets the groups.)"""
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, (wants_input, wants_weight, _) = args
    batch, _, *size = x_shape if transposed else g_shape
    return 2 * batch * math.prod(size) * math.prod(w_shape) * (wants_input + wants_weight)
