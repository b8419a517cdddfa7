"""A network together with its loss, by name: what a training step calls."""

from __future__ import annotations

from torch import Tensor, nn

from dfs_edu.losses.crossentropy import image_losses, separate_losses
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

    def forward(self, images: Tensor, labels: Tensor, each: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return K losses () and K logits (B, classes).

        Args:
            images: (B, 3, H, W).
            labels: See ``exit_losses``.
            each: Return the losses of each image, K x (B,), instead of their means.

        Raises:
            ValueError: Single images have no such loss: exits that teach exits are compared over a whole batch.
        """
        if self.distillation is None:
            logits = self.network(images)
            return (image_losses if each else separate_losses)(logits, labels, self.smoothing), logits
        if each:
            raise ValueError("exits that teach exits are compared over a whole batch, not image by image")
        if not self.distillation.embeds:
            logits = self.network(images)
            return self.distillation(logits, labels), logits
        exits = self.network.embed(images)
        return self.distillation(exits, labels), [logits_k for _, logits_k in exits]
