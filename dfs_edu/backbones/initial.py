"""How the weights of convolutions begin."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def he(modules: Iterable[nn.Module]) -> None:
    """Normal, with the variance 2 / fan-out that keeps gradients in scale through ReLUs (He et al., ICCV 2015)."""
    for module in [m for part in modules for m in part.modules() if isinstance(m, nn.Conv2d)]:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
