"""Logits and labels -> one loss per exit. The sum of the losses is the objective of joint training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def exit_losses(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of each exit, mean over the batch: K x (B, classes), (B,) -> (K,).

    Computed in float32 where autocast left the logits in bfloat16; float64 stays float64.
    """
    return torch.stack([F.cross_entropy(at_least_float32(logits_k), labels) for logits_k in logits])


def at_least_float32(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))
