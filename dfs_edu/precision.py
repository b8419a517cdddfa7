"""Number formats that are wide enough for what is computed in them."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(t: Tensor) -> Tensor:
    """float32 where autocast left t in bfloat16; float64 stays float64."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def widest(t: Tensor) -> Tensor:
    """float64, in which squares of small gradients do not underflow and sums that nearly cancel keep their length.

    Apple's GPUs have no float64: float32 there.
    """
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)
