"""What exits answer: ensembles against sums written out, boosting against its recurrence, wherever a network answers.

That is at all exits at once and one by one, with a subset of the images, to probes, in early exit, in a run that is
read back, and exported.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from exits import float64_net, varied
from networks import tiny
from torch.nn import functional as F

import dfs_edu as dfs
from dfs_edu import answers, inference, probes
from dfs_edu.answers import ENSEMBLES, RULES, answered
from dfs_edu.inference import EarlyExit, Outputs, Tally
from dfs_edu.training import study
from dfs_edu.training.records import check
from dfs_edu.training.runs import load_network

GE = dfs.Equilibrium()


def drawn(K=4, B=6, classes=5):
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(B, classes, generator=generator, dtype=torch.float64) for _ in range(K)]


def network(rule):
    net = float64_net(1)
    net.answer_by(rule)
    return net


def own_logits(net, images):
    net = copy.deepcopy(net)
    net.answer_by("own")
    return net(images)


# The rules


def test_ensembles_are_means_of_probabilities_and_of_their_logarithms():
    logits = drawn()
    p = torch.stack([z.softmax(1) for z in logits])
    for k in range(1, 5):
        torch.testing.assert_close(answered("mean", logits)[k - 1].exp(), p[:k].mean(0))
        geometric = p[:k].log().mean(0).exp()
        torch.testing.assert_close(answered("product", logits)[k - 1].exp(), geometric / geometric.sum(1, keepdim=True))


def test_a_product_of_experts_has_the_probabilities_of_the_mean_logits():
    """So the mean of logits needs no rule of its own."""
    logits = drawn()
    for k, answer in enumerate(answered("product", logits), start=1):
        torch.testing.assert_close(answer.softmax(1), (sum(logits[:k]) / k).softmax(1))


def test_boosting_is_its_recurrence():
    f = drawn(K=3)
    expected = [f[0], f[1] + f[0] / 2, f[2] + f[1] / 2 + f[0] / 4]
    torch.testing.assert_close(answered("boosted", f), expected)


def test_the_two_ensembles_can_disagree():
    """Two exits, three classes, by hand: one exit is sure of the first class, the other excludes it."""
    p = torch.tensor([[0.9, 0.09, 0.01]]), torch.tensor([[0.0001, 0.9, 0.0999]])
    mean, product = (answered(name, [one.log() for one in p])[1] for name in ENSEMBLES)
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.45005, 0.495, 0.05495]]))
    weights = torch.tensor([[0.9 * 0.0001, 0.09 * 0.9, 0.01 * 0.0999]]).sqrt()
    torch.testing.assert_close(product.exp(), weights / weights.sum())


@pytest.mark.parametrize("rule", RULES)
def test_the_first_exit_answers_by_itself(rule):
    torch.testing.assert_close(answered(rule, drawn())[0].softmax(1), drawn()[0].softmax(1))


@pytest.mark.parametrize("rule", RULES)
def test_images_that_are_sure_beyond_rounding_stay_finite(rule):
    logits = [torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[-1e4, 0.0, 1e4]])]
    assert all(answer.isfinite().all() for answer in answered(rule, logits))
    half = [z.bfloat16() for z in drawn(K=2)]
    assert rule in ("own", "boosted") or answered(rule, half)[1].dtype == torch.float32


def test_an_unknown_rule_is_named():
    for ask in (lambda: answers.rule_of("sum"), lambda: float64_net(0).answer_by("sum")):
        with pytest.raises(ValueError, match="answers='sum': use one of own, mean, product, boosted"):
            ask()


# In a network


@pytest.mark.parametrize("rule", RULES)
def test_a_network_answers_by_its_rule_at_once_one_by_one_and_with_embeddings(rule):
    net, images = network(rule), varied(9)
    expected = answered(rule, own_logits(net, images))
    torch.testing.assert_close(net(images), expected)
    torch.testing.assert_close(list(net.exits(images)), expected)
    torch.testing.assert_close([logits for _, logits in net.embed(images)], expected)


@pytest.mark.parametrize("rule", RULES)
def test_images_that_go_on_take_their_earlier_answers_along(rule):
    net, images = network(rule), varied(9)
    expected = net(images)
    exits, left = net.exits(images), torch.arange(9)
    answer = next(exits)
    for k, staying in enumerate(([8, 0, 3, 5], None, [1, 3], [0], None), start=1):
        staying = None if staying is None else torch.tensor(staying)
        left = left if staying is None else left[staying]
        answer = exits.send(staying)
        torch.testing.assert_close(answer, expected[k][left])


@pytest.mark.parametrize("rule", RULES)
def test_early_exit_is_its_simulation(rule):
    net, images = network(rule), varied(33)
    outputs = Outputs.of(torch.stack(net(images)).detach(), torch.zeros(33).long(), "test")
    thresholds = [*outputs.confidence[:-1].quantile(0.6, dim=1).tolist(), 0]
    labels, exits = EarlyExit(net, thresholds)(images)
    expected = inference.apply(outputs, thresholds, range(1, 7)).exit
    assert torch.equal(exits, expected)
    assert torch.equal(labels, outputs.prediction.gather(0, expected[None])[0])
    assert len(exits.unique()) >= 3


def test_boosting_passes_no_gradient_to_earlier_exits():
    """Each exit's gradient is that of F_k with F_(k-1) as a number; so the conflict probe sees it, too."""
    net, images, labels = tiny()
    net.answer_by("boosted")
    plain = copy.deepcopy(net)
    plain.answer_by("own")
    rows, before = [], 0.0
    for k, f in enumerate(plain(images)):
        loss = F.cross_entropy(f + 0.5 * before, labels)
        before = (f + 0.5 * before).detach()
        parameters = [*plain.stages[0].parameters(), *plain.heads[k].parameters()]
        rows.append(torch.autograd.grad(loss, parameters, retain_graph=True))
    for k, answer in enumerate(net(images)):
        parameters = [*net.stages[0].parameters(), *net.heads[k].parameters()]
        found = torch.autograd.grad(F.cross_entropy(answer, labels), parameters, retain_graph=True)
        torch.testing.assert_close(found, rows[k])
        for j, head in enumerate(net.heads):
            own = torch.autograd.grad(answer.sum(), list(head.parameters()), retain_graph=True, allow_unused=True)
            assert (own[0] is not None) == (j == k)
    report = probes.conflict(net, images, labels)
    expected = torch.stack([torch.cat([g.flatten() for g in row[:2]]).norm() for row in rows])
    torch.testing.assert_close(torch.tensor(report.norm[0]), expected)


def test_ablation_and_cost_are_those_of_the_answers():
    net, images = network("boosted"), varied(12)
    net.join(dfs.Surgery(0.5))
    labels = torch.arange(12) % 5
    found = probes.ablation(net, [(images, labels)], fill="zero")
    expected = torch.stack([(answer.argmax(1) == labels).double().mean() for answer in net(images)])
    np.testing.assert_allclose(found.whole, expected)

    # Without f+ of exit 2: the same walk, by hand
    carried, state = None, images
    for k, (stage, junction, head) in enumerate(zip(net.stages, net.junctions, net.heads, strict=True)):
        feature = stage(state)
        if k == 1:
            feature = torch.where(junction.is_shared(feature), 0.0, feature)
        state, seen = junction(feature)
        carried = head(seen) if carried is None else head(seen) + 0.5 * carried
        if k >= 1:
            assert found.without["shared"][1, k] == (carried.argmax(1) == labels).double().mean()
    np.testing.assert_array_equal(probes.cost(net.float()).macs, probes.cost(float64_net(1).float()).macs)


def test_the_same_weights_that_answer_otherwise_are_another_source():
    sources = {inference.outputs.fingerprint(network(rule)) for rule in RULES}
    assert len(sources) == len(RULES)


# Training with boosting, and what is kept of it


def train(loss, out=None, junction=GE, **changes):
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", junction=junction, loss=loss, precision="fp32", **changes)
    return dfs.train(recipe, out=out, device="cpu", progress=False)


def test_a_run_is_read_back_with_its_answers(tmp_path):
    run = train("boosted", tmp_path, ema=0.9)
    network, _ = load_network(run.folder)
    assert network.answers == run.network.answers == "boosted"
    images = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(network(images), answered("boosted", own_logits(network, images)))
    torch.testing.assert_close(network(images), run.network(images))


def test_boosting_by_nothing_is_joint_training_bit_for_bit(monkeypatch):
    monkeypatch.setattr(answers, "SHARE", 0.0)
    boosted, plain = (train(loss, junction=dfs.Joint()) for loss in ("boosted", "cross-entropy"))
    for ours, theirs in zip(boosted.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert boosted.record["final"]["test_accuracy"] == plain.record["final"]["test_accuracy"]


def test_boosting_changes_training():
    boosted, plain = (train(loss) for loss in ("boosted", "cross-entropy"))
    pairs = zip(boosted.network.parameters(), plain.network.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_an_exported_network_answers_alike(tmp_path):
    pytest.importorskip("onnxruntime")
    from dfs_edu.inference.exporting import export
    from dfs_edu.inference.runtime import Runner

    net = network("boosted").float()
    images = varied(12).float()
    expected = torch.stack(net(images)).detach()
    scores = Outputs.of(expected, torch.zeros(12).long(), "test").confidence.sort(1).values
    thresholds = [*((scores[:-1, 7] + scores[:-1, 8]) / 2).tolist(), 0]
    how = {"classes": list("abcde"), "mean": (0.5,) * 3, "std": (0.2,) * 3, "thresholds": thresholds}
    folder = export(net, tmp_path / "net", **how)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["answers"] == "boosted"
    runner = Runner(folder)
    for ours, theirs in zip(runner.logits(images.numpy()), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    labels, exits = EarlyExit(net, thresholds)(images)
    ours = runner(images.numpy())
    np.testing.assert_array_equal(ours[0], labels)
    np.testing.assert_array_equal(ours[1], exits)
    assert len(set(exits.tolist())) > 2

    # The torch programs, too
    state, before = (images[:3],), ()
    for stage, head, answer in zip(manifest["stages"], manifest["heads"], expected, strict=True):
        state = (torch.export.load(folder / stage["program"]).module()(*state),)
        before = (torch.export.load(folder / head["program"]).module()(*state, *before),)
        torch.testing.assert_close(before[0], answer[:3], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="answers='mean'"):
        export(network("mean"), tmp_path / "other", **how)


# Ensembles of every network


@pytest.mark.parametrize("size", [1, 7, 30])
def test_counted_batch_by_batch_they_are_those_of_all_images(size):
    net, images = network("own"), varied(30)
    labels = own_logits(net, images)[2].argmax(1)
    tally = Tally()
    inference.collect(net, list(zip(images.split(size), labels.split(size), strict=True)), "test", each=tally)
    for name in ENSEMBLES:
        answer = answered(name, net(images))
        assert tally.correct[name].tolist() == [(a.argmax(1) == labels).sum() for a in answer]


def test_every_record_has_them_beside_its_own_answers():
    run = train("cross-entropy")
    final = run.record["final"]
    assert set(final["ensembles"]) == set(ENSEMBLES)
    check(run.record)
    dataset = dfs.data.load("digits")
    for split, outputs in (("validation", run.validation), ("test", run.test)):
        held = getattr(dataset, split)[: len(outputs.label)]
        batches = dfs.data.batches(held, dataset, 64)
        kept = inference.collect(run.network, batches, logits=True).kept_logits()
        for name in ENSEMBLES:
            expected = [(a.argmax(1) == outputs.label).double().mean().item() for a in answered(name, list(kept))]
            assert final["ensembles"][name][f"{split}_accuracy"] == pytest.approx(expected)
            assert final["ensembles"][name][f"{split}_accuracy"][0] == final[f"{split}_accuracy"][0]


def record(arm, seed, own, mean=None):
    recipe = study.grid(dfs.recipes.get("digits/vgg7-4", scale="smoke"), [arm], [seed])[0]
    both = {"validation_accuracy": own, "test_accuracy": own, "seconds": 1.0}
    ensembles = {} if mean is None else {"mean": {"validation_accuracy": mean, "test_accuracy": mean}}
    return {"recipe": recipe.to_dict(), "epochs": [], "final": both | {"ensembles": ensembles}}


def test_a_study_is_told_for_one_answer_of_all_arms():
    records = [record("joint", 0, [0.1, 0.2], [0.1, 0.3]), record("detached", 0, [0.2, 0.2], [0.2, 0.25])]
    told = study.answering(records, "mean")
    np.testing.assert_allclose(study.differences(told)["detached"], [[10, -5, 2.5]])
    np.testing.assert_allclose(study.differences(study.answering(records, "own"))["detached"], [[10, 0, 5]])
    assert study.table(told).startswith("test, mean of exits so far, %")
    assert study.table(records).startswith("test, %")
    with pytest.raises(ValueError, match="older than the measurement of ensembles"):
        study.answering([*records, record("joint", 1, [0.1, 0.2])], "mean")
    with pytest.raises(ValueError, match="answers='best': use one of own, mean, product"):
        study.answering(records, "best")


def test_old_records_are_read_and_damaged_ones_are_not():
    old = record("joint", 0, [0.1, 0.2])
    check(old)
    del old["final"]["ensembles"]
    check(old)
    with pytest.raises(ValueError, match="accuracies of 2 and 3 exits"):
        check(record("joint", 0, [0.1, 0.2], [0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="validation_accuracy='high'"):
        check(record("joint", 0, [0.1, 0.2], "high"))
