"""All exits, taken together, teach each of them: exit-ensemble distillation (Lee and Lee, arXiv 2104.00299, 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dfs_edu.losses.crossentropy import separate_losses
from dfs_edu.losses.teaching import Teaching, named
from dfs_edu.precision import at_least_float32


@named("ensemble-distillation")
class EnsembleDistillation(Teaching):
    """Cross-entropy at every exit, and its squared distance from the mean logits of all exits.

    The mean is detached, and the last exit learns from it, too. The distance is the mean over images and classes, and
    both terms have the weight 1.
    """

    def forward(self, exits: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Return K losses () for K logits (B, classes)."""
        wide = [at_least_float32(logits_k) for logits_k in exits]
        teacher = torch.stack(wide).mean(0).detach()  # (B, classes)
        losses = separate_losses(wide, labels, self.smoothing)
        return [loss + F.mse_loss(logits_k, teacher) for loss, logits_k in zip(losses, wide, strict=True)]
