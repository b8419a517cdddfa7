"""Initial weights of convolutions."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def he(modules: Iterable[nn.Module]) -> None:
    """Draw weights from a normal distribution of variance 2 / fan-out.

    It keeps the scale of gradients through ReLUs (He et al., ICCV 2015).
    """
    for module in _convolutions(modules):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def torch_default(modules: Iterable[nn.Module]) -> None:
    """Draw weights as torch does by default, from a uniform distribution of variance 1 / (3 fan-in).

    The published runs of MSDNet started like this: their initializer reaches no convolution.
    """
    for module in _convolutions(modules):
        module.reset_parameters()


def _convolutions(modules: Iterable[nn.Module]) -> list[nn.Conv2d]:
    return [m for part in modules for m in part.modules() if isinstance(m, nn.Conv2d)]
