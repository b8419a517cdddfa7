"""Thresholds, what they do to accuracy and cost, and how to find them for a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfs_edu.inference.outputs import Outputs

Q_RANGE = (1e-7, 1e7)  # shares so steep that of any validation split all leave at the first, or the last, exit


@dataclass(frozen=True)
class Point:
    """What a set of thresholds does to N pictures.

    accuracy       fraction of all pictures classified right where they left
    macs           average MACs of a picture
    share          float64 (K,), fraction that leaves at exit k
    exit_accuracy  float64 (K,), fraction right among those that leave at exit k, NaN where nobody does
    exit           int64 (N,), index of the exit where each picture leaves, from 0
    right          bool (N,), whether that exit is right
    """

    accuracy: float
    macs: float
    share: Tensor
    exit_accuracy: Tensor
    exit: Tensor
    right: Tensor


@dataclass(frozen=True)
class Curve:
    """Accuracy against average cost for P sets of thresholds, cheap to dear.

    macs, accuracy  float64 (P,)
    thresholds      float32 (P, K)
    right           bool (P, N), whether each picture is classified right where it leaves
    """

    macs: Tensor
    accuracy: Tensor
    thresholds: Tensor
    right: Tensor

    @classmethod
    def of(cls, outputs: Outputs, thresholds: Tensor, macs: Sequence[float] | Tensor) -> Curve:
        """What P sets of thresholds (P, K) do to the pictures of `outputs`."""
        points = [apply(outputs, t, macs) for t in thresholds]
        cost, accuracy = (
            torch.tensor([getattr(p, name) for p in points], dtype=torch.float64) for name in ("macs", "accuracy")
        )
        return cls(cost, accuracy, thresholds, torch.stack([p.right for p in points]))


def apply(outputs: Outputs, thresholds: Sequence[float] | Tensor, macs: Sequence[float] | Tensor) -> Point:
    """Send every picture out at the first exit whose confidence reaches its threshold.

    thresholds  K numbers in [0, 1], the last one 0
    macs        K cumulative costs, rising

    Raises ValueError, naming the value, for anything else.

    >>> confidence = torch.tensor([[0.9, 0.8, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]])  # K = 2 exits, N = 4 pictures
    >>> prediction = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]])
    >>> outputs = Outputs(confidence, prediction, torch.tensor([1, 1, 1, 1]), "test")
    >>> point = apply(outputs, thresholds=[0.5, 0], macs=[1e6, 3e6])
    >>> point.accuracy, point.macs, point.share.tolist()
    (0.5, 2000000.0, [0.5, 0.5])
    """
    K = len(outputs.confidence)
    thresholds, macs = checked_thresholds(thresholds, K), checked_macs(macs, K)
    leaves = outputs.confidence >= thresholds[:, None]  # (K, N); the last row is all True
    exit = K - (leaves * torch.arange(K, 0, -1, dtype=torch.int16)[:, None]).amax(0).long()  # (N,), the first True
    right = outputs.correct.gather(0, exit[None])[0]  # (N,)
    leaving = torch.bincount(exit, minlength=K).double()
    share = leaving / len(exit)
    exit_accuracy = torch.bincount(exit, right.double(), minlength=K) / leaving
    return Point(right.double().mean().item(), (share @ macs).item(), share, exit_accuracy, exit, right)


def geometric_shares(q: Tensor, exits: int) -> Tensor:
    """Shares (P, K) proportional to q^k for P values of q > 0: below 1 most leave early, above 1 most go deep.

    >>> geometric_shares(torch.tensor([0.5, 1.0]), exits=2).numpy().round(3)
    array([[0.667, 0.333],
           [0.5  , 0.5  ]])
    """
    return (q.double().log()[:, None] * torch.arange(exits)).softmax(1)  # softmax: q^k overflows, log q * k does not


def fit_thresholds(outputs: Outputs, share: Sequence[float] | Tensor) -> Tensor:
    """Thresholds (K,) that make a share of the pictures leave at each exit; `share` is K fractions of sum 1.

    Exit by exit, those leave that are the most confident of the pictures still there. By exit k, round(N * the sum of
    the first k shares) pictures have left, exactly; pictures of equal confidence leave together, and the next exit
    makes up for it. A threshold lies midway between the last picture that leaves and the next one, so that the
    rounding of another batch size or machine moves nobody across.

    Raises ValueError for outputs of the test split, or shares that are not K fractions of sum 1.

    >>> confidence = torch.tensor([[0.9, 0.8, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]])
    >>> said = torch.ones(2, 4, dtype=torch.int64)
    >>> fit_thresholds(Outputs(confidence, said, said[0], "validation"), [0.25, 0.75]).numpy().round(3)
    array([0.85, 0.  ], dtype=float32)
    """
    K = len(outputs.confidence)
    share = torch.as_tensor(share, dtype=torch.float64)
    if share.shape != (K,) or not (share >= 0).all() or abs(share.sum().item() - 1) > 1e-6:
        raise ValueError(f"share={share.tolist()}: {K} exits need {K} fractions from 0 to 1 whose sum is 1")
    return _fit(outputs, share[None])[0][0]


def _fit(outputs: Outputs, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Shares aimed at (P, K) -> thresholds (P, K) and the shares that they reach (P, K), all P at once."""
    refuse_test(outputs)
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
        cut = torch.where(wanted > 0, between(leaving, staying), 1.0)
        thresholds[:, k : k + 1] = torch.where(gone < N, cut, 0.0)
        here &= confidence < thresholds[:, k : k + 1]
        arriving[:, k + 1] = here.count_nonzero(1)
    arriving[:, K] = 0  # the last exit takes all
    return thresholds, -arriving.diff().double() / N


def between(leaving: Tensor, staying: Tensor) -> Tensor:
    """A threshold midway between the last picture that leaves and the next one."""
    middle = (leaving + staying) / 2
    return torch.where(middle > staying, middle, leaving)  # equal or neighbouring numbers have no middle


def refuse_test(outputs: Outputs) -> None:
    if outputs.split == "test":
        raise ValueError("outputs of the test split: thresholds must be fitted on validation")


def budget_curve(
    calibration_outputs: Outputs,
    test_outputs: Outputs,
    macs: Sequence[float],
    budgets: int = 40,
    find: Callable[[Outputs, Tensor, Tensor], Tensor] | None = None,
) -> Curve:
    """Budgeted batch classification: thresholds fitted on one split, their effect measured on another.

    budgets   so many average costs, evenly spaced from leaving at the first exit to leaving at the last
    find      (calibration outputs, macs (K,), budgets (P,)) -> thresholds (P, K), such as `best_thresholds`; None:
              geometric shares as MSDNet's authors have them, exit k takes a share proportional to q^k, and each cost
              asks for one q

    Raises ValueError where the thresholds would be fitted on the test split, or on the split that they are tested on,
    and for outputs that differ in their exits, their criterion, their network or its temperatures.

    >>> logits = torch.randn(2, 100, 10, generator=torch.Generator().manual_seed(0))
    >>> validation, test = (Outputs.of(logits, logits[1].argmax(1), split) for split in ("validation", "test"))
    >>> curve = budget_curve(validation, test, macs=[1e6, 3e6], budgets=3)
    >>> (curve.macs / 1e6).tolist()  # from all at exit 1 to all at exit 2
    [1.0, 2.0, 3.0]
    """
    check_pair(calibration_outputs, test_outputs)
    if budgets < 2:
        raise ValueError(f"budgets={budgets}: a curve has two points at least")
    macs = checked_macs(macs, len(calibration_outputs.confidence))
    costs = torch.linspace(macs[0], macs[-1], budgets, dtype=torch.float64)
    return Curve.of(test_outputs, (find or _geometric)(calibration_outputs, macs, costs), macs)


def check_pair(calibration: Outputs, test: Outputs) -> None:
    """ValueError unless thresholds fitted on the one may be tried on the other: another split, all else the same."""
    if calibration.split in ("test", test.split):
        raise ValueError(
            f"calibration on {calibration.split!r}, test on {test.split!r}: "
            "thresholds must be fitted on validation and tested on another split"
        )
    if len(calibration.confidence) != len(test.confidence):
        raise ValueError(f"calibration outputs of {len(calibration.confidence)} exits, test of {len(test.confidence)}")
    if calibration.criterion != test.criterion:
        raise ValueError(f"calibration by {calibration.criterion!r}, test by {test.criterion!r}")
    if calibration.source and test.source and calibration.source != test.source:
        raise ValueError(
            f"calibration outputs of network {calibration.source}, test outputs of network {test.source}: "
            "thresholds fit the network, and the temperatures, that they were fitted for"
        )


def _geometric(outputs: Outputs, macs: Tensor, costs: Tensor) -> Tensor:
    return _fit(outputs, geometric_shares(_q_for_cost(macs, costs), len(macs)))[0]


def bootstrap(right: Tensor, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Interval of accuracies, or of their differences, over the pictures that the split could have held instead.

    right   bool or numbers (P, N): `Curve.right`, or the difference of two of them, picture by picture
    Returns the lower and upper end of the percentile bootstrap (Efron, 1979), float64 (P,) each, as fractions. The
    same resamples serve all P. Raises ValueError, naming the value, for no pictures and for numbers out of range.
    """
    if right.ndim != 2 or not right.numel():
        raise ValueError(f"right of shape {tuple(right.shape)}: give (P, N), of one image at least")
    if type(resamples) is not int or resamples < 1:
        raise ValueError(f"resamples={resamples!r}: a whole number above zero")
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: between 0 and 1")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}: a whole number from 0, below 2**63")
    N = right.shape[1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(N, (resamples, N), generator=generator)
    drawn += N * torch.arange(resamples)[:, None]
    times = torch.bincount(drawn.flatten(), minlength=resamples * N).view(resamples, N)  # each picture is drawn
    means = times.float() @ right.float().T / N  # (resamples, P)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = means.quantile(ends, 0).double()
    return low, high


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
    refuse_test(outputs)
    macs = checked_macs(macs, len(outputs.confidence))
    return geometric_within(outputs, macs, checked_budgets([budget], macs))[0]


def geometric_within(outputs: Outputs, macs: Tensor, budgets: Tensor, grid: int = 33, rounds: int = 12) -> Tensor:
    """The same for P budgets at once: thresholds (P, K). A grid of q for all, then bisection for each."""
    K = len(macs)
    log_q = torch.linspace(*map(math.log, Q_RANGE), grid, dtype=torch.float64)
    fitted, reached = _fit(outputs, geometric_shares(log_q.exp(), K))
    fits = (reached @ macs)[None] <= budgets[:, None]  # (P, grid); True at the lower end: there, all leave at exit 1
    best = (fits * torch.arange(1, grid + 1)).argmax(1)  # the last one that fits; the cost rises with q
    thresholds, low, high = fitted[best], log_q[best], log_q[(best + 1).clamp(max=grid - 1)]
    for _ in range(rounds):
        middle = (low + high) / 2
        fitted, reached = _fit(outputs, geometric_shares(middle.exp(), K))
        fits = reached @ macs <= budgets
        thresholds = torch.where(fits[:, None], fitted, thresholds)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return thresholds


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


def checked_budgets(budgets: Sequence[float] | Tensor, macs: Tensor) -> Tensor:
    """Budgets as float64 (P,); ValueError, naming the value, for one that the first exit alone exceeds."""
    b = torch.as_tensor(budgets, dtype=torch.float64).cpu()
    if b.ndim != 1 or not len(b):
        raise ValueError(f"budgets of shape {tuple(b.shape)}: give a list of average costs")
    for budget in b.tolist():
        if not budget >= macs[0]:
            raise ValueError(f"budget={budget!r}: every picture pays exit 1, which costs {macs[0].item():.6g} MACs")
    return b
