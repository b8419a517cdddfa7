"""Early exit: what each exit says, when a picture may leave, what that costs, and an inference that really stops.

A picture leaves at the first exit whose confidence, the largest softmax probability, reaches its threshold; the last
exit takes all. **Thresholds are K numbers in [0, 1], one for each exit, the last one 0.** At 0 everybody leaves, at 1
only who is as good as certain. Exits are counted from 0 in arrays and from 1 in what people read.

Thresholds are fitted on the validation split and their effect is reported on the test split, never the reverse:
outputs know their split, and the functions that fit refuse the test split.

Budgeted batch classification with geometric shares: MSDNet, Huang et al., ICLR 2018, section 4. Costs are MACs
(multiply-accumulates), cumulative: what a picture that leaves at exit k has cost, earlier heads included.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu.checkpoint import write_whole

__all__ = [
    "Curve",
    "EarlyExit",
    "Outputs",
    "Point",
    "apply",
    "budget_curve",
    "collect",
    "fit_thresholds",
    "geometric_shares",
    "thresholds_for_budget",
]

Q_RANGE = (1e-7, 1e7)  # shares so steep that of any validation split all leave at the first, or the last, exit


@dataclass(frozen=True)
class Outputs:
    """What each of K exits says about each of N pictures of one split.

    confidence  float32 (K, N), the largest softmax probability
    prediction  int64 (K, N), the class that has it
    label       int64 (N,), the true class
    split       "train", "validation" or "test"

    Raises ValueError for shapes that do not fit, no pictures, or a confidence that is not a number.
    """

    confidence: Tensor
    prediction: Tensor
    label: Tensor
    split: str

    def __post_init__(self):
        shapes = [tuple(t.shape) for t in (self.confidence, self.prediction, self.label)]
        if self.confidence.ndim != 2 or self.prediction.shape != self.confidence.shape or shapes[2] != shapes[0][1:]:
            raise ValueError(f"confidence, prediction, label of shapes {shapes}: they are (K, N), (K, N), (N,)")
        if not self.confidence.numel():
            raise ValueError(f"outputs of {shapes[0][0]} exits for {shapes[0][1]} pictures: there must be one at least")
        if self.confidence.isnan().any():
            raise ValueError("confidence holds NaN: the network's logits are not finite")

    @classmethod
    def joined(cls, parts: Sequence[Outputs]) -> Outputs:
        """Outputs of the parts of one split, one after the other."""
        if len(parts) == 1:
            return parts[0]
        confidence, prediction = ([getattr(p, name) for p in parts] for name in ("confidence", "prediction"))
        labels = torch.cat([p.label for p in parts])
        return cls(torch.cat(confidence, 1), torch.cat(prediction, 1), labels, parts[0].split)

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
        """Write an .npz: three bytes an exit and picture. The file appears complete or not at all.

        What is kept of the confidence is 1 - confidence in float16: its small numbers are its finest, so pictures
        of which the network is nearly certain stay in order.
        """
        narrow = np.uint8 if max(self.prediction.max(), self.label.max()) < 256 else np.int16
        arrays = {
            "doubt": (1 - self.confidence).numpy().astype(np.float16),
            "prediction": self.prediction.numpy().astype(narrow),
            "label": self.label.numpy().astype(narrow),
            "split": np.array(self.split),
        }
        write_whole(path, lambda file: np.savez_compressed(file, **arrays))

    @classmethod
    def load(cls, path: str | Path) -> Outputs:
        """Read what `save` wrote; confidences come back to within 0.00025. Raises ValueError for any other file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                doubt, prediction, label = (torch.from_numpy(file[name]) for name in ("doubt", "prediction", "label"))
                return cls(1 - doubt.float(), prediction.long(), label.long(), str(file["split"]))
        except (KeyError, TypeError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} does not hold outputs written by Outputs.save: {error}") from error


@dataclass(frozen=True)
class Point:
    """What a set of thresholds does to N pictures.

    accuracy       fraction of all pictures classified right where they left
    macs           average MACs of a picture
    share          float64 (K,), fraction that leaves at exit k
    exit_accuracy  float64 (K,), fraction right among those that leave at exit k, NaN where nobody does
    exit           int64 (N,), index of the exit where each picture leaves, from 0
    """

    accuracy: float
    macs: float
    share: Tensor
    exit_accuracy: Tensor
    exit: Tensor


@dataclass(frozen=True)
class Curve:
    """Accuracy against average cost for P sets of thresholds, cheap to dear.

    macs, accuracy, q  float64 (P,); thresholds float32 (P, K). The shares aimed at are proportional to q^k.
    """

    macs: Tensor
    accuracy: Tensor
    thresholds: Tensor
    q: Tensor


def collect(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], split: str | None = None) -> Outputs:
    """Every exit's confidence and prediction for every picture of `batches`, in their order.

    batches   yields (images (B, 3, H, W), labels (B,)) on the network's device
    split     the split's name, where `batches.split.name` does not say it

    The network works in eval mode without gradients and is left as found. Raises ValueError without a split's name,
    for a name that contradicts the batches', and for no pictures.
    """
    known = getattr(getattr(batches, "split", None), "name", None)
    if (split or known) is None:
        raise ValueError('split=None: these batches do not know their split; say split="validation" or "test"')
    if split and known and split != known:
        raise ValueError(f"split={split!r}: these batches come from the {known} split")
    said = []
    with evaluating(net):
        for images, labels in batches:
            confidence, prediction = zip(*map(decide, net(images)), strict=True)
            said.append((torch.stack(confidence), torch.stack(prediction), labels))
    if not said:
        raise ValueError("batches holds no pictures")
    confidence, prediction, label = (torch.cat(parts, dim=-1).cpu() for parts in zip(*said, strict=True))
    return Outputs(confidence, prediction, label, split or known)


def decide(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits (B, classes) -> confidence float32 (B,) and prediction int64 (B,); the softmax is never below float32."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    confidence, prediction = wide.softmax(1).max(1)
    return confidence.float(), prediction


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; afterwards every module has the mode that it had."""
    in_training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in in_training:
            module.training = True


def apply(outputs: Outputs, thresholds: Sequence[float] | Tensor, macs: Sequence[float] | Tensor) -> Point:
    """Send every picture out at the first exit whose confidence reaches its threshold.

    thresholds  K numbers in [0, 1], the last one 0
    macs        K cumulative costs, rising

    Raises ValueError, naming the value, for anything else.
    """
    K = len(outputs.confidence)
    thresholds, macs = checked_thresholds(thresholds, K), checked_macs(macs, K)
    leaves = outputs.confidence >= thresholds[:, None]  # (K, N); the last row is all True
    exit = leaves.byte().argmax(0)  # (N,), the first True
    right = outputs.correct.gather(0, exit[None])[0]
    leaving = torch.bincount(exit, minlength=K).double()
    share = leaving / len(exit)
    exit_accuracy = torch.bincount(exit, right.double(), minlength=K) / leaving
    return Point(right.double().mean().item(), (share @ macs).item(), share, exit_accuracy, exit)


def geometric_shares(q: Tensor, exits: int) -> Tensor:
    """Shares (P, K) proportional to q^k for P values of q > 0: below 1 most leave early, above 1 most go deep."""
    return (q.double().log()[:, None] * torch.arange(exits)).softmax(1)  # softmax: q^k overflows, log q * k does not


def fit_thresholds(outputs: Outputs, share: Sequence[float] | Tensor) -> Tensor:
    """Thresholds (K,) that make a share of the pictures leave at each exit; `share` is K fractions of sum 1.

    Exit by exit, those leave that are the most confident of the pictures still there. By exit k, round(N * the sum of
    the first k shares) pictures have left, exactly; pictures of equal confidence leave together, and the next exit
    makes up for it. A threshold lies midway between the last picture that leaves and the next one, so that the
    rounding of another batch size or machine moves nobody across.

    Raises ValueError for outputs of the test split, or shares that are not K fractions of sum 1.
    """
    K = len(outputs.confidence)
    share = torch.as_tensor(share, dtype=torch.float64)
    if share.shape != (K,) or not (share >= 0).all() or abs(share.sum().item() - 1) > 1e-6:
        raise ValueError(f"share={share.tolist()}: {K} exits need {K} fractions from 0 to 1 whose sum is 1")
    return _fit(outputs, share[None])[0][0]


def _fit(outputs: Outputs, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Shares aimed at (P, K) -> thresholds (P, K) and the shares that they reach (P, K), all P at once."""
    if outputs.split == "test":
        raise ValueError("outputs of the test split: thresholds must be fitted on validation")
    P, K = shares.shape
    N = outputs.confidence.shape[1]
    gone_by = (shares.cumsum(1) * N).round().int()  # (P, K), how many should have left by exit k
    here = torch.ones(P, N, dtype=torch.bool)
    thresholds, arriving = torch.zeros(P, K), torch.full((P, K + 1), N)
    for k, (confidence, ranked, order) in enumerate(zip(outputs.confidence[:-1], *outputs.ranking, strict=False)):
        gone = gone_by[:, k : k + 1]
        rank = here.index_select(1, order).cumsum(1, dtype=torch.int32)  # (P, N), among those still here
        wanted = gone - (N - rank[:, -1:])  # (P, 1), how many should leave here
        last = torch.searchsorted(rank, wanted).clamp(max=N - 1)  # (P, 1), the last of them
        leaving, staying = ranked[last], ranked[(last + 1).clamp(max=N - 1)]
        between = (leaving + staying) / 2
        between = torch.where(between > staying, between, leaving)  # equal or neighbouring numbers have no middle
        between = torch.where(wanted > 0, between, 1.0)
        thresholds[:, k : k + 1] = torch.where(gone < N, between, 0.0)
        here &= confidence < thresholds[:, k : k + 1]
        arriving[:, k + 1] = here.count_nonzero(1)
    arriving[:, K] = 0  # the last exit takes all
    return thresholds, -arriving.diff().double() / N


def budget_curve(
    calibration_outputs: Outputs, test_outputs: Outputs, macs: Sequence[float], budgets: int = 40
) -> Curve:
    """MSDNet's budgeted batch classification: thresholds fitted on one split, their effect measured on another.

    `budgets` sets of thresholds, whose average costs on the calibration outputs are evenly spaced from leaving at the
    first exit to leaving at the last; exit k takes a share proportional to q^k, and each cost asks for one q.

    Raises ValueError where the thresholds would be fitted on the test split, or on the split that they are tested on.
    """
    if calibration_outputs.split in ("test", test_outputs.split):
        raise ValueError(
            f"calibration on {calibration_outputs.split!r}, test on {test_outputs.split!r}: "
            "thresholds must be fitted on validation and tested on another split"
        )
    K = len(calibration_outputs.confidence)
    if len(test_outputs.confidence) != K:
        raise ValueError(f"calibration outputs of {K} exits, test outputs of {len(test_outputs.confidence)}")
    if budgets < 2:
        raise ValueError(f"budgets={budgets}: a curve has two points at least")
    macs = checked_macs(macs, K)
    q = _q_for_cost(macs, torch.linspace(macs[0], macs[-1], budgets, dtype=torch.float64))
    thresholds, _ = _fit(calibration_outputs, geometric_shares(q, K))
    points = [apply(test_outputs, t, macs) for t in thresholds]
    cost, accuracy = (
        torch.tensor([getattr(p, name) for p in points], dtype=torch.float64) for name in ("macs", "accuracy")
    )
    return Curve(cost, accuracy, thresholds, q)


def _q_for_cost(macs: Tensor, cost: Tensor) -> Tensor:
    """The q (P,) whose geometric shares cost `cost` (P,) on average: bisection, since the cost rises with q."""
    low, high = (torch.full_like(cost, math.log(q)) for q in Q_RANGE)
    for _ in range(50):
        middle = (low + high) / 2
        dear = geometric_shares(middle.exp(), len(macs)) @ macs > cost
        low, high = torch.where(dear, low, middle), torch.where(dear, middle, high)
    return middle.exp()


def thresholds_for_budget(outputs: Outputs, macs: Sequence[float] | Tensor, budget: float) -> Tensor:
    """Thresholds (K,) of the geometric family that cost the most average MACs within `budget` on these outputs.

    Raises ValueError for outputs of the test split, and for a budget below the first exit's cost, which every picture
    pays.
    """
    K = len(outputs.confidence)
    macs = checked_macs(macs, K)
    if not budget >= macs[0]:
        raise ValueError(f"budget={budget!r}: every picture pays exit 1, which costs {macs[0].item():.6g} MACs")
    ends = [math.log(q) for q in Q_RANGE]
    for _ in range(6):  # the cost rises with q: look more closely between two neighbours, 10 times narrower each round
        log_q = torch.linspace(*ends, 11, dtype=torch.float64)
        thresholds, reached = _fit(outputs, geometric_shares(log_q.exp(), K))
        within = reached @ macs <= budget  # True at the lower end: there, all leave at exit 1
        best = int(within.nonzero().max())
        ends = log_q[[best, min(best + 1, 10)]].tolist()
    return thresholds[best]


class EarlyExit:
    """Inference that stops: a picture that has left costs nothing further, and the rest goes on as a smaller batch.

    thresholds  K numbers in [0, 1], the last one 0

    Calling it with images (B, ...) gives labels int64 (B,) and exits int64 (B,), the index from 0 of the exit where
    each left: what `apply` says of the same pictures. One wait for the device an exit at most. The network is left as
    found. Raises ValueError for thresholds that are not such, or no images.
    """

    def __init__(self, net: nn.Module, thresholds: Sequence[float] | Tensor):
        self.net = net
        self.thresholds = checked_thresholds(thresholds, len(net.heads)).tolist()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not len(images):
            raise ValueError(f"images of shape {tuple(images.shape)}: there must be one at least")
        labels = torch.empty(len(images), dtype=torch.int64, device=images.device)
        exits = torch.empty_like(labels)
        here = torch.arange(len(images), device=images.device)  # the pictures still in the network
        with evaluating(self.net):
            steps = self.net.exits(images)
            logits = next(steps)
            for k, threshold in enumerate(self.thresholds):
                confidence, prediction = decide(logits)
                labels[here], exits[here] = prediction, k  # whoever goes on is overwritten further on
                if k == len(self.thresholds) - 1:
                    break
                going_on = (confidence < threshold).nonzero()[:, 0]  # its size must be known here: the one wait
                if not len(going_on):
                    break
                everybody = len(going_on) == len(here)
                here = here[going_on]
                logits = steps.send(None if everybody else going_on)
        return labels, exits


def checked_thresholds(thresholds: Sequence[float] | Tensor, exits: int) -> Tensor:
    """Thresholds as float32 (K,), the precision of confidences; ValueError, naming the value, if they are not such."""
    t = torch.as_tensor(thresholds, dtype=torch.float32).cpu()
    if t.shape != (exits,):
        raise ValueError(
            f"thresholds of shape {tuple(t.shape)} for {exits} exits: give {exits} numbers, the last one 0, since the "
            "last exit takes all"
        )
    for k, value in enumerate(t.tolist(), start=1):
        if not 0 <= value <= 1:  # NaN too
            raise ValueError(f"threshold {value:.6g} of exit {k}: a threshold is a number from 0 to 1")
    if t[-1] != 0:
        raise ValueError(f"threshold {t[-1].item():.6g} of exit {exits}: the last exit takes all, its threshold is 0")
    return t


def checked_macs(macs: Sequence[float] | Tensor, exits: int) -> Tensor:
    """Cumulative costs as float64 (K,); ValueError, naming the value, if they are not K rising positive numbers."""
    m = torch.as_tensor(macs, dtype=torch.float64).cpu()
    if m.shape != (exits,):
        raise ValueError(f"macs of shape {tuple(m.shape)} for {exits} exits: give {exits} cumulative costs")
    if not (m > 0).all() or not m.isfinite().all() or not (m.diff() > 0).all():
        raise ValueError(
            f"macs={m.tolist()}: the cumulative costs of the exits are positive and rise from exit to exit"
        )
    return m
