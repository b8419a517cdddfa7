"""The last exit teaches the others by its probabilities, and if asked by its embedding (Zhang et al., BYOT, 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from torch import Tensor, nn

from dfs_edu.distributed import norm
from dfs_edu.losses.crossentropy import separate_losses
from dfs_edu.losses.teaching import Teaching, named, soft_loss
from dfs_edu.multiexit import MultiExit
from dfs_edu.precision import at_least_float32


@named("distillation-logits")
class LogitDistillation(Teaching):
    """``Distillation`` without its term for features: nothing is compared but logits, and no layers adapt anything.

    Args:
        soft: See ``Distillation``.
        temperature: See ``Distillation``.
        smoothing: See ``Distillation``.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    def __init__(self, soft: float = 0.3, temperature: float = 3.0, smoothing: float = 0.0):
        super().__init__(smoothing)
        if not 0 <= soft <= 1 or not temperature > 0:
            raise ValueError(f"soft={soft!r}, temperature={temperature!r}: a fraction, and a temperature above 0")
        self.soft, self.temperature = soft, temperature

    def forward(self, exits: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Return K losses () for K logits (B, classes)."""
        *losses, last = separate_losses(exits, labels, self.smoothing)
        soft_losses = [soft_loss(logits_k, exits[-1], self.temperature) for logits_k in exits[:-1]]
        pairs = zip(losses, soft_losses, strict=True)
        return [*((1 - self.soft) * loss + self.soft * soft for loss, soft in pairs), last]


@named("distillation")
class Distillation(Teaching):
    """The last exit teaches the others, whatever the backbone.

    The last exit's loss is its cross-entropy with the labels. The loss of any other exit is the sum of three terms:

    * its cross-entropy with the labels, times 1 - ``soft``;
    * its cross-entropy with the last exit's probabilities, both at a temperature, times ``soft``;
    * the L2 distance, over the whole batch, between its embedding and the last exit's, times ``feature``. A linear
      layer brings the embedding to the last exit's size; it is trained with the network and discarded afterwards.

    The teacher's side is detached. As in the authors' code, the second term is not multiplied by the square of the
    temperature, and the distance is a norm, not a mean.

    Args:
        embeddings: D_1 ... D_K, the sizes of the exits' embeddings; ``Distillation.of`` reads them from a network.
        soft: Weight of the teacher's probabilities, a fraction.
        feature: Weight of the distance between embeddings, from 0.
        temperature: Divides the logits of both sides, above 0.
        smoothing: Of the labels, see ``exit_losses``.

    Raises:
        ValueError: A value is out of range; the message names it.

    Source:
        "Be Your Own Teacher", Zhang et al., ICCV 2019.
    """

    embeds: ClassVar[bool] = True
    in_parts: ClassVar[bool] = False  # the distance is that of a whole batch

    def __init__(
        self,
        embeddings: Sequence[int],
        soft: float = 0.3,
        feature: float = 0.03,
        temperature: float = 3.0,
        smoothing: float = 0.0,
    ):
        super().__init__(smoothing)
        if not feature >= 0:
            raise ValueError(f"feature={feature!r}: a weight from 0")
        self.feature, self.by_logits = feature, LogitDistillation(soft, temperature, smoothing)
        self.adapt = nn.ModuleList(nn.Linear(D, embeddings[-1]) for D in embeddings[:-1])

    @classmethod
    def of(cls, net: MultiExit, smoothing: float = 0.0) -> Distillation:
        """Return it for a network whose heads end in a linear classifier ``fc``, on the network's device."""
        classifiers = [cast(nn.Linear, head.fc) for head in net.heads]
        weight = classifiers[-1].weight
        sizes = [classifier.in_features for classifier in classifiers]
        return cls(sizes, smoothing=smoothing).to(weight.device, weight.dtype)

    def forward(self, exits: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> list[Tensor]:
        """Return K losses () for what ``MultiExit.embed`` returns, K x (embedding (B, D_k), logits (B, classes))."""
        embeddings, logits = zip(*exits, strict=True)
        *losses, last = self.by_logits(logits, labels)
        teacher = at_least_float32(embeddings[-1]).detach()
        distances = [
            norm(adapt(at_least_float32(embedding)) - teacher)
            for adapt, embedding in zip(self.adapt, embeddings[:-1], strict=True)
        ]
        return [*(loss + self.feature * distance for loss, distance in zip(losses, distances, strict=True)), last]
