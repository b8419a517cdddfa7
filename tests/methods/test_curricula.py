"""Curricula: which losses are on when, what a head without a loss gets, and that all of them on is joint training."""

from __future__ import annotations

import pytest
import torch
from networks import gradients, parts, tiny

import dfs_edu as dfs
from dfs_edu import methods
from dfs_edu.backbones import build
from dfs_edu.losses import separate_losses
from dfs_edu.methods.curricula import Mixed
from dfs_edu.training import arms
from dfs_edu.training.optim import make_optimizer


def train(method, **changes):
    small = {"scale": "smoke", "train_images": 128, "held_out_images": 64, "epochs": 2}
    recipe = dfs.recipes.get("digits/vgg7-4", method=method, **(small | changes))
    return dfs.train(recipe, out=None, device="cpu", progress=False)


def on(name, exits, epochs):
    method, found = methods.make(name, exits), []
    for epoch in range(epochs):
        method.begin_epoch(epoch, epochs)
        found.append([k + 1 for k in method.on])
    return found


def test_which_exits_are_on_by_hand():
    assert on("mixed-2", 3, 4) == [[3], [3], [1, 2, 3], [1, 2, 3]]
    # exit l joins at t/8 >= (4 - l)/8
    assert on("gradual", 4, 8) == [[4], [3, 4], [2, 3, 4]] + 5 * [[1, 2, 3, 4]]
    # at t/10 >= (2 - l)/4: exit 1 at t = 2.5, in the fourth epoch
    assert on("gradual", 2, 10) == 3 * [[2]] + 7 * [[1, 2]]
    assert on("gradual", 1, 2) == [[1], [1]]


@pytest.mark.parametrize(("name", "exits"), [("mixed-1", [5]), ("gradual", [4, 5])])
def test_the_gradient_is_that_of_the_losses_that_are_on(name, exits):
    net, images, labels = tiny()
    method = methods.make(name, 6)
    method.begin_epoch(0 if name == "mixed-1" else 1, 12)
    method.backward(separate_losses(net(images), labels), *parts(net))
    found = gradients(net)
    net.zero_grad()
    losses = separate_losses(net(images), labels)
    sum(losses[k] for k in exits).backward()
    for ours, p in zip(found, net.parameters(), strict=True):
        assert (ours is None) == (p.grad is None)
        assert ours is None or torch.allclose(ours, p.grad, rtol=1e-12, atol=0)
    off = [p for k, head in enumerate(net.heads) if k not in exits for p in head.parameters()]
    assert off
    assert all(p.grad is None for p in off)


@pytest.mark.parametrize("name", ["mixed-1", "gradual"])
def test_at_the_end_the_gradient_is_joint_trainings(name):
    net, images, labels = tiny()
    method, found = methods.make(name, 6), []
    method.begin_epoch(3, 4)
    for one in (method, methods.make("sum", 6)):
        net.zero_grad()
        one.backward(separate_losses(net(images), labels), *parts(net))
        found.append(gradients(net))
    assert all(torch.equal(ours, joint) for ours, joint in zip(*found, strict=True))


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "clip": 1.0, "ema": 0.9}], ids=["plain", "everything"])
def test_mixed_0_is_joint_training_bit_for_bit(changes):
    mixed, joint = (train(method, **changes).network.state_dict() for method in ("mixed-0", "sum"))
    assert all(torch.equal(mixed[name], joint[name]) for name in joint)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_heads_without_a_loss_stay_as_they_began(monkeypatch, optimizer):
    """Neither weight decay nor momentum moves them; the trunk and the last head do move."""
    monkeypatch.setattr(methods, "make", lambda *_: Mixed(6, alone=2))
    run = train("sum", optimizer=optimizer, lr=0.01, weight_decay=0.1)
    torch.manual_seed(run.record["recipe"]["seed"])
    start = build("vgg7-4", 10)
    for before, after in zip(start.heads[:-1].parameters(), run.network.heads[:-1].parameters(), strict=True):
        assert torch.equal(before, after)
    for part in ("stages", "heads"):
        moved = zip(getattr(start, part)[-1].parameters(), getattr(run.network, part)[-1].parameters(), strict=True)
        assert not all(torch.equal(before, after) for before, after in moved)


def test_a_head_that_joins_late_begins_as_a_first_step_does():
    """With the fused optimizer of a run as with torch's plain one, on a head that is off for the first two steps."""
    recipe, found = dfs.recipes.get("digits/vgg7-4", lr=0.1), []
    for plain in (False, True):
        early, late = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        options = {"momentum": recipe.momentum, "nesterov": recipe.nesterov, "weight_decay": recipe.weight_decay}
        parameters = [early, late]
        optimizer = torch.optim.SGD(parameters, 0.1, **options) if plain else make_optimizer(parameters, recipe)
        for step in range(4):
            early.grad, late.grad = torch.arange(3.0), torch.arange(3.0) if step > 1 else None
            optimizer.step()
        found.append((early.detach(), late.detach()))
    torch.testing.assert_close(*found)


def test_training_goes_on_when_heads_join():
    losses = torch.tensor([row["loss"] for row in train("gradual", epochs=4).record["epochs"]])
    assert losses.isfinite().all()
    assert losses[-1, :-1].mean() < losses[0, :-1].mean()


# Names with a number


WRONG = ("mixed", "mixed-", "mixed-N", "mixed--1", "mixed-1.5", "mixed-02", "mixed-x", "bdl-2", "mixed-9999999999")


@pytest.mark.parametrize("name", WRONG)
def test_a_name_without_a_whole_number_is_refused(name):
    with pytest.raises(ValueError, match=f"method={name!r}: use one of sum, pcgrad.*mixed-N"):
        dfs.recipes.get("digits/vgg7-4", method=name)
    assert methods.find(name) is None
    with pytest.raises(ValueError, match=f"{name!r}: add one of sum, pcgrad.*mixed-N"):
        arms.arm(f"joint+{name}")


@pytest.mark.parametrize("alone", [4, 99])
def test_a_run_that_would_end_before_all_exits_are_on_is_refused(alone):
    with pytest.raises(ValueError, match=f"method='mixed-{alone}': .* fewer than the 4 epochs of the run"):
        dfs.recipes.get("digits/vgg7-4", method=f"mixed-{alone}", epochs=4)
    assert dfs.recipes.get("digits/vgg7-4", method="mixed-3", epochs=4).method == "mixed-3"


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_name_is_read_back_from_an_arm_and_from_a_record(name):
    recipe = dfs.recipes.get("digits/vgg7-4", method=name)
    assert type(recipe).from_dict(recipe.to_dict()) == recipe
    assert arms.arm("+".join(arms.words(recipe))).get("method", "sum") == name
    assert arms.label(recipe.to_dict()) == ("joint" if name == "sum" else f"joint + {name}")
