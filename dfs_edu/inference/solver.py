"""Thresholds that make the most of a budget: the highest accuracy on validation at an average cost.

The cut of one exit, everything else as it is, is found exactly: with the pictures in the order of their confidence, a
running sum says for every possible cut how many answers are right and what they cost. Going over the exits again and
again from deep to shallow, each cut made the best for the others, is coordinate ascent. It is done twice:

1. for a price of cost, lambda, without a budget: right answers minus lambda times cost. Many prices give sets of
   thresholds from cheap to dear, each a trade between all exits at once;
2. within each budget, from the best of these that is within it, from the cheapest that is beyond it, from geometric
   shares, and from the best that two exits do alone: what is too dear is saved, and what is left of the budget is
   spent. (Two alone: where deeper exits are no better for those that come to them than what they cost, several have
   to be switched off together, and no step that moves one exit finds that.)

No step makes a set within the budget worse, so the result is at least as good as geometric shares on the outputs that
it was found on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from dfs_edu.inference.outputs import Outputs
from dfs_edu.inference.thresholds import between, checked_budgets, checked_macs, geometric_within, refuse_test

PRICES = torch.logspace(-0.7, 0.7, 32, dtype=torch.float64)  # about 1: what the way from exit 1 to exit K gains for it
SWEEPS = 2  # over all exits; further ones change next to nothing


def best_thresholds(outputs: Outputs, macs: Sequence[float] | Tensor, budgets: Sequence[float] | Tensor) -> Tensor:
    """Thresholds (P, K) of high accuracy on these outputs within average costs `budgets` (P,), in MACs.

    Raises ValueError for outputs of the test split, and for a budget below the first exit's cost, which every picture
    pays.

    >>> confidence = torch.tensor([[0.9, 0.8, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]])
    >>> prediction = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])  # exit 1 is right where it is sure
    >>> outputs = Outputs(confidence, prediction, torch.ones(4, dtype=torch.int64), "validation")
    >>> best_thresholds(outputs, [1e6, 3e6], budgets=[2e6]).numpy().round(2)
    array([[0.55, 0.  ]], dtype=float32)
    """
    refuse_test(outputs)
    macs = checked_macs(macs, len(outputs.confidence))
    budgets = checked_budgets(budgets, macs)
    search, N = _Search(outputs, macs), len(outputs.label)
    gain = (outputs.accuracy[-1] - outputs.accuracy[0]).clamp(min=1 / N)
    deep = torch.ones(len(PRICES), len(macs))
    deep[:, -1] = 0
    free = torch.full((len(PRICES),), torch.inf, dtype=torch.float64)
    family = search.climb(deep, gain * PRICES / (macs[-1] - macs[0]), free)
    sets = [*search.around(torch.cat(family), budgets), geometric_within(outputs, macs, budgets), search.pairs(budgets)]
    thrift = 0.5 / N / macs[-1].item()  # of equally many right answers the cheapest: all the cost is below one answer
    for sweeps in (1, SWEEPS):  # one sweep tells which start is the best; what serves one budget may serve another, too
        start, room = torch.cat(sets), budgets.repeat(len(sets))
        found = search.climb(start, torch.full_like(room, thrift), room, sweeps)[-1]
        sets = [search.around(found, budgets)[0]]
    return sets[0]


class _Search:
    """Sets of thresholds (P, K), all P at once, on N pictures. Right answers are counted; costs are sums of MACs."""

    def __init__(self, outputs: Outputs, macs: Tensor):
        self.confidence, self.macs = outputs.confidence, macs
        self.right = outputs.correct.double()
        self.ranked, self.order = outputs.ranking  # (K, N)
        ends = torch.ones(len(macs), 1, dtype=torch.bool)
        rising = self.ranked[:, 1:] < self.ranked[:, :-1]  # equal confidences leave together
        self.possible = torch.cat([ends, rising, ends], 1)  # (K, N + 1), may so many leave?
        certain = (self.ranked >= 1).sum(1, keepdim=True)  # they leave at threshold 1 as well
        self.possible &= torch.arange(self.possible.shape[1]) >= certain

    def climb(self, thresholds: Tensor, price: Tensor, budgets: Tensor, sweeps: int = SWEEPS) -> list[Tensor]:
        """The thresholds after each sweep, for a price (P,) of cost and within budgets (P,)."""
        steps = [thresholds]
        for _ in range(sweeps):
            steps.append(self._sweep(steps[-1], price, budgets))
        return steps[1:]

    def _sweep(self, thresholds: Tensor, price: Tensor, budgets: Tensor) -> Tensor:
        """Each exit's best cut in turn, deep to shallow."""
        thresholds = thresholds.clone()
        here, gone = self._arrivals(thresholds)
        right, cost = (of[-1].expand(here[0].shape) for of in (self.right, self.macs))  # of leaving at the last exit
        for k in reversed(range(len(self.macs) - 1)):
            cut, fits = self._cut(k, here[k], gone[k], right, cost, price, budgets)
            thresholds[:, k] = torch.where(fits, cut, thresholds[:, k])
            leaves = self.confidence[k] >= thresholds[:, k : k + 1]
            right, cost = torch.where(leaves, self.right[k], right), torch.where(leaves, self.macs[k], cost)
        return thresholds

    def _cut(self, k: int, here: Tensor, gone: Tensor, right: Tensor, cost: Tensor, price: Tensor, budgets: Tensor):
        """The best threshold (P,) of exit k, to which come the pictures `here` (P, N), the others being `gone` (2, P).

        right and cost (P, N): what comes of a picture that goes on. Also (P,): is there one within the budget? Where
        there is none, a shallower exit will have to save; the first one always can.
        """
        order, N = self.order[k], here.shape[1]
        base = gone + torch.stack([(here * right).sum(1), (here * cost).sum(1)])  # (2, P): nobody leaves at k
        gains = torch.stack([here * (self.right[k] - right), here * (self.macs[k] - cost)]).index_select(2, order)
        total_right, total_cost = torch.cat([base[..., None], base[..., None] + gains.cumsum(2)], 2)  # (P, N + 1)
        value = total_right - price[:, None] * total_cost
        within = self.possible[k] & (total_cost <= N * budgets[:, None] * (1 + 1e-12))
        return self._threshold(k, value.where(within, -torch.inf).argmax(1)), within.any(1)

    def _threshold(self, k: int, leaving: Tensor) -> Tensor:
        """The threshold at which so many of all pictures, the most confident ones, would leave at exit k."""
        ranked, N = self.ranked[k], self.ranked.shape[1]
        t = between(ranked[(leaving - 1).clamp(min=0)], ranked[leaving.clamp(max=N - 1)])
        return torch.where(leaving == 0, 1.0, torch.where(leaving == N, 0.0, t))

    def pairs(self, budgets: Tensor) -> Tensor:
        """For each budget the best (P, K) in which some leave at one exit and all others at one deeper exit."""
        K, N = self.confidence.shape
        best = torch.full((len(budgets),), -torch.inf, dtype=torch.float64)
        sets = torch.ones(len(budgets), K)
        for i, j in combinations(range(K), 2):
            gains = (self.right[i] - self.right[j])[self.order[i]].cumsum(0)
            right = self.right[j].sum() + torch.cat(
                [gains.new_zeros(1), gains]
            )  # (N + 1,), for so many that leave at i
            best_from, leaving_from = right.where(self.possible[i], -torch.inf).flip(0).cummax(0)
            saving = N * (self.macs[j] - budgets) / (self.macs[j] - self.macs[i])
            least = saving.ceil().clamp(0, N).long()  # (P,), so many have to leave at i
            value = best_from[N - least].where(saving <= N, -torch.inf)
            better = value > best
            cut = self._threshold(i, N - leaving_from[N - least])
            alone = torch.ones(len(budgets), K)
            alone[:, i], alone[:, j:] = cut, 0
            best, sets = torch.where(better, value, best), torch.where(better[:, None], alone, sets)
        return sets

    def _arrivals(self, thresholds: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Who comes to each exit (P, N), and right answers and cost (2, P) of those who left before."""
        here = torch.ones(len(thresholds), self.confidence.shape[1], dtype=torch.bool)
        gone = torch.zeros(2, len(thresholds), dtype=torch.float64)
        arrived, before = [], []
        for k, macs in enumerate(self.macs):
            arrived.append(here)
            before.append(gone)
            leaves = here & (self.confidence[k] >= thresholds[:, k : k + 1])
            gone = gone + torch.stack([(leaves * self.right[k]).sum(1), leaves.sum(1) * macs])
            here = here & ~leaves
        return [*arrived, here], [*before, gone]

    def effect(self, thresholds: Tensor) -> Tensor:
        """Right answers and cost (2, P), summed over the pictures."""
        return self._arrivals(thresholds)[1][-1]

    def around(self, thresholds: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
        """For each budget, of these sets the one with the most right answers within it, and the cheapest beyond it."""
        ends = torch.ones(2, thresholds.shape[1])  # nobody goes on, everybody does
        ends[0], ends[1, -1] = 0, 0
        candidates = torch.cat([ends, thresholds])
        right, cost = self.effect(candidates)
        fits = cost <= budgets[:, None] * self.confidence.shape[1]  # (P, candidates)
        fits[:, 0] = True
        return candidates[right.where(fits, -1).argmax(1)], candidates[cost.where(~fits, torch.inf).argmin(1)]
