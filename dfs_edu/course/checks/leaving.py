"""Exercises on early exits: thresholds, budgets, calibration, time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn

from dfs_edu import inference
from dfs_edu.course.checks.answers import Verdict, Wrong, compare, exercise, tensors, untried
from dfs_edu.multiexit import MultiExit


@exercise("the decision to leave")
def leave(attempt: Callable) -> Verdict:
    """Check ``attempt(confidence (K, N), thresholds (K,)) -> (N,)``: the index of the exit where each image leaves."""

    def outputs(confidence):
        classes = torch.zeros(confidence.shape, dtype=torch.int64)  # they do not matter here
        return inference.Outputs(confidence, classes, classes[0], "validation")

    def right(confidence, thresholds):
        K = len(thresholds)
        return inference.apply(outputs(confidence), thresholds, range(1, K + 1)).exit

    def last_confident(confidence, thresholds):
        return len(thresholds) - 1 - (confidence >= thresholds[:, None]).flip(0).byte().argmax(0)

    def above(confidence, thresholds):
        leaves = confidence > thresholds[:, None]
        leaves[-1] = True
        return leaves.byte().argmax(0)

    mistakes = [
        (above, "an image leaves where its confidence *reaches* the threshold: equal is enough, >= and not >"),
        (last_confident, "that is the last exit where it could leave: an image leaves at the first"),
        (lambda c, t: c.argmax(0), "that is the most confident exit: an image leaves at the first that is sure enough"),
        (lambda c, t: (c < t[:, None]).byte().argmax(0), "that is the first exit that is not confident enough"),
        (lambda c, t: right(c, t) + 1, "exits are counted from 0 here"),
    ]
    confidence = [
        [0.50, 0.25, 0.25, 0.75, 0.40, 0.00, 1.00],
        [0.90, 0.75, 0.50, 0.25, 0.90, 0.00, 1.00],
        [0.90, 1.00, 0.00, 0.50, 0.10, 0.00, 1.00],
    ]
    cases = tensors(
        (confidence, [0.5, 0.75, 0.0]),  # some just reach a threshold, one has no confidence at all
        ([[0.0], [1.0]], [1.0, 0.0]),  # one image
        ([[0.3, 0.9]], [0.0]),  # one exit
    )
    for K, N in ((2, 5), (4, 50), (6, 500)):
        thresholds = torch.rand(K)
        thresholds[-1] = 0  # the last exit takes the rest
        cases.append((torch.rand(K, N), thresholds))
    return compare(attempt, right, cases, mistakes)


@exercise("early exit")
def early_exit(attempt: Callable) -> Verdict:
    """Check ``attempt(net, thresholds (K,), images (B, ...)) -> (labels, exits)``, each (B,): inference that stops.

    Exits count from 0. Counted, too, is how many images each stage computes: an image that has left is not among them.
    """

    def right(net, thresholds, images):
        return inference.EarlyExit(net, thresholds)(images)

    def from_one(net, thresholds, images):
        labels, exits = right(net, thresholds, images)
        return labels, exits + 1

    def in_order_of_leaving(net, thresholds, images):
        labels, exits = right(net, thresholds, images)
        return labels[exits.argsort(stable=True)], exits.sort().values

    def surest(logits):
        return logits.softmax(1).max().expand(len(logits))

    mistakes = [
        (
            _leaving(compact=False),
            "images that have left are still computed: only those that stay go to the next stage",
        ),
        (_leaving(compact=False, stop=False), "images that have left are still computed: pass on only those that stay"),
        (_leaving(leaves=torch.gt), "an image leaves where its confidence *reaches* the threshold: >=, not >"),
        (_leaving(leaves=torch.lt), "that is the other way round: an image leaves where it is sure enough"),
        (_leaving(score=lambda z: z.amax(1)), "compare probabilities with the threshold: softmax first"),
        (_leaving(threshold=lambda t, k: t[0]), "each exit has its own threshold"),
        (_leaving(threshold=lambda t, k: t[(k + 1) % len(t)]), "that is the threshold of the next exit"),
        (_leaving(last=False), "the last exit takes all images that are left"),
        (_leaving(numbers=False), "places in the smaller batch are not the images' numbers: keep the numbers along"),
        (_leaving(onward=False), "a stage reads the output of the stage before it, not the images again"),
        (_leaving(score=surest), "each image decides for itself: one maximum for each row, amax(1)"),
        (in_order_of_leaving, "those are in the order of leaving: put each at the place of its image"),
        (from_one, "exits are counted from 0 here"),
        (lambda *case: right(*case)[::-1], "labels first, then exits"),
    ]
    p = [  # of 3 exits and 7 images: the 3 classes
        [[8, 1, 1], [1, 2, 7], [3, 3, 4], [1, 8, 1], [5, 3, 2], [3, 4, 3], [9, 1, 0]],
        [[1, 8, 1], [1, 1, 8], [1, 9, 0], [8, 1, 1], [2, 6, 2], [0, 1, 9], [1, 8, 1]],
        [[1, 1, 8], [8, 1, 1], [8, 1, 1], [1, 1, 8], [1, 2, 7], [2, 4, 3], [1, 1, 8]],
    ]
    certain = [[[1, 0, 0], [6, 4, 0]], [[0, 1, 0], [0, 1, 0]], [[0, 0, 1], [1, 2, 7]]]  # a confidence of exactly 1
    cases = [
        _legible(p, [0.75, 0.65, 0.0]),
        _legible(certain, [1.0, 1.0, 0.0]),
        _legible(p, [0.0, 0.5, 0.0]),  # all leave at once
        _legible(p, [0.99, 0.5, 0.0]),  # none leave at the first exit, and all at the second
        _legible(p, [1.0, 1.0, 0.0]),  # all stay to the end
        _legible([[row[0]] for row in p], [0.9, 0.5, 0.0]),  # a single image
        _legible(p[:1], [0.0]),  # a single exit
    ]
    cases += [_small_network(K, N) for K, N in ((2, 9), (4, 30))]
    wrong = [(_stopping(mistake), why) for mistake, why in mistakes]
    return compare(_stopping(attempt), _stopping(right), cases, wrong)


def _leaving(
    leaves: Callable = torch.ge,
    score: Callable = lambda logits: logits.softmax(1).amax(1),
    threshold: Callable = lambda thresholds, k: thresholds[k],
    last: bool = True,
    numbers: bool = True,
    onward: bool = True,
    compact: bool = True,
    stop: bool = True,
) -> Callable:
    """Early exit; the options are what can be wrong with it."""

    def early_exit(net: MultiExit, thresholds: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        labels, exits = torch.zeros(2, len(images), dtype=torch.int64)
        here, state = torch.arange(len(images)), images
        gone = torch.zeros(len(images), dtype=torch.bool)
        for k, (stage, head) in enumerate(zip(net.stages, net.heads, strict=True)):
            state = stage(state)
            logits = head(state)
            leaving = leaves(score(logits), threshold(thresholds, k)) | (k == len(thresholds) - 1)
            leaving &= ~gone[here]  # unless the batch is compact, images that have left are still in it
            if k == len(thresholds) - 1 and not last:
                break
            where = here[leaving] if numbers else leaving.nonzero()[:, 0]
            labels[where], exits[where] = logits.argmax(1)[leaving], k
            gone[here[leaving]] = True
            if stop and gone.all():
                break
            if compact:
                here, state = here[~leaving], state[~leaving]
            state = state if onward else images[here]
        return labels, exits

    return early_exit


def _stopping(early_exit: Callable) -> Callable:
    """A function that returns labels, exits, and the number of images that each stage computes, by name."""

    @wraps(early_exit)
    def trace(net: MultiExit, thresholds: Tensor, images: Tensor):
        computed = {f"images that stage {k} computes": 0 for k in range(1, len(net.stages) + 1)}

        def count(name: str) -> Callable:
            def hook(stage, inputs, output) -> None:
                computed[name] += len(output)

            return hook

        for name, stage in zip(computed, net.stages, strict=True):
            stage.register_forward_hook(count(name))
        answer = early_exit(net, thresholds, images)
        if untried(answer):
            return None
        if not isinstance(answer, tuple | list | Tensor) or len(answer) != 2:
            raise Wrong("return two things: labels and exits")
        return {"labels": answer[0], "exits": answer[1], **computed}

    return trace


class _Next(nn.Module):
    """A stage that puts the next row of an image first."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(-1, 1)


class _First(nn.Module):
    """A head whose logits are the first row of the feature."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0]


def _legible(probabilities: list, thresholds: list[float]) -> tuple:
    """A network whose exits give these probabilities, K x N x classes, up to a factor: its images hold their logits."""
    logits = torch.tensor(probabilities, dtype=torch.float32).clamp(min=1e-30).log()
    images = logits.roll(1, 0).transpose(0, 1)[:, :, None]  # stage 1 puts row 1 first, the last stage row 0
    K = len(thresholds)
    return MultiExit([_Next() for _ in range(K)], [_First() for _ in range(K)]).eval(), torch.tensor(thresholds), images


def _small_network(K: int, N: int) -> tuple:
    """A random network, and thresholds of which each lets about a third leave."""
    stages = [nn.Sequential(nn.Conv2d(3 if k == 0 else 4, 4, 3, padding=1), nn.ReLU()) for k in range(K)]
    heads = [nn.Sequential(nn.Flatten(), nn.Linear(64, 5)) for _ in range(K)]
    net, images = MultiExit(stages, heads).eval(), torch.randn(N, 3, 4, 4)
    with torch.no_grad():
        scores = torch.stack([logits.softmax(1).amax(1) for logits in net(images)])
    thresholds = scores.quantile(0.65, dim=1)
    thresholds[-1] = 0
    return net, thresholds, images


@exercise("the average cost")
def average_macs(attempt: Callable) -> Verdict:
    """Check ``attempt(exit (N,), macs (K,)) -> number``: the average cost per image, given where each left."""
    mistakes = [
        (lambda exit, macs: macs[exit].sum(), "that is the cost of all images together"),
        (lambda exit, macs: macs.mean(), "the exits do not have the same number of images leaving"),
        (lambda exit, macs: macs.cumsum(0)[exit].mean(), "macs already counts everything up to the exit"),
    ]
    macs = [1.0, 2.0, 6.0]
    cases = tensors(([0, 2, 0], macs), ([1], macs), ([0, 0], macs[:1]), dtype=torch.float64)
    for K in (2, 4, 6):
        macs = torch.rand(K, dtype=torch.float64).cumsum(0) * 1e6
        cases.append((torch.randint(K, (100,)), macs))
    return compare(attempt, lambda exit, macs: macs[exit].mean(), cases, mistakes)


@exercise("geometric shares")
def geometric_shares(attempt: Callable) -> Verdict:
    """Check ``attempt(q, exits) -> (K,)``: shares proportional to q to the power k that add up to 1."""

    def right(q, exits):
        return inference.geometric_shares(torch.tensor([q]), exits)[0]

    def powers(q, exits):
        return torch.tensor([q**k for k in range(exits)], dtype=torch.float64)

    def closed_form(q, exits):
        return powers(q, exits) * torch.tensor(1 - q) / torch.tensor(1 - q**exits)

    mistakes = [
        (powers, "their sum is not 1: divide by it"),
        (lambda q, n: powers(q, n).softmax(0), "divide by the sum; a softmax takes powers of e first"),
        (lambda q, n: right(1 / q, n), "the order is reversed: with a small q, most leave at the first exit"),
        (lambda q, n: right(q, n).cumsum(0), "that share has left by exit k: return the share leaving there"),
        (lambda q, n: powers(q, n) / powers(q, n).max(), "divide by the sum, not by the largest"),
        (closed_form, "at q = 1, (1 - q) / (1 - q ** K) is 0 / 0: divide by the sum"),
    ]
    cases = [(0.5, 3), (2.0, 4), (1.0, 5), (0.25, 1), (1.7, 6), (0.3, 7)]
    return compare(attempt, right, cases, mistakes)


@exercise("the best cut")
def best_cut(attempt: Callable) -> Verdict:
    """Check ``attempt(confidence, right_here, right_later, cost_here, cost_later, price) -> n``: how many should leave.

    The first three are (n,), of floats, bool and bool; the costs and the price are numbers. The most confident leave,
    and their number maximises the right answers minus price times cost.
    """

    def values(confidence, here, later, cost_here, cost_later, price):
        """The value of 0 ... n leaving, up to a constant."""
        order = confidence.argsort(descending=True)
        gain = (here.double() - later.double())[order] + price * (cost_later - cost_here)
        return torch.cat([torch.zeros(1, dtype=torch.float64), gain.cumsum(0)])

    def right(*case):
        return values(*case).argmax()

    mistakes = [
        (lambda *case: right(*case[:5], 0), "the price is missing: leaving saves price * (cost_later - cost_here)"),
        (lambda *case: right(*case[:5], -case[5]), "the price has the wrong sign: a lower cost is worth more"),
        (lambda *case: right(-case[0], *case[1:]), "the most confident leave first: sort in descending order"),
        (lambda *case: right(-torch.arange(len(case[0])), *case[1:]), "sort right_here and right_later by confidence"),
        (lambda *case: right(*case[:2], 0 * case[2], *case[3:]), "later exits may be right: subtract right_later"),
        (lambda *case: right(*case[:4], 0, case[5]), "leaving costs cost_here and saves cost_later: count both"),
        (lambda *case: right(*case) - 1, "one too few: place 0 of the sums is the value before any image has left"),
        (
            lambda *case: case[0].sort(descending=True).values[(right(*case) - 1).clamp(min=0)],
            "return how many leave, not the confidence of the last of them",
        ),
        (lambda *case: values(*case).max(), "return how many leave, not the value of it"),
    ]
    no, yes = False, True
    edges = [
        ([0.2, 0.9, 0.6, 0.4], [no, no, yes, no], [yes, yes, no, yes]),  # two leave, the first of them at a loss
        ([0.5, 0.1, 0.9, 0.3], [yes, no, yes, no], [no, yes, yes, no]),  # three leave, two only to save their cost
        ([0.3, 0.8], [no, no], [yes, yes]),  # none leave
        ([0.3, 0.8, 0.5], [yes, yes, yes], [no, yes, no]),  # all leave
        ([0.5], [yes], [no]),
        ([0.5], [no], [yes]),
    ]
    cases = tensors(*[(*edge, 5.0, 6.0, 0.4) for edge in edges])
    cases += [_cut_case(n) for n in (200, 50, 500)]
    return compare(attempt, right, cases, mistakes)


def _cut_case(n: int) -> tuple:
    """An exit that is right as often as it is confident; later exits do better on the less confident images.

    At this price no two cuts have the same value, so only one answer is right.
    """
    confidence = torch.rand(n)
    right_here, right_later = torch.rand(n) < confidence, torch.rand(n) < 0.4 + confidence / 2
    return confidence, right_here, right_later, 2e6, 5e6, 4.7e-8


@exercise("softmax at a temperature")
def softmax(attempt: Callable) -> Verdict:
    """Check ``attempt(logits (N, classes), temperature) -> (N, classes)``: the softmax of logits / temperature."""

    def right(z, t):
        return (z / t).softmax(1)

    def overflows(z, t):
        return (z / t).exp() / (z / t).exp().sum(1, keepdim=True)

    mistakes = [
        (lambda z, t: (z * t).softmax(1), "divide by the temperature: a high one makes an exit less confident"),
        (lambda z, t: z.softmax(1), "the temperature is missing: divide the logits by it"),
        (lambda z, t: z.softmax(1) / t, "divide the logits, not the probabilities, whose sum is no longer 1"),
        (lambda z, t: (z / t).softmax(0), "the classes are in dimension 1: each row adds up to 1"),
        (lambda z, t: (z / t).exp(), "divide by each row's sum: probabilities add up to 1"),
        (lambda z, t: (z / t).exp() / (z / t).exp().sum(), "divide by the sum of each row, not of all rows"),
        (lambda z, t: (z / t).log_softmax(1), "that is the logarithm of the probabilities"),
        (
            lambda z, t: (z / t - (z / t).max()).exp() / (z / t - (z / t).max()).exp().sum(1, keepdim=True),
            "each row has its own maximum: subtract that, or a row far below another becomes 0 / 0",
        ),
        (overflows, "exp of a large number is infinite: subtract each row's maximum first, which changes nothing"),
    ]
    large = [[1000.0, 999.0, 0.0], [0.0, 1.0, 2.0], [-1000.0, 0.0, 1000.0]]
    cases = tensors(([[1.0, 2.0, 4.0], [0.0, 1.0, -1.0]], 2.0), (large, 1.0), (large, 0.5), ([[-3.0]], 0.7))
    cases += [(scale * torch.randn(N, C), t) for scale, N, C, t in ((2, 4, 3, 2.0), (3, 7, 10, 0.4), (200, 5, 6, 1.2))]
    return compare(attempt, right, cases, mistakes)


@exercise("the calibration error")
def calibration_error(attempt: Callable) -> Verdict:
    """Check ``attempt(confidence (N,), correct bool (N,), bins) -> number``: an exit's expected calibration error."""

    def extra_bin(confidence, correct, bins):
        bin = (confidence * bins).long()  # from 0 to bins, the last only for a confidence of 1
        return torch.bincount(bin, confidence.double() - correct.double()).abs().sum() / len(correct)

    right = _binned(lambda gap, share: (gap.abs() * share).sum())
    mistakes = [
        (_binned(lambda gap, share: (gap * share).sum().abs()), "opposite gaps must not cancel: add their sizes"),
        (_binned(lambda gap, share: (gap * share).sum()), "take the gap of each bin without its sign"),
        (_binned(lambda gap, share: gap[share > 0].abs().mean()), "weight each bin by its share of the images"),
        (_binned(lambda gap, share: gap.abs().mean()), "weight each bin by its share of the images"),
        (_binned(lambda gap, share: (gap.abs() * share).mean()), "add the weighted bins, do not average them"),
        (_binned(lambda gap, share: gap.abs().max()), "that is the worst bin: the expected error is a mean over all"),
        (
            _binned(lambda gap, share: (gap.abs() * share).where(share > 0, torch.nan).sum()),
            "an empty bin has no mean, 0 / 0 is nan: leave it out",
        ),
        (lambda s, r, bins: (s - r.float()).abs().mean(), "compare the means of a bin: one image is right or wrong"),
        (lambda *case: right(*case) * len(case[0]), "divide by the number of images"),
        (extra_bin, "a confidence of 1 belongs to the last bin: clamp the bins to at most bins - 1"),
    ]
    cases = tensors(
        ([0.1, 0.3, 0.9, 1.0], [True, False, True, False], 4),  # a confidence of exactly 1, and an empty bin
        ([0.1, 0.2, 0.45], [False, True, False], 4),
        ([0.6, 0.9], [True, False], 1),
        ([1.0], [True], 10),
        ([0.3], [True], 2),
    )
    for N, bins in ((300, 5), (400, 10), (40, 15)):
        confidence = 0.2 + 0.8 * torch.rand(N)
        confidence[: N // 10] = 1  # float32 rounds near certainty to 1
        cases.append((confidence, torch.rand(N) < 0.6, bins))
    return compare(attempt, right, cases, mistakes)


def _binned(value: Callable) -> Callable:
    """Apply value(gap, share): of each bin, confidence minus accuracy (0 if empty), and its share of images."""

    def function(confidence, correct, bins):
        label = torch.ones(len(correct), dtype=torch.int64)
        outputs = inference.Outputs(confidence[None], correct[None].long(), label, "validation")
        reliability = inference.reliability(outputs, bins)
        gap = (reliability.confidence - reliability.accuracy)[0].nan_to_num()
        return value(gap, reliability.count[0] / len(correct))

    return function


@exercise("the margin")
def margin(attempt: Callable) -> Verdict:
    """Check ``attempt(p (N, classes)) -> (N,)``: how far the largest probability is above the second largest."""
    right: Callable = inference.CRITERIA["margin"]

    mistakes = [
        (lambda p: p.amax(1), "that is the confidence: subtract the second largest"),
        (lambda p: -right(p), "the largest minus the second largest, not the other way round"),
        (lambda p: p.amax(1) - p.amin(1), "that is the largest minus the smallest"),
        (lambda p: p[:, 0] - p[:, 1], "those are classes 0 and 1: sort the probabilities first, or use topk"),
        (lambda p: p.sort(1).values[:, 1] - p.sort(1).values[:, 0], "sort is in ascending order: the last two count"),
        (lambda p: 2 * p.amax(1) - 1, "1 - the largest is the sum of all other classes, not the second largest"),
        (lambda p: p.topk(2, dim=1).values[:, 1], "that is the second largest: subtract it from the largest"),
        (lambda p: p.topk(2, dim=0).values.diff(dim=0)[0].neg(), "the classes are in dimension 1"),
        (
            lambda p: p.amax(1) - p.masked_fill(p == p.amax(1, keepdim=True), 0).amax(1),
            "if two classes share the largest probability, the second largest is the same: the margin is 0",
        ),
    ]
    cases = tensors(
        ([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.75]],),
        ([[0.25, 0.75]],),
        ([[0.1, 0.3, 0.4, 0.2, 0.0]],),
    )
    cases += [((2 * torch.randn(N, C)).softmax(1),) for N, C in ((5, 3), (20, 10), (50, 100))]
    return compare(attempt, right, cases, mistakes)


@exercise("who goes on")
def going_on(attempt: Callable) -> Verdict:
    """Check ``attempt(here (n,), score (n,), threshold) -> numbers``: the images of ``here`` that go on, in order."""

    def right(here, score, threshold):
        return here[score < threshold]

    mistakes = [
        (lambda h, s, t: h[s >= t], "those are the images that leave"),
        (lambda h, s, t: h[s <= t], "an image whose score just reaches the threshold leaves"),
        (lambda h, s, t: (s < t).nonzero()[:, 0], "those are places among the images still here: return their numbers"),
        (lambda h, s, t: s < t, "that is a mask: index `here` with it"),
    ]
    cases = tensors(
        ([5, 9, 2, 7], [0.75, 0.125, 0.5, 0.25], 0.5),  # sorted neither by number nor by score
        ([5, 2], [0.25, 0.0], 0.5),
        ([5, 2], [0.5, 1.0], 0.5),  # all leave
        ([3], [0.25], 0.25),
        ([3], [0.25], 0.5),
    )
    cases += [(torch.randperm(20)[:n], torch.randint(8, (n,)) / 8, 0.5) for n in (7, 12)]
    return compare(attempt, right, cases, mistakes)


@exercise("the break-even")
def break_even(attempt: Callable) -> Verdict:
    """Check ``attempt(choosing, rest) -> fraction``: how many images must leave at an exit for it to save time.

    Every image pays ``choosing`` there; those that stay pay ``rest`` as well; without the exit, all pay ``rest``.
    """
    mistakes = [
        (lambda c, r: r / c, "the other way round: the price, divided by what each image that leaves saves"),
        (lambda c, r: c / (c + r), "an image that leaves saves only the rest: the choosing was paid"),
        (lambda c, r: 1 - c / r, "that is the fraction that may stay"),
        (lambda c, r: r / (c + r), "leaving saves the rest: choosing = fraction * rest"),
    ]
    cases = [(0.1, 1.0), (0.3, 0.7), (2.0, 8.0), (3.0, 3.0), (0.0, 5.0)]
    return compare(attempt, lambda choosing, rest: choosing / rest, cases, mistakes)


@exercise("the time within which")
def within(attempt: Callable) -> Verdict:
    """Check ``attempt(seconds (N,), q) -> number``: the shortest of these times in which a fraction q is answered.

    At least that fraction of the images; q is above 0 and at most 1.
    """

    def right(seconds, q):
        return seconds.sort().values[math.ceil(q * len(seconds) - 1e-9) - 1]

    def above(seconds, q):
        return seconds.sort().values[min(int(q * len(seconds)), len(seconds) - 1)]

    mistakes = [
        (lambda s, q: s[math.ceil(q * len(s) - 1e-9) - 1], "sort the times first"),
        (lambda s, q: right(-s, q).neg(), "a fraction q is *slower* than that: sort from fast to slow"),
        (above, "one place too far: places count from 0, so the m-th time is at m - 1"),
        (lambda s, q: s.quantile(q), "that is between two times: return one of the measured times"),
        (lambda s, q: q * s.max(), "take a fraction of the images, not of the longest time"),
        (lambda s, q: s.mean(), "the mean says nothing about the slow images"),
    ]
    # If q * N is a whole number, q is a sum of halves and quarters, so that rounding cannot move it
    cases = tensors(
        ([3.0, 1.0, 2.0, 4.0], 0.5),  # 2 of 4, exactly
        ([8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0, 9.0], 0.25),  # 2.25: the third
        ([8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0], 0.25),
        ([1.0, 2.0, 1.0, 1.0], 0.75),
        ([2.0, 1.0, 5.0], 0.75),
        ([2.0, 1.0, 5.0], 1.0),
        ([2.0, 1.0, 5.0], 0.1),
        ([7.0], 0.5),
        dtype=torch.float64,
    )
    cases += [(torch.rand(N, dtype=torch.float64), q) for N, q in ((20, 0.75), (30, 0.95), (101, 0.5), (10, 1.0))]
    return compare(attempt, right, cases, mistakes)


@exercise("a batch that waits")
def together(attempt: Callable) -> Verdict:
    """Check ``attempt(exit (batches, n), seconds (K,)) -> number``: mean time of batches that wait for all images."""
    mistakes = [
        (lambda exit, seconds: seconds[exit].mean(), "a batch is as slow as its slowest image, not as its mean image"),
        (lambda exit, seconds: seconds[exit.max()], "each batch has its own slowest image"),
        (lambda exit, seconds: seconds[exit.amax(0)].mean(), "the images of a batch are in dimension 1"),
        (lambda exit, seconds: seconds[exit.amin(1)].mean(), "the slowest image left last: max, not min"),
        (lambda exit, seconds: seconds[exit.amax(1)].sum(), "return the mean over the batches, not their sum"),
        (lambda exit, seconds: seconds[exit].sum(1).mean(), "the images of a batch are processed at the same time"),
    ]
    seconds = [1.0, 2.0, 4.0]
    cases = tensors(([[1, 0], [0, 2], [0, 0], [0, 1]], seconds), ([[1]], seconds), dtype=torch.float64)
    for K, n in ((6, 4), (7, 8)):
        exit = (torch.rand(20, n) ** 3 * K).long()
        cases.append((exit, torch.rand(K, dtype=torch.float64).cumsum(0)))
    return compare(attempt, lambda exit, seconds: seconds[exit.amax(1)].mean(), cases, mistakes)
