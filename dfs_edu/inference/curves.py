"""What thresholds do to accuracy and cost: one point, a curve of many budgets, and its confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfs_edu.inference.checks import check_pair, checked_macs, checked_thresholds
from dfs_edu.inference.outputs import Outputs
from dfs_edu.inference.thresholds import geometric_for_costs


@dataclass(frozen=True)
class Point:
    """The effect of one set of thresholds on N images.

    Attributes:
        accuracy: fraction of all images that are classified correctly where they leave.
        macs: average MACs per image.
        share: float64 (K,), fraction of all images that leaves at exit k.
        exit_accuracy: float64 (K,), fraction correct among the images that leave at exit k, NaN if none does.
        exit: int64 (N,), index of the exit where each image leaves, from 0.
        right: bool (N,), whether that exit is right.
    """

    accuracy: float
    macs: float
    share: Tensor
    exit_accuracy: Tensor
    exit: Tensor
    right: Tensor


@dataclass(frozen=True)
class Curve:
    """Accuracy against average cost for P sets of thresholds, from cheap to expensive.

    Attributes:
        macs: float64 (P,), average MACs per image.
        accuracy: float64 (P,), fraction of all images.
        thresholds: float32 (P, K).
        right: bool (P, N), whether each image is classified correctly where it leaves.
    """

    macs: Tensor
    accuracy: Tensor
    thresholds: Tensor
    right: Tensor

    @classmethod
    def of(cls, outputs: Outputs, thresholds: Tensor, macs: Sequence[float] | np.ndarray | Tensor) -> Curve:
        """Apply each of P sets of thresholds (P, K) to the same outputs."""
        points = [apply(outputs, t, macs) for t in thresholds]
        return cls(
            torch.tensor([p.macs for p in points], dtype=torch.float64),
            torch.tensor([p.accuracy for p in points], dtype=torch.float64),
            thresholds,
            torch.stack([p.right for p in points]),
        )


def apply(outputs: Outputs, thresholds: Sequence[float] | Tensor, macs: Sequence[float] | np.ndarray | Tensor) -> Point:
    """Let every image leave at the first exit whose confidence reaches its threshold.

    Args:
        outputs: confidences and predictions of K exits on N images.
        thresholds: K numbers in [0, 1], the last one 0.
        macs: K cumulative costs, rising.

    Raises:
        ValueError: other thresholds or costs; the message names the value.

    >>> confidence = torch.tensor([[0.9, 0.8, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]])  # K = 2 exits, N = 4 images
    >>> prediction = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]])
    >>> outputs = Outputs(confidence, prediction, torch.tensor([1, 1, 1, 1]), "test")
    >>> point = apply(outputs, thresholds=[0.5, 0], macs=[1e6, 3e6])
    >>> point.accuracy, point.macs, point.share.tolist()
    (0.5, 2000000.0, [0.5, 0.5])
    """
    K = len(outputs.confidence)
    thresholds, macs = checked_thresholds(thresholds, K), checked_macs(macs, K)

    # The first True of each column is the largest under weights K, K - 1 ... 1; argmax is far slower along columns
    leaves = outputs.confidence >= thresholds[:, None]  # (K, N); the last row is all True
    exit = K - (leaves * torch.arange(K, 0, -1, dtype=torch.int16)[:, None]).amax(0).long()  # (N,)
    right = outputs.correct.gather(0, exit[None])[0]  # (N,)

    leaving = torch.bincount(exit, minlength=K).double()  # (K,), images per exit
    share = leaving / len(exit)
    exit_accuracy = torch.bincount(exit, right.double(), minlength=K) / leaving
    return Point(right.double().mean().item(), (share @ macs).item(), share, exit_accuracy, exit, right)


def budget_curve(
    calibration_outputs: Outputs,
    test_outputs: Outputs,
    macs: Sequence[float] | np.ndarray | Tensor,
    budgets: int = 40,
    find: Callable[[Outputs, Tensor, Tensor], Tensor] | None = None,
) -> Curve:
    """Budgeted batch classification: thresholds fitted on one split, their effect measured on another.

    Args:
        calibration_outputs: of the split that thresholds are fitted on.
        test_outputs: of the split that they are tested on.
        macs: K cumulative costs.
        budgets: number of average costs, evenly spaced from leaving at the first exit to leaving at the last.
        find: (calibration outputs, macs (K,), budgets (P,)) -> thresholds (P, K), such as ``best_thresholds``. None:
            geometric shares as in MSDNet's code; exit k takes a share proportional to q^k, and each cost fixes one q.

    Raises:
        ValueError: thresholds would be fitted on the test split, or on the split that they are tested on; or the
            outputs differ in their exits, their criterion, their network or its temperatures.

    >>> logits = torch.randn(2, 100, 10, generator=torch.Generator().manual_seed(0))
    >>> validation, test = (Outputs.of(logits, logits[1].argmax(1), split) for split in ("validation", "test"))
    >>> curve = budget_curve(validation, test, macs=[1e6, 3e6], budgets=3)
    >>> (curve.macs / 1e6).tolist()  # from all at exit 1 to all at exit 2
    [1.0, 2.0, 3.0]
    """
    check_pair(calibration_outputs, test_outputs)
    if budgets < 2:
        raise ValueError(f"budgets={budgets}: a curve has at least two points")
    macs = checked_macs(macs, len(calibration_outputs.confidence))
    costs = torch.linspace(macs[0], macs[-1], budgets, dtype=torch.float64)
    return Curve.of(test_outputs, (find or geometric_for_costs)(calibration_outputs, macs, costs), macs)


def bootstrap(right: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Confidence interval of accuracies, or of their differences, over the images that the split might have held.

    Args:
        right: bool or numbers (P, N): ``Curve.right``, or the difference of two of them, image by image.
        resamples: how often N images are drawn with replacement; the same resamples serve all P.
        level: the interval's coverage.
        seed: of the draws.

    Returns:
        Lower and upper end of the percentile bootstrap, float64 (P,) each, as fractions.

    Raises:
        ValueError: no images, or a number out of range; the message names the value.

    Source:
        Efron, Bootstrap methods: another look at the jackknife, 1979.
    """
    if right.ndim != 2 or not right.numel():
        raise ValueError(f"right of shape {tuple(right.shape)}: give (P, N), of at least one image")
    if type(resamples) is not int or resamples < 1:
        raise ValueError(f"resamples={resamples!r}: a whole number above zero")
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: between 0 and 1")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}: a whole number from 0, below 2**63")
    N = right.shape[1]
    generator = torch.Generator().manual_seed(seed)

    # A resample is a row of counts, how often it draws each image; all resampled means are then one matrix product
    drawn = torch.randint(N, (resamples, N), generator=generator)
    drawn += N * torch.arange(resamples)[:, None]  # so that one bincount keeps the rows apart
    counts = torch.bincount(drawn.flatten(), minlength=resamples * N).view(resamples, N)
    means = counts.float() @ right.float().T / N  # (resamples, P)

    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = means.quantile(ends, 0).double()
    return low, high
