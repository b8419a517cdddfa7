"""Exercises on early exits: thresholds, budgets, calibration, time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dfs_edu import inference
from dfs_edu.course.checks.answers import compare, repeatable


@repeatable()
def leave(mine: Callable) -> None:
    """mine(confidence (K, N), thresholds (K,)) -> for each picture the index of the exit where it leaves."""

    def outputs(confidence):
        nobody = torch.zeros(confidence.shape, dtype=torch.int64)
        return inference.Outputs(confidence, nobody, nobody[0], "validation")

    def right(confidence, thresholds):
        K = len(thresholds)
        return inference.apply(outputs(confidence), thresholds, range(1, K + 1)).exit

    def last_confident(confidence, thresholds):
        return len(thresholds) - 1 - (confidence >= thresholds[:, None]).flip(0).byte().argmax(0)

    def above(confidence, thresholds):
        beyond = confidence > thresholds[:, None]
        beyond[-1] = True
        return beyond.byte().argmax(0)

    mistakes = [
        (above, "an image leaves where its confidence *reaches* the threshold: equal is enough, >= and not >"),
        (last_confident, "that is the last exit that would do: a picture leaves at the first"),
        (lambda c, t: c.argmax(0), "that is the surest exit: a picture leaves at the first that is sure enough"),
        (lambda c, t: (c < t[:, None]).byte().argmax(0), "that is the first exit that is not sure enough"),
        (lambda c, t: right(c, t) + 1, "exits are counted from 0 here"),
    ]
    confidence = torch.tensor(
        [
            [0.50, 0.25, 0.25, 0.75, 0.40, 0.00, 1.00],
            [0.90, 0.75, 0.50, 0.25, 0.90, 0.00, 1.00],
            [0.90, 1.00, 0.00, 0.50, 0.10, 0.00, 1.00],
        ]
    )
    cases = [(confidence, torch.tensor([0.5, 0.75, 0.0]))]  # some just reach a threshold, one is not sure at all
    cases.append((torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 0.0])))  # one image
    cases.append((torch.tensor([[0.3, 0.9]]), torch.tensor([0.0])))  # one exit
    for K, N in ((2, 5), (4, 50), (6, 500)):
        thresholds = torch.rand(K)
        thresholds[-1] = 0  # the last exit takes all
        cases.append((torch.rand(K, N), thresholds))
    compare("the decision to leave", mine, right, cases, mistakes)


@repeatable()
def average_macs(mine: Callable) -> None:
    """mine(exit (N,), macs (K,)) -> average cost of a picture, given where each left."""
    mistakes = [
        (lambda exit, macs: macs[exit].sum(), "that is what all pictures cost together"),
        (lambda exit, macs: macs.mean(), "not the same number of pictures leaves at each exit"),
        (lambda exit, macs: macs.cumsum(0)[exit].mean(), "macs already counts everything up to the exit"),
    ]
    macs = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    cases = [(torch.tensor([0, 2, 0]), macs), (torch.tensor([1]), macs), (torch.tensor([0, 0]), macs[:1])]
    for K in (2, 4, 6):
        macs = torch.rand(K, dtype=torch.float64).cumsum(0) * 1e6
        cases.append((torch.randint(K, (100,)), macs))
    compare("the average cost", mine, lambda exit, macs: macs[exit].mean(), cases, mistakes)


@repeatable()
def geometric_shares(mine: Callable) -> None:
    """mine(q, exits) -> K shares proportional to q to the power k, of sum 1."""

    def right(q, exits):
        return inference.geometric_shares(torch.tensor([q]), exits)[0]

    def powers(q, exits):
        return torch.tensor([q**k for k in range(exits)], dtype=torch.float64)

    def closed_form(q, exits):
        return powers(q, exits) * torch.tensor(1 - q) / torch.tensor(1 - q**exits)

    mistakes = [
        (powers, "their sum is not 1: divide by it"),
        (lambda q, n: powers(q, n).softmax(0), "divide by the sum; a softmax takes powers of e first"),
        (lambda q, n: right(1 / q, n), "the order is turned round: a small q sends most out at the first exit"),
        (lambda q, n: right(q, n).cumsum(0), "that is how many have left by exit k: return how many leave there"),
        (lambda q, n: powers(q, n) / powers(q, n).max(), "divide by the sum, not by the largest"),
        (closed_form, "at q = 1, (1 - q) / (1 - q ** K) is 0 / 0: divide by the sum"),
    ]
    cases = [(0.5, 3), (2.0, 4), (1.0, 5), (0.25, 1), (1.7, 6), (0.3, 7)]
    compare("geometric shares", mine, right, cases, mistakes)


@repeatable()
def best_cut(mine: Callable) -> None:
    """mine(confidence (n,), right_here, right_later, cost_here, cost_later, price) -> how many leave at one exit.

    right_here and right_later are bool (n,), the costs and the price numbers. The surest leave; what is made as large
    as it can be is right answers minus price times cost.
    """

    def values(confidence, here, later, cost_here, cost_later, price):
        """For 0 ... n leaving, up to what is the same for all."""
        order = confidence.argsort(descending=True)
        gain = (here.double() - later.double())[order] + price * (cost_later - cost_here)
        return torch.cat([torch.zeros(1, dtype=torch.float64), gain.cumsum(0)])

    def right(*case):
        return values(*case).argmax()

    def other(**changes):
        """The answer if these of the inputs were others, made from those that were given."""
        names = ("confidence", "right_here", "right_later", "cost_here", "cost_later", "price")

        def answer(*case):
            given = dict(zip(names, case, strict=True))
            return right(*(given | {name: change(given) for name, change in changes.items()}).values())

        return answer

    mistakes = [
        (other(price=lambda of: 0), "the price is not in it: who leaves saves price * (cost_later - cost_here)"),
        (other(price=lambda of: -of["price"]), "the sign of the price: what costs less is worth more"),
        (other(confidence=lambda of: -of["confidence"]), "the surest leave first: sort from the highest down"),
        (
            other(confidence=lambda of: -torch.arange(len(of["confidence"]))),
            "sort right_here and right_later by confidence first",
        ),
        (
            other(right_later=lambda of: torch.zeros_like(of["right_later"])),
            "who goes on may be right later: leaving gains right_here - right_later",
        ),
        (
            other(cost_later=lambda of: 0),
            "leaving costs cost_here and saves cost_later: both are in it",
        ),
        (lambda *case: right(*case) - 1, "one too few: place 0 of the sums, before anybody has left, is no picture"),
        (
            lambda *case: case[0].sort(descending=True).values[(right(*case) - 1).clamp(min=0)],
            "return how many leave, not the confidence of the last of them",
        ),
        (lambda *case: values(*case).max(), "return how many leave, not what it is worth"),
    ]
    edges = [
        ([0.2, 0.9, 0.6, 0.4], [0, 0, 1, 0], [1, 1, 0, 1]),  # the surest would better stay, and yet two leave
        ([0.5, 0.1, 0.9, 0.3], [1, 0, 1, 0], [0, 1, 1, 0]),  # three leave, two of them to save their cost alone
        ([0.3, 0.8], [0, 0], [1, 1]),  # nobody leaves
        ([0.3, 0.8, 0.5], [1, 1, 1], [0, 1, 0]),  # all leave
        ([0.5], [1], [0]),
        ([0.5], [0], [1]),
    ]
    cases = [
        (torch.tensor(confidence), torch.tensor(here) == 1, torch.tensor(later) == 1, 5.0, 6.0, 0.4)
        for confidence, here, later in edges
    ]
    cases += [_cut_case(n) for n in (200, 50, 500)]
    compare("the best cut", mine, right, cases, mistakes)


def _cut_case(n: int) -> tuple:
    """An exit that is as often right as it is sure. Who is not sure is more often right later, so some should stay.

    At this price no two cuts are worth the same: either would be right.
    """
    confidence = torch.rand(n)
    right_here, right_later = torch.rand(n) < confidence, torch.rand(n) < 0.4 + confidence / 2
    return confidence, right_here, right_later, 2e6, 5e6, 4.7e-8


@repeatable()
def softmax(mine: Callable) -> None:
    """mine(logits (N, classes), temperature) -> probabilities (N, classes): softmax of the logits / temperature."""

    def right(z, t):
        return (z / t).softmax(1)

    def overflows(z, t):
        return (z / t).exp() / (z / t).exp().sum(1, keepdim=True)

    mistakes = [
        (lambda z, t: (z * t).softmax(1), "divide by the temperature: a high one makes an exit less sure"),
        (lambda z, t: z.softmax(1), "the temperature is missing: divide the logits by it"),
        (lambda z, t: z.softmax(1) / t, "divide the logits, not the probabilities: their sum is no longer 1"),
        (lambda z, t: (z / t).softmax(0), "the classes are in dimension 1: each row's sum is 1"),
        (lambda z, t: (z / t).exp(), "divide by each row's sum: probabilities have the sum 1"),
        (lambda z, t: (z / t).exp() / (z / t).exp().sum(), "divide by the sum of each row, not of all"),
        (lambda z, t: (z / t).log_softmax(1), "that is the logarithm of the probabilities"),
        (
            lambda z, t: (z / t - (z / t).max()).exp() / (z / t - (z / t).max()).exp().sum(1, keepdim=True),
            "each row has a largest of its own: subtract that, or a row far below another is 0 / 0",
        ),
        (overflows, "exp of a large number is infinite: subtract each row's largest first, which changes nothing"),
    ]
    large = torch.tensor([[1000.0, 999.0, 0.0], [0.0, 1.0, 2.0], [-1000.0, 0.0, 1000.0]])
    cases = [
        (torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, -1.0]]), 2.0),
        (large, 1.0),
        (large, 0.5),
        (torch.tensor([[-3.0]]), 0.7),
    ]
    cases += [(scale * torch.randn(N, C), t) for scale, N, C, t in ((2, 4, 3, 2.0), (3, 7, 10, 0.4), (200, 5, 6, 1.2))]
    compare("softmax at a temperature", mine, right, cases, mistakes)


@repeatable()
def calibration_error(mine: Callable) -> None:
    """mine(confidence (N,), correct bool (N,), bins) -> expected calibration error of one exit, a number."""

    def of_bins(value):
        """value(gap (bins,), 0 in an empty bin; share (bins,) of the pictures that is in each)"""

        def function(confidence, correct, bins):
            true = torch.ones(len(correct), dtype=torch.int64)
            said = inference.Outputs(confidence[None], correct[None].long(), true, "validation")
            found = inference.reliability(said, bins)
            gap = (found.confidence - found.accuracy)[0].nan_to_num()
            return value(gap, found.count[0] / len(correct))

        return function

    def certain_apart(confidence, correct, bins):
        bin = (confidence * bins).long()  # from 0 to bins, the last for a confidence of 1 alone
        return torch.bincount(bin, confidence.double() - correct.double()).abs().sum() / len(correct)

    right = of_bins(lambda gap, share: (gap.abs() * share).sum())
    mistakes = [
        (
            of_bins(lambda gap, share: (gap * share).sum().abs()),
            "too sure in one bin does not make up for too shy in another: take each bin's distance, then add",
        ),
        (of_bins(lambda gap, share: (gap * share).sum()), "take the distance in each bin, without its sign"),
        (of_bins(lambda gap, share: gap[share > 0].abs().mean()), "a bin weighs as much as the pictures in it"),
        (of_bins(lambda gap, share: gap.abs().mean()), "a bin weighs as much as the pictures in it"),
        (of_bins(lambda gap, share: (gap.abs() * share).mean()), "weighted by their shares, the bins are added"),
        (of_bins(lambda gap, share: gap.abs().max()), "that is the worst bin: the expected error is a mean over all"),
        (
            of_bins(lambda gap, share: (gap.abs() * share).where(share > 0, torch.nan).sum()),
            "an empty bin has no mean, 0 / 0 is nan: leave it out",
        ),
        (lambda s, r, bins: (s - r.float()).abs().mean(), "compare the means of a bin: one picture is right or wrong"),
        (lambda *case: right(*case) * len(case[0]), "divide by the number of pictures"),
        (certain_apart, "a confidence of 1 belongs to the last bin: clamp the bins to at most bins - 1"),
    ]
    edges = [
        ([0.1, 0.3, 0.9, 1.0], [True, False, True, False], 4),  # a confidence of exactly 1, and an empty bin
        ([0.1, 0.2, 0.45], [False, True, False], 4),
        ([0.6, 0.9], [True, False], 1),
        ([1.0], [True], 10),
        ([0.3], [True], 2),
    ]
    cases = [(torch.tensor(confidence), torch.tensor(correct), bins) for confidence, correct, bins in edges]
    for N, bins in ((300, 5), (400, 10), (40, 15)):
        confidence = 0.2 + 0.8 * torch.rand(N)
        confidence[: N // 10] = 1  # as float32 rounds who is nearly certain
        cases.append((confidence, torch.rand(N) < 0.6, bins))
    compare("the calibration error", mine, right, cases, mistakes)


@repeatable()
def margin(mine: Callable) -> None:
    """mine(p (N, classes)) -> score (N,): how far the largest probability is above the second."""

    def right(p):
        return inference.CRITERIA["margin"](p)

    mistakes = [
        (lambda p: p.amax(1), "that is the confidence: subtract the second largest"),
        (lambda p: -right(p), "the largest minus the second, not the other way round"),
        (lambda p: p.amax(1) - p.amin(1), "that is the largest minus the smallest"),
        (lambda p: p[:, 0] - p[:, 1], "those are classes 0 and 1: sort the probabilities first, or use topk"),
        (lambda p: p.sort(1).values[:, 1] - p.sort(1).values[:, 0], "sort goes from the lowest up: the last two count"),
        (lambda p: 2 * p.amax(1) - 1, "1 - the largest is what all other classes have together, not the second"),
        (lambda p: p.topk(2, dim=1).values[:, 1], "that is the second largest: subtract it from the largest"),
        (lambda p: p.topk(2, dim=0).values.diff(dim=0)[0].neg(), "the classes are in dimension 1"),
        (
            lambda p: p.amax(1) - p.masked_fill(p == p.amax(1, keepdim=True), 0).amax(1),
            "where two classes share the largest probability, the second is as large: the margin is 0",
        ),
    ]
    edges = [
        [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]],
        [[0.25, 0.75]],
        [[0.1, 0.3, 0.4, 0.2, 0.0]],
    ]
    cases = [(torch.tensor(p),) for p in edges]
    cases += [((2 * torch.randn(N, C)).softmax(1),) for N, C in ((5, 3), (20, 10), (50, 100))]
    compare("the margin", mine, right, cases, mistakes)


@repeatable()
def going_on(mine: Callable) -> None:
    """mine(here (n,), score (n,), threshold) -> the numbers in `here` of the pictures that go on, in their order."""

    def right(here, score, threshold):
        return here[score < threshold]

    mistakes = [
        (lambda h, s, t: h[s >= t], "those are the ones that leave"),
        (lambda h, s, t: h[s <= t], "a score that just reaches the threshold leaves"),
        (lambda h, s, t: (s < t).nonzero()[:, 0], "those are places among the ones still here: give their numbers"),
        (lambda h, s, t: s < t, "that says who: index `here` with it"),
    ]
    edges = [
        ([5, 9, 2, 7], [0.75, 0.125, 0.5, 0.25], 0.5),  # neither sorted by number nor by score
        ([5, 2], [0.25, 0.0], 0.5),
        ([5, 2], [0.5, 1.0], 0.5),  # all leave
        ([3], [0.25], 0.25),
        ([3], [0.25], 0.5),
    ]
    cases = [(torch.tensor(here), torch.tensor(score), threshold) for here, score, threshold in edges]
    cases += [(torch.randperm(20)[:n], torch.randint(8, (n,)) / 8, 0.5) for n in (7, 12)]
    compare("who goes on", mine, right, cases, mistakes)


@repeatable()
def break_even(mine: Callable) -> None:
    """mine(choosing, rest) -> the fraction of pictures that must leave at an exit for it to save time.

    Every picture there pays `choosing`; who stays pays `rest` as well; without the exit all would pay `rest`.
    """
    mistakes = [
        (lambda c, r: r / c, "the other way round: what is paid, divided by what each one that leaves saves"),
        (lambda c, r: c / (c + r), "who leaves saves the rest, not the rest and the choosing: that was paid"),
        (lambda c, r: 1 - c / r, "that is the fraction that may stay"),
        (lambda c, r: r / (c + r), "leaving saves the rest: choosing = fraction * rest"),
    ]
    cases = [(0.1, 1.0), (0.3, 0.7), (2.0, 8.0), (3.0, 3.0), (0.0, 5.0)]
    compare("the break-even", mine, lambda choosing, rest: choosing / rest, cases, mistakes)


@repeatable()
def within(mine: Callable) -> None:
    """mine(seconds (N,), q) -> the shortest of these times within which at least a fraction q of pictures is answered.

    q is above 0 and at most 1.
    """

    def right(seconds, q):
        return seconds.sort().values[math.ceil(q * len(seconds) - 1e-9) - 1]

    def above(seconds, q):
        return seconds.sort().values[min(int(q * len(seconds)), len(seconds) - 1)]

    mistakes = [
        (lambda s, q: s[math.ceil(q * len(s) - 1e-9) - 1], "sort the times first"),
        (
            lambda s, q: right(-s, q).neg(),
            "that is the time that a fraction q is *slower* than: sort from fast to slow",
        ),
        (above, "one place too far: places count from 0, so the m-th time is at m - 1"),
        (lambda s, q: s.quantile(q), "that lies between two times: one of the measured times is asked for"),
        (lambda s, q: q * s.max(), "a fraction of the pictures, not of the longest time"),
        (lambda s, q: s.mean(), "the mean says nothing about the slow ones"),
    ]
    # where q * N is a whole number, q is a sum of halves and quarters: rounding cannot move it
    edges = [
        ([3, 1, 2, 4], 0.5),  # 2 of 4, exactly
        ([8, 1, 7, 2, 6, 3, 5, 4, 9], 0.25),  # 2.25: the third
        ([8, 1, 7, 2, 6, 3, 5, 4], 0.25),
        ([1, 2, 1, 1], 0.75),
        ([2, 1, 5], 0.75),
        ([2, 1, 5], 1.0),
        ([2, 1, 5], 0.1),
        ([7], 0.5),
    ]
    cases = [(torch.tensor(seconds, dtype=torch.float64), q) for seconds, q in edges]
    cases += [(torch.rand(N, dtype=torch.float64), q) for N, q in ((20, 0.75), (30, 0.95), (101, 0.5), (10, 1.0))]
    compare("the time within which", mine, right, cases, mistakes)


@repeatable()
def together(mine: Callable) -> None:
    """mine(exit (batches, n), seconds (K,)) -> mean seconds of a batch that is done when its last picture is."""
    mistakes = [
        (lambda exit, seconds: seconds[exit].mean(), "a batch is as slow as its slowest picture, not as the mean one"),
        (lambda exit, seconds: seconds[exit.max()], "each batch has a slowest picture of its own"),
        (lambda exit, seconds: seconds[exit.amax(0)].mean(), "the pictures of a batch are in dimension 1"),
        (lambda exit, seconds: seconds[exit.amin(1)].mean(), "the slowest picture left last: max, not min"),
        (lambda exit, seconds: seconds[exit.amax(1)].sum(), "the mean of the batches, not their sum"),
        (lambda exit, seconds: seconds[exit].sum(1).mean(), "the pictures of a batch are worked on at the same time"),
    ]
    seconds = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    cases = [(torch.tensor([[1, 0], [0, 2], [0, 0], [0, 1]]), seconds), (torch.tensor([[1]]), seconds)]
    for K, n in ((6, 4), (7, 8)):
        exit = (torch.rand(20, n) ** 3 * K).long()
        cases.append((exit, torch.rand(K, dtype=torch.float64).cumsum(0)))
    compare("a batch that waits", mine, lambda exit, seconds: seconds[exit.amax(1)].mean(), cases, mistakes)
