"""Confidence and prediction of every exit for every image of a split: collected once, then any thresholds are tried."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from dfs_edu.inference import archive
from dfs_edu.inference.criteria import Judge, checked_criterion
from dfs_edu.modes import evaluating
from dfs_edu.multiexit import MultiExit


@dataclass(frozen=True)
class Outputs:
    """Confidences and predictions of K exits on the N images of one split.

    Attributes:
        confidence: float32 (K, N), how sure the exit is, from 0 to 1: its score by the criterion.
        prediction: int64 (K, N), the most probable class.
        label: int64 (N,), the true class.
        split: "train", "validation" or "test".
        criterion: what the score is: "confidence", the largest softmax probability, or another key of ``CRITERIA``.
        logits: float32 (K, N, classes), if they were kept; ``save`` leaves them out.
        source: the network: a digest of its weights, followed by temperatures other than 1; "" if it is unknown.

    Raises:
        ValueError: shapes that do not fit, no images, or a confidence that is not a number from 0 to 1.
    """

    confidence: Tensor
    prediction: Tensor
    label: Tensor
    split: str
    criterion: str = "confidence"
    logits: Tensor | None = None
    source: str = ""

    def __post_init__(self) -> None:
        checked_criterion(self.criterion)
        shapes = [tuple(t.shape) for t in (self.confidence, self.prediction, self.label)]
        if self.confidence.ndim != 2 or self.prediction.shape != self.confidence.shape or shapes[2] != shapes[0][1:]:
            raise ValueError(f"confidence, prediction, label of shapes {shapes}: they are (K, N), (K, N), (N,)")
        if not self.confidence.numel():
            raise ValueError(f"outputs of {shapes[0][0]} exits for {shapes[0][1]} images: at least one is needed")
        if self.confidence.isnan().any():
            raise ValueError("confidence holds NaN: the network's logits are not finite")
        if not (self.confidence.min() >= 0 and self.confidence.max() <= 1.001):  # a sum of rounded probabilities
            low, high = self.confidence.aminmax()
            raise ValueError(f"confidence from {low.item():.6g} to {high.item():.6g}: it is a number from 0 to 1")
        if self.logits is not None and self.logits.shape[:2] != self.confidence.shape:
            raise ValueError(f"logits of shape {tuple(self.logits.shape)} for confidences of shape {shapes[0]}")

    @classmethod
    def joined(cls, parts: Sequence[Outputs]) -> Outputs:
        """Join the outputs of consecutive parts of one split."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([p.confidence for p in parts], 1),
            torch.cat([p.prediction for p in parts], 1),
            torch.cat([p.label for p in parts]),
            parts[0].split,
            parts[0].criterion,
            None if parts[0].logits is None else torch.cat([p.kept_logits() for p in parts], 1),
            parts[0].source,
        )

    @classmethod
    def of(
        cls,
        logits: Tensor,
        label: Tensor,
        split: str,
        criterion: str = "confidence",
        temperatures: Sequence[float] | Tensor | None = None,
    ) -> Outputs:
        """Score logits (K, N, classes), which are kept, by a criterion at the exits' temperatures (K,); labels (N,)."""
        judge = Judge(len(logits), criterion, temperatures)
        confidence, prediction = (torch.stack(answers) for answers in zip(*map(judge, logits), strict=True))
        return cls(confidence, prediction, label, split, criterion, logits)

    def again(self, criterion: str | None = None, temperatures: Sequence[float] | Tensor | None = None) -> Outputs:
        """Score the same logits by another criterion, or at temperatures (K,). Raises ValueError without logits."""
        scored = Outputs.of(self.kept_logits(), self.label, self.split, criterion or self.criterion, temperatures)
        return replace(scored, source=_source(self.source.split(" ")[0], temperatures))

    def kept_logits(self) -> Tensor:
        """Logits (K, N, classes). Raises ValueError if they were not kept."""
        if self.logits is None:
            raise ValueError("these outputs hold no logits: collect(..., logits=True) keeps them")
        return self.logits

    @property
    def correct(self) -> Tensor:
        """Whether exit k is right about image n, bool (K, N)."""
        return self.prediction == self.label

    @property
    def accuracy(self) -> Tensor:
        """Fraction of all images that exit k classifies correctly (anytime prediction), float64 (K,)."""
        return self.correct.double().mean(1)

    @property
    def disagreement(self) -> Tensor:
        """int64 (N,): how many of the K (K - 1) / 2 pairs of exits predict different classes for each image."""
        pairs = torch.combinations(torch.arange(len(self.prediction)))
        return (self.prediction[pairs[:, 0]] != self.prediction[pairs[:, 1]]).sum(0)

    @cached_property
    def ranking(self) -> tuple[Tensor, Tensor]:
        """Each exit's confidences in descending order, and the indices of their images, (K, N) each; sorted once."""
        return self.confidence.sort(1, descending=True)

    def save(self, path: str | Path) -> None:
        """Write an .npz: five bytes per exit and image (six or more for classes above 255), before compression.

        Confidences are kept in float32, as they are: thresholds fitted on the file equal those fitted on ``self``. The
        file appears complete or not at all.
        """
        archive.write(path, self)

    @classmethod
    def load(cls, path: str | Path) -> Outputs:
        """Read exactly what ``save`` wrote.

        Older files hold 1 - confidence in float16: confidences come back to within 0.00025, and some that differed
        are equal (of 5,000 images at the first exit of vgg7-64, 760 values are left, one of them shared by 47
        images). Images of equal confidence leave together, so thresholds fitted on such a file can miss the share
        asked for by as many images.

        Raises:
            ValueError: any other file; wrong sizes are seen in its header, before they are allocated.
        """
        try:
            return cls(**archive.read(path))
        except archive.DAMAGED as error:
            reason = error.args[0] if error.args else type(error).__name__  # a KeyError's own text is in quotes
            raise ValueError(f"{path} does not hold outputs written by Outputs.save: {reason}") from error


def collect(
    net: MultiExit,
    batches: Iterable[tuple[Tensor, Tensor]],
    split: str | None = None,
    *,
    criterion: str = "confidence",
    temperatures: Sequence[float] | Tensor | None = None,
    logits: bool = False,
    each: Callable[[Sequence[Tensor], Tensor], None] | None = None,
) -> Outputs:
    """Run the network on all batches and return every exit's score and prediction, in the order of the images.

    The network runs in eval mode without gradients and is left as it was.

    Args:
        net: the network.
        batches: yields (images (B, 3, H, W), labels (B,)) on the network's device.
        split: the split's name, unless ``batches.split.name`` says it.
        criterion: how sure an exit is, see ``CRITERIA``.
        temperatures: K numbers by which the exits' logits are divided first (see ``fit_temperatures``); None: 1.
        logits: keep the logits as well, float32 on the CPU: K N classes numbers.
        each: called with every batch's K logits (B, classes) and labels (B,), such as an ``ensembles.Tally``.

    Raises:
        ValueError: no name of the split, one that contradicts the batches', or no images.
        FloatingPointError: logits that are not finite.

    >>> from dfs_edu.backbones import build
    >>> batches = [(torch.rand(8, 3, 32, 32), torch.arange(8))]
    >>> outputs = collect(build("vgg7-16", classes=10), batches, "validation")
    >>> outputs.confidence.shape, outputs.prediction.shape, outputs.accuracy.shape
    (torch.Size([6, 8]), torch.Size([6, 8]), torch.Size([6]))
    """
    name = _split_name(batches, split)
    judge = Judge(len(net.heads), criterion, temperatures)
    answers, kept, finite = [], [], []
    with evaluating(net):
        for images, labels in batches:
            judge.restart()
            exits = net(images)  # K tensors (B, classes)
            score, prediction = zip(*map(judge, exits), strict=True)
            answers.append((torch.stack(score), torch.stack(prediction), labels))  # (K, B), (K, B), (B,)
            finite.append(torch.stack([logits_k.isfinite().all() for logits_k in exits]))  # (K,)
            if each is not None:
                each(exits, labels)
            if logits:
                kept.append(torch.stack(exits).float().cpu())  # (K, B, classes)
    if not answers:
        raise ValueError("batches holds no images")

    _check_finite(torch.stack(finite).all(0))  # once, at the end: reading the marks waits for a GPU
    score, prediction, label = (torch.cat(parts, dim=-1).cpu() for parts in zip(*answers, strict=True))
    all_logits = torch.cat(kept, 1) if logits else None
    return Outputs(score, prediction, label, name, criterion, all_logits, _source(fingerprint(net), temperatures))


def _split_name(batches: object, split: str | None) -> str:
    """The split's name, from the batches or as it was given; ValueError if there is none, or if the two differ."""
    known = getattr(getattr(batches, "split", None), "name", None)
    if split and known and split != known:
        raise ValueError(f"split={split!r}: these batches come from the {known} split")
    name = split or known
    if name is None:
        raise ValueError('split=None: these batches do not know their split; give split="validation" or "test"')
    return name


def _check_finite(exits: Tensor) -> None:
    """FloatingPointError unless all exits have finite logits; exits: bool (K,), which have."""
    if not exits.all():
        raise FloatingPointError(f"the logits of exit {exits.int().argmin().item() + 1} are not finite")


def fingerprint(net: nn.Module) -> str:
    """A digest of a network's parameters and buffers: the same on every device, another one for other weights."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    if isinstance(net, MultiExit) and net.answers != "own":  # the same weights give other outputs
        digest.update(net.answers.encode())
    return digest.hexdigest()[:16]


def _source(digest: str, temperatures: Sequence[float] | Tensor | None) -> str:
    """The digest of a network, followed by its temperatures unless all are 1."""
    if not digest or temperatures is None or all(t == 1 for t in temperatures):
        return digest
    return f"{digest} " + ",".join(f"{float(t):.6g}" for t in temperatures)
