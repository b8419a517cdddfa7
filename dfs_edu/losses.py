"""One loss per exit, from logits and labels. Their sum is the objective of joint training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfs_edu.distributed import norm
from dfs_edu.multiexit import MultiExit
from dfs_edu.precision import at_least_float32


def exit_losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each exit (K,), averaged over the batch.

    Args:
        logits: K logits (B, classes). If autocast left them in bfloat16, losses are float32; float64 stays float64.
        labels: Labels (B,).
        smoothing: Fraction of the target that is spread over all classes (Szegedy et al., CVPR 2016).

    >>> undecided, sure = torch.zeros(1, 4), torch.tensor([[9.0, 0.0, 0.0, 0.0]])
    >>> exit_losses([undecided, sure], torch.tensor([0])).numpy().round(3)
    array([1.386, 0.   ], dtype=float32)
    """
    return torch.stack(separate_losses(logits, labels, smoothing))


def separate_losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> list[Tensor]:
    """Return the same as K tensors (): the backward pass of one does not enter the stages after its exit."""
    wide = [at_least_float32(logits_k) for logits_k in logits]
    return [F.cross_entropy(logits_k, labels, label_smoothing=smoothing) for logits_k in wide]


def image_losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> list[Tensor]:
    """Return the losses of each image, K tensors (B,); their means are ``separate_losses``."""
    wide = [at_least_float32(logits_k) for logits_k in logits]
    return [F.cross_entropy(logits_k, labels, reduction="none", label_smoothing=smoothing) for logits_k in wide]


class Objective(nn.Module):
    """A network together with its loss.

    Args:
        network: A network with exits.
        loss: "cross-entropy" at each exit, or "distillation": the last exit teaches the others.
        smoothing: Of the labels, see ``exit_losses``.
    """

    def __init__(self, network: MultiExit, loss: str = "cross-entropy", smoothing: float = 0.0):
        super().__init__()
        self.network, self.smoothing = network, smoothing
        self.distillation = Distillation.of(network, smoothing=smoothing) if loss == "distillation" else None

    def forward(self, images: Tensor, labels: Tensor, each: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return K losses () and K logits (B, classes), for images (B, 3, H, W) and labels (B,).

        Args:
            images: A batch.
            labels: Its labels.
            each: Return the losses of each image, K x (B,), instead of their means.

        Raises:
            ValueError: Single images have no such loss: distillation measures features over a whole batch.
        """
        if self.distillation is None:
            logits = self.network(images)
            return (image_losses if each else separate_losses)(logits, labels, self.smoothing), logits
        if each:
            raise ValueError("distillation measures features over a whole batch, not image by image")
        exits = self.network.embed(images)
        return self.distillation(exits, labels), [logits_k for _, logits_k in exits]


class Distillation(nn.Module):
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

    def __init__(
        self,
        embeddings: Sequence[int],
        soft: float = 0.3,
        feature: float = 0.03,
        temperature: float = 3.0,
        smoothing: float = 0.0,
    ):
        super().__init__()
        if not 0 <= soft <= 1 or not feature >= 0 or not temperature > 0:
            raise ValueError(
                f"soft={soft!r}, feature={feature!r}, temperature={temperature!r}: a fraction, a weight from 0 and a "
                "temperature above 0"
            )
        self.soft, self.feature, self.temperature, self.smoothing = soft, feature, temperature, smoothing
        self.adapt = nn.ModuleList(nn.Linear(D, embeddings[-1]) for D in embeddings[:-1])

    @classmethod
    def of(cls, net: MultiExit, **options: float) -> Distillation:
        """Return it for a network whose heads end in a linear classifier ``fc``, on the network's device."""
        classifiers = [cast(nn.Linear, head.fc) for head in net.heads]
        weight = classifiers[-1].weight
        return cls([fc.in_features for fc in classifiers], **options).to(weight.device, weight.dtype)

    def forward(self, exits: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> list[Tensor]:
        """Return K losses () for what ``MultiExit.embed`` returns, K x (embedding (B, D_k), logits (B, classes))."""
        embeddings, logits = zip(*exits, strict=True)
        *losses, last = separate_losses(logits, labels, self.smoothing)
        teacher_logits = at_least_float32(logits[-1]).detach()
        teacher_embedding = at_least_float32(embeddings[-1]).detach()
        soft_losses = [self._from_teacher(logits_k, teacher_logits) for logits_k in logits[:-1]]
        distances = [
            norm(adapt(at_least_float32(embedding)) - teacher_embedding)
            for adapt, embedding in zip(self.adapt, embeddings[:-1], strict=True)
        ]
        early = [
            (1 - self.soft) * loss + self.soft * soft_loss + self.feature * distance
            for loss, soft_loss, distance in zip(losses, soft_losses, distances, strict=True)
        ]
        return [*early, last]

    def _from_teacher(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy () with the teacher's probabilities, both at the temperature; logits are (B, classes)."""
        soft = (teacher / self.temperature).softmax(1)
        return F.cross_entropy(at_least_float32(logits) / self.temperature, soft)
