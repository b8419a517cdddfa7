"""What every exit says about every picture of a split: once collected, every threshold can be tried on it."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu.files import check_file, write_whole
from dfs_edu.inference.criteria import Judge, checked_criterion
from dfs_edu.modes import evaluating


@dataclass(frozen=True)
class Outputs:
    """What each of K exits says about each of N pictures of one split.

    confidence  float32 (K, N), how sure the exit is, from 0 to 1: its score by the criterion
    prediction  int64 (K, N), the most probable class
    label       int64 (N,), the true class
    split       "train", "validation" or "test"
    criterion   what the score is: "confidence", the largest softmax probability, or another key of `CRITERIA`
    logits      float32 (K, N, classes), where they were asked for; `save` leaves them out
    source      who said it: a digest of the network's weights, and temperatures other than 1; "" where nobody knows

    Raises ValueError for shapes that do not fit, no pictures, or a confidence that is not a number from 0 to 1.
    """

    confidence: Tensor
    prediction: Tensor
    label: Tensor
    split: str
    criterion: str = "confidence"
    logits: Tensor | None = None
    source: str = ""

    def __post_init__(self):
        checked_criterion(self.criterion)
        shapes = [tuple(t.shape) for t in (self.confidence, self.prediction, self.label)]
        if self.confidence.ndim != 2 or self.prediction.shape != self.confidence.shape or shapes[2] != shapes[0][1:]:
            raise ValueError(f"confidence, prediction, label of shapes {shapes}: they are (K, N), (K, N), (N,)")
        if not self.confidence.numel():
            raise ValueError(f"outputs of {shapes[0][0]} exits for {shapes[0][1]} pictures: there must be one at least")
        if self.confidence.isnan().any():
            raise ValueError("confidence holds NaN: the network's logits are not finite")
        if not (self.confidence.min() >= 0 and self.confidence.max() <= 1.001):  # a sum of rounded probabilities
            low, high = self.confidence.aminmax()
            raise ValueError(f"confidence from {low.item():.6g} to {high.item():.6g}: it is a number from 0 to 1")
        if self.logits is not None and self.logits.shape[:2] != self.confidence.shape:
            raise ValueError(f"logits of shape {tuple(self.logits.shape)} for confidences of shape {shapes[0]}")

    @classmethod
    def joined(cls, parts: Sequence[Outputs]) -> Outputs:
        """Outputs of the parts of one split, one after the other."""
        if len(parts) == 1:
            return parts[0]
        confidence, prediction = ([getattr(p, name) for p in parts] for name in ("confidence", "prediction"))
        logits = None if parts[0].logits is None else torch.cat([p.logits for p in parts], 1)
        labels = torch.cat([p.label for p in parts])
        joined = torch.cat(confidence, 1), torch.cat(prediction, 1), labels
        return cls(*joined, parts[0].split, parts[0].criterion, logits, parts[0].source)

    @classmethod
    def of(cls, logits: Tensor, label: Tensor, split: str, criterion: str = "confidence", temperatures=None) -> Outputs:
        """From logits (K, N, classes), kept, and labels (N,): scores by a criterion at the exits' temperatures (K,)."""
        judge = Judge(len(logits), criterion, temperatures)
        confidence, prediction = (torch.stack(said) for said in zip(*map(judge, logits), strict=True))
        return cls(confidence, prediction, label, split, criterion, logits)

    def again(self, criterion: str | None = None, temperatures=None) -> Outputs:
        """The same logits, scored by another criterion or at temperatures (K,). Raises ValueError without logits."""
        scored = Outputs.of(self.asked_for(), self.label, self.split, criterion or self.criterion, temperatures)
        return replace(scored, source=_at(self.source.split(" ")[0], temperatures))

    def asked_for(self) -> Tensor:
        """The logits; ValueError where they were not collected."""
        if self.logits is None:
            raise ValueError("these outputs hold no logits: collect(..., logits=True) keeps them")
        return self.logits

    @property
    def correct(self) -> Tensor:
        """bool (K, N): is exit k right about picture n?"""
        return self.prediction == self.label

    @property
    def accuracy(self) -> Tensor:
        """float64 (K,): fraction of all pictures that exit k gets right (anytime prediction)."""
        return self.correct.double().mean(1)

    @cached_property
    def ranking(self) -> tuple[Tensor, Tensor]:
        """For each exit, confidences from the highest down and whose they are, (K, N) each; sorted once, then kept."""
        return self.confidence.sort(1, descending=True)

    def save(self, path: str | Path) -> None:
        """Write an .npz: five bytes per exit and image (six or more for classes above 255), before compression.

        Confidences are kept in float32, as they are: thresholds fitted on the file are those fitted on `self`. The
        file appears complete or not at all.
        """
        narrow = _narrowest(self.prediction, self.label)
        arrays = {
            "confidence": self.confidence.numpy(),
            "prediction": self.prediction.numpy().astype(narrow),
            "label": self.label.numpy().astype(narrow),
            "split": np.array(self.split),
            "criterion": np.array(self.criterion),
            "source": np.array(self.source),
        }
        write_whole(path, lambda file: np.savez_compressed(file, **arrays))

    @classmethod
    def load(cls, path: str | Path) -> Outputs:
        """Read what `save` wrote, exactly.

        Older files hold 1 - confidence in float16: confidences come back to within 0.00025, and some that differed
        are equal (of 5,000 images at the first exit of vgg7-64, 760 values are left, one of them shared by 47
        images). Images of equal confidence leave together, so thresholds fitted on such a file can miss the share
        asked for by as many images.

        Raises ValueError for any other file, from the sizes in its header where these are wrong.
        """
        try:
            _check_headers(path)
            with np.load(path, allow_pickle=False) as file:
                confidence = file["confidence"] if "confidence" in file else 1 - file["doubt"].astype(np.float32)
                criterion = str(file["criterion"]) if "criterion" in file else "confidence"
                source = str(file["source"]) if "source" in file else ""  # older files have neither
                numbers = (confidence, *(file[name].astype(np.int64) for name in ("prediction", "label")))
                return cls(*map(torch.from_numpy, numbers), str(file["split"]), criterion, source=source)
        except (KeyError, TypeError, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
            reason = error.args[0] if error.args else type(error).__name__  # a KeyError's own text is in quotes
            raise ValueError(f"{path} does not hold outputs written by Outputs.save: {reason}") from error


def _narrowest(*classes: Tensor) -> type[np.integer]:
    """The first of the types that holds all of the values: 40,000 is no int16."""
    low, high = (min(t.min().item() for t in classes), max(t.max().item() for t in classes))
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    return next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


MOST = 2**25  # answers in a file: exits times images; ImageNet's training images at 7 exits are a quarter of it
KINDS = {"confidence": "f", "doubt": "f", "prediction": "iu", "label": "iu"}  # of numbers that a file holds
TEXT = 4 * 1000  # bytes of a name in a file, at most


def _check_headers(path: str | Path) -> None:
    """Raise ValueError where an .npz holds other arrays than `save` writes, before any of them is unpacked.

    A file of 400 kB can unpack to gigabytes; its headers say so.
    """
    check_file(path)
    with ZipFile(path) as file:
        for entry in file.infolist():
            name = entry.filename.removesuffix(".npy")
            with file.open(entry) as array:
                shape, _, dtype = _header(array)
                size = math.prod(shape) * dtype.itemsize
                if name in KINDS:
                    good = dtype.kind in KINDS[name] and math.prod(shape) <= MOST
                else:
                    good = dtype.kind == "U" and size <= TEXT and name in ("split", "criterion", "source")
                if not good:
                    raise ValueError(f"{name} is {dtype} of shape {shape}")
                if entry.file_size - array.tell() != size:
                    raise ValueError(f"{name} has {entry.file_size} bytes, not those of {dtype} of shape {shape}")


def _header(array: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype of an .npy file; numpy itself refuses a header that is not plain or too long."""
    version = np.lib.format.read_magic(array)
    if version != (1, 0):  # what numpy writes of plain arrays; the length in others may be of gigabytes
        raise ValueError(f"an array in version {version} of numpy's format")
    return np.lib.format.read_array_header_1_0(array)


def collect(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    split: str | None = None,
    *,
    criterion: str = "confidence",
    temperatures=None,
    logits: bool = False,
) -> Outputs:
    """Every exit's score and prediction for every picture of `batches`, in their order.

    batches       yields (images (B, 3, H, W), labels (B,)) on the network's device
    split         the split's name, where `batches.split.name` does not say it
    criterion     how sure an exit is, see `CRITERIA`
    temperatures  K numbers by which the exits' logits are divided first (see `fit_temperatures`); None: 1
    logits        keep the logits too, float32 on the CPU: K N classes numbers

    The network works in eval mode without gradients and is left as found. Raises ValueError without a split's name,
    for a name that contradicts the batches', and for no pictures, and FloatingPointError for logits that are not
    finite.

    >>> from dfs_edu.backbones import build
    >>> batches = [(torch.rand(8, 3, 32, 32), torch.arange(8))]
    >>> outputs = collect(build("vgg7-16", classes=10), batches, "validation")
    >>> outputs.confidence.shape, outputs.prediction.shape, outputs.accuracy.shape
    (torch.Size([6, 8]), torch.Size([6, 8]), torch.Size([6]))
    """
    known = getattr(getattr(batches, "split", None), "name", None)
    if (split or known) is None:
        raise ValueError('split=None: these batches do not know their split; say split="validation" or "test"')
    if split and known and split != known:
        raise ValueError(f"split={split!r}: these batches come from the {known} split")
    judge = Judge(len(net.heads), criterion, temperatures)
    said, kept, finite = [], [], []
    with evaluating(net):
        for images, labels in batches:
            judge.restart()
            exits = net(images)
            finite.append(torch.stack([logits_k.isfinite().all() for logits_k in exits]))  # (K,)
            score, prediction = zip(*map(judge, exits), strict=True)
            said.append((torch.stack(score), torch.stack(prediction), labels))
            if logits:
                kept.append(torch.stack(exits).float().cpu())
    if not said:
        raise ValueError("batches holds no pictures")
    _check_finite(torch.stack(finite).all(0))  # once: it waits for a GPU
    score, prediction, label = (torch.cat(parts, dim=-1).cpu() for parts in zip(*said, strict=True))
    all_logits = torch.cat(kept, 1) if logits else None
    source = _at(fingerprint(net), temperatures)
    return Outputs(score, prediction, label, split or known, criterion, all_logits, source)


def _check_finite(exits: Tensor) -> None:
    """exits: bool (K,), whose logits are finite."""
    if not exits.all():
        raise FloatingPointError(f"the logits of exit {exits.int().argmin().item() + 1} are not finite")


def fingerprint(net: nn.Module) -> str:
    """A digest of a network's parameters and buffers: another one for other weights, the same on every device."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _at(digest: str, temperatures) -> str:
    if not digest or temperatures is None or all(t == 1 for t in temperatures):
        return digest
    return f"{digest} " + ",".join(f"{float(t):.6g}" for t in temperatures)
