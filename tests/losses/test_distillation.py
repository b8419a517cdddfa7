"""Distillation between exits against the formula written out, on every backbone, and through a training run."""

import pytest
import torch
from tiny import FAMILIES
from torch.nn import functional as F

from dfs_edu.backbones import build
from dfs_edu.losses import Distillation, exit_losses, separate_losses
from dfs_edu.training import recipes
from dfs_edu.training.trainer import Trainer, train


def exits_of(sizes=(3, 5, 4), classes=6, B=7):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    exits = [(draw(B, D).requires_grad_(), (3 * draw(B, classes)).requires_grad_()) for D in sizes]
    return exits, torch.randint(classes, (B,), generator=generator)


def test_the_loss_is_the_published_formula():
    exits, labels = exits_of()
    loss = Distillation([3, 5, 4]).double()
    found = loss(exits, labels)
    (_, _), (_, _), (guide, teacher) = exits
    for k, (embedding, logits) in enumerate(exits[:2]):
        hard = -logits.log_softmax(1)[range(7), labels].mean()
        soft = -((teacher / 3).softmax(1) * (logits / 3).log_softmax(1)).sum(1).mean()
        W, b = loss.adapt[k].weight, loss.adapt[k].bias
        apart = (embedding @ W.T + b - guide).square().sum().sqrt()
        torch.testing.assert_close(found[k], 0.7 * hard + 0.3 * soft + 0.03 * apart)
    torch.testing.assert_close(found[2], F.cross_entropy(teacher, labels))


def test_the_teacher_does_not_learn_from_its_pupils():
    exits, labels = exits_of()
    losses = Distillation([3, 5, 4]).double()(exits, labels)
    deepest = [*exits[-1]]
    gradients = torch.autograd.grad(sum(losses[:2]), deepest, retain_graph=True, materialize_grads=True)
    assert not any(g.any() for g in gradients)
    g_embedding, g_logits = torch.autograd.grad(losses[2], deepest, materialize_grads=True)
    assert not g_embedding.any()
    assert g_logits.abs().sum() > 0


def test_without_soft_and_feature_it_is_cross_entropy():
    exits, labels = exits_of()
    found = Distillation([3, 5, 4], soft=0, feature=0).double()(exits, labels)
    torch.testing.assert_close(torch.stack(found), exit_losses([logits for _, logits in exits], labels))


def test_one_exit_has_no_teacher():
    exits, labels = exits_of(sizes=(4,))
    torch.testing.assert_close(Distillation([4]).double()(exits, labels), separate_losses([exits[0][1]], labels))


def test_published_adaptation_layers_of_resnet18():
    with torch.device("meta"):
        loss = Distillation.of(build("resnet18", 100))
    assert sum(p.numel() for p in loss.parameters()) == 787_968


@pytest.mark.parametrize(("name", "pixels"), FAMILIES.values())
def test_any_backbone(name, pixels):
    torch.manual_seed(0)
    net = build(name, 5)
    loss = Distillation.of(net)
    images, labels = torch.randn(4, 3, pixels, pixels), torch.tensor([0, 3, 2, 4])
    with torch.autocast("cpu", torch.bfloat16):
        exits = net.embed(images)
    losses = loss(exits, labels)
    assert len(losses) == len(net.heads)
    assert {(loss.shape, loss.dtype) for loss in losses} == {((), torch.float32)}
    sum(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())


@pytest.mark.parametrize(("name", "pixels"), FAMILIES.values())
def test_embeddings_come_with_the_same_logits(name, pixels):
    torch.manual_seed(0)
    net = build(name, 5).eval()
    images = torch.randn(2, 3, pixels, pixels)
    for (embedding, logits), expected, head in zip(net.embed(images), net(images), net.heads, strict=True):
        assert torch.equal(logits, expected)
        assert torch.equal(head.fc(embedding), expected)


@pytest.mark.parametrize("options", [{"soft": 1.5}, {"soft": -0.1}, {"feature": -1}, {"temperature": 0}], ids=str)
def test_wrong_weights_are_named(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Distillation([3, 4], **options)


def test_a_distilled_run_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    recipe = recipes.get("digits/vgg7-4", scale="smoke", loss="distillation", epochs=2)
    assert recipe.name == "digits-vgg7-4-smoke-joint-distillation-seed0"
    whole = train(recipe, tmp_path / "whole", device="cpu", progress=False)
    end_epoch, ended = Trainer.end_epoch, []

    def die_after_the_first(loop):
        end_epoch(loop)
        ended.append(loop.objective.distillation.adapt[0].weight.clone())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "end_epoch", die_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "killed", device="cpu", progress=False)
    resumed = train(recipe, tmp_path / "killed", resume=True, device="cpu", progress=False)
    for a, b in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(0)
    fresh = Distillation.of(build("vgg7-4", 10))
    assert not torch.equal(ended[0], fresh.adapt[0].weight)  # the adaptation layers are trained too
