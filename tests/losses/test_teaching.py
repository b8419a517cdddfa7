"""Exits that teach exits: each loss against its formula in plain numbers, what no teacher feels, state, and runs."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from networks import begun, parts, tiny, trained_as_an_arm
from torch.nn import functional as F

import dfs_edu as dfs
from dfs_edu import losses
from dfs_edu.losses import LOSSES, AnnealedDistillation, BlockDistillation, EnsembleDistillation, LogitDistillation
from dfs_edu.losses.objective import Objective
from dfs_edu.losses.teaching import NAMED

BY_LOGITS = sorted(name for name, loss in NAMED.items() if not loss.embeds)


def drawn(K=3, B=5, classes=4):
    generator = torch.Generator().manual_seed(0)
    logits = [2 * torch.randn(B, classes, generator=generator, dtype=torch.float64) for _ in range(K)]
    return [one.requires_grad_() for one in logits], torch.randint(classes, (B,), generator=generator)


def cross_entropy(p, logits):
    return -(p * logits.log_softmax(1)).sum(1).mean()


def test_every_name_is_a_loss():
    assert set(NAMED) == set(LOSSES) - {"cross-entropy", "boosted"}
    assert get_args(losses.Loss) == LOSSES
    assert [losses.answers_of(name) for name in LOSSES] == ["own"] * (len(LOSSES) - 1) + ["boosted"]


def test_two_images_by_hand():
    """One sure and one undecided exit, two classes: logits (0, 0) and (2 log 3, 0) give (1/2, 1/2) and (9/10, 1/10)."""
    log = torch.tensor([0.0, 2.0, 3.0, 10.0]).double().log()
    two, three, ten = log[1], log[2], log[3]
    exits, labels = [torch.zeros(1, 2).double(), torch.stack([2 * three, log[0] * 0])[None]], torch.tensor([0])
    exits[1][0, 1] = 0.0
    last = ten - 2 * three  # -log 9/10
    # At T = 2 the teacher says (3/4, 1/4), and the undecided exit (1/2, 1/2)
    kl = 0.75 * (3 * torch.tensor(0.5).double()).log() + 0.25 * torch.tensor(0.5).double().log()
    torch.testing.assert_close(BlockDistillation()(exits, labels), [two + 0.3 * kl, last])
    # The mean logits are (log 3, 0): each exit is log 3 away from them in one class of two
    torch.testing.assert_close(EnsembleDistillation()(exits, labels), [two + three**2 / 2, last + three**2 / 2])
    # At T = 1, the cross-entropy of (1/2, 1/2) with anything is log 2
    torch.testing.assert_close(AnnealedDistillation().double()(exits, labels), [2 * two, last])
    torch.testing.assert_close(LogitDistillation()(exits, labels), [two, last])


def test_the_losses_are_their_formulas():
    exits, labels = drawn()
    hard = [F.cross_entropy(z, labels) for z in exits]
    soft = {T: [cross_entropy((exits[-1] / T).softmax(1), z / T) for z in exits[:-1]] for T in (1, 2, 3)}
    entropy = cross_entropy((exits[-1] / 2).softmax(1), exits[-1] / 2)
    mean = sum(exits) / 3
    expected = {
        "distillation-logits": [0.7 * h + 0.3 * s for h, s in zip(hard, soft[3], strict=False)] + hard[2:],
        "annealed-distillation": [h + s for h, s in zip(hard, soft[1], strict=False)] + hard[2:],
        "block-distillation": [h + 0.3 * (s - entropy) for h, s in zip(hard, soft[2], strict=False)] + hard[2:],
        "ensemble-distillation": [h + (z - mean).square().mean() for h, z in zip(hard, exits, strict=True)],
    }
    assert set(expected) == set(BY_LOGITS)
    for name, formula in expected.items():
        torch.testing.assert_close(NAMED[name]().double()(exits, labels), formula)


@pytest.mark.parametrize("name", BY_LOGITS)
def test_no_exit_is_moved_by_the_loss_of_another(name):
    exits, labels = drawn()
    for k, loss in enumerate(NAMED[name]().double()(exits, labels)):
        found = torch.autograd.grad(loss, exits, retain_graph=True, materialize_grads=True)
        assert [bool(g.any()) for g in found] == [j == k for j in range(3)]


@pytest.mark.parametrize("name", BY_LOGITS)
def test_one_exit_learns_from_the_labels_alone(name):
    (exit,), labels = drawn(K=1)
    torch.testing.assert_close(NAMED[name]().double()([exit], labels), [F.cross_entropy(exit, labels)])


@pytest.mark.parametrize("name", LOSSES)
def test_labels_may_be_mixtures_of_classes(name):
    """Whole classes as probabilities give the same, and half of each of two the mean."""
    net, images, labels = tiny()
    objective, other = Objective(net, name), labels.flip(0)
    objective.eval()
    objective.double()
    whole, mixed = F.one_hot(labels, 5), (F.one_hot(labels, 5) + F.one_hot(other, 5)) / 2
    expected = [objective(images, targets)[0] for targets in (labels, other)]
    torch.testing.assert_close(objective(images, whole.float())[0], expected[0])
    mean = [(a + b) / 2 for a, b in zip(*expected, strict=True)]
    torch.testing.assert_close(objective(images, mixed.float())[0], mean)


def test_the_temperature_rises_only_while_the_teacher_is_sure():
    sure, unsure = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
    loss, label = AnnealedDistillation(), torch.tensor([0])
    seen = []
    for teacher in (sure, sure, unsure, sure):
        loss([unsure, teacher], label)
        seen.append(loss.temperature.item())
    assert seen == pytest.approx([1.05, 1.05**2, 1.05**2, 1.05**3])
    loss.eval()
    loss([unsure, sure], label)
    assert loss.temperature.item() == pytest.approx(1.05**3)

    # In the end the teacher's largest probability stays at the limit
    loss.train()
    for _ in range(200):
        loss([unsure, sure], label)
    softened = (sure / loss.temperature).softmax(1).amax().item()
    assert 0.48 < softened <= 0.5


def test_the_gradient_has_the_temperature_of_its_step():
    exits, labels = drawn()
    loss = AnnealedDistillation(limit=0.0, growth=2.0).double()
    first, second = (loss(exits, labels) for _ in range(2))
    for found, T in ((first, 1.0), (second, 2.0)):
        ours = torch.autograd.grad(found[0], exits[0])[0]
        formula = F.cross_entropy(exits[0], labels) + T**2 * cross_entropy(
            (exits[-1].detach() / T).softmax(1), exits[0] / T
        )
        torch.testing.assert_close(ours, torch.autograd.grad(formula, exits[0])[0])


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NAMED or NAMED[name].in_parts])
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(name):
    net, images, labels = tiny()
    net.eval()
    objective = Objective(net, name)
    whole, _ = objective(images, labels)
    parts = [objective(images[half], labels[half])[0] for half in (slice(3), slice(3, 6))]
    torch.testing.assert_close(whole, [(a + b) / 2 for a, b in zip(*parts, strict=True)])


def test_what_needs_whole_batches_says_so():
    assert [name for name in LOSSES if not losses.in_parts(name)] == ["distillation", "annealed-distillation"]
    with pytest.raises(ValueError, match="accumulate=2: annealed-distillation is measured over a whole batch"):
        dfs.recipes.get("digits/vgg7-4", loss="annealed-distillation", accumulate=2)


def test_block_distillation_trains_no_blocks_but_those_of_its_exit():
    """Through bdl: stage 1 hears exits 1 to 3 of 6 alone, distilled or not."""
    net, images, labels = tiny()
    begun("bdl", net).backward(Objective(net, "block-distillation")(images, labels)[0], *parts(net))
    first = list(net.stages[0].parameters())
    found = [p.grad.clone() for p in first]
    near = sum(Objective(net, "block-distillation")(images, labels)[0][:3])
    torch.testing.assert_close(found, list(torch.autograd.grad(near, first)))


@pytest.mark.parametrize("name", LOSSES[1:])
def test_every_loss_is_an_arm_and_trains(name):
    run = trained_as_an_arm("loss", name)
    assert all(torch.tensor(run.record["epochs"][-1]["loss"]).isfinite())
