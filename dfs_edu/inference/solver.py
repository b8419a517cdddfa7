"""Thresholds that make the most of a budget: the highest accuracy on validation at an average cost.

The cut of one exit, everything else as it is, is found exactly: with the pictures in the order of their confidence, a
running sum says for every possible cut how many answers are right and what they cost. Going over the exits again and
again from deep to shallow, each cut made the best for the others, is coordinate ascent. It is done twice:

1. for a price of cost, lambda, without a budget: right answers minus lambda times cost. Many prices give sets of
   thresholds from cheap to dear, each a trade between all exits at once;
2. within each budget, from the best of these that is within it, from the cheapest that is beyond it, and from
   geometric shares: what is too dear is saved, and what is left of the budget is spent.

No step makes a set within the budget worse, so the result is at least as good as geometric shares on the outputs that
it was found on.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    sets = [*search.around(torch.cat(family), budgets), geometric_within(outputs, macs, budgets)]
    thrift = 0.5 / N / macs[-1].item()  # of equally many right answers the cheapest: all the cost is below one answer
    for _ in range(2):  # what was found for one budget may serve a larger one, too
        start, room = torch.cat(sets), budgets.repeat(len(sets))
        found = search.climb(start, torch.full_like(room, thrift), room)[-1]
        sets = [search.around(found, budgets)[0]]
    return sets[0]


class _Search:
    """Sets of thresholds (P, K), all P at once, on N pictures. Right answers are counted; costs are sums of MACs."""

    def __init__(self, outputs: Outputs, macs: Tensor):
        self.confidence, self.macs = outputs.confidence, macs
        self.right = outputs.correct.double()
        self.ranked, self.order = outputs.ranking  # (K, N)

    def climb(self, thresholds: Tensor, price: Tensor, budgets: Tensor) -> list[Tensor]:
        """The thresholds after each sweep, for a price (P,) of cost and within budgets (P,)."""
        steps = [thresholds]
        for _ in range(SWEEPS):
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
        ranked = self.ranked[k]
        possible = torch.ones(N + 1, dtype=torch.bool)
        possible[1:-1] = ranked[1:] < ranked[:-1]  # equal confidences leave together
        possible[: (ranked >= 1).sum()] = False  # who is certain leaves at threshold 1 as well
        within = possible & (total_cost <= N * budgets[:, None] * (1 + 1e-12))
        leaving = value.where(within, -torch.inf).argmax(1)  # (P,)
        last = (leaving - 1).clamp(min=0)
        t = between(ranked[last], ranked[leaving.clamp(max=N - 1)])
        return torch.where(leaving == 0, 1.0, torch.where(leaving == N, 0.0, t)), within.any(1)

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
