"""Surgery in which a damped gradient of the exit reaches the shared channels, too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfs_edu.surgery import Surgery, check_fraction


@dataclass(frozen=True)
class Damped(Surgery):
    """Between "own" and "all": the exit's gradient reaches f- as it is, and f+ multiplied by ``damping``, in [0, 1]."""

    exit_gradient: str = "all"
    damping: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_fraction("damping", self.damping, "the factor of the exit's gradient in f+")
        if self.exit_gradient != "all":
            raise ValueError(f'exit_gradient={self.exit_gradient!r}: damping is for "all"')

    def gradient(self, g_onward: Tensor, g_seen: Tensor) -> Tensor:
        return torch.where(self.is_shared(g_onward), g_onward + self.damping * g_seen, g_seen)
