"""The distillation that block-dependent training adds to its losses (Han et al., BDL, TNNLS 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dfs_edu.losses.crossentropy import separate_losses
from dfs_edu.losses.teaching import Teaching, named, soft_loss
from dfs_edu.precision import at_least_float32


@named("block-distillation")
class BlockDistillation(Teaching):
    """Cross-entropy at every exit, and at all but the last the divergence from the last exit besides.

    The second term is a * KL(last || exit) with both at temperature T and the last exit detached. The authors have a
    from 0.25 to 0.35 and T from 1.5 to 2.5, by network; the middle of each is taken here. As in their code, the term is
    not multiplied by the square of T, and the first term keeps its full weight. Which blocks an exit's loss trains is
    for the method to say: "joint+bdl+block-distillation" is theirs, and "joint+block-distillation" lets it reach all.

    Args:
        amount: Weight of the divergence, a.
        temperature: Divides the logits of both sides, T.
        smoothing: Of the labels, see ``exit_losses``.
    """

    def __init__(self, amount: float = 0.3, temperature: float = 2.0, smoothing: float = 0.0):
        super().__init__(smoothing)
        self.amount, self.temperature = amount, temperature

    def forward(self, exits: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Return K losses () for K logits (B, classes)."""
        *losses, last = separate_losses(exits, labels, self.smoothing)
        teacher = at_least_float32(exits[-1]).detach() / self.temperature
        entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()  # cross-entropy minus this is KL
        apart = [soft_loss(logits_k, exits[-1], self.temperature) - entropy for logits_k in exits[:-1]]
        return [*(loss + self.amount * kl for loss, kl in zip(losses, apart, strict=True)), last]
