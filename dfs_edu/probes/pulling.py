"""What a junction does to each channel: which exits see it, and which pull on it."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from dfs_edu.modes import in_any_mode
from dfs_edu.surgery import Junction

SIDES = ("deeper exits see", "this exit sees", "deeper exits pull", "this exit pulls")


@in_any_mode
def pulls(junction: Junction, channels: int = 8) -> np.ndarray:
    """Return what each side sees of a feature of ones, and what gradient f receives from it: (4, channels).

    The rows are those of ``SIDES``; 1 is all of it, 0 nothing. The gradients are those of the sum of each view.
    """
    f = torch.ones(1, channels, 1, 1, requires_grad=True)
    views = [cast("torch.Tensor", view) for view in junction(f)]
    return np.stack([view.detach().flatten() for view in views] + [_gradient(view, f) for view in views])


def _gradient(view: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    if not view.requires_grad:  # detached
        return torch.zeros(f.numel())
    return torch.autograd.grad(view.sum(), f, retain_graph=True)[0].flatten()
