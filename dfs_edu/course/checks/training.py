"""Exercises on training a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import nn

from dfs_edu.course.checks.answers import Verdict, Wrong, compare, exercise, untried
from dfs_edu.multiexit import MultiExit


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
        (_training("backward", after="step"), "step() belongs inside the loop: one step for every batch"),
        (_training(total=torch.mean), "that is the mean of the exits' losses: take their sum"),
        (_training(total=lambda losses: losses[-1]), "only the last exit is trained: add the losses of all exits"),
        (_training(total=lambda losses: losses[0]), "only the first exit is trained: add the losses of all exits"),
        (
            _training(total=lambda losses: losses[:2].sum()),
            "a network may have more than two exits: loop over all of them",
        ),
        (_training(join=lambda every: [sum(every)]), "sum the losses of the exits, not their logits"),
        (_training(loss=lambda z, y: F.cross_entropy(z.softmax(1), y)), "cross_entropy takes logits: no softmax first"),
        (
            _training(loss=lambda z, y: F.cross_entropy(z, y, reduction="sum")),
            "average the loss over the images, as cross_entropy does by default",
        ),
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
    """A function that returns the weights and buffers after training, by name."""

    @wraps(train)
    def trace(net: MultiExit, batches: list, options: dict):
        called = Counter()
        net.stages[0].register_forward_hook(lambda *_: called.update(["net()"]))
        next(net.parameters()).register_hook(lambda _: called.update(["backward()"]))
        optimizer = torch.optim.SGD(net.parameters(), **options)
        optimizer.register_step_post_hook(lambda *_: called.update(["step()"]))
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        answer = train(net, batches, optimizer)
        if untried(answer) and not called:
            raise NotImplementedError
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
        (
            lambda e, p, m: p * 0.1 ** sum(e + 1 >= step for step in m),
            "the epoch before a milestone still has the higher rate",
        ),
        (lambda e, p, m: right(e, 0.1, m), "begin at the peak that is given, not always at 0.1"),
        (lambda e, p, m: right(e, 1, m), "multiply by the peak that is given"),
        (lambda e, p, m: p * 0.5 ** sum(e >= step for step in m), "divide by 10 at a milestone"),
        (lambda e, p, m: p * 10 ** sum(e >= step for step in m), "the rate falls: divide by 10"),
        (lambda e, p, m: right(e, p, [250, 280, 295]), "use the milestones that are given"),
        (lambda e, p, m: p * 0.1 ** (e // m[0]), "count the milestones that were reached"),
        (lambda e, p, m: p * 0.1 ** (e >= m[-1]), "each milestone divides the rate, not only the last"),
        (lambda e, p, m: p * 0.1 ** (e in m), "the rate stays low after a milestone: >=, not =="),
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
        (
            lambda e, b, base, warm: base * (b / 256) ** min(e / warm, 1),
            "the rate rises in a straight line: every epoch adds the same amount",
        ),
        (
            lambda e, b, base, warm: right(e + 1, b, base, warm),
            "epoch 0 begins at base: the warm-up ends at epoch `warm`",
        ),
        (lambda e, b, base, warm: right(int(e), b, base, warm), "epochs may be fractions: do not round them"),
        (lambda e, b, base, warm: right(e, b, base, 5), "use the given number of epochs, `warm`"),
        (lambda e, b, base, warm: right(e, b, 0.1, warm), "use the given base"),
        (
            lambda e, b, base, warm: right(e, b, base, warm) if e < warm else base,
            "after the warm-up, the rate stays high",
        ),
        (
            lambda e, b, base, warm: base * (1 + b / 256 * min(e / warm, 1)),
            "it must end at base * b / 256: add (b / 256 - 1) times base, not b / 256",
        ),
        (
            lambda e, b, base, warm: base * (1 + (b / 256 - 1) * max(1 - e / warm, 0)),
            "the rate rises during the warm-up: yours falls",
        ),
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
        (lambda x, m, s: right(x / 256 * 255, m, s), "the largest value is 255, not 256"),
        (lambda x, m, s: right(x / x.max() * 255, m, s), "divide by 255, not by the largest value of these images"),
        (lambda x, m, s: right(x, m, s**2), "divide by std, not by its square"),
        (lambda x, m, s: right(x, m, s**0.5), "divide by std, not by its root"),
        (lambda x, m, s: x / 255 / s[:, None, None] - m[:, None, None], "subtract the mean first, then divide by std"),
        (lambda x, m, s: x / 255 - m[:, None, None] / s[:, None, None], "brackets are missing: (x / 255 - mean) / std"),
        (lambda x, m, s: (x / 255 - m.mean()) / s.mean(), "each channel has its own mean and std"),
        (lambda x, m, s: (x / 255 - m[0]) / s[0], "each channel has its own mean and std"),
        (lambda x, m, s: (x / 255 + m[:, None, None]) / s[:, None, None], "subtract the mean"),
        (lambda x, m, s: (x / 255 - m[:, None, None]) * s[:, None, None], "divide by std"),
        (lambda x, m, s: (x // 255 - m[:, None, None]) / s[:, None, None], "// drops the remainder: x / 255"),
        (lambda x, m, s: right(x, m, s).clamp(min=0), "values below the mean are negative: do not cut them"),
        (lambda x, m, s: x / 255, "subtract the mean, and divide by std"),
    ]
    extremes = torch.tensor([[0, 255, 51], [102, 0, 204]], dtype=torch.uint8).expand(2, 3, 2, 3)
    dark = torch.tensor([[0, 1], [2, 3], [4, 100]], dtype=torch.uint8)[None, :, None].expand(3, 3, 4, 2)
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.5, 0.25, 2.0])
    cases = [(extremes, mean, std), (dark, mean, std)]
    cases += [(torch.randint(256, (B, 3, 3, 3), dtype=torch.uint8), torch.rand(3), 0.1 + torch.rand(3)) for B in (1, 4)]
    return compare(attempt, right, cases, mistakes)
