"""Number formats that are wide enough for what is computed in them."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(t: Tensor) -> Tensor:
    """Convert bfloat16, as autocast leaves it, to float32; float64 stays float64."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def widest(t: Tensor) -> Tensor:
    """Convert to float64, in which squares of small gradients do not underflow and sums that nearly cancel stay exact.

    On Apple's GPUs, which have no float64, convert to float32.
    """
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)
