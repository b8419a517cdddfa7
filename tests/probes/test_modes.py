"""Probes and training give the same answers whatever mode of gradients the caller is in."""

from contextlib import nullcontext
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

import dfs_edu as dfs
from dfs_edu import probes

MODES = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
}


def made():
    """A network and a batch, always the same, made in whatever mode is on."""
    torch.manual_seed(0)
    net = dfs.build("vgg7-4", 10, dfs.Surgery(0.5)).eval()
    return net, torch.randn(12, 3, 32, 32), torch.arange(12) % 4


def flat(found) -> list:
    """All numbers of an answer."""
    if is_dataclass(found):
        return [v for f in fields(found) for v in flat(getattr(found, f.name))]
    if isinstance(found, dict):
        return [v for one in found.values() for v in flat(one)]
    if isinstance(found, list | tuple):
        return [v for one in found for v in flat(one)]
    if isinstance(found, Tensor):
        assert not found.is_inference()
        return [found.detach().double().numpy()]
    return [np.array(0.0 if found is None else found)] if not isinstance(found, str) else []


PROBES = {
    "ablation": lambda net, x, y: probes.ablation(net, [(x, y)]),
    "channels": probes.channels,
    "cka": lambda net, x, y: probes.cka(x.flatten(1), x.flatten(1).sin()),
    "cka_matrix": lambda net, x, y: probes.cka_matrix([x.flatten(1), x.flatten(1).sin()]),
    "class_selectivity": lambda net, x, y: probes.class_selectivity(x.abs().mean((2, 3)), y),
    "conductance": lambda net, x, y: probes.conductance(net, x[:2], y[:2], steps=2),
    "conflict": probes.conflict,
    "ConflictTracker": lambda net, x, y: probes.ConflictTracker(x, y, 1)(0, net),
    "cost": lambda net, x, y: probes.cost(net),
    "features": lambda net, x, y: probes.features(net, [(x, y)]),
    "grad_cam": lambda net, x, y: probes.grad_cam(net, x[:2], y[:2]),
    "integrated_gradients": lambda net, x, y: probes.integrated_gradients(net, x[:2], y[:2], steps=2),
    "leakage": probes.leakage,
    "linear_probe": lambda net, x, y: probes.linear_probe(x[:, :, 0, 0], y, x[:, :, 0, 1], y),
    "linear_probes": lambda net, x, y: probes.linear_probes(*[probes.features(net, [(x, y)])] * 2),
    "peak_memory": lambda net, x, y: probes.peak_memory(net, (3, 32, 32), 4),
    "pulls": lambda net, x, y: probes.pulls(dfs.Surgery()),
    "steps": lambda net, x, y: probes.steps(net, x[:2], y[:2], lengths=[0.1]),
    "wiring": probes.wiring,
}
NO_NETWORK = {"seconds", "history", "share_by_stage"}  # a clock, and records read again


def test_every_public_probe_is_tried():
    functions = {name for name in probes.__all__ if name[0].islower()} | {"ConflictTracker"}
    assert functions == set(PROBES) | NO_NETWORK


@pytest.mark.parametrize("made_inside", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_answers_as_it_does_outside(name, mode, made_inside):
    expected = flat(PROBES[name](*made()))
    outside = made()
    with MODES[mode]():
        found = flat(PROBES[name](*(made() if made_inside else outside)))
        assert not torch.is_grad_enabled()  # the caller's mode is left as it was
    assert len(found) == len(expected) > 0
    for mine, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-6, atol=1e-9)
    assert any(np.any(right) for right in expected)


@pytest.mark.parametrize("mode", MODES)
def test_training_switches_gradients_on(mode):
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", train_images=64, held_out_images=32, precision="fp32")
    accuracy, weights = [], []
    for where in (nullcontext, MODES[mode]):
        with where():
            run = dfs.train(recipe, None, device="cpu", progress=False)
        accuracy.append(run.record["final"]["test_accuracy"])
        weights.append(run.network.state_dict())
    assert accuracy[0] == accuracy[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
