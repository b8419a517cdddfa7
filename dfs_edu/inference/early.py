"""Inference that stops: a picture that has left costs nothing further."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dfs_edu.inference.criteria import Judge
from dfs_edu.inference.thresholds import checked_thresholds
from dfs_edu.modes import evaluating
from dfs_edu.multiexit import MultiExit


class EarlyExit:
    """Early exit for real: pictures that are sure enough leave, and the rest goes on as a smaller batch.

    thresholds    K numbers in [0, 1], the last one 0
    criterion     what is compared with them: "confidence", "margin", "entropy" or "patience" (criteria.py)
    temperatures  K numbers by which the exits' logits are divided first; None: 1
    compile       torch.compile every stage and head, with the weights that they have now: for many small batches, of
                  one picture above all, where starting operations takes longer than the operations

    Calling it with images (B, ...) gives labels int64 (B,) and exits int64 (B,), the index from 0 of the exit where
    each left: what `apply` says of the same pictures. One wait for the device an exit at most. The network is left as
    found. Raises TypeError for another kind of network, ValueError for thresholds that are not such, no images, or
    logits of the last exit that are not finite.

    >>> from dfs_edu.backbones import build
    >>> leave_at_once = EarlyExit(build("vgg7-16", classes=10), thresholds=[0, 0, 0, 0, 0, 0])
    >>> labels, exits = leave_at_once(torch.rand(3, 3, 32, 32))
    >>> exits.tolist()
    [0, 0, 0]
    """

    def __init__(
        self,
        net: MultiExit,
        thresholds: Sequence[float] | Tensor,
        criterion: str = "confidence",
        temperatures: Sequence[float] | Tensor | None = None,
        compile: bool = False,
    ):
        if not isinstance(net, MultiExit):
            raise TypeError(f"net is a {type(net).__name__}: only a MultiExit can be left early")
        self.thresholds = checked_thresholds(thresholds, len(net.heads)).tolist()
        self.judge = Judge(len(net.heads), criterion, temperatures)
        self.net = _compiled(net) if compile else net

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not len(images):
            raise ValueError(f"images of shape {tuple(images.shape)}: there must be one at least")
        labels = torch.empty(len(images), dtype=torch.int64, device=images.device)
        exits = torch.empty_like(labels)
        here = None  # the pictures still in the network; None: all of them
        self.judge.restart()
        with evaluating(self.net):
            steps = self.net.exits(images)
            logits = next(steps)
            for k, threshold in enumerate(self.thresholds):
                score, prediction = self.judge(logits)
                last = k == len(self.thresholds) - 1
                going_on = score.new_empty(0) if last else self._going_on(score, threshold)
                if going_on is not None:  # somebody leaves; whoever goes on is overwritten further on
                    if here is None:
                        labels.copy_(prediction)
                        exits.fill_(k)
                    else:
                        labels[here], exits[here] = prediction, k
                    if not len(going_on):
                        break
                    here = going_on if here is None else here[going_on]
                    self.judge.keep(going_on)
                logits = steps.send(going_on)
            if last:
                self._check_finite(logits)
        return labels, exits

    @staticmethod
    def _going_on(score: Tensor, threshold: float) -> Tensor | None:
        """Which of the pictures here go on; None: all. Knowing how many they are is the one wait for the device."""
        if len(score) == 1:  # all or none: its score is all that there is to look at
            return score.new_empty(0) if score.item() >= threshold else None
        going_on = (~(score >= threshold)).nonzero()[:, 0]  # who is sure of nothing, NaN, goes on too
        return None if len(going_on) == len(score) else going_on

    @staticmethod
    def _check_finite(logits: Tensor) -> None:
        if not logits.isfinite().all():
            raise ValueError("the last exit's logits are not finite: the pictures or the weights hold NaN or infinity")


def _compiled(net: nn.Module) -> nn.Module:
    """The same network with compiled stages and heads, ready to be evaluated; `net` itself stays as it is."""
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for modules in (net.stages, net.heads):
        for i, module in enumerate(modules):
            modules[i] = torch.compile(module, isolate_recompiles=True)
    return net
