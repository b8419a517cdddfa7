"""The weights that convolutions start from."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def he(modules: Iterable[nn.Module]) -> None:
    """Normal, with the variance 2 / fan-out that keeps gradients in scale through ReLUs (He et al., ICCV 2015)."""
    for module in _convolutions(modules):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def torchs_own(modules: Iterable[nn.Module]) -> None:
    """Uniform, as torch makes a convolution, with the variance 1 / (3 fan-in), where He's is 2 / fan-out.

    The published runs of MSDNet started so: their initialiser reaches no convolution.
    """
    for module in _convolutions(modules):
        module.reset_parameters()


def _convolutions(modules: Iterable[nn.Module]) -> list[nn.Conv2d]:
    return [m for part in modules for m in part.modules() if isinstance(m, nn.Conv2d)]
