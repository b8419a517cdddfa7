"""Meta-GF: a round by hand, two rounds against plain autograd, one exit against SGD, what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import TWO_EXITS, Loop, Nested, drawn_batches, trained_with
from torch import nn

import dfs_edu as dfs
from dfs_edu import methods
from dfs_edu.methods.meta_gf import MetaFusion
from dfs_edu.training import study

NAMES = ("meta-gf", "meta-gf-published")
ONE_EXIT = "msdnet-cifar-blocks1-base1-step1-growth4-width4"
SMALL = {"scale": "smoke", "train_images": 48, "held_out_images": 16, "batch_size": 16, "precision": "fp32"}


def train(backbone, **changes):
    recipe = dfs.recipes.get(f"digits/{backbone}", **(SMALL | changes))
    return dfs.train(recipe, out=None, device="cpu", progress=False)


# By hand


def test_a_round_of_two_exits_by_hand():
    """Stages a = 2 and b = 7, heads c = 3 and d = 5: L_1 = c a, L_2 = d b a. One batch a pass, learning rate 0.1."""
    a, b, c, d = parameters = [nn.Parameter(torch.tensor(value)) for value in (2.0, 7.0, 3.0, 5.0)]
    values = lambda: pytest.approx([p.item() for p in parameters], rel=1e-5)  # noqa: E731
    method = MetaFusion(2)
    loop = Loop(method, lambda x, y, each: ([c * a, d * b * a], None), [a, b], [c, d], lr=0.1)

    # c a + 0.1 d b a has the gradient (c + 0.1 d b, 0.1 d a, a, 0.1 b a) = (6.5, 1, 2, 1.4)
    loop.epoch(0, 3, [(None, None)])
    assert values() == [1.35, 6.9, 2.8, 4.86]

    # From the same start, d b a + 0.1 c a: (35.3, 10, 0.2, 14)
    loop.epoch(1, 3, [(None, None)])
    assert values() == [-1.53, 6.0, 2.98, 3.6]

    # Both exits reach a: the mean of 1.35 and -1.53. Exit 2 alone reaches b and d, exit 1 alone c
    loop.epoch(2, 3, [(None, None)])
    assert values() == [-0.09, 6.0, 2.8, 3.6]

    # The loss 0.01 L_1 + L_2 rises with a, by 21.6, so exit 1, whose a is larger, loses; Adam's first step is 0.1 long
    assert method.loss_weights().tolist() == [0.01, 1.0]
    assert method.fusion.m[0].tolist() == pytest.approx([0.9, 1, 1, 1], abs=1e-6)
    assert method.fusion.m[1].tolist() == pytest.approx([1.1, 1, 1, 1], abs=1e-6)
    assert loop.rates == [0.1, 0.1]  # the fusion made no step of the optimizer

    # The next fusion begins with 0.1 m + 0.9
    method.fusion.begin()
    assert method.fusion.m[:, 0].tolist() == pytest.approx([0.99, 1.01], abs=1e-6)


def test_the_published_numbers_at_seven_exits_and_those_of_others():
    method = MetaFusion(7)
    w, c = [1, 1, 0.6, 0.6, 0.75, 0.9, 1], [0.15, 0.3, 0.45, 0.6, 0.75, 0.9]
    for k in range(7):
        method.begin_epoch(k, 16)
        assert method.loss_weights() == pytest.approx([1 if j == k else 0.1 * w[j] for j in range(7)])
    method.begin_epoch(7, 16)
    assert method.loss_weights() == pytest.approx([0.01] * 6 + [1])
    method.begin_epoch(15, 16)  # the second of two rounds
    assert method.loss_weights() == pytest.approx([0.01 + c_k / 2 for c_k in c] + [1])
    method.begin_epoch(7999, 8000)
    assert method.loss_weights() == pytest.approx([*c, 1])  # at most c

    # By relative depth: of four exits, at 0, 2, 4 and 6 of the published ones' sixths
    other = MetaFusion(4)
    assert other.auxiliary == pytest.approx([0.1, 0.06, 0.075, 0.1])
    assert other.limits[:-1] == pytest.approx([0.15, 0.45, 0.75])
    assert MetaFusion(2).auxiliary == pytest.approx([0.1, 0.1])


# Against plain autograd


def by_hand(net, batches, rounds, sgd, published):
    """Two exits, written out: what exits reach from the network's names, every m a tensor of its own."""
    reached = [("first", "head1"), ("first", "second", "head2")]
    names = [name for name, _ in net.named_parameters()]
    parameters = dict(net.named_parameters())
    optimizer = torch.optim.SGD(net.parameters(), **sgd)
    one = torch.ones((), dtype=torch.float64)
    m = [{n: one.clone().requires_grad_() for n in names if n.startswith(of)} for of in reached]
    adam = torch.optim.Adam([value for of in m for value in of.values()], lr=0.1)
    for r in range(rounds):
        start, thetas = copy.deepcopy(net.state_dict()), []
        for k in range(2):
            net.load_state_dict(start)
            for x, y in batches:
                optimizer.zero_grad()
                losses, _ = net(x, y)
                (losses[k] + 0.1 * losses[1 - k]).backward()
                optimizer.step()
            thetas.append(copy.deepcopy(net.state_dict()))
        old = [{n: value.detach().clone() for n, value in of.items()} for of in m]
        for x, y in batches:
            fused = {}
            for n in names:
                s = {k: m[k][n].sigmoid() for k in range(2) if n in m[k]}
                fused[n] = sum(s[k] * thetas[k][n] for k in s) / sum(s.values())
            losses, _ = torch.func.functional_call(net, fused, (x, y))
            adam.zero_grad()
            (min(0.15, 0.01 + 0.15 * r / rounds) * losses[0] + losses[1]).backward()
            adam.step()
        with torch.no_grad():
            for n, p in parameters.items():
                p.copy_(fused[n])
            for k in range(2):
                for n in m[k]:
                    averaged = 0.1 * m[k][n] + 0.9 * old[k][n]
                    if published:  # other tensors than Adam holds
                        m[k][n] = averaged.clone().requires_grad_()
                    else:
                        m[k][n].copy_(averaged)
    return net.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_rounds_are_those_of_plain_autograd(name):
    """With momentum, which carries over from exit to exit, and weight decay; three rounds of three batches."""
    torch.manual_seed(0)
    net, sgd = Nested(), {"lr": 0.3, "momentum": 0.9, "weight_decay": 1e-2}
    twin, batches = copy.deepcopy(net), drawn_batches(3)
    loop = Loop(methods.make(name, 2), net, *net.parts, **sgd)
    for epoch in range(9):
        loop.epoch(epoch, 9, batches)
    expected = by_hand(twin, batches, 3, sgd, published=name == "meta-gf-published")
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-12)


def test_as_published_m_stops_after_the_first_fusion_and_as_intended_it_does_not():
    torch.manual_seed(0)
    batches, found = drawn_batches(3), {}
    for name in NAMES:
        net = Nested()
        method = methods.make(name, 2)
        loop = Loop(method, net, *net.parts, lr=0.3)
        for epoch in range(3):
            loop.epoch(epoch, 6, batches)
        first = method.fusion.m.detach().clone()
        assert (first != 1).any()
        for epoch in range(3, 6):
            loop.epoch(epoch, 6, batches)
        found[name] = torch.allclose(method.fusion.m, 0.1 * first + 0.9)
    assert found == {"meta-gf": False, "meta-gf-published": True}


def test_the_weights_go_back_to_the_start_and_every_pass_has_the_same_rates():
    torch.manual_seed(0)
    net, starts = Nested(), []
    method = methods.make("meta-gf", 2)
    loop = Loop(method, net, *net.parts, lr=0.1, milestones=(6, 12))  # of 18 steps, in two rounds of three passes
    plain = loop.gradients

    def gradients(x, y):
        starts.append(net.first.weight.detach().clone())
        plain(x, y)

    loop.gradients = gradients
    for epoch in range(6):
        loop.epoch(epoch, 6, drawn_batches(3))
    assert torch.equal(starts[0], starts[3])
    assert torch.equal(starts[9], starts[12])
    assert not torch.equal(starts[0], starts[9])
    # a round is 9 steps of the schedule, and each of its passes 3 batches of 3 steps
    assert loop.rates == pytest.approx(2 * [0.1, 0.1, 0.01] + 2 * [0.01, 0.001, 0.001])
    assert loop.schedule.last_epoch == 18


# In training


@pytest.mark.parametrize("name", NAMES)
def test_with_one_exit_it_is_sgd(name):
    """And fusing changes nothing but the running averages of BatchNorm."""
    fused = train(ONE_EXIT, method=name, epochs=2, schedule="multistep")
    plain = train(ONE_EXIT, epochs=1, schedule="multistep")
    assert len(plain.network.heads) == 1
    for ours, theirs in zip(fused.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    norms = [m for m in fused.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.num_batches_tracked.item() for m in norms} == {6}


def test_it_learns():
    run = train(TWO_EXITS, method="meta-gf", epochs=6, train_images=256, lr=0.1)
    losses = np.array([row["loss"] for row in run.record["epochs"]])  # epochs x exits
    assert np.isfinite(losses).all()
    assert losses[-1].mean() < losses[0].mean() - 0.1


@pytest.mark.parametrize("changes", [{"accumulate": 2, "clip": 1.0}, {"loss": "distillation"}, {"track": 2}], ids=str)
def test_with_other_options(changes):
    trained_with(changes, **SMALL, method="meta-gf", epochs=3)


@pytest.mark.parametrize("epochs", [1, 6, 8])
def test_epochs_that_are_no_multiple_of_a_round_are_refused(epochs):
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", method="meta-gf", epochs=epochs)
    message = f"epochs={epochs}: meta-gf takes 7 for a round, .* use a multiple of 7"
    with pytest.raises(ValueError, match=message):
        dfs.train(recipe, out=None, device="cpu", progress=False)
    with pytest.raises(ValueError, match=message):
        study.grid(dfs.recipes.get("digits/vgg7-4", epochs=epochs), ["joint", "joint+meta-gf"], [0])
    assert methods.make("meta-gf", 6, epochs=14).exits == 6


@pytest.mark.parametrize("changes", [{"uncut": 1}, {"frozen": 1}, {"ema": 0.9}], ids=str)
def test_what_would_change_within_a_round_is_refused(changes):
    ((field, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{field}={value}: meta-gf works with"):
        dfs.recipes.get("digits/vgg7-4", method="meta-gf", epochs=7, **changes)
