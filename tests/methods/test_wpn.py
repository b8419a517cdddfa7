"""WPN: weights and shares by hand, a step against plain autograd and finite differences, halves against SGD."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from networks import TWO_EXITS, Loop, Nested, drawn_batches, trained_with
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import dfs_edu as dfs
from dfs_edu import methods
from dfs_edu.losses import Objective
from dfs_edu.methods.wpn import WeightPrediction, share_out

SGD = {"lr": 0.3, "momentum": 0.9, "weight_decay": 1e-2}
SMALL = {"scale": "smoke", "train_images": 64, "held_out_images": 32, "batch_size": 32}


def train(backbone="vgg7-4", **changes):
    recipe = dfs.recipes.get(f"digits/{backbone}", **(SMALL | changes))
    return dfs.train(recipe, out=None, device="cpu", progress=False)


def double(exits=2, **options):
    """A method whose predictor computes in float64."""
    torch.manual_seed(1)
    method = WeightPrediction(exits, **options)
    method.predictor.double()
    return method


# By hand


def test_weights_by_hand():
    """A predictor of known outputs: v = (tanh 1, 0) for every image, with the mean tanh(1)/2."""
    method = double()
    with torch.no_grad():
        method.predictor[2].weight.zero_()
        method.predictor[2].bias.copy_(torch.tensor([1.0, 0.0]))
    away = 0.8 * math.tanh(1) / 2
    found = method.weights(torch.rand(2, 3))
    assert found.tolist() == [pytest.approx([1 + away] * 3), pytest.approx([1 - away] * 3)]


def test_the_surest_images_are_taken_first_and_the_last_exit_takes_the_rest():
    # of 7 images and three exits, shares 16/37, 12/37, 9/37: floor(3.03) = 3, floor(2.27) = 2, and 2 are left
    confidence = torch.tensor(
        [
            [0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.4],
            [0.9, 0.2, 0.9, 0.8, 0.9, 0.1, 0.3],
            [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
        ]
    )
    taken = share_out(confidence)
    assert [row.nonzero().flatten().tolist() for row in taken] == [[0, 2, 4], [3, 6], [1, 5]]
    assert share_out(torch.rand(1, 4)).tolist() == [[True] * 4]
    assert share_out(torch.rand(7, 2)).sum(1).tolist() == [0, 0, 0, 0, 0, 0, 2]  # too few to share out


# Against plain autograd


def forward(p, x):
    """The logits of ``Nested``, from its parameters."""
    linear = lambda name, t: F.linear(t, p[f"{name}.weight"], p[f"{name}.bias"])  # noqa: E731
    shallow = linear("first", x).tanh()
    return [linear("head1", shallow), linear("head2", linear("second", shallow).tanh())]


def weighted(p, predictor, x, y):
    losses = torch.stack([F.cross_entropy(logits, y, reduction="none") for logits in forward(p, x)], 1)  # (n, K)
    v = predictor(losses.detach())
    return ((1 + 0.8 * (v - v.mean(1, keepdim=True))) * losses).sum(1).mean()


def worth(p, x, y):
    """Two exits: the first takes floor(4 n/7), 0.75^k being in the ratio 4 : 3."""
    first, second = forward(p, x)
    order = first.softmax(1).amax(1).argsort(descending=True)
    n = 4 * len(y) // 7
    return F.cross_entropy(first[order[:n]], y[order[:n]]) + F.cross_entropy(second[order[n:]], y[order[n:]])


def stepped(p, gradients, momenta):
    moved, buffers = {}, {}
    for (name, value), g in zip(p.items(), gradients, strict=True):
        g = g + SGD["weight_decay"] * value.detach()
        buffers[name] = SGD["momentum"] * momenta[name] + g if name in momenta else g
        moved[name] = value.detach() - SGD["lr"] * buffers[name]
    return moved, buffers


def test_steps_are_those_of_plain_autograd():
    """Three batches, six updates, with momentum and weight decay: the network's weights, and the predictor's."""
    torch.manual_seed(0)
    net, method = Nested(), double()
    p = {name: value.detach().clone() for name, value in net.named_parameters()}
    predictor, momenta = copy.deepcopy(method.predictor), {}
    adam = torch.optim.Adam(predictor.parameters(), 1e-4, weight_decay=1e-4)
    batches = drawn_batches(3, images=14)

    Loop(method, net, *net.parts, **SGD).epoch(0, 1, batches)
    for x, y in batches:
        for a, b in ((slice(7), slice(7, None)), (slice(7, None), slice(7))):
            p = {name: value.detach().requires_grad_() for name, value in p.items()}
            gradients = torch.autograd.grad(weighted(p, predictor, x[a], y[a]), p.values(), create_graph=True)
            adam.zero_grad()
            worth(stepped(p, gradients, momenta)[0], x[b], y[b]).backward()
            adam.step()
            gradients = torch.autograd.grad(weighted(p, predictor, x[a], y[a]), p.values())
            p, momenta = stepped(p, gradients, {name: m.detach() for name, m in momenta.items()})

    for name, value in net.named_parameters():
        torch.testing.assert_close(value.detach(), p[name].detach(), rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(method.predictor.parameters(), predictor.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_predictors_gradient_is_that_of_finite_differences_through_a_real_step(nesterov):
    """torch's own SGD, with its momenta, makes the step on a copy of the network."""
    torch.manual_seed(0)
    net, method = dfs.build(TWO_EXITS, 3).double(), double()
    images, labels = torch.randn(14, 3, 20, 20).double(), torch.randint(3, (14,))
    half, other = (images[:7], labels[:7]), (images[7:], labels[7:])
    sgd = {**SGD, "lr": 0.05, "nesterov": nesterov}
    loop = Loop(method, Objective(net), list(net.stages.parameters()), list(net.heads.parameters()), **sgd)
    method.step(loop, images, labels)  # now there are momenta

    def value():
        twin = copy.deepcopy(net)
        optimizer = torch.optim.SGD([*twin.stages.parameters(), *twin.heads.parameters()], **sgd)
        optimizer.load_state_dict(copy.deepcopy(loop.optimizer.state_dict()))
        losses = torch.stack([F.cross_entropy(logits, half[1], reduction="none") for logits in twin(half[0])])
        (method.weights(losses).detach() * losses).sum(0).mean().backward()
        optimizer.step()
        with torch.no_grad():
            first, second = twin(other[0])
        order = first.softmax(1).amax(1).argsort(descending=True)
        early, late = order[:4], order[4:]
        return (F.cross_entropy(first[early], other[1][early]) + F.cross_entropy(second[late], other[1][late])).item()

    parameters = list(method.predictor.parameters())
    before, buffers = [p.detach().clone() for p in parameters], copy.deepcopy(dict(net.named_buffers()))
    method.look_ahead(loop, half, other)
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in net.named_buffers())
    direction, size, found = [torch.randn_like(p) for p in parameters], 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, start, d in zip(parameters, before, direction, strict=True):
                p.copy_(start + sign * size * d)
        found.append(value())
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True)).item()
    assert slope != 0
    assert slope == pytest.approx((found[0] - found[1]) / (2 * size), rel=1e-4)


def test_without_strength_it_is_two_steps_of_sgd_on_halves():
    torch.manual_seed(0)
    net, batches = Nested(), drawn_batches(3)
    twin = copy.deepcopy(net)
    Loop(double(strength=0.0), net, *net.parts, **SGD).epoch(0, 1, batches)
    Loop(methods.make("sum", 2), twin, *twin.parts, **SGD).epoch(
        0, 1, [half for x, y in batches for half in zip(x.chunk(2), y.chunk(2), strict=True)]
    )
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_with_one_exit_all_weights_are_1():
    assert torch.equal(WeightPrediction(1).weights(torch.rand(1, 5)), torch.ones(1, 5))


# In training


def test_both_updates_of_a_batch_have_one_rate_and_the_predictors_falls_by_epochs(monkeypatch):
    method, rates = WeightPrediction(6), []
    monkeypatch.setattr(methods, "make", lambda *_: method)
    begin = method.begin_epoch

    def begin_epoch(epoch, epochs):
        begin(epoch, epochs)
        rates.append(method.adam.param_groups[0]["lr"])

    method.begin_epoch = begin_epoch
    run = train(epochs=2, method="sum")
    assert rates == pytest.approx([1e-4, 0.5e-4])
    norms = [m for m in run.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.num_batches_tracked.item() for m in norms} == {2 * 2 * 2}  # epochs, batches, halves


def test_the_record_holds_plain_mean_losses():
    """Neither weighted nor counted twice: those of an untrained network, whose rate is too small to learn."""
    plain, weighted = (train(TWO_EXITS, method=name, lr=1e-6).record["epochs"][0] for name in ("sum", "wpn"))
    assert weighted["loss"] == pytest.approx(plain["loss"], rel=0.1)
    assert weighted["seconds"] > 0


@pytest.mark.parametrize(
    "changes",
    [{"frozen": 1}, {"ema": 0.9, "label_smoothing": 0.1}, {"precision": "bf16"}, {"track": 1}],
    ids=str,
)
def test_with_other_options(changes):
    trained_with(changes, **SMALL, method="wpn", epochs=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw"}, "optimizer='adamw': wpn works with 'sgd' only"),
        ({"loss": "distillation"}, "loss='distillation': wpn works with 'cross-entropy' only"),
        ({"clip": 1.0}, "clip=1.0: wpn works with None only"),
        ({"compile": True}, "compile=True: wpn works with False only"),
        ({"accumulate": 2}, "accumulate=2: wpn needs a whole batch for a step"),
        ({"junction": dfs.cuts.Projection()}, "Projection needs them together"),
    ],
)
def test_what_a_recipe_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        dfs.recipes.get("digits/vgg7-4", method="wpn", **changes)


def test_a_batch_without_equal_halves_is_refused_before_training():
    with pytest.raises(ValueError, match="wpn divides a batch into 2 equal parts: not 33 images of a process"):
        train(method="wpn", batch_size=33)


def test_several_gpus_are_refused():
    net = nn.Sequential(nn.SyncBatchNorm(3))
    with pytest.raises(ValueError, match="SyncBatchNorm has no second derivative"):
        WeightPrediction(2).step(Loop(double(), net, list(net.parameters()), [], lr=0.1), torch.rand(2, 3), None)


@pytest.mark.parametrize("backbone", ["vgg7-16", "msdnet-cifar-blocks3-base2-step1-growth4-width4"])
def test_the_cost_is_what_the_docstring_says(backbone):
    found = []
    for name in ("sum", "wpn"):
        net = dfs.build(backbone, 10)
        parts = list(net.stages.parameters()), list(net.heads.parameters())
        method = methods.make(name, len(net.heads))
        loop = Loop(method, Objective(net), *parts, lr=0.1)
        with FlopCounterMode(display=False) as count:
            method.step(loop, torch.randn(8, 3, 32, 32), torch.randint(10, (8,)))
        found.append(count.get_total_flops())
    assert 4.15 < found[1] / found[0] < 4.55
