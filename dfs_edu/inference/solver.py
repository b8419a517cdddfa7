"""Solver: thresholds of the highest validation accuracy within an average cost.

**The problem.** Each set of thresholds sends every image out at one exit. Maximise the number of right answers, subject
to an average cost of at most the budget. Only the order of the confidences matters, so an exit has N + 1 possible cuts.

**One exit is solved exactly.** Fix the thresholds of all other exits. Then it is known what becomes of an image that
passes exit k: its answer and its cost further on. Lower the threshold of exit k from above the highest confidence to
below the lowest, and the images that reach it leave one after the other. Two running sums along this order give right
answers and cost of every cut, and an argmax over them picks the best one.

**All exits by coordinate ascent**, from deep to shallow, so that what becomes of images further on is up to date when
an exit's turn comes. No step makes a set within its budget worse. It is done twice:

1. Lagrangian relaxation: no budget, but a price lambda per MAC; maximise right answers - lambda * cost. Many prices
   give a family of sets from cheap to expensive, each a trade-off among all exits at once. An exact maximiser would be
   the best set within its own cost (Everett, Operations Research, 1963), on the upper convex hull of accuracy against
   cost. The hull skips most budgets: hence the second step.
2. Within each budget, from several starts: the family's best set within the budget, its cheapest set beyond the
   budget, geometric shares, and the best that two exits do on their own. What exceeds the budget is saved, what is left
   of it is spent. (Two exits on their own: sometimes several exits have to be switched off together, because they are
   worth less to the images that reach them than they cost; no step that moves a single exit finds that.)

The result is not always the optimum, but on the outputs it was found on it is at least as good as geometric shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from dfs_edu.inference.checks import checked_budgets, checked_macs, refuse_test
from dfs_edu.inference.outputs import Outputs
from dfs_edu.inference.thresholds import between, geometric_within

PRICES = torch.logspace(-0.7, 0.7, 32, dtype=torch.float64)  # 1: what exit K gains over exit 1, per MAC between them
SWEEPS = 2  # over all exits; further ones change next to nothing


def best_thresholds(
    outputs: Outputs, macs: Sequence[float] | np.ndarray | Tensor, budgets: Sequence[float] | np.ndarray | Tensor
) -> Tensor:
    """Thresholds (P, K), float32, of high accuracy on these outputs within P average costs.

    Args:
        outputs: of the validation split.
        macs: K cumulative costs.
        budgets: P average costs, in MACs.

    Raises:
        ValueError: outputs of the test split, or a budget below the first exit's cost, which every image pays.

    >>> confidence = torch.tensor([[0.9, 0.8, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]])
    >>> prediction = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])  # exit 1 is right where it is sure
    >>> outputs = Outputs(confidence, prediction, torch.ones(4, dtype=torch.int64), "validation")
    >>> best_thresholds(outputs, [1e6, 3e6], budgets=[2e6]).numpy().round(2)
    array([[0.55, 0.  ]], dtype=float32)
    """
    refuse_test(outputs)
    macs = checked_macs(macs, len(outputs.confidence))
    budgets = checked_budgets(budgets, macs)
    search = _Search(outputs, macs)

    # Four starts for each budget
    within, beyond = search.around(search.family(), budgets)
    starts = torch.cat([within, beyond, geometric_within(outputs, macs, budgets), search.pairs(budgets)])  # (4 P, K)

    # One sweep from each tells which is the best (what was found for one budget may serve another, too); then refine it
    sets = search.around(search.climb_within(starts, budgets.repeat(4), sweeps=1), budgets)[0]  # (P, K)
    return search.around(search.climb_within(sets, budgets, SWEEPS), budgets)[0]


class _Search:
    """Coordinate ascent of P sets of thresholds (P, K) at once, on N images.

    Right answers are counted and costs are sums of MACs: both are totals over the images.
    """

    def __init__(self, outputs: Outputs, macs: Tensor) -> None:
        self.confidence, self.macs = outputs.confidence, macs
        self.right = outputs.correct.double()  # (K, N)
        self.accuracy = outputs.accuracy
        self.ranked, self.order = outputs.ranking  # (K, N)

        # possible[k, n]: can a threshold let exactly the n most confident images leave at exit k?
        ends = torch.ones(len(macs), 1, dtype=torch.bool)
        falling = self.ranked[:, 1:] < self.ranked[:, :-1]  # images of equal confidence leave together
        self.possible = torch.cat([ends, falling, ends], 1)  # (K, N + 1)
        certain = (self.ranked >= 1).sum(1, keepdim=True)  # these leave even at threshold 1
        self.possible &= torch.arange(self.possible.shape[1]) >= certain

    def family(self) -> Tensor:
        """Step 1: the sets (2 * 32, K) that two sweeps find for each price, without a budget."""
        N = self.confidence.shape[1]
        gain = (self.accuracy[-1] - self.accuracy[0]).clamp(min=1 / N)  # at least one image's worth
        prices = gain * PRICES / (self.macs[-1] - self.macs[0])  # right answers per MAC
        sets = torch.ones(len(PRICES), len(self.macs))  # start: every image goes to the last exit
        sets[:, -1] = 0
        no_budget = torch.full_like(prices, torch.inf)
        first = self._sweep(sets, prices, no_budget)
        return torch.cat([first, self._sweep(first, prices, no_budget)])

    def climb_within(self, thresholds: Tensor, budgets: Tensor, sweeps: int) -> Tensor:
        """Step 2: sweeps from sets (P, K) within budgets (P,)."""
        # A price so low that all the cost is worth half an answer: among equally many right answers, the cheapest
        thrift = torch.full_like(budgets, 0.5 / self.confidence.shape[1] / self.macs[-1].item())
        for _ in range(sweeps):
            thresholds = self._sweep(thresholds, thrift, budgets)
        return thresholds

    def _sweep(self, thresholds: Tensor, prices: Tensor, budgets: Tensor) -> Tensor:
        """Each exit's best cut in turn, from deep to shallow, for prices (P,) within budgets (P,)."""
        thresholds = thresholds.clone()
        # What arrives at exit k depends on shallower exits only, which have not moved when its turn comes
        arriving, before = self._walk(thresholds)

        # right and cost (P, N): what becomes of an image that passes exit k. At first, it leaves at the last exit
        right, cost = (last.expand(arriving[0].shape) for last in (self.right[-1], self.macs[-1]))
        for k in reversed(range(len(self.macs) - 1)):
            cut, fits = self._best_cut(k, arriving[k], before[k], right, cost, prices, budgets)
            thresholds[:, k] = torch.where(fits, cut, thresholds[:, k])
            leaves = self.confidence[k] >= thresholds[:, k : k + 1]  # (P, N), if they get as far as this
            right, cost = torch.where(leaves, self.right[k], right), torch.where(leaves, self.macs[k], cost)
        return thresholds

    def _best_cut(
        self, k: int, arriving: Tensor, before: Tensor, right: Tensor, cost: Tensor, prices: Tensor, budgets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The best threshold (P,) of exit k, all others fixed, and whether any cut of this exit is within the budget.

        If none is, a shallower exit has to save; the first one always can.

        Args:
            k: the exit, from 0.
            arriving: bool (P, N), the images that reach it.
            before: (2, P), right answers and cost of the images that have left before it.
            right: (P, N), whether an image that passes exit k is classified correctly further on.
            cost: (P, N), what it costs there.
            prices: (P,), right answers per MAC.
            budgets: (P,), average MACs.
        """
        # Totals if every image passes exit k, and what each image changes if it leaves here instead
        passing = before + torch.stack([(arriving * right).sum(1), (arriving * cost).sum(1)])  # (2, P)
        change = torch.stack([arriving * (self.right[k] - right), arriving * (self.macs[k] - cost)])  # (2, P, N)

        # Running sums, the most confident image first: totals of all N + 1 cuts
        steps = change.index_select(2, self.order[k]).cumsum(2)
        total_right, total_cost = torch.cat([passing[..., None], passing[..., None] + steps], 2)  # (P, N + 1) each

        # The best of those that a threshold can make and that are within the budget, up to rounding
        value = total_right - prices[:, None] * total_cost
        N = arriving.shape[1]
        allowed = self.possible[k] & (total_cost <= N * budgets[:, None] * (1 + 1e-12))
        return self._threshold(k, value.where(allowed, -torch.inf).argmax(1)), allowed.any(1)

    def _threshold(self, k: int, leaving: Tensor) -> Tensor:
        """The threshold of exit k that the given number (P,) of images reaches, counted over all N images."""
        ranked, N = self.ranked[k], self.ranked.shape[1]
        t = between(ranked[(leaving - 1).clamp(min=0)], ranked[leaving.clamp(max=N - 1)])
        return torch.where(leaving == 0, 1.0, torch.where(leaving == N, 0.0, t))

    def _walk(self, thresholds: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Which images reach each exit, bool (P, N), and right answers and cost (2, P) of those that left before it.

        Each list has K + 1 entries: the last is behind the last exit, where no image arrives and all have left.
        """
        active = torch.ones(len(thresholds), self.confidence.shape[1], dtype=torch.bool)
        totals = torch.zeros(2, len(thresholds), dtype=torch.float64)
        arriving, before = [active], [totals]
        for k, macs in enumerate(self.macs):
            leaves = active & (self.confidence[k] >= thresholds[:, k : k + 1])
            totals = totals + torch.stack([(leaves * self.right[k]).sum(1), leaves.sum(1) * macs])
            active = active & ~leaves
            arriving.append(active)
            before.append(totals)
        return arriving, before

    def around(self, thresholds: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
        """For each budget (P,), the best of these sets within it and the cheapest of them beyond it, (P, K) each."""
        first, last = torch.zeros(1, thresholds.shape[1]), torch.ones(1, thresholds.shape[1])
        last[0, -1] = 0
        candidates = torch.cat([first, last, thresholds])  # with all images at the first exit, and all at the last
        right, cost = self._walk(candidates)[1][-1]
        fits = cost <= budgets[:, None] * self.confidence.shape[1]  # (P, candidates)
        fits[:, 0] = True  # up to rounding, where the budget is exactly the first exit's cost
        return candidates[right.where(fits, -1).argmax(1)], candidates[cost.where(~fits, torch.inf).argmin(1)]

    def pairs(self, budgets: Tensor) -> Tensor:
        """For each budget (P,), the best set (P, K) with which images leave at two exits only."""
        K = len(self.macs)
        best = torch.full((len(budgets),), -torch.inf, dtype=torch.float64)
        sets = torch.ones(len(budgets), K)
        for i, j in combinations(range(K), 2):
            value, cut = self._best_of_pair(i, j, budgets)
            pair = torch.ones(len(budgets), K)
            pair[:, i], pair[:, j:] = cut, 0
            better = value > best
            best, sets = torch.where(better, value, best), torch.where(better[:, None], pair, sets)
        return sets

    def _best_of_pair(self, i: int, j: int, budgets: Tensor) -> tuple[Tensor, Tensor]:
        """Right answers (P,), -inf if too expensive, and exit i's threshold (P,), if all others leave at exit j."""
        # Right answers of every cut of exit i: a running sum, as in `_best_cut`
        N = self.confidence.shape[1]
        gains = (self.right[i] - self.right[j])[self.order[i]].cumsum(0)
        right = self.right[j].sum() + torch.cat([gains.new_zeros(1), gains])  # (N + 1,)

        # n images at exit i cost n macs_i + (N - n) macs_j, which is within N * budget from `least` images onwards
        saving = N * (self.macs[j] - budgets) / (self.macs[j] - self.macs[i])
        least = saving.ceil().clamp(0, N).long()  # (P,)

        # So the best cut is a maximum over n >= least: running maxima from the end serve all budgets at once
        maximum, place = right.where(self.possible[i], -torch.inf).flip(0).cummax(0)
        value = maximum[N - least].where(saving <= N, -torch.inf)
        return value, self._threshold(i, N - place[N - least])
