"""Exercises on early exits: where to leave, and at what cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn

from dfs_edu import inference
from dfs_edu.course.checks.answers import FRACTION, Verdict, Wrong, compare, exercise, tensors, untried
from dfs_edu.multiexit import MultiExit


@exercise("the decision to leave")
def leave(attempt: Callable) -> Verdict:
    """Check ``attempt(confidence (K, N), thresholds (K,)) -> (N,)``: the index of the exit where each image leaves."""

    def right(confidence, thresholds):
        classes = torch.zeros(confidence.shape, dtype=torch.int64)  # they do not matter here
        outputs = inference.Outputs(confidence, classes, classes[0], "validation")
        return inference.apply(outputs, thresholds, range(1, len(thresholds) + 1)).exit

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
        (
            lambda c, t: (c >= t[:, None]).sum(0) - 1,
            "that counts the sure exits: return the first of them",
        ),
        (
            lambda c, t: len(t) - (c >= t[:, None]).sum(0),
            "a later exit may be less sure again: find the first sure one",
        ),
        (
            lambda c, t: (c - t[:, None]).argmax(0),
            "that is the exit furthest above its threshold: find the first",
        ),
        (lambda c, t: (c >= t[0]).byte().argmax(0), "each exit has its own threshold"),
        (
            lambda c, t: right(c, t).clamp(max=max(len(t) - 2, 0)),
            "the last exit takes all that are left",
        ),
        (lambda c, t: right(c[:, :1], t).expand(c.shape[1]), "each image decides for itself, not the first for all"),
        (lambda c, t: c >= t[:, None], "that is a mask (K, N): return the index of the first exit for each image"),
        (lambda c, t: right(c, t) + 1, "exits are counted from 0 here"),
    ]
    return compare(attempt, right, _leave_cases(), mistakes)


def _leave_cases() -> list[tuple]:
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
    return cases


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
            "images that have left are still computed: pass on only those that stay",
        ),
        (_leaving(compact=False, stop=False), "images that have left are still computed: pass on only those that stay"),
        (_leaving(leaves=torch.gt), "an image leaves where its confidence *reaches* the threshold: >=, not >"),
        (_leaving(leaves=torch.lt), "the other way round: an image leaves where the exit is sure enough"),
        (_leaving(score=lambda z: z.amax(1)), "compare probabilities with the threshold: softmax first"),
        (_leaving(threshold=lambda t, k: t[0]), "each exit has its own threshold"),
        (_leaving(threshold=lambda t, k: t[(k + 1) % len(t)]), "that is the threshold of the next exit"),
        (_leaving(last=False), "the last exit takes all images that are left"),
        (
            _leaving(numbers=False),
            "a place in the smaller batch is not the image's number: keep the numbers of the images that stay",
        ),
        (_leaving(onward=False), "a stage reads the output of the stage before it, not the images again"),
        (_leaving(score=surest), "each image decides for itself: one maximum for each row, amax(1)"),
        (in_order_of_leaving, "those are in the order of leaving: put each answer at the place of its image"),
        (from_one, "exits are counted from 0 here"),
        (lambda *case: right(*case)[::-1], "labels first, then exits"),
    ]
    wrong = [(_stopping(mistake), why) for mistake, why in mistakes]
    return compare(_stopping(attempt), _stopping(right), _early_exit_cases(), wrong)


def _early_exit_cases() -> list[tuple]:
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
    return cases


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
        (lambda exit, macs: macs[exit].sum() / len(macs), "divide by the number of images, not by that of exits"),
        (lambda exit, macs: macs[exit], "that is the cost of each image: take the mean"),
        (lambda exit, macs: macs[exit].median(), "take the mean, not the median"),
        (lambda exit, macs: macs[round(exit.double().mean().item())], "average the costs, not the exits"),
        (
            lambda exit, macs: macs[exit.unique()].mean(),
            "an exit where many images leave counts more: average one cost per image",
        ),
        (lambda exit, macs: macs[(exit + 1).clamp(max=len(macs) - 1)].mean(), "exits count from 0: macs[exit]"),
        (lambda exit, macs: macs[(exit - 1).clamp(min=0)].mean(), "exits count from 0: macs[exit]"),
        (lambda exit, macs: macs[exit].mean() / macs[-1], "return MACs, not a fraction of the last exit's"),
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

    def by_sum(weights: Callable) -> Callable:  # (q, k) -> what the share of exit k is proportional to
        def shares(q, exits):
            w = torch.tensor([weights(q, k) for k in range(1, exits + 1)], dtype=torch.float64)
            return w / w.sum()

        return shares

    mistakes = [
        (powers, "their sum is not 1: divide by it"),
        (
            lambda q, n: powers(q, n) / (powers(q, n).sum() * q),
            "the powers and their sum begin differently: start both at q ** 0",
        ),
        (
            lambda q, n: powers(q, n) * q / powers(q, n).sum(),
            "the powers and their sum begin differently: start both at q ** 0",
        ),
        (lambda q, n: powers(q, n) * q, "their sum is not 1: divide by it"),
        (by_sum(lambda q, k: q * k), "use a power: q ** k, not q * k"),
        (by_sum(lambda q, k: k**q), "use a power: q ** k, not k ** q"),
        (lambda q, n: torch.full((n,), 1 / n, dtype=torch.float64), "equal shares belong to q = 1 only"),
        (lambda q, n: powers(q, n) * (1 - q), "1 - q is for infinitely many exits: divide by the sum of K powers"),
        (lambda q, n: powers(q, n).softmax(0), "divide by the sum; a softmax takes powers of e first"),
        (lambda q, n: right(1 / q, n), "the order is reversed: with a small q, most leave at the first exit"),
        (lambda q, n: right(q, n).cumsum(0), "that share has left by exit k: return the share leaving there"),
        (lambda q, n: powers(q, n) / powers(q, n).max(), "divide by the sum, not by the largest"),
        (closed_form, "at q = 1, (1 - q) / (1 - q ** K) is 0 / 0: divide by the sum"),
    ]
    cases = [(0.5, 3), (2.0, 4), (1.0, 5), (0.25, 1), (1.7, 6), (0.3, 7)]
    return compare(attempt, right, cases, mistakes, bounds=FRACTION)


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
        (lambda *case: right(*case[:3], 0, *case[4:]), "leaving costs cost_here and saves cost_later: count both"),
        (lambda *case: right(*case).clamp(min=1), "none may leave, too: 0 is a choice"),
        (
            lambda *case: (values(*case).diff() > 0).sum(),
            "the most confident leave, whatever their gain: add up the gains, and find the best number",
        ),
        (
            lambda *case: (values(*case).diff() < 0).byte().argmax(),
            "do not stop at the first loss: a gain may follow it",
        ),
        (lambda *case: right(*case).clamp(max=len(case[0]) - 1), "all may leave, too: the numbers are 0 ... n"),
        (lambda *case: values(*case), "those are the values: return the number of images that is worth most"),
        (lambda *case: right(*case) - 1, "one too few: place 0 of the sums is the value before any image has left"),
        (
            lambda *case: case[0].sort(descending=True).values[(right(*case) - 1).clamp(min=0)],
            "return how many leave, not the confidence of the last of them",
        ),
        (lambda *case: values(*case).max(), "return how many leave, not the value of it"),
    ]
    return compare(attempt, right, _best_cut_cases(), mistakes)


def _best_cut_cases() -> list[tuple]:
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
    return cases


def _cut_case(n: int) -> tuple:
    """An exit that is right as often as it is confident; later exits do better on the less confident images.

    At this price no two cuts have the same value, so only one answer is right.
    """
    confidence = torch.rand(n)
    right_here, right_later = torch.rand(n) < confidence, torch.rand(n) < 0.4 + confidence / 2
    return confidence, right_here, right_later, 2e6, 5e6, 4.7e-8
