"""Thresholds that make a given share of the images leave at each exit, and geometric shares for a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dfs_edu.inference.checks import checked_budgets, checked_macs, refuse_test
from dfs_edu.inference.outputs import Outputs

Q_RANGE = (1e-7, 1e7)  # so steep that, of any validation split, all images leave at the first, or at the last, exit


def geometric_shares(q: Tensor, exits: int) -> Tensor:
    """Shares (P, K) proportional to q^k for P values of q > 0: below 1 most leave early, above 1 most go deep.

    >>> geometric_shares(torch.tensor([0.5, 1.0]), exits=2).numpy().round(3)
    array([[0.667, 0.333],
           [0.5  , 0.5  ]])
    """
    return (q.double().log()[:, None] * torch.arange(exits)).softmax(1)  # softmax: q^k overflows, log q * k does not


def fit_thresholds(outputs: Outputs, share: Sequence[float] | Tensor) -> Tensor:
    """Thresholds (K,), float32, that make a given share of the images leave at each exit.

    At each exit, the most confident of the images that reach it leave, until round(N * the sum of the first k shares)
    images have left by exit k. Images of equal confidence leave together, and the next exit makes up for it. A
    threshold is midway between the last image that leaves and the next one, so that the rounding of another batch size
    or machine moves no image across.

    Args:
        outputs: of the validation split.
        share: K fractions whose sum is 1.

    Raises:
        ValueError: outputs of the test split, or shares that are not K fractions of sum 1.

    >>> confidence = torch.tensor([[0.9, 0.8, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]])
    >>> prediction = torch.ones(2, 4, dtype=torch.int64)
    >>> outputs = Outputs(confidence, prediction, prediction[0], "validation")
    >>> fit_thresholds(outputs, [0.25, 0.75]).numpy().round(3)
    array([0.85, 0.  ], dtype=float32)
    """
    K = len(outputs.confidence)
    share = torch.as_tensor(share, dtype=torch.float64)
    if share.shape != (K,) or not (share >= 0).all() or abs(share.sum().item() - 1) > 1e-6:
        raise ValueError(f"share={share.tolist()}: {K} exits need {K} fractions from 0 to 1 whose sum is 1")
    return fit_shares(outputs, share[None])[0][0]


def fit_shares(outputs: Outputs, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Fit P sets of thresholds at once: shares aimed at (P, K) -> thresholds (P, K), shares reached (P, K)."""
    refuse_test(outputs)
    P, K = shares.shape
    N = outputs.confidence.shape[1]
    left_by = (shares.cumsum(1) * N).round().int()  # (P, K), how many images should have left by exit k
    active = torch.ones(P, N, dtype=torch.bool)  # is image n still in the network?
    thresholds, arriving = torch.zeros(P, K), torch.full((P, K + 1), N)
    for k, (confidence, ranked, order) in enumerate(zip(outputs.confidence[:-1], *outputs.ranking, strict=False)):
        # Rank the images that are still here, the most confident first: a running count along the sorted order
        left = left_by[:, k : k + 1]  # (P, 1)
        rank = active.index_select(1, order).cumsum(1, dtype=torch.int32)  # (P, N)

        # Exactly the difference to those that have left already should leave here; `last` is the last of them
        wanted = left - (N - rank[:, -1:])  # (P, 1)
        last = torch.searchsorted(rank, wanted).clamp(max=N - 1)  # (P, 1)

        # The threshold is between this image and the next; 1 if none should leave, 0 if none should go on
        leaving, staying = ranked[last], ranked[(last + 1).clamp(max=N - 1)]
        cut = torch.where(wanted > 0, between(leaving, staying), 1.0)
        thresholds[:, k : k + 1] = torch.where(left < N, cut, 0.0)

        # Ties may have let more images leave than wanted: go on with those that are really left
        active &= confidence < thresholds[:, k : k + 1]
        arriving[:, k + 1] = active.count_nonzero(1)
    arriving[:, K] = 0  # the last exit takes every image that is left
    return thresholds, -arriving.diff().double() / N


def between(leaving: Tensor, staying: Tensor) -> Tensor:
    """A threshold midway between the confidences of the last image that leaves and of the next one."""
    middle = (leaving + staying) / 2
    return torch.where(middle > staying, middle, leaving)  # equal or neighbouring numbers have no middle


def thresholds_for_budget(outputs: Outputs, macs: Sequence[float] | np.ndarray | Tensor, budget: float) -> Tensor:
    """Thresholds (K,) with geometric shares that spend as much of a budget, in average MACs, as they can.

    Args:
        outputs: of the validation split.
        macs: K cumulative costs.
        budget: average cost that is not exceeded on these outputs.

    Raises:
        ValueError: outputs of the test split, or a budget below the first exit's cost, which every image pays.
    """
    refuse_test(outputs)
    macs = checked_macs(macs, len(outputs.confidence))
    return geometric_within(outputs, macs, checked_budgets([budget], macs))[0]


def geometric_within(outputs: Outputs, macs: Tensor, budgets: Tensor, grid: int = 33, rounds: int = 12) -> Tensor:
    """Thresholds (P, K) with geometric shares that spend as much of each of P budgets (P,) as they can."""
    K = len(macs)

    # One grid of q for all budgets. Cost rises with q, and the grid's lower end, where all leave at exit 1, always fits
    log_q = torch.linspace(*map(math.log, Q_RANGE), grid, dtype=torch.float64)
    fitted, reached = fit_shares(outputs, geometric_shares(log_q.exp(), K))
    fits = (reached @ macs)[None] <= budgets[:, None]  # (P, grid)
    best = (fits * torch.arange(1, grid + 1)).argmax(1)  # (P,), the last one that fits

    # Then bisection for each budget, between the last q that fits and the next one of the grid
    thresholds, low, high = fitted[best], log_q[best], log_q[(best + 1).clamp(max=grid - 1)]
    for _ in range(rounds):
        middle = (low + high) / 2
        fitted, reached = fit_shares(outputs, geometric_shares(middle.exp(), K))
        fits = reached @ macs <= budgets
        thresholds = torch.where(fits[:, None], fitted, thresholds)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return thresholds


def geometric_for_costs(outputs: Outputs, macs: Tensor, costs: Tensor) -> Tensor:
    """Thresholds (P, K) with the geometric shares that cost ``costs`` (P,) on average, if they are met exactly."""
    low, high = (torch.full_like(costs, math.log(q)) for q in Q_RANGE)
    middle = (low + high) / 2
    for _ in range(49):  # bisection, since the cost rises with q
        too_expensive = geometric_shares(middle.exp(), len(macs)) @ macs > costs
        low, high = torch.where(too_expensive, low, middle), torch.where(too_expensive, middle, high)
        middle = (low + high) / 2
    return fit_shares(outputs, geometric_shares(middle.exp(), len(macs)))[0]
