"""Logits and labels -> one loss per exit. The sum of the losses is the objective of joint training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfs_edu.distributed import norm
from dfs_edu.precision import at_least_float32


def exit_losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each exit, mean over the batch: K x (B, classes), (B,) -> (K,).

    smoothing   share of the target that is spread over all classes (Szegedy et al., CVPR 2016)
    Computed in float32 where autocast left the logits in bfloat16; float64 stays float64.

    >>> undecided, sure = torch.zeros(1, 4), torch.tensor([[9.0, 0.0, 0.0, 0.0]])
    >>> exit_losses([undecided, sure], torch.tensor([0])).numpy().round(3)
    array([1.386, 0.   ], dtype=float32)
    """
    return torch.stack(separate_losses(logits, labels, smoothing))


def separate_losses(logits: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> list[Tensor]:
    """The same as K tensors (): the backward pass of one of them stays out of the stages behind its exit."""
    wide = [at_least_float32(logits_k) for logits_k in logits]
    return [F.cross_entropy(logits_k, labels, label_smoothing=smoothing) for logits_k in wide]


class Objective(nn.Module):
    """A network together with its loss: (images (B, 3, H, W), labels (B,)) -> losses K x (), logits K x (B, classes).

    loss   "cross-entropy" at each exit, or "distillation": the last exit teaches the others
    """

    def __init__(self, network: nn.Module, loss: str = "cross-entropy", smoothing: float = 0.0):
        super().__init__()
        self.network, self.smoothing = network, smoothing
        self.distillation = Distillation.of(network, smoothing=smoothing) if loss == "distillation" else None

    def forward(self, images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Losses K x () and logits K x (B, classes) of a batch."""
        if self.distillation is None:
            logits = self.network(images)
            return separate_losses(logits, labels, self.smoothing), logits
        said = self.network.embed(images)
        return self.distillation(said, labels), [logits_k for _, logits_k in said]


class Distillation(nn.Module):
    """The last exit teaches the others ("Be Your Own Teacher", Zhang et al., ICCV 2019), whatever the backbone.

    An exit before the last has as its loss (1 - soft) times the cross-entropy with the labels, plus soft times the
    cross-entropy with what the last exit says, both at a temperature, plus `feature` times the L2 distance, over the
    whole batch, between its embedding, brought to the last one's size by a linear layer of its own, and the last one's.
    The teacher's side is detached. The last exit has its cross-entropy alone. As in the authors' code, the soft part
    is not multiplied by the square of the temperature, and the distance is a norm, not a mean.

    embeddings  D_1 ... D_K, the numbers of values that the heads hand to their classifiers: `Distillation.of(net)`
                reads them from a network
    smoothing   of the labels, see `exit_losses`
    The linear layers are trained with the network, and thrown away afterwards.
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
    def of(cls, net: nn.Module, **options) -> Distillation:
        """For a network whose heads end in a linear classifier `fc`; the layers lie on its device."""
        classifiers = [head.fc for head in net.heads]
        weight = classifiers[-1].weight
        return cls([fc.in_features for fc in classifiers], **options).to(weight.device, weight.dtype)

    def forward(self, exits: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> list[Tensor]:
        """K x (embedding (B, D_k), logits (B, classes)), as `MultiExit.embed` gives them, labels (B,) -> K x ()."""
        embeddings, logits = zip(*exits, strict=True)
        *losses, last = separate_losses(logits, labels, self.smoothing)
        teacher, guide = at_least_float32(logits[-1]).detach(), at_least_float32(embeddings[-1]).detach()
        taught = [self._from_teacher(logits_k, teacher) for logits_k in logits[:-1]]
        apart = [
            norm(adapt(at_least_float32(embedding)) - guide)
            for adapt, embedding in zip(self.adapt, embeddings[:-1], strict=True)
        ]
        early = [
            (1 - self.soft) * loss + self.soft * soft + self.feature * distance
            for loss, soft, distance in zip(losses, taught, apart, strict=True)
        ]
        return [*early, last]

    def _from_teacher(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy with the teacher's probabilities, both softened: (B, classes) twice -> ()."""
        soft = (teacher / self.temperature).softmax(1)
        return F.cross_entropy(at_least_float32(logits) / self.temperature, soft)
