"""A network together with its loss, by name: what a training step calls."""

from __future__ import annotations

from torch import Tensor, nn

from dfs_edu.losses.crossentropy import separate_losses
from dfs_edu.losses.teaching import NAMED
from dfs_edu.multiexit import MultiExit


class Objective(nn.Module):
    """A network together with its loss.

    Args:
        network: A network with exits.
        loss: "cross-entropy" at each exit, a loss in which exits teach exits, or "boosted": the cross-entropy of a
            network whose exits answer so (``MultiExit.answers``).
        smoothing: Of the labels, see ``exit_losses``.
    """

    def __init__(self, network: MultiExit, loss: str = "cross-entropy", smoothing: float = 0.0):
        super().__init__()
        self.network, self.smoothing = network, smoothing
        self.distillation = NAMED[loss].of(network, smoothing) if loss in NAMED else None

    def forward(self, images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return K losses () and K logits (B, classes), for images (B, 3, H, W) and labels as of ``exit_losses``."""
        if self.distillation is None:
            logits = self.network(images)
            return separate_losses(logits, labels, self.smoothing), logits
        if not self.distillation.embeds:
            logits = self.network(images)
            return self.distillation(logits, labels), logits
        exits = self.network.embed(images)
        return self.distillation(exits, labels), [logits_k for _, logits_k in exits]
