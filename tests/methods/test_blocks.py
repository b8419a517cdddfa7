"""Block-dependent losses: by hand, against plain autograd with a detach in front of each block, and against joint."""

from __future__ import annotations

import pytest
import torch
from networks import NESTED, begun, gradients, parts, tiny
from torch import nn

import dfs_edu as dfs
from dfs_edu import methods
from dfs_edu.losses import separate_losses
from dfs_edu.methods.blocks import BlockDependent
from dfs_edu.methods.weighted import Weighted


@pytest.mark.parametrize(("name", "first"), [("bdl", 3.0), ("bdl-final", 3.0 + 5.0 * 7.0)])
def test_two_exits_by_hand(name, first):
    """Stages a and b, heads c = 3 and d = 5: L_1 = c a, L_2 = d b a. One block each: only L_1 trains a."""
    a, b, c, d = parameters = [nn.Parameter(torch.tensor(value)) for value in (2.0, 7.0, 3.0, 5.0)]
    method = methods.make(name, 2)
    method.begin([[a], [b]])
    method.backward([c * a, d * b * a], [a, b], [c, d])
    assert [p.grad.item() for p in parameters] == [first, 10.0, 2.0, 14.0]


def test_the_published_numbers_of_blocks():
    made = {K: BlockDependent(K).first for K in (1, 2, 3, 5, 7)}
    assert made[7] == [0, 0, 0, 1, 2, 3, 4]  # three blocks each
    assert made[5] == [0, 0, 1, 2, 3]  # two
    assert (made[1], made[2], made[3]) == ([0], [0, 1], [0, 1, 2])
    assert BlockDependent(5, final=True).first == [0, 0, 1, 2, 0]


def cut(state):
    return [t.detach() for t in state] if isinstance(state, list) else state.detach()


@pytest.mark.parametrize("name", ["bdl", "bdl-final"])
@pytest.mark.parametrize("backbone", NESTED)
def test_the_gradient_is_that_of_a_detach_in_front_of_each_first_block(backbone, name):
    net, images, labels = tiny(backbone=backbone)
    method = begun(name, net)
    method.backward(separate_losses(net(images), labels), *parts(net))
    found = gradients(net)

    # Every exit by itself, from the first block that it trains
    net.zero_grad()
    states = [images]
    for stage in net.stages:
        states.append(stage(states[-1]))
    for k, head in enumerate(net.heads):
        first = 0 if name == "bdl-final" and k == len(net.heads) - 1 else method.first[k]
        state = cut(states[first])
        for stage in net.stages[first : k + 1]:
            state = stage(state)
        separate_losses([head(state)], labels)[0].backward()
    assert any(f > 0 for f in method.first)
    for ours, p in zip(found, net.parameters(), strict=True):
        assert (ours is None) == (p.grad is None)
        if ours is not None:
            torch.testing.assert_close(ours, p.grad)


@pytest.mark.parametrize("junction", [dfs.Joint(), dfs.Surgery(0.5), dfs.Equilibrium()], ids=str)
def test_with_as_many_blocks_as_exits_it_is_the_sum(junction):
    net, images, labels = tiny(junction)
    method = begun(BlockDependent(6, reach=6), net)
    found = []
    for one in (method, methods.make("sum", 6)):
        net.zero_grad()
        one.backward(separate_losses(net(images), labels), *parts(net))
        found.append(gradients(net))
    for ours, joint in zip(*found, strict=True):
        torch.testing.assert_close(ours, joint)


def test_with_one_block_it_is_local_learning():
    """No stage hears an exit behind its own."""
    net, images, labels = tiny()
    method = begun(BlockDependent(6, reach=1), net)
    method.backward(separate_losses(net(images), labels), *parts(net))
    losses = separate_losses(net(images), labels)
    for stage, loss in zip(net.stages, losses, strict=True):
        own = torch.autograd.grad(loss, list(stage.parameters()), retain_graph=True)
        for p, g in zip(stage.parameters(), own, strict=True):
            torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("name", ["bdl", "bdl-final"])
def test_passes_stop_at_the_first_block(name):
    """Six exits, three blocks: 12 passes through a stage, as the cost says, where all rows would take 21."""
    net, images, labels = tiny()
    method, passes = begun(name, net), []
    for s, stage in enumerate(net.stages):
        stage.register_full_backward_pre_hook(lambda *_, s=s: passes.append(s))
    method.backward(separate_losses(net(images.requires_grad_()), labels), *parts(net))
    assert [passes.count(s) for s in range(6)] == [1, 2, 3, 3, 2, 1]


def test_batchnorm_moves_once_per_step():
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", method="bdl", train_images=128)
    run = dfs.train(recipe, out=None, device="cpu", progress=False)
    norms = [m for m in run.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {m.num_batches_tracked.item() for m in norms} == {128 // recipe.batch_size}


def test_the_trainer_names_the_stages_once(monkeypatch):
    class Told(Weighted):
        calls = ()

        def begin(self, stages):
            self.calls = (*self.calls, stages)

    method = Told(6)
    monkeypatch.setattr(methods, "make", lambda *_: method)
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", train_images=64, epochs=2)
    run = dfs.train(recipe, out=None, device="cpu", progress=False)
    (stages,) = method.calls
    for stage, found in zip(run.network.stages, stages, strict=True):
        assert all(p is q for p, q in zip(stage.parameters(), found, strict=True))


def test_without_the_stages_it_says_so():
    net, images, labels = tiny()
    with pytest.raises(RuntimeError, match=r"0 stages for 6 losses: call begin\(stages\) first"):
        methods.make("bdl", 6).backward(separate_losses(net(images), labels), *parts(net))
