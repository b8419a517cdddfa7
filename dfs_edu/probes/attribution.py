"""Where each exit looks, and how much of what it says flows through f+ and f-; computed by captum.

What is explained is a logit: of the classes given as `targets`, or, where none are given, of the class that the exit
itself predicts. The network runs in evaluation mode, and gradients are the derivatives of what it computes: the cuts
of its junctions, made for training, do not count here (see watched.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerConductance, LayerGradCam
from torch import Tensor

from dfs_edu.modes import as_found, in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes.watching import Watched, maps, watched
from dfs_edu.surgery import Surgery

TOGETHER = 32  # pictures at a time; along a path, twice as many points of it


@in_any_mode
def grad_cam(net: MultiExit, images: Tensor, targets: Tensor | None = None) -> np.ndarray:
    """Grad-CAM (Selvaraju et al., ICCV 2017; captum's LayerGradCam) at the feature of each exit: (K, B, H, W).

    images    (B, C, H, W), floating point, as the network gets them
    targets   (B,) classes, for all exits the same; None: what each exit itself predicts

    The channels of the feature, weighted by the mean gradient of the exit's logit, are summed; what is negative is put
    to zero; the map is drawn at the size of the picture (bilinear) and divided by its own maximum, so it lies in
    [0, 1]. It is 0 everywhere where nothing speaks for the class. Of MSDNet's scales it is the coarsest, which the
    exits read; of an attached network's last exit, the last map before pooling.

    Raises TypeError or ValueError, naming the value, for a network, pictures or targets that are none, and for an exit
    whose feature is no map: a transformer's tokens, of which its exits read the class token alone.
    """
    with _watched(net, images, targets) as net:
        found = []
        for k, place in enumerate(maps(net, images)):
            cam = partial(LayerGradCam(_logits(net, k), place).attribute, relu_attributions=True)
            found.append(_by_parts(cam, net, k, images, targets))  # (B, 1, h, w)
    size = tuple(images.shape[2:])
    drawn = torch.stack([LayerAttribution.interpolate(m.detach(), size, "bilinear")[:, 0] for m in found])
    highest = drawn.amax((2, 3), keepdim=True)
    return torch.where(highest > 0, drawn / highest, 0).cpu().numpy()


@in_any_mode
def integrated_gradients(
    net: MultiExit, images: Tensor, targets: Tensor | None = None, steps: int = 32, baseline: float | Tensor = 0.0
) -> np.ndarray:
    """Integrated gradients (Sundararajan et al., ICML 2017; captum's) of each exit: (K, B, H, W), in logits.

    images     (B, C, H, W), floating point, as the network gets them
    targets    (B,) classes, for all exits the same; None: what each exit itself predicts
    steps      points on the straight path from the baseline to the picture
    baseline   where the path begins: a number or a tensor that fits (C, H, W), in units of `images`. 0 is the mean
               colour of the data set where pictures are normalised

    What a pixel adds to the logit, summed over its colours; negative where it speaks against the class. The pixels of a
    map sum to the logit of the picture less that of the baseline, up to what so few steps leave out.

    Raises TypeError or ValueError, naming the value, for a network, pictures, targets, steps or baseline that are none.
    """
    with _watched(net, images, targets) as net:
        start, found = _baseline(baseline, images), []
        for k in range(len(net.stages)):
            along = _along_path(IntegratedGradients(_logits(net, k)), start, _checked(steps))
            found.append(_by_parts(along, net, k, images, targets).sum(1))  # (B, H, W)
    return torch.stack(found).detach().cpu().numpy()


@dataclass(frozen=True)
class Conductance:
    """How much of what exits say flows through the two parts of a feature, in logits; what `conductance` found.

    shared       (K - 1, K, B): [k, j] of what exit j says through f+ of exit k; NaN where j < k
    specific     the same through f-
    difference   (K, B): the logit of exit j for the picture less that for the baseline

    shared + specific is difference, up to what so few steps leave out, where the feature is all that goes on; of
    MSDNet's scales it is only the coarsest, and an attached network may go past its exit's feature.
    """

    shared: np.ndarray
    specific: np.ndarray
    difference: np.ndarray

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """(shared, specific), (K - 1, K) each, in logits, averaged over the pictures."""
        return self.shared.mean(2), self.specific.mean(2)


@in_any_mode
def conductance(
    net: MultiExit,
    images: Tensor,
    targets: Tensor | None = None,
    beta: float | None = None,
    steps: int = 32,
    baseline: float | Tensor = 0.0,
) -> Conductance:
    """Conductance (Dhamdhere et al., ICLR 2019; captum's LayerConductance) through f+ and f- of exits 1 to K - 1.

    beta     share of the channels that is f+; None: that of the network's own surgery. (Give it for a network that was
             trained without: its channels, too, can be counted in two groups.) The last exit's feature is never cut.

    All others are as for `integrated_gradients`.

    Raises ValueError, naming the value, for a network without surgery and without a beta, or with one exit, and what
    `integrated_gradients` raises.
    """
    with _watched(net, images, targets) as net:
        start, steps, K = _baseline(baseline, images), _checked(steps), len(net.stages)
        if K < 2:
            raise ValueError(f"a network with {K} exit: its feature is never cut in two")
        cuts = [_cut(watch, k, beta) for k, watch in enumerate(net.junctions[:-1], start=1)]
        found = np.full((2, K - 1, K, len(images)), np.nan)
        for j in range(K):
            for k, cut in enumerate(cuts[: j + 1]):
                along = _along_path(LayerConductance(_logits(net, j), net.junctions[k].place), start, steps)
                through = _by_parts(along, net, j, images, targets).detach()
                of_shared = torch.where(cut.is_shared(through), through, 0)
                for part, of_part in enumerate((of_shared, through - of_shared)):
                    found[part, k, j] = of_part.flatten(1).sum(1).cpu().numpy()
        gain = [_by_parts(partial(_gain, _logits(net, k), start), net, k, images, targets) for k in range(K)]
    return Conductance(*found, torch.stack(gain).cpu().numpy())


def _cut(watch: Watched, k: int, beta: float | None) -> Surgery:
    if beta is not None:
        return Surgery(beta)
    if not isinstance(watch.of, Surgery):
        raise ValueError(f"beta=None, but exit {k} has the junction {watch.of}: say what share of its channels is f+")
    return watch.of


@torch.no_grad()
def _gain(logits: Callable[[Tensor], Tensor], start: Tensor, images: Tensor, target: Tensor) -> Tensor:
    """(B,): the logit for the picture less that for the baseline."""
    return logits(images).gather(1, target[:, None])[:, 0] - logits(start)[0, target]


def _along_path(method: IntegratedGradients | LayerConductance, start: Tensor, steps: int) -> Callable:
    """(pictures, classes) -> what captum's method attributes, from `start` to the pictures."""

    def attribute(images: Tensor, target: Tensor) -> Tensor:
        return method.attribute(images, start, target, n_steps=steps, internal_batch_size=2 * TOGETHER)

    return attribute


def _logits(net: MultiExit, k: int) -> Callable[[Tensor], Tensor]:
    """pictures -> the logits of exit k, from 0; deeper stages do not run."""
    return lambda x: next(islice(net.exits(x), k, None))


def _by_parts(
    attribute: Callable[[Tensor, Tensor], Tensor], net: MultiExit, k: int, images: Tensor, targets: Tensor | None
) -> Tensor:
    """attribute(pictures, classes) at exit k, part by part of the pictures, put end to end."""
    found = []
    for i in range(0, len(images), TOGETHER):
        part = images[i : i + TOGETHER].detach()
        target = _prediction(net, k, part) if targets is None else targets[i : i + TOGETHER].to(part.device)
        found.append(attribute(part, target))
    return torch.cat(found)


@torch.no_grad()
def _prediction(net: MultiExit, k: int, images: Tensor) -> Tensor:
    return _logits(net, k)(images).argmax(1)


@contextmanager
def _watched(net: MultiExit, images: Tensor, targets: Tensor | None) -> Iterator[MultiExit]:
    """The network as a copy to look at, when all is checked; nothing that happens to it reaches the original."""
    if not isinstance(net, MultiExit):
        raise TypeError(f"net is a {type(net).__name__}: attributions are told of the exits of a MultiExit")
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise ValueError(f"images: {_said(images)}; give normalised pictures (B, C, H, W) in floating point")
    net = watched(net)
    with as_found(net):
        with torch.no_grad():
            classes = min(logits.shape[1] for logits in net(images[:1]))  # pictures that are too small end here
        if targets is not None:
            _check(targets, len(images), classes)
        yield net


def _check(targets: Tensor, pictures: int, classes: int) -> None:
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.shape != (pictures,):
        raise ValueError(f"targets: {_said(targets)}; give int64, a class for each of {pictures} pictures, or None")
    if not 0 <= targets.min() <= targets.max() < classes:
        raise ValueError(f"targets from {targets.min()} to {targets.max()}: the network has classes 0 to {classes - 1}")


def _checked(steps: int) -> int:
    if type(steps) is not int or steps < 1:
        raise ValueError(f"steps={steps!r}: a whole number of points on the path, above zero")
    return steps


def _baseline(baseline: float | Tensor, images: Tensor) -> Tensor:
    """(1, C, H, W), where the path begins."""
    start, shape = torch.as_tensor(baseline, dtype=images.dtype, device=images.device), tuple(images.shape[1:])
    try:
        return start.expand(shape)[None]
    except RuntimeError as error:
        raise ValueError(f"baseline of shape {tuple(start.shape)}: it does not fit pictures of {shape}") from error


def _said(value) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
