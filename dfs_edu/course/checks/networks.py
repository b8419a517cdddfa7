"""Exercises on networks, their cost and their training."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import nn

from dfs_edu.course.checks.answers import Verdict, Wrong, compare, exercise, tensors, untried
from dfs_edu.multiexit import MultiExit


@exercise("the accuracy")
def accuracy(attempt: Callable) -> Verdict:
    """Check ``attempt(prediction (N,), label (N,)) -> fraction``: the images that are predicted right."""

    def right(prediction, label):
        return (prediction == label).double().mean()

    mistakes = [
        (lambda p, y: (p == y).sum(), "that is their number: divide by the number of images"),
        (lambda p, y: 1 - right(p, y), "those are the images that are wrong"),
        (lambda p, y: 100 * right(p, y), "return a fraction, from 0 to 1, not in percent"),
        (lambda p, y: p == y, "that is one answer per image: take the mean of these ones and zeros"),
    ]
    cases = tensors(
        ([0, 1, 2, 0, 2], [0, 2, 2, 1, 0]),
        ([1, 2, 0], [1, 2, 2]),
        ([0, 0], [0, 0]),
        ([1, 2], [2, 1]),
        ([3], [3]),
    )
    cases += [(torch.randint(0, 3, (N,)), torch.randint(0, 3, (N,))) for N in (10, 50, 200)]
    return compare(attempt, right, cases, mistakes)


@exercise("the loop")
def exits(attempt: Callable) -> Verdict:
    """Check ``attempt(stages, heads, x) -> list of K logits``: the loop of a multi-exit network."""

    def right(stages, heads, x):
        return MultiExit(stages, heads)(x)

    def forgets_to_go_on(stages, heads, x):
        return [head(stage(x)) for stage, head in zip(stages, heads, strict=True)]

    def last_only(stages, heads, x):
        for stage in stages:
            x = stage(x)
        return [heads[-1](x)]

    def case(K: int) -> tuple:
        return [nn.Linear(4, 4) for _ in range(K)], [nn.Linear(4, 3) for _ in range(K)], torch.randn(5, 4)

    mistakes = [
        (forgets_to_go_on, "every stage was given the image: a stage reads the output of the stage before it"),
        (last_only, "only the last exit answered: each stage is followed by its own head"),
    ]
    return compare(attempt, right, [case(K) for K in (2, 1, 3, 4)], mistakes)


@exercise("the cost of leaving")
def cumulative_macs(attempt: Callable) -> Verdict:
    """Check ``attempt(stage_macs (K,), head_macs (K,)) -> (K,)``: the cost of leaving at each exit, heads included."""

    def right(stages, heads):
        return (stages + heads).cumsum(0)

    mistakes = [
        (lambda s, h: s.cumsum(0), "the heads cost something too"),
        (lambda s, h: s.cumsum(0) + h, "an image that reaches exit 3 has been through heads 1 and 2 as well"),
        (lambda s, h: s + h, "to reach exit k, an image goes through every stage before it"),
    ]
    cases = tensors(([10, 20, 5], [1, 3, 2]), ([10], [1]))
    cases += [(torch.randint(1, 99, (K,)), torch.randint(1, 9, (K,))) for K in (2, 5, 7)]
    return compare(attempt, right, cases, mistakes)


@exercise("the MACs of a convolution")
def conv_macs(attempt: Callable) -> Verdict:
    """Check ``attempt(channels_in, channels_out, kernel, side, groups) -> MACs``: a convolution that keeps the size.

    ``side`` is that of its square feature map.
    """

    def right(cin, cout, k, side, groups):
        return cin // groups * cout * k**2 * side**2

    mistakes = [
        (lambda i, o, k, s, g: i * o * k**2 * s**2, "with groups, an output channel reads only in/groups channels"),
        (lambda i, o, k, s, g: i // g * o * k**2, "those are the parameters: each is used at every position"),
        (lambda i, o, k, s, g: i // g * o * k * s**2, "a kernel has two sides"),
        (lambda i, o, k, s, g: 2 * right(i, o, k, s, g), "those are FLOPs: a MAC is a multiplication and an addition"),
    ]
    cases = [(3, 64, 3, 32, 1), (16, 32, 5, 8, 4), (48, 48, 3, 7, 48), (8, 6, 1, 1, 1)]
    return compare(attempt, right, cases, mistakes)


@exercise("evenly placed exits")
def evenly(attempt: Callable) -> Verdict:
    """Check ``attempt(macs (P,), exits) -> places``: where to put evenly spaced exits.

    They are the places, counted from 0, whose cost is nearest to k/(exits + 1) of macs[-1], for k = 1 ... exits.
    """

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
        (lambda m, n: nearest(m, fractions(n, n)), "the network's end already has an exit: divide by exits + 1"),
        (not_before, "that is the first place after each fraction: the one before it may be nearer"),
        (lambda m, n: not_before(m, n) - 1, "that is the last place before each fraction: the next may be nearer"),
        (by_place, "that counts places: one place may cost far more than another"),
        (lambda m, n: m[right(m, n)], "return the places, not what they cost"),
    ]
    cases = tensors(
        ([1.0, 5.0, 6.0, 12.0, 16.0, 20.0], 3),  # 5 is met exactly; 12 and 16 are the first after 10 and 15
        ([1.0, 7.0, 14.0, 16.0], 1),  # 7 is the last before 8
        ([1.0, 2.0, 3.0, 4.0], 1),
        ([1.0, 6.0, 11.0, 15.0], 2),  # 6 and 11 are just after 5 and 10
        dtype=torch.float64,
    )
    cases += [
        ((10 * torch.rand(P, dtype=torch.float64) ** 3 + 0.1).cumsum(0), n) for P, n in ((8, 2), (20, 3), (40, 5))
    ]
    return compare(attempt, right, cases, mistakes)


@exercise("the front")
def front(attempt: Callable) -> Verdict:
    """Check ``attempt(macs (P,), accuracy (P,)) -> bool (P,)``: the points that no other point beats.

    One beats another if it is better in cost or accuracy and no worse in the other of the two.
    """

    def right(macs, accuracy):
        as_cheap, as_accurate = macs <= macs[:, None], accuracy >= accuracy[:, None]
        better = (macs < macs[:, None]) | (accuracy > accuracy[:, None])
        return ~(as_cheap & as_accurate & better).any(1)

    def record_so_far(macs, accuracy):
        return accuracy >= accuracy.cummax(0).values

    def twins_lose(macs, accuracy):
        as_good = (macs <= macs[:, None]) & (accuracy >= accuracy[:, None])
        return as_good.sum(1) == 1  # only itself

    def better_in_both(macs, accuracy):
        return ~((macs < macs[:, None]) & (accuracy > accuracy[:, None])).any(1)

    mistakes = [
        (lambda m, a: ~right(m, a), "those are the points that are beaten: return the others"),
        (twins_lose, "two equal points do not beat each other: one has to be better in cost or in accuracy"),
        (better_in_both, "being better in one of the two is enough if the other is equal"),
        (record_so_far, "the points come in any order: sort them by cost first, or compare every pair"),
        (lambda m, a: right(-m, a), "cheap is good: a point is beaten by one that costs less"),
        (lambda m, a: right(m, a).nonzero()[:, 0], "return a bool for each point, not their indices"),
    ]
    cases = tensors(
        ([3, 1, 4, 2, 4], [0.50, 0.25, 0.50, 0.75, 0.875]),
        ([2, 1, 1, 3], [0.50, 0.25, 0.25, 0.50]),  # equal twins; as accurate, but more expensive
        ([1, 1], [0.25, 0.50]),  # as cheap, but less accurate
        ([1], [0.0]),
        ([2, 2, 2], [0.50, 0.50, 0.50]),
    )
    cases += [(torch.randint(1, P, (P,)), torch.randint(0, P, (P,)) / P) for P in (5, 12, 30)]
    return compare(attempt, right, cases, mistakes)


@exercise("the training pass")
def train(attempt: Callable) -> Verdict:
    """Check ``attempt(net, batches, optimizer)``: one pass of training over batches of (images, labels).

    The loss is the sum of the exits' cross-entropies. The weights after the pass are compared.
    """
    right = _training()
    mistakes = [
        (_training("backward step"), "zero_grad() is missing in the loop: the gradients of earlier batches add up"),
        (_training("step zero backward"), "step() comes after backward(): the last batch has not been used"),
        (_training("step backward"), "step() comes after backward(), and zero_grad() after step()"),
        (_training("backward", after="step"), "step() belongs into the loop: one step for every batch"),
        (_training(total=torch.mean), "that is the mean of the exits' losses: take their sum"),
        (_training(total=lambda losses: losses[-1]), "only the last exit is trained: add the losses of all exits"),
        (_training(total=lambda losses: losses[0]), "only the first exit is trained: add the losses of all exits"),
        (_training(total=lambda losses: losses[:2].sum()), "a network may have more than two exits: use a loop"),
        (_training(join=lambda every: [sum(every)]), "sum the losses of the exits, not their logits"),
        (_training(loss=lambda z, y: F.cross_entropy(z.softmax(1), y)), "cross_entropy takes logits: no softmax first"),
        (_training(loss=lambda z, y: F.cross_entropy(z, y, reduction="sum")), "average over images, as by default"),
        (_training(mode=False), "the network was in eval mode: train it in training mode, net.train()"),
        (_training(batches=slice(1)), "only the first batch was used: is return inside the loop?"),
        (_training(batches=slice(-1, None)), "only the last batch was used: train within the loop"),
        (_training(passes=2), "one pass: use every batch once"),
        (_training(fresh=True), "use the optimizer that is given, instead of making one"),
    ]
    cases = [
        _training_case(exits=2, batches=(4, 4, 3), lr=0.3),
        _training_case(exits=2, batches=(5, 3), lr=0.1, momentum=0.9),
        _training_case(exits=2, batches=(6,), lr=0.2),
        _training_case(exits=3, batches=(6, 4, 4), lr=0.2),
    ]
    return compare(_trained(attempt), _trained(right), cases, [(_trained(wrong), why) for wrong, why in mistakes])


def _training(
    order: str = "zero backward step",
    after: str = "",
    total: Callable = torch.sum,
    loss: Callable = F.cross_entropy,
    join: Callable = list,
    mode: bool = True,
    batches: slice = slice(None),
    passes: int = 1,
    fresh: bool = False,
) -> Callable:
    """A pass of training; the options are what can be wrong with it."""

    def train(net: MultiExit, every: list, optimizer: torch.optim.Optimizer) -> None:
        net.train(mode)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1) if fresh else optimizer
        do = {"zero": optimizer.zero_grad, "step": optimizer.step}
        for images, labels in passes * every[batches]:
            losses = total(torch.stack([loss(logits, labels) for logits in join(net(images))]))
            for step in order.split():
                losses.backward() if step == "backward" else do[step]()
        for step in after.split():
            do[step]()

    return train


def _trained(train: Callable) -> Callable:
    """A function that returns the weights and buffers after training, by name; None if the network was not used."""

    @wraps(train)
    def trace(net: MultiExit, batches: list, options: dict):
        called = Counter()
        net.stages[0].register_forward_hook(lambda *_: called.update(["net()"]))
        next(net.heads.parameters()).register_hook(lambda _: called.update(["backward()"]))
        optimizer = torch.optim.SGD(net.parameters(), **options)
        optimizer.register_step_post_hook(lambda *_: called.update(["step()"]))
        before = copy.deepcopy(net.state_dict())
        answer = train(net, batches, optimizer)
        if untried(answer) and not called:
            return None
        if all(p.equal(before[name]) for name, p in net.named_parameters()):
            for needed in ("net()", "backward()", "step()"):
                if needed not in called:
                    raise Wrong(f"no weight has changed: {needed} is missing")
            raise Wrong("no weight has changed: zero_grad() between backward() and step() erases the gradients")
        weights = {f"{name} after the pass": value for name, value in net.state_dict().items()}
        return {"steps of the given optimizer": called["step()"], **weights}

    return trace


def _training_case(exits: int, batches: tuple[int, ...], **options) -> tuple:
    """A tiny network with batch normalization, which notices the mode, and batches of these sizes."""

    def stage(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(width, 6), nn.BatchNorm1d(6), nn.ReLU())

    net = MultiExit([stage(12), *[stage(6) for _ in range(exits - 1)]], [nn.Linear(6, 3) for _ in range(exits)])
    return net, [(torch.randn(n, 3, 2, 2), torch.randint(3, (n,))) for n in batches], options


@exercise("the learning rate")
def learning_rate(attempt: Callable) -> Verdict:
    """Check ``attempt(epoch, peak, milestones) -> rate``: the learning rate, divided by 10 at each milestone.

    Epochs count from 0.
    """

    def right(epoch, peak, milestones):
        return peak * 0.1 ** sum(epoch >= m for m in milestones)

    mistakes = [
        (lambda e, p, m: p * 0.1 ** sum(e > step for step in m), "the milestone epoch already has the lower rate"),
        (lambda e, p, m: p * 0.1 ** (e >= m[0]), "each milestone divides the rate again"),
        (
            lambda e, p, m: p / 10 * sum(e >= step for step in m),
            "repeated division is a power: 0.1 ** the number of milestones reached",
        ),
    ]
    cases = [(epoch, 0.1, [250, 280, 295]) for epoch in (0, 249, 250, 251, 279, 280, 285, 294, 295, 299)]
    cases += [(epoch, 0.4, [3, 7]) for epoch in (2, 3, 7, 20)] + [(epoch, 0.8, [1]) for epoch in (0, 1)]
    return compare(attempt, right, cases, mistakes)


@exercise("the warm-up")
def warm_up(attempt: Callable) -> Verdict:
    """Check ``attempt(epoch, batch_size, base, warm) -> rate``: a linear warm-up of the learning rate.

    It rises evenly within ``warm`` epochs, from ``base`` to ``base * batch_size / 256``.
    """

    def rate(factor, epoch, batch_size, base, warm):
        return base * (1 + (factor(batch_size) - 1) * min(epoch / warm, 1))

    def right(*case):
        return rate(lambda b: b / 256, *case)

    mistakes = [
        (lambda e, b, base, warm: base * b / 256, "that is the rate after the warm-up: it begins at base"),
        (lambda e, b, base, warm: base * b / 256 * min(e / warm, 1), "it begins at base, not at 0"),
        (lambda e, b, base, warm: base * (1 + (b / 256 - 1) * e / warm), "after the warm-up, the rate stays the same"),
        (lambda *case: rate(lambda b: (b / 256) ** 0.5, *case), "the rule is linear: twice the batch, twice the rate"),
        (lambda e, b, base, warm: base, "a batch of more than 256 images needs a higher rate"),
    ]
    cases = [(epoch, batch, 0.1, 5) for epoch, batch in ((0, 512), (2, 8192), (2.5, 1024), (5, 2048), (40, 4096))]
    cases += [(epoch, 1024, 0.2, 8) for epoch in (0, 1, 7.5, 8, 9)] + [(3, 256, 0.1, 5), (1, 512, 0.1, 1)]
    return compare(attempt, right, cases, mistakes)


@exercise("normalising")
def normalise(attempt: Callable) -> Verdict:
    """Check ``attempt(images uint8 (B, 3, H, W), mean (3,), std (3,)) -> floats``: the images normalised."""

    def right(images, mean, std):
        return (images / 255 - mean[:, None, None]) / std[:, None, None]

    mistakes = [
        (lambda x, m, s: (x - m[:, None, None]) / s[:, None, None], "divide by 255 first: mean and std are for [0, 1]"),
        (lambda x, m, s: x / 255 - m[:, None, None], "divide by std as well"),
        (lambda x, m, s: (x / 255 - m) / s, "that is a mean per column: mean[:, None, None] is one per channel"),
        (lambda x, m, s: x / 255, "subtract the mean, and divide by std"),
    ]
    extremes = torch.tensor([[0, 255, 51], [102, 0, 204]], dtype=torch.uint8).expand(2, 3, 2, 3)
    dark = torch.tensor([[0, 1], [2, 3], [4, 100]], dtype=torch.uint8)[None, :, None].expand(3, 3, 4, 2)
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.5, 0.25, 2.0])
    cases = [(extremes, mean, std), (dark, mean, std)]
    cases += [(torch.randint(256, (B, 3, 3, 3), dtype=torch.uint8), torch.rand(3), 0.1 + torch.rand(3)) for B in (1, 4)]
    return compare(attempt, right, cases, mistakes)
