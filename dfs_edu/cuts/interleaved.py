"""Surgery with shared channels everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfs_edu.surgery import Surgery, channel_dim


@dataclass(frozen=True)
class Interleaved(Surgery):
    """Surgery whose shared channels are spread evenly over all of them, instead of being the first."""

    def is_shared(self, t: Tensor) -> Tensor:
        dim = channel_dim(t)
        mask = torch.from_numpy(self._mask(t.shape[dim])).to(t.device)
        return mask.view(-1, *[1] * (t.ndim - dim - 1))

    def live(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        shared = self._mask(channels)
        return shared, np.ones(channels, bool) if self.exit_gradient == "all" else ~shared

    def _mask(self, channels: int) -> np.ndarray:
        return np.diff(np.arange(channels + 1) * self.shared(channels) // max(channels, 1)) > 0  # (C,)
