"""A step that serves two exits: what it does to both losses, as gradients and curvature predict it, and as measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu.methods.aggregated import gramian, jacobian
from dfs_edu.methods.pair import weights_of_two
from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.precision import widest
from dfs_edu.probes.checks import check_images, check_labels, check_network
from dfs_edu.surgery import Joint

LENGTHS = 17  # step lengths, from 0, unless others are given
NUDGE = 3e-3  # of the weights' length: how far slopes are followed to find the curvature


@dataclass(frozen=True)
class Steps:
    """Two losses after a step of the trunk, for M methods and S step lengths. All arrays are float64.

    A step moves the trunk's weights by -length * sum_k w_k g_k; heads stay.

    Attributes:
        exits: The two exits, indices from 0.
        methods: M names.
        gramian: (2, 2), scalar products of the gradients with which the two exits train the trunk.
        weights: (M, 2), of the two gradients in the step.
        lengths: (S,), by how much the step's gradient is multiplied: the learning rate of plain gradient descent.
        loss: (2,), before the step.
        slope: (M, 2), derivative of each loss by the length, at 0.
        curvature: (M, 2), its second derivative.
        measured: (M, S, 2), each loss after the step.
    """

    exits: tuple[int, int]
    methods: tuple[str, ...]
    gramian: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray
    loss: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    measured: np.ndarray

    @property
    def cosine(self) -> float:
        """Cosine between the two gradients; NaN if one is zero."""
        squares = self.gramian[0, 0] * self.gramian[1, 1]
        return float(np.clip(self.gramian[0, 1] / np.sqrt(squares), -1, 1)) if squares > 0 else float("nan")

    def predicted(self, order: int = 1) -> np.ndarray:
        """Return (M, S, 2), each loss after the step by its slope (order 1), or by slope and curvature (order 2).

        Raises:
            ValueError: The order is another one.
        """
        if order not in (1, 2):
            raise ValueError(f"order={order!r}: use 1 or 2")
        length = self.lengths[:, None]
        line = self.loss + self.slope[:, None] * length
        return line if order == 1 else line + self.curvature[:, None] * length**2 / 2


@in_any_mode
def steps(
    net: MultiExit,
    images: Tensor,
    labels: Tensor,
    exits: tuple[int, int] = (0, -1),
    lengths: Sequence[float] | None = None,
    length: str = "sum",
) -> Steps:
    """Take steps of many lengths along the sum, PCGrad's and UPGrad's direction, and measure the losses of two exits.

    Each step is really taken, on a copy, and both losses are measured on the batch itself, as in training: BatchNorm
    uses its statistics, and dropout drops the same each time. Where a junction keeps gradients from the trunk, the
    exits train it with what is left of them, while slope and curvature are those of the whole losses, since these are
    to be predicted. The network is left as it was. The cost is S forward passes for each of the methods whose steps
    differ, and 8 backward passes.

    Args:
        net: The network.
        images: (B, C, H, W), floating point, as the network gets them in training.
        labels: (B,), int64.
        exits: Two exits, indices from 0; from the end if negative.
        lengths: S step lengths, from 0. None: 17, as far as a straight line along an exit's own gradient would take to
            bring its loss to 0.
        length: How long a method's step is: "sum" or "own", as for ``methods.make``.

    Raises:
        TypeError: For another kind of network.
        ValueError: For invalid images, labels, exits or lengths, and for exits or a trunk that do not train.
        FloatingPointError: For a loss that is not finite.
    """
    check_network(net)
    check_images(images)
    check_labels(labels, len(images))
    pair = _checked_exits(exits, len(net.heads))
    trial = _Trial(copy.deepcopy(net), images, labels, pair)
    G = gramian(trial.pulls)
    if not G.any():
        raise ValueError(f"exits={pair}: neither of them trains the trunk")
    weights = weights_of_two(G, length)
    loss = np.array([value.item() for value in trial.losses()])
    chosen = _checked_lengths(lengths, loss, G.numpy())
    found: list[tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]] = []  # weights, slope, curvature, measured
    for w in weights.values():
        same = [row for row in found if torch.allclose(row[0], w, rtol=1e-9, atol=0)]  # is measured once
        found.append((w, *same[0][1:]) if same else (w, *trial.along(w.tolist(), chosen)))
    slope, curvature, measured = (np.stack(column) for column in list(zip(*found, strict=True))[1:])
    stacked = torch.stack(list(weights.values())).numpy()
    return Steps(pair, tuple(weights), G.numpy(), stacked, chosen, loss, slope, curvature, measured)


def _checked_exits(exits: Sequence[int], K: int) -> tuple[int, int]:
    """Two exits counted from 0. Raises ValueError unless they are two different ones of K."""
    valid = len(exits) == 2 and all(type(k) is int and -K <= k < K for k in exits)
    if not valid or exits[0] % K == exits[1] % K:
        raise ValueError(f"exits={tuple(exits)}: give two different exits, indices from 0 to {K - 1}")
    return exits[0] % K, exits[1] % K


def _checked_lengths(lengths: Sequence[float] | None, loss: np.ndarray, gramian: np.ndarray) -> np.ndarray:
    """The step lengths (S,). Raises ValueError unless they are finite numbers from 0."""
    if lengths is None:
        squares = np.diagonal(gramian)
        return np.linspace(0, (loss[squares > 0] / squares[squares > 0]).min(), LENGTHS)
    chosen = np.asarray(lengths, dtype=float)
    if chosen.ndim != 1 or not len(chosen) or not (np.isfinite(chosen) & (chosen >= 0)).all():
        raise ValueError(f"lengths={lengths!r}: give finite numbers from 0, at least one")
    return chosen


class _Trial:
    """A copy of the network on which steps are taken and taken back.

    Attributes:
        trunk: Its trainable parameters.
        pulls: The gradients with which the two exits train it.
    """

    def __init__(self, net: MultiExit, images: Tensor, labels: Tensor, pair: tuple[int, int]):
        self.net, self.images, self.labels, self.pair = net.train(), images, labels, pair
        self.seed = torch.initial_seed()
        self.trunk = [p for p in net.stages.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trunk]
        before = self.losses()
        if not self.trunk:
            raise ValueError("the trunk is frozen: none of its weights can take a step")
        self.pulls = jacobian(before, self.trunk)

        # The gradients of the losses themselves pass through junctions that let everything pass. A junction that hides
        # values, the partition without referencing, computes another function: its gradients are the pulls themselves
        junctions = net.junctions
        net.join(Joint())
        if not all(torch.isclose(a, b, rtol=1e-5) for a, b in zip(self.losses(), before, strict=True)):
            net.join(junctions)

    def losses(self) -> tuple[Tensor, Tensor]:
        """Return both exits' mean cross-entropy, as in training, with the same dropout each time."""
        with torch.random.fork_rng([self.images.device] if self.images.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            logits = self.net(self.images)
        first, second = (nn.functional.cross_entropy(widest(logits[k]), self.labels) for k in self.pair)
        if not (first.isfinite() and second.isfinite()):
            raise FloatingPointError(f"the losses of the exits {self.pair} are {first.item()} and {second.item()}")
        return first, second

    def along(self, weights: list[float], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Walk along a weighted sum of the pulls; return slope (2,), curvature (2,) and losses (S, 2)."""
        step = [torch.zeros_like(p) for p in self.start]
        for row, weight in zip(self.pulls, weights, strict=True):
            for total, gradient in zip(step, row, strict=True):
                if gradient is not None:
                    total += weight * gradient
        measured = np.stack([self._after(step, length, self._measured) for length in lengths.tolist()])

        # Slopes here and a little before and after: their difference is the curvature
        slopes = partial(self._slopes, step)
        size, way = (torch.cat([t.flatten() for t in ts]).norm().item() for ts in (self.start, step))
        if way == 0:
            return np.zeros(2), np.zeros(2), measured
        nudge = NUDGE * size / way
        before, here, after = (self._after(step, length, slopes) for length in (-nudge, 0.0, nudge))
        return here, (after - before) / (2 * nudge), measured

    def _after(self, step: list[Tensor], length: float, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """What is measured after a step; the weights are put back."""
        try:
            with torch.no_grad():
                for p, start, gradient in zip(self.trunk, self.start, step, strict=True):
                    p.copy_(start - length * gradient)
            return measure()
        finally:
            with torch.no_grad():
                for p, start in zip(self.trunk, self.start, strict=True):
                    p.copy_(start)

    @torch.no_grad()
    def _measured(self) -> np.ndarray:
        """Both losses (2,); NaN after a step that is far too long."""
        try:
            return np.array([loss.item() for loss in self.losses()])
        except FloatingPointError:
            return np.full(2, np.nan)

    def _slopes(self, step: list[Tensor]) -> np.ndarray:
        """The derivative (2,) of each loss by the length of the step."""
        rows = jacobian(self.losses(), self.trunk)
        return -gramian([step, *rows])[0, 1:].numpy()
