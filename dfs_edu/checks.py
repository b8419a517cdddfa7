"""What exercises call: the learner's function against the library's answer, on random inputs, with a helpful word.

A check never raises: it prints "not yet" for an exercise that nobody has tried, what is wrong with a wrong answer, and
"right" for a right one. Where the answer is the result of a mistake that many make, it says which one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from dfs_edu import inference, results
from dfs_edu.multiexit import MultiExit
from dfs_edu.surgery import Surgery

Mistakes = Sequence[tuple[Callable, str]]  # (what many write, what to say about it)


def exits(mine: Callable) -> None:
    """mine(stages, heads, x) -> list of K logits: the loop of a multi-exit network."""

    def right(stages, heads, x):
        return MultiExit(stages, heads)(x)

    def forgets_to_go_on(stages, heads, x):
        return [head(stage(x)) for stage, head in zip(stages, heads, strict=True)]

    def last_only(stages, heads, x):
        for stage in stages:
            x = stage(x)
        return [heads[-1](x)]

    def case(i: int) -> tuple:
        K = 2 + i
        return [nn.Linear(4, 4) for _ in range(K)], [nn.Linear(4, 3) for _ in range(K)], torch.randn(5, 4)

    mistakes = [
        (forgets_to_go_on, "every stage was given the picture: a stage reads what the stage before it made"),
        (last_only, "only the last exit answered: each stage is followed by its own head"),
    ]
    _compare("the loop", mine, right, [case(i) for i in range(3)], mistakes)


def cumulative_macs(mine: Callable) -> None:
    """mine(stage_macs, head_macs) -> K costs of leaving at each exit: trunk and all heads up to there."""

    def right(stages, heads):
        return (stages + heads).cumsum(0)

    mistakes = [
        (lambda s, h: s.cumsum(0), "the heads cost something too"),
        (lambda s, h: s.cumsum(0) + h, "a picture that comes to exit 3 has been through heads 1 and 2 as well"),
        (lambda s, h: s + h, "to come to exit k, a picture goes through every stage before it"),
    ]
    cases = [(torch.randint(1, 99, (K,)), torch.randint(1, 9, (K,))) for K in (2, 5, 7)]
    _compare("the cost of leaving", mine, right, cases, mistakes)


def cosine(mine: Callable) -> None:
    """mine(g, h) -> the cosine of the angle between two gradients (P,)."""

    def right(g, h):
        return torch.cosine_similarity(g, h, dim=0)

    mistakes = [
        (lambda g, h: g @ h, "that is the inner product: divide by both lengths"),
        (lambda g, h: g @ h / ((g @ g) * (h @ h)), "a length is the square root of g @ g"),
        (lambda g, h: (g @ h).abs() / (g.norm() * h.norm()), "keep the sign: it tells conflict from agreement"),
        (lambda g, h: g @ h / g.norm(), "divide by the length of h as well"),
    ]
    cases = [(torch.randn(P), torch.randn(P)) for P in (2, 10, 1000)] + [(torch.ones(3), -torch.ones(3))]
    _compare("the cosine", mine, right, cases, mistakes)


def conflicting(mine: Callable) -> None:
    """mine(gradients (K, P)) -> the fraction of pairs of different exits whose gradients point apart."""

    def right(g):
        first, second = torch.triu_indices(len(g), len(g), offset=1)
        return ((g @ g.T)[first, second] < 0).double().mean()

    mistakes = [
        (lambda g: (g @ g.T < 0).double().mean(), "an exit does not conflict with itself: leave out the diagonal"),
        (lambda g: (g @ g.T < 0).sum() / 2, "that is their number: divide by the number of pairs, K (K - 1) / 2"),
        (lambda g: 1 - right(g), "those are the pairs that agree: conflict is a negative cosine"),
    ]
    _compare("the share of conflict", mine, right, [(torch.randn(K, 20),) for K in (2, 4, 7)], mistakes)


def surgery(mine: Callable) -> None:
    """mine(f (B, C, H, W), beta) -> (onward, seen): partitioned by beta, referenced, exit gradient own."""

    def joint(f, beta):
        return f, f

    def zeros(f, beta):
        shared = torch.arange(f.shape[1])[:, None, None] < round(f.shape[1] * beta)
        return torch.where(shared, f, 0), torch.where(shared, 0, f)

    def swapped(f, beta):
        onward, seen = Surgery(beta)(f)
        return seen, onward

    def exit_everywhere(f, beta):
        return Surgery(beta, exit_gradient="all")(f)

    mistakes = [
        (_traced(swapped), "the two are exchanged: f+ listens to what comes back from onward, f- to seen"),
        (_traced(joint), "nothing is cut yet: detach f- in onward, and f+ in seen"),
        (_traced(zeros), "that is partitioning alone: put the other part, detached, in the place of the zeros"),
        (_traced(exit_everywhere), "the exit's gradient reaches f+ too: in seen, f+ is detached"),
    ]
    cases = [(torch.randn(2, C, 3, 3), beta) for C, beta in ((8, 0.5), (10, 0.3), (6, 0.0), (7, 1.0))]
    _compare("surgery", _traced(mine), _traced(lambda f, beta: Surgery(beta)(f)), cases, mistakes)


def step_cost(mine: Callable) -> None:
    """mine(beta) -> the work of a training step behind a cut, where that of a joint step is 3."""
    mistakes = [
        (lambda beta: 3 * beta, "forward pass and weight gradient stay whole"),
        (lambda beta: 1 + 2 * beta, "the weight gradient stays whole: it needs all channels of the input"),
        (lambda beta: 3 - beta, "beta is the part that still passes a gradient on"),
    ]
    _compare("the cost of a step", mine, lambda beta: 2 + beta, [(b,) for b in (0.0, 0.25, 0.5, 1.0)], mistakes)


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

    mistakes = [
        (last_confident, "that is the last exit that would do: a picture leaves at the first"),
        (lambda c, t: c.argmax(0), "that is the surest exit: a picture leaves at the first that is sure enough"),
        (lambda c, t: (c < t[:, None]).byte().argmax(0), "that is the first exit that is not sure enough"),
        (lambda c, t: right(c, t) + 1, "exits are counted from 0 here"),
    ]
    cases = []
    for K, N in ((2, 5), (4, 50), (6, 500)):
        thresholds = torch.rand(K)
        thresholds[-1] = 0  # the last exit takes all
        cases.append((torch.rand(K, N), thresholds))
    _compare("the decision to leave", mine, right, cases, mistakes)


def average_macs(mine: Callable) -> None:
    """mine(exit (N,), macs (K,)) -> average cost of a picture, given where each left."""
    mistakes = [
        (lambda exit, macs: macs[exit].sum(), "that is what all pictures cost together"),
        (lambda exit, macs: macs.mean(), "not the same number of pictures leaves at each exit"),
        (lambda exit, macs: macs.cumsum(0)[exit].mean(), "macs already counts everything up to the exit"),
    ]
    cases = []
    for K in (2, 4, 6):
        macs = torch.rand(K, dtype=torch.float64).cumsum(0) * 1e6
        cases.append((torch.randint(K, (100,)), macs))
    _compare("the average cost", mine, lambda exit, macs: macs[exit].mean(), cases, mistakes)


def evenly(mine: Callable) -> None:
    """mine(macs (P,), exits) -> which places, from 0, lie nearest to k/(exits + 1) of macs[-1], for k = 1 ... exits."""

    def nearest(macs, fractions):
        return (macs - macs[-1] * fractions[:, None]).abs().argmin(1)

    def fractions(exits, by):
        return torch.arange(1, exits + 1, dtype=torch.float64) / by

    def right(macs, exits):
        return nearest(macs, fractions(exits, exits + 1))

    def by_place(macs, exits):
        return (fractions(exits, exits + 1) * len(macs)).round().long().clamp(max=len(macs) - 1)

    def not_before(macs, exits):
        return torch.searchsorted(macs, macs[-1] * fractions(exits, exits + 1))

    mistakes = [
        (
            lambda m, n: nearest(m, fractions(n, n)),
            "the last exit is at the network's end already: divide by exits + 1",
        ),
        (not_before, "that is the first place behind each fraction: the one before it may be nearer"),
        (lambda m, n: not_before(m, n) - 1, "that is the last place before each fraction: the next may be nearer"),
        (by_place, "that counts places: one place may cost far more than another"),
        (lambda m, n: m[right(m, n)], "return which places, not what they cost"),
    ]
    cases = [((10 * torch.rand(P, dtype=torch.float64) ** 3 + 0.1).cumsum(0), n) for P, n in ((8, 2), (20, 3), (40, 5))]
    _compare("evenly placed exits", mine, right, cases, mistakes)


def conv_macs(mine: Callable) -> None:
    """mine(channels_in, channels_out, kernel, side, groups) -> MACs of a convolution on a square picture, same size."""

    def right(cin, cout, k, side, groups):
        return cin // groups * cout * k**2 * side**2

    mistakes = [
        (lambda i, o, k, s, g: i * o * k**2 * s**2, "in groups, an output channel reads only in/groups channels"),
        (lambda i, o, k, s, g: i // g * o * k**2, "those are the parameters: each is used at every position"),
        (lambda i, o, k, s, g: i // g * o * k * s**2, "a kernel has two sides"),
        (lambda i, o, k, s, g: 2 * right(i, o, k, s, g), "that is FLOPs: a MAC is a multiplication with its addition"),
    ]
    cases = [(3, 64, 3, 32, 1), (16, 32, 5, 8, 4), (48, 48, 3, 7, 48)]
    _compare("the MACs of a convolution", mine, right, cases, mistakes)


def front(mine: Callable) -> None:
    """mine(macs (P,), accuracy (P,)) -> bool (P,): points that no other beats, cheaper or as dear, and as right."""

    def right(macs, accuracy):
        no_dearer, no_worse = macs <= macs[:, None], accuracy >= accuracy[:, None]
        better = (macs < macs[:, None]) | (accuracy > accuracy[:, None])
        return ~(no_dearer & no_worse & better).any(1)

    def record_so_far(macs, accuracy):
        return accuracy >= accuracy.cummax(0).values

    mistakes = [
        (lambda m, a: ~right(m, a), "those are the points that are beaten: return the others"),
        (record_so_far, "the points come in any order: sort them by their cost first, or compare every pair"),
        (lambda m, a: right(-m, a), "cheap is good: a point is beaten by one that costs less"),
        (lambda m, a: right(m, a).nonzero()[:, 0], "return a bool for each point, not which ones"),
    ]
    cases = [(torch.randint(1, P, (P,)), torch.randint(0, P, (P,)) / P) for P in (5, 12, 30)]
    _compare("the front", mine, right, cases, mistakes)


def learning_rate(mine: Callable) -> None:
    """mine(epoch, peak, milestones) -> the rate in an epoch, from 0, that is divided by 10 at each milestone."""

    def right(epoch, peak, milestones):
        return peak * 0.1 ** sum(epoch >= m for m in milestones)

    mistakes = [
        (
            lambda e, p, m: p * 0.1 ** sum(e > step for step in m),
            "the epoch of the milestone itself has the lower rate",
        ),
        (lambda e, p, m: p * 0.1 ** (e >= m[0]), "each milestone divides once more"),
        (
            lambda e, p, m: p / 10 * sum(e >= step for step in m),
            "dividing again and again is a power: 0.1 ** how often",
        ),
    ]
    cases = [(epoch, 0.1, [250, 280, 295]) for epoch in (0, 250, 285, 299)]
    _compare("the learning rate", mine, right, cases, mistakes)


def interval(mine: Callable) -> None:
    """mine(differences (n,)) -> (mean, half width of its 95 % t-interval) of n seeds."""

    def right(d):
        mean, half = results.interval(d[:, None].numpy())
        return [float(mean[0]), float(half[0])]

    def scaled(factor):
        return lambda d: [right(d)[0], right(d)[1] * factor(len(d))]

    mistakes = [
        (scaled(lambda n: n**0.5), "that is the spread of the seeds: the mean of n is known better by the root of n"),
        (scaled(lambda n: ((n - 1) / n) ** 0.5), "divide by n - 1: the mean was taken from the same seeds"),
        (scaled(lambda n: 1.959964 / _t95(n)), "1.96 is for very many seeds: for n few, t of n - 1 degrees of freedom"),
        (scaled(lambda n: 2), "half the width: from the mean to one end"),
        (lambda d: right(d)[0], "return two numbers, the mean and the half width"),
    ]
    cases = [(torch.randn(n, dtype=torch.float64),) for n in (3, 5, 10)]
    _compare("the interval", mine, right, cases, mistakes)


def warm_up(mine: Callable) -> None:
    """mine(epoch, batch_size, base, warm) -> the rate: base, in `warm` epochs evenly up to base * batch_size / 256."""

    def rate(factor, epoch, batch_size, base, warm):
        return base * (1 + (factor(batch_size) - 1) * min(epoch / warm, 1))

    def right(*case):
        return rate(lambda b: b / 256, *case)

    mistakes = [
        (lambda e, b, base, warm: base * b / 256, "that is the rate after the warm-up: it begins at base"),
        (lambda e, b, base, warm: base * b / 256 * min(e / warm, 1), "it begins at base, not at 0"),
        (lambda e, b, base, warm: base * (1 + (b / 256 - 1) * e / warm), "behind the warm-up, the rate stays"),
        (lambda *case: rate(lambda b: (b / 256) ** 0.5, *case), "the rule is linear: twice the batch, twice the rate"),
        (lambda e, b, base, warm: base, "a batch of more than 256 pictures wants a higher rate"),
    ]
    cases = [(epoch, batch, 0.1, 5) for epoch, batch in ((0, 512), (2, 8192), (2.5, 1024), (5, 2048), (40, 4096))]
    _compare("the warm-up", mine, right, cases, mistakes)


def geometric_shares(mine: Callable) -> None:
    """mine(q, exits) -> K shares proportional to q to the power k, of sum 1."""

    def right(q, exits):
        return inference.geometric_shares(torch.tensor([q]), exits)[0]

    def powers(q, exits):
        return torch.tensor([q**k for k in range(exits)], dtype=torch.float64)

    mistakes = [
        (powers, "their sum is not 1: divide by it"),
        (lambda q, n: powers(q, n).softmax(0), "divide by the sum; a softmax takes powers of e first"),
        (lambda q, n: right(1 / q, n), "the order is turned round: a small q sends most out at the first exit"),
        (lambda q, n: right(q, n).cumsum(0), "that is how many have left by exit k: return how many leave there"),
        (lambda q, n: powers(q, n) / powers(q, n).max(), "divide by the sum, not by the largest"),
    ]
    cases = [(0.5, 3), (float(torch.rand(1)) + 1.2, 4), (float(torch.rand(1)) * 0.5 + 0.2, 7)]
    _compare("geometric shares", mine, right, cases, mistakes)


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
    cases = [_cut_case(n) for n in (200, 50, 500)]
    _compare("the best cut", mine, right, cases, mistakes)


def _cut_case(n: int) -> tuple:
    """An exit that is as often right as it is sure. Who is not sure is more often right later, so some should stay."""
    confidence = torch.rand(n)
    right_here, right_later = torch.rand(n) < confidence, torch.rand(n) < 0.4 + confidence / 2
    return confidence, right_here, right_later, 2e6, 5e6, 4e-8 + 2e-8 * float(torch.rand(1))


def bootstrap(mine: Callable) -> None:
    """mine(right (N,), drawn (R, N)) -> (low, high), the 95 % percentile interval of the accuracy.

    drawn   R resamples: of each, which N pictures it holds
    """

    def ends(of: Tensor, low=0.025, high=0.975):
        return [float(of.double().quantile(q)) for q in (low, high)]

    def right(right, drawn):
        return ends(right[drawn].double().mean(1))

    def normal(right, drawn):
        means = right[drawn].double().mean(1)
        return [float(means.mean() + s * 1.96 * means.std()) for s in (-1, 1)]

    mistakes = [
        (lambda r, d: ends(r[d].double().sum(1)), "that counts right answers: an accuracy is their mean"),
        (lambda r, d: ends(r[d].double().mean(1), 0.05, 0.95), "95 % lie between: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(1), 0, 1), "that is the range: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(0)), "average over the pictures of a resample, dimension 1"),
        (lambda r, d: ends(r), "those are quantiles of the pictures: resample, average, then take the quantiles"),
        (normal, "that is an interval of a normal distribution: take the quantiles of the resamples' accuracies"),
        (lambda r, d: right(r, d)[::-1], "the lower end first"),
    ]
    cases = [(torch.rand(N) < 0.3 + 0.5 * torch.rand(1), torch.randint(N, (400, N))) for N in (50, 200, 1000)]
    _compare("the bootstrap interval", mine, right, cases, mistakes)


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
        (overflows, "exp of a large number is infinite: subtract each row's largest first, which changes nothing"),
    ]
    cases = [(scale * torch.randn(N, C), t) for scale, N, C, t in ((2, 4, 3, 2.0), (3, 7, 10, 0.4), (200, 5, 6, 1.2))]
    _compare("softmax at a temperature", mine, right, cases, mistakes)


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
    cases = []
    for N, bins in ((300, 5), (400, 10), (40, 15)):
        confidence = 0.2 + 0.8 * torch.rand(N)
        confidence[: N // 10] = 1  # as float32 rounds who is nearly certain
        cases.append((confidence, torch.rand(N) < 0.6, bins))
    _compare("the calibration error", mine, right, cases, mistakes)


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
    ]
    cases = [((2 * torch.randn(N, C)).softmax(1),) for N, C in ((5, 3), (20, 10), (50, 100))]
    _compare("the margin", mine, right, cases, mistakes)


def normalise(mine: Callable) -> None:
    """mine(pictures uint8 (B, 3, H, W), mean (3,), std (3,)) -> normalised floats of the same shape."""

    def right(pictures, mean, std):
        return (pictures / 255 - mean[:, None, None]) / std[:, None, None]

    mistakes = [
        (lambda x, m, s: (x - m[:, None, None]) / s[:, None, None], "divide by 255 first: mean and std are of 0 to 1"),
        (lambda x, m, s: x / 255 - m[:, None, None], "divide by std as well"),
        (lambda x, m, s: (x / 255 - m) / s, "a mean for each column: mean[:, None, None] is one for each channel"),
        (lambda x, m, s: x / 255, "subtract the mean, and divide by std"),
    ]
    cases = [(torch.randint(256, (B, 3, 3, 3), dtype=torch.uint8), torch.rand(3), 0.1 + torch.rand(3)) for B in (1, 4)]
    _compare("normalising", mine, right, cases, mistakes)


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
    here = [torch.randperm(20)[:n] for n in (2, 7, 12)]
    cases = [(h, torch.arange(len(h)) / len(h), (len(h) // 2) / len(h)) for h in here]
    _compare("who goes on", mine, right, cases, mistakes)


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
    cases = [(0.1, 1.0), (0.3, 0.7), (2.0, 8.0)]
    _compare("the break-even", mine, lambda choosing, rest: choosing / rest, cases, mistakes)


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
    cases = [(torch.rand(N, dtype=torch.float64), q) for N, q in ((20, 0.8), (40, 0.95), (101, 0.5), (10, 1.0))]
    _compare("the time within which", mine, right, cases, mistakes)


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
    cases = [(torch.tensor([[0, 1], [0, 2], [0, 0], [0, 1]]), torch.rand(3, dtype=torch.float64).cumsum(0))]
    for K, n in ((6, 4), (7, 8)):
        exit = (torch.rand(20, n) ** 3 * K).long()
        cases.append((exit, torch.rand(K, dtype=torch.float64).cumsum(0)))
    _compare("a batch that waits", mine, lambda exit, seconds: seconds[exit.amax(1)].mean(), cases, mistakes)


def _t95(n: int) -> float:
    return float(stdtrit(n - 1, 0.975))


def _traced(split: Callable) -> Callable:
    """What a junction does, as values: its two views, and what f receives from each."""

    def trace(f: Tensor, beta: float):
        f = f.clone().requires_grad_()
        views = split(f, beta)
        if _untried(views):
            return None
        if not isinstance(views, tuple | list) or len(views) != 2 or not all(isinstance(v, Tensor) for v in views):
            raise TypeError("return two tensors, onward and seen")
        gradients = []
        for view in views:
            if view.shape != f.shape:
                raise ValueError(f"a view of shape {tuple(view.shape)} of a feature of shape {tuple(f.shape)}")
            g = (
                torch.autograd.grad(view.sum(), f, retain_graph=True, allow_unused=True)[0]
                if view.requires_grad
                else None
            )
            gradients.append(torch.zeros_like(f) if g is None else g)
        return [view.detach() for view in views] + gradients

    return trace


def _compare(exercise: str, mine: Callable, right: Callable, cases: Sequence[tuple], mistakes: Mistakes) -> None:
    """Print what there is to say about `mine`."""
    for case in cases:
        try:
            answer = mine(*map(_copy, case))
        except NotImplementedError:
            answer = None
        except Exception as error:  # whatever a learner's code may raise
            print(f"✗ {exercise}: your function raised {type(error).__name__}: {error}")
            return
        if _untried(answer):
            print(f"… {exercise}: not yet. Write the function, then run this cell again.")
            return
        expected = right(*map(_copy, case))
        if not _same(answer, expected):
            fitting = [why for wrong, why in mistakes if _same(answer, wrong(*map(_copy, case)))]
            print(f"✗ {exercise}: {fitting[0] if fitting else _difference(answer, expected)}")
            return
    print(f"✓ {exercise}: right, on {len(cases)} random inputs.")


def _copy(value):
    """A learner may write into what is given."""
    return value.clone() if isinstance(value, Tensor) else value


def _untried(answer) -> bool:
    return answer is None or answer is Ellipsis


def _same(answer, expected) -> bool:
    if isinstance(expected, list):
        if not isinstance(answer, list | tuple) or len(answer) != len(expected):
            return False
        return all(_same(a, e) for a, e in zip(answer, expected, strict=True))
    try:
        answer, expected = torch.as_tensor(answer).double(), torch.as_tensor(expected).double()
    except (TypeError, ValueError, RuntimeError):
        return False
    # a mistake may give NaN, the right answer never does
    return answer.shape == expected.shape and torch.allclose(answer, expected, rtol=1e-4, atol=1e-6, equal_nan=True)


def _difference(answer, expected) -> str:
    """In words, what was given and what it should be."""
    if isinstance(expected, list):
        if not isinstance(answer, list | tuple) or len(answer) != len(expected):
            given = f"{len(answer)} values" if isinstance(answer, list | tuple) else f"a {type(answer).__name__}"
            return f"{given} where a list of {len(expected)} is expected"
        place, a, e = next((i, a, e) for i, (a, e) in enumerate(zip(answer, expected, strict=True)) if not _same(a, e))
        return f"value {place + 1} of the list: {_difference(a, e)}"
    try:
        answer = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(answer).__name__} where a number or tensor is expected"
    expected = torch.as_tensor(expected)
    if answer.shape != expected.shape:
        return f"shape {tuple(answer.shape)} where {tuple(expected.shape)} is expected"
    wrong = (~torch.isclose(answer.double(), expected.double(), rtol=1e-4, atol=1e-6)).nonzero()[0].tolist()
    where = f" at {wrong}" if wrong else ""
    return f"{answer[tuple(wrong)].item():.6g}{where} where {expected[tuple(wrong)].item():.6g} is expected"
