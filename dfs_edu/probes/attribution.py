"""Where each exit looks, and how much of its answer flows through f+ and f-; computed by captum.

What is explained is a logit: that of the class in ``targets`` or, without targets, of the class that the exit itself
predicts. The network runs in eval mode, and gradients are the derivatives of what it computes: the cuts of its
junctions, made for training, do not count here (see watching.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu.modes import as_found, in_any_mode
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes.checks import check_count, check_images, check_labels, check_network
from dfs_edu.probes.extraction import cuts
from dfs_edu.probes.watching import maps, watched
from dfs_edu.surgery import Surgery

if TYPE_CHECKING:
    from captum.attr import IntegratedGradients, LayerConductance  # a second to import, so only where one is used

BATCH = 32  # images at a time; along a path, twice as many points of it


@in_any_mode
def grad_cam(net: MultiExit, images: Tensor, targets: Tensor | None = None) -> np.ndarray:
    """Compute Grad-CAM at the feature of each exit: (K, B, H, W), in [0, 1].

    The channels of the feature are weighted by the mean gradient of the exit's logit and summed; negative values become
    0. The map is enlarged to the size of the image (bilinear) and divided by its own maximum; it is 0 everywhere if
    nothing speaks for the class. Of MSDNet's scales it is the coarsest, which the exits read; of an attached network's
    last exit, the last map before pooling.

    Args:
        net: the network.
        images: (B, C, H, W), floating point, as the network gets them.
        targets: (B,) classes, the same for all exits; None: what each exit itself predicts.

    Raises:
        TypeError: for another kind of network.
        ValueError: for invalid images or targets, and for an exit whose feature is not a map: a transformer's tokens,
            of which its exits read the class token alone.

    Source:
        Selvaraju et al., ICCV 2017; captum's LayerGradCam.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    with _watching(net, images, targets) as (net, places):
        cams = []
        for k, place in enumerate(maps(net, places, images)):
            cam = partial(LayerGradCam(_logits(net, k), place).attribute, relu_attributions=True)
            cams.append(_in_batches(cam, net, k, images, targets).detach())  # (B, 1, h, w)
    size = tuple(images.shape[2:])
    enlarged = torch.stack([LayerAttribution.interpolate(cam, size, "bilinear")[:, 0] for cam in cams])
    highest = enlarged.amax((2, 3), keepdim=True)
    return torch.where(highest > 0, enlarged / highest, 0).cpu().numpy()


@in_any_mode
def integrated_gradients(
    net: MultiExit, images: Tensor, targets: Tensor | None = None, steps: int = 32, baseline: float | Tensor = 0.0
) -> np.ndarray:
    """Compute integrated gradients of each exit: (K, B, H, W), in logits.

    A value is what a pixel adds to the logit, summed over its colours; negative if it speaks against the class. The
    pixels of a map sum to the logit of the image minus that of the baseline, up to the error of finitely many steps.

    Args:
        net: the network.
        images: (B, C, H, W), floating point, as the network gets them.
        targets: (B,) classes, the same for all exits; None: what each exit itself predicts.
        steps: points on the straight path from the baseline to the image.
        baseline: where the path begins: a number or a tensor that fits (C, H, W), in units of ``images``. If images are
            normalised, 0 is the mean colour of the data set.

    Raises:
        TypeError: for another kind of network.
        ValueError: for invalid images, targets, steps or baseline.

    Source:
        Sundararajan et al., ICML 2017; captum's IntegratedGradients.
    """
    from captum.attr import IntegratedGradients

    check_count(steps=steps)
    with _watching(net, images, targets) as (net, _):
        start, attributions = _baseline(baseline, images), []
        for k in range(len(net.stages)):
            path = _along_path(IntegratedGradients(_logits(net, k)), start, steps)
            attributions.append(_in_batches(path, net, k, images, targets).sum(1))  # (B, H, W)
    return torch.stack(attributions).detach().cpu().numpy()


@dataclass(frozen=True)
class Conductance:
    """How much of the exits' answers flows through the two parts of a feature, in logits.

    shared + specific is difference, up to the error of finitely many steps, if deeper stages read nothing but the
    feature. Of MSDNet's scales it is only the coarsest, and an attached network may bypass its exit's feature.

    Attributes:
        shared: (K - 1, K, B); [k, j] is how much of exit j's logit flows through f+ of exit k; NaN where j < k.
        specific: the same through f-.
        difference: (K, B), the logit of exit j for the image minus that for the baseline.
    """

    shared: np.ndarray
    specific: np.ndarray
    difference: np.ndarray

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (shared, specific), (K - 1, K) each, in logits, averaged over the images."""
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
    """Compute the conductance of f+ and f- of exits 1 to K - 1. The last exit's feature is never cut.

    Args:
        net: the network.
        images: as for ``integrated_gradients``.
        targets: as for ``integrated_gradients``.
        beta: share of the channels that is f+; None: that of the network's own surgery. With a beta, the channels of a
            network that was trained without surgery can be counted in two groups as well.
        steps: as for ``integrated_gradients``.
        baseline: as for ``integrated_gradients``.

    Raises:
        TypeError: for another kind of network.
        ValueError: for a network with one exit, one without surgery if there is no beta either, and as for
            ``integrated_gradients``.

    Source:
        Dhamdhere et al., ICLR 2019; captum's LayerConductance.
    """
    from captum.attr import LayerConductance

    check_count(steps=steps)
    parts = _parts(net, beta)
    with _watching(net, images, targets) as (net, places):
        start, K = _baseline(baseline, images), len(net.stages)
        flows = np.full((2, K - 1, K, len(images)), np.nan)
        for j in range(K):
            for k, cut in enumerate(parts[: j + 1]):  # the features that exit j's logit depends on
                path = _along_path(LayerConductance(_logits(net, j), places[k]), start, steps)
                through = _in_batches(path, net, j, images, targets).detach()
                shared = torch.where(cut.is_shared(through), through, 0)
                for part, flow in enumerate((shared, through - shared)):
                    flows[part, k, j] = flow.flatten(1).sum(1).cpu().numpy()
        gains = [_in_batches(partial(_gain, _logits(net, k), start), net, k, images, targets) for k in range(K)]
    return Conductance(flows[0], flows[1], torch.stack(gains).cpu().numpy())


def _parts(net: MultiExit, beta: float | None) -> list[Surgery]:
    """The cut of each exit's feature but the last."""
    before_last = cuts(net, beta)[:-1]
    if not before_last:
        raise ValueError("a network with 1 exit: its feature is never cut in two")
    for k, (cut, junction) in enumerate(zip(before_last, net.junctions, strict=False), start=1):
        if cut is None:
            raise ValueError(f"beta=None, but exit {k} has the junction {junction}: say what share of channels is f+")
    return [cut for cut in before_last if cut is not None]


@torch.no_grad()
def _gain(logits: Callable[[Tensor], Tensor], start: Tensor, images: Tensor, target: Tensor) -> Tensor:
    """(B,): the logit for the image minus that for the baseline."""
    return logits(images).gather(1, target[:, None])[:, 0] - logits(start)[0, target]


def _along_path(method: IntegratedGradients | LayerConductance, start: Tensor, steps: int) -> Callable:
    """A function (images, classes) -> what captum's method attributes from ``start`` to the images."""

    def attribute(images: Tensor, target: Tensor) -> Tensor:
        return method.attribute(images, start, target, n_steps=steps, internal_batch_size=2 * BATCH)

    return attribute


def _logits(net: MultiExit, k: int) -> Callable[[Tensor], Tensor]:
    """A function images -> the logits of exit k, from 0, that does not run deeper stages."""
    return lambda x: next(islice(net.exits(x), k, None))


def _in_batches(
    attribute: Callable[[Tensor, Tensor], Tensor], net: MultiExit, k: int, images: Tensor, targets: Tensor | None
) -> Tensor:
    """attribute(images, classes) at exit k, batch by batch, concatenated."""
    attributions = []
    for i in range(0, len(images), BATCH):
        batch = images[i : i + BATCH].detach()
        target = _prediction(net, k, batch) if targets is None else targets[i : i + BATCH].to(batch.device)
        attributions.append(attribute(batch, target))
    return torch.cat(attributions)


@torch.no_grad()
def _prediction(net: MultiExit, k: int, images: Tensor) -> Tensor:
    return _logits(net, k)(images).argmax(1)


@contextmanager
def _watching(
    net: MultiExit, images: Tensor, targets: Tensor | None
) -> Generator[tuple[MultiExit, list[nn.Module]], None, None]:
    """Check the arguments and hand out a watched copy of the network; what happens to it leaves the original alone."""
    check_network(net)
    check_images(images)
    net, places = watched(net)
    with as_found(net):
        with torch.no_grad():
            classes = min(logits.shape[1] for logits in net(images[:1]))  # raises ValueError for images too small
        if targets is not None:
            check_labels(targets, len(images), "targets")
            if targets.max() >= classes:
                bounds = f"from {targets.min()} to {targets.max()}"
                raise ValueError(f"targets {bounds}: the network has classes 0 to {classes - 1}")
        yield net, places


def _baseline(baseline: float | Tensor, images: Tensor) -> Tensor:
    """(1, C, H, W), where the path begins."""
    start, shape = torch.as_tensor(baseline, dtype=images.dtype, device=images.device), tuple(images.shape[1:])
    try:
        return start.expand(shape)[None]
    except RuntimeError as error:
        raise ValueError(f"baseline of shape {tuple(start.shape)}: it does not fit images of {shape}") from error
