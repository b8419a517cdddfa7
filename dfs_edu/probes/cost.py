"""What a network costs: MACs and parameters of leaving at each exit, and the FLOPs of a training step.

Units: a MAC is one multiplication with its addition, two FLOPs. Convolutions, linear layers and attention's products
are counted (torch's FlopCounterMode); BatchNorm, pooling, activations and the loss are not.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dfs_edu.multiexit import MultiExit


@dataclass(frozen=True)
class Cost:
    """What `cost` counted, for K exits, shallow to deep.

    macs            (K,) int64, MACs of one picture that leaves at exit k: the trunk and all heads up to k
    params          (K,) int64, parameters of the trunk and all heads up to k
    forward_flops   int, FLOPs of one picture in a training step: forward through all exits
    backward_flops  int, the same backward from the sum of all exits' losses
    """

    macs: np.ndarray
    params: np.ndarray
    forward_flops: int
    backward_flops: int


def cost(net: MultiExit, input_shape: tuple[int, int, int] = (3, 32, 32)) -> Cost:
    """Count what `net` costs for one picture of input_shape (C, H, W). Nothing is computed and `net` is not touched.

    The backward pass is counted as it runs: with surgery, the split convolutions' input gradients cost only
    round(C * beta) / C of the joint network's (Gong et al., ECCV 2024, section 3.4).

    Raises TypeError for another kind of network and ValueError, naming input_shape, where it is no shape of a picture
    or the network cannot read it.
    """
    if not isinstance(net, MultiExit):
        raise TypeError(f"net is a {type(net).__name__}: the cost of exits is counted in a MultiExit")
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list | torch.Size) else ()
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"input_shape={input_shape!r}: give channels, height, width: whole numbers above zero")
    # On the meta device there are shapes but no numbers. Evaluation mode: one picture is no batch to normalise over.
    net = copy.deepcopy(net).to("meta").eval()
    picture = torch.empty(1, *shape, device="meta", dtype=next((p.dtype for p in net.parameters()), None))
    try:
        macs = _macs(net, picture)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"input_shape={shape}: the network cannot read such a picture ({error})") from error
    return Cost(macs, _params(net), *_step_flops(net, picture))


def _macs(net: MultiExit, picture: Tensor) -> np.ndarray:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        return np.array([counter.get_total_flops() // 2 for _ in net.exits(picture)])  # read as each exit is reached


def _params(net: MultiExit) -> np.ndarray:
    seen, counts = set(), []
    for stage, head in zip(net.stages, net.heads, strict=True):
        seen |= {*stage.parameters(), *head.parameters()}  # a set: what is shared counts once
        counts.append(sum(p.numel() for p in seen))
    return np.array(counts)


def _step_flops(net: MultiExit, picture: Tensor) -> tuple[int, int]:
    label = torch.zeros(1, dtype=torch.int64, device=picture.device)
    with torch.enable_grad():
        with FlopCounterMode(display=False) as forward:
            loss = sum(nn.functional.cross_entropy(logits, label) for logits in net(picture))
        with FlopCounterMode(display=False) as backward:
            if loss.requires_grad:  # not where every parameter is frozen
                loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()
