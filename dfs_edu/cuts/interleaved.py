"""Surgery with interleaved shared and specific channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfs_edu.surgery import Surgery


@dataclass(frozen=True)
class Interleaved(Surgery):
    """Surgery whose shared channels are spread evenly over the feature, instead of coming first."""

    def mask(self, channels: int, device: torch.device | str = "cpu") -> Tensor:
        return (torch.arange(channels + 1, device=device) * self.shared(channels) // max(channels, 1)).diff() > 0
