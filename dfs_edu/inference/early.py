"""Inference that really stops: an image that has left costs nothing further."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from dfs_edu.inference.checks import checked_thresholds
from dfs_edu.inference.criteria import Judge
from dfs_edu.modes import evaluating
from dfs_edu.multiexit import MultiExit


class EarlyExit:
    """Early exit at run time: images that an exit is sure enough of leave, the rest goes on as a smaller batch.

    Calling it with images (B, ...) returns labels int64 (B,) and exits int64 (B,), the index from 0 of the exit where
    each image left: what ``apply`` computes for the same images. It waits for the device at most once per exit, and
    leaves the network as it was.

    Args:
        net: the network.
        thresholds: K numbers in [0, 1], the last one 0.
        criterion: what is compared with them: "confidence", "margin", "entropy" or "patience" (criteria.py).
        temperatures: K numbers by which the exits' logits are divided first; None: 1.
        compile: use ``torch.compile`` on every stage and head, with the weights that they have now. It pays for many
            small batches, above all of one image, where launching operations takes longer than running them.

    Raises:
        TypeError: another kind of network.
        ValueError: invalid thresholds; on calling, no images, or logits of the last exit that are not finite.

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
    ) -> None:
        if not isinstance(net, MultiExit):
            raise TypeError(f"net is a {type(net).__name__}: only a MultiExit can be left early")
        self.thresholds: list[float] = checked_thresholds(thresholds, len(net.heads)).tolist()
        self.judge = Judge(len(net.heads), criterion, temperatures)
        self.net = _compiled(net) if compile else net

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not len(images):
            raise ValueError(f"images of shape {tuple(images.shape)}: at least one is needed")
        labels = torch.empty(len(images), dtype=torch.int64, device=images.device)
        exits = torch.empty_like(labels)
        active = None  # indices of the images that are still in the network; None: all of them
        self.judge.restart()
        with evaluating(self.net):
            steps = self.net.exits(images)  # computes an exit only when asked for it
            logits = next(steps)
            for k, threshold in enumerate(self.thresholds):
                score, prediction = self.judge(logits)
                last = k == len(self.thresholds) - 1
                staying = score.new_empty(0) if last else self._staying(score, threshold)
                if staying is not None:
                    # Some images leave. All get this exit's answer; those that stay are overwritten further on
                    if active is None:
                        labels.copy_(prediction)
                        exits.fill_(k)
                    else:
                        labels[active], exits[active] = prediction, k
                    if not len(staying):
                        break
                    active = staying if active is None else active[staying]
                    self.judge.keep(staying)
                logits = steps.send(staying)  # the next stage runs on the images that stay, None: on all
            if last and not logits.isfinite().all():
                raise ValueError("the last exit's logits are not finite: images or weights hold NaN or infinity")
        return labels, exits

    @staticmethod
    def _staying(score: Tensor, threshold: float) -> Tensor | None:
        """Indices of the images that go on; None: all do. Reading how many they are is the one wait for the device."""
        if len(score) == 1:  # all or none: its score is all there is to read
            return score.new_empty(0) if score.item() >= threshold else None
        staying = (~(score >= threshold)).nonzero()[:, 0]  # an image whose score is NaN goes on, too
        return None if len(staying) == len(score) else staying


def _compiled(net: MultiExit) -> MultiExit:
    """A copy of the network with compiled stages and heads, for evaluation only."""
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for modules in (net.stages, net.heads):
        for i, module in enumerate(modules):
            compiled = torch.compile(module, isolate_recompiles=True)  # ty: ignore[no-matching-overload]  not in its stubs
            modules[i] = compiled
    return net
