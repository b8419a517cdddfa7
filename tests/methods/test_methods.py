"""Methods: cases of two exits worked out by hand, the rows of the Jacobian against autograd, and what each promises."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from networks import begun, parts, tiny
from torch import nn

import dfs_edu as dfs
from dfs_edu import methods
from dfs_edu.losses import separate_losses
from dfs_edu.methods import METHODS, Aggregated
from dfs_edu.methods.aggregated import WEIGHTINGS, gramian, jacobian
from dfs_edu.methods.weighted import Weighted

NAMES = sorted(WEIGHTINGS)
NOT_CONFLICTING = ("mgda", "upgrad", "imtl-g", "nash-mtl")  # what each gives opposes no exit


def drawn(seed, exits=4, size=30):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(exits, size, generator=generator, dtype=torch.float64)


def direction(name, J, length="own"):
    torch.manual_seed(0)
    return Aggregated(name, length).weights(J @ J.T) @ J


# Two exits, by hand: g_1 = (1, 0), g_2 = (-1, 1). They oppose each other: g_1 . g_2 = -1.

OPPOSED = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
BY_HAND = {
    # g_1 without its part along g_2: (1, 0) + 1/2 (-1, 1) = (1/2, 1/2); g_2 without its part along g_1: (0, 1)
    "pcgrad": [0.5, 1.5],
    "upgrad": [0.25, 0.75],  # of two, the same projections, and their mean
    # the shortest point between (1, 0) and (-1, 1): w = 3/5 on g_1
    "mgda": [0.2, 0.4],
    # equal projections on (1, 0) and (-1, 1)/sqrt 2, weights of sum 1: w_1 - w_2 = (2 w_2 - w_1)/sqrt 2
    "imtl-g": [
        (w := (2 + math.sqrt(2)) / (3 + 2 * math.sqrt(2))) - (1 - w),
        1 - w,
    ],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_two_exits_by_hand(name):
    torch.testing.assert_close(
        direction(name, OPPOSED), torch.tensor(BY_HAND[name], dtype=torch.float64), atol=1e-3, rtol=0
    )


def test_the_nash_bargain_of_orthogonal_gradients_weighs_by_length():
    """w solves G w = 1/w: for orthogonal gradients w_k = 1/|g_k|, so that each exit gains alike, relative to itself."""
    J = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    weights = Aggregated("nash-mtl", "own").weights(J @ J.T)
    torch.testing.assert_close(
        weights / weights[0], torch.tensor([1, 0.5, 0.25], dtype=torch.float64), atol=1e-3, rtol=0
    )


def test_aligned_components_of_orthogonal_gradients_are_equally_long():
    J = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    found = direction("aligned-mtl", J)
    torch.testing.assert_close(found, torch.full((3,), 1 / 3, dtype=torch.float64))  # scaled to the shortest, the mean


def test_cagrad_is_within_half_a_mean_of_the_mean():
    J = drawn(0)
    mean = J.mean(0)
    found = direction("cagrad", J)
    assert (found - mean).norm() <= 0.5 * mean.norm() * (1 + 1e-3)
    assert (J @ found).min() > (J @ mean).min()  # the exit that gains least gains more


# What all of them share


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_without_conflict_are_unchanged(name, seed):
    """A promise: to first order the step makes no exit worse. Drawn so that many pairs oppose each other."""
    J = drawn(seed) + torch.eye(4, 30, dtype=torch.float64)
    J[1] = -0.7 * J[0] + J[1]
    gains = J @ direction(name, J)
    if name in NOT_CONFLICTING:
        assert (gains >= -1e-4 * gains.abs().max()).all(), gains
    assert gains.sum() > 0


@pytest.mark.parametrize("name", [n for n in NAMES if n != "pcgrad"])
def test_the_order_of_the_exits_does_not_matter(name):
    J, order = drawn(5), [2, 0, 3, 1]
    torch.testing.assert_close(direction(name, J[order]), direction(name, J), atol=1e-3, rtol=1e-3)


def test_the_order_in_which_pcgrad_projects_is_drawn():
    J = drawn(5) - 0.5
    J[0] = -J[1:].sum(0)
    found = {tuple(Aggregated("pcgrad", "own").weights(J @ J.T).tolist()) for _ in range(20)}
    assert len(found) > 1


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_as_long_as_the_sums(name):
    J = drawn(1)
    found = direction(name, J, "sum")
    torch.testing.assert_close(found.norm(), J.sum(0).norm())
    own = direction(name, J)
    torch.testing.assert_close(found / found.norm(), own / own.norm())


def test_the_step_goes_downhill_where_imtl_g_points_up():
    """A short exit between its neighbours: nobody conflicts, and weights of sum 1 would make all worse."""
    cosine = torch.tensor([[1, 0.8, 0.3], [0.8, 1, 0.8], [0.3, 0.8, 1]], dtype=torch.float64)
    length = torch.tensor([1, 0.6, 1], dtype=torch.float64)
    G = cosine * length[:, None] * length
    assert (G @ Aggregated("imtl-g").weights(G) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_cancel_give_weights_that_are_finite(name):
    """In float32 the length of their sum would be lost in rounding."""
    J = drawn(3, exits=3)
    J[2] = -J[0] - J[1] + 1e-5 * J[2]
    rows = [[g] for g in J.float()]
    G = gramian(rows)
    torch.testing.assert_close(G.sum().sqrt(), J.float().double().sum(0).norm(), rtol=1e-3, atol=0)
    assert Aggregated(name).weights(G).isfinite().all()


def test_a_solver_that_finds_nothing_ends_the_run_as_a_loss_does(monkeypatch):
    def fails(gramian):
        raise ValueError("Failed to solve the quadratic programming problem.")

    monkeypatch.setitem(WEIGHTINGS, "upgrad", lambda K: fails)
    with pytest.raises(FloatingPointError, match=r"upgrad finds no weights for the Gramian .*Failed to solve"):
        Aggregated("upgrad").weights(torch.eye(2, dtype=torch.float64))


def test_old_states_of_nash_mtl_are_read():
    method = Aggregated("nash-mtl")
    method.load_state_dict({"weights": torch.tensor([1.0, 2.0, 3.0])})
    assert method.state_dict()[3]["weights"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_not_finite_is_reported(name):
    net, images, labels = tiny()
    images[0, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="a gradient is not finite"):
        Aggregated(name).backward(separate_losses(net(images), labels), *parts(net))


# On networks: the rows of the Jacobian, heads, what does not reach


@pytest.mark.parametrize("junction", [dfs.Joint(), dfs.Surgery(0.5), dfs.Surgery(0.5, exit_gradient="all")], ids=str)
@pytest.mark.parametrize("backbone", ["vgg7-4", "msdnet-cifar-blocks3-base1-step1-growth2"])
def test_the_rows_are_autograds_gradient_of_each_exit(backbone, junction):
    """A nested trunk: stage 1 serves all exits, the last stage one."""
    net, images, labels = tiny(junction, backbone)
    trunk, _ = parts(net)
    losses = separate_losses(net(images), labels)
    rows = jacobian(losses, trunk)
    whole = []
    for k in range(len(losses)):
        loss = separate_losses(net(images), labels)[k]  # a forward pass of its own
        alone = torch.autograd.grad(loss, trunk, allow_unused=True)
        for mine, theirs in zip(rows[k], alone, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs)
        whole.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(trunk, alone, strict=True)])
        )
    flat = torch.stack(whole)
    torch.testing.assert_close(gramian(rows), flat @ flat.T)


def test_a_pass_goes_as_deep_as_its_exit():
    """K(K+1)/2 passes through a stage, the least that tells the exits apart, not K^2."""
    net, images, labels = tiny()
    trunk, _ = parts(net)
    passes = []
    for s, stage in enumerate(net.stages):
        stage.register_full_backward_pre_hook(lambda *_, s=s: passes.append(s))
    rows = jacobian(separate_losses(net(images.requires_grad_()), labels), trunk)
    assert [passes.count(s) for s in range(6)] == [6, 5, 4, 3, 2, 1]
    for k, row in enumerate(rows):
        behind = {p for stage in net.stages[k + 1 :] for p in stage.parameters()}
        assert all((g is None) == (p in behind) for g, p in zip(row, trunk, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_an_exit_that_does_not_reach_the_trunk_has_no_say(name):
    """Detached: the last exit alone trains the trunk, whatever the method; MGDA would take the others' zero."""
    net, images, labels = tiny(dfs.Detached())
    trunk, heads = parts(net)
    expected = torch.autograd.grad(sum(separate_losses(net(images), labels)), [*trunk, *heads])
    Aggregated(name).backward(separate_losses(net(images), labels), trunk, heads)
    for p, g in zip([*trunk, *heads], expected, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_the_trunk_gets_the_weighted_sum_and_each_head_its_own_gradient():
    net, images, labels = tiny()
    trunk, heads = parts(net)
    losses = separate_losses(net(images), labels)
    rows = jacobian(losses, trunk)
    own = torch.autograd.grad(sum(separate_losses(net(images), labels)), heads)
    method = Aggregated("upgrad")
    weights = method.weights(gramian(rows)).tolist()
    method.backward(separate_losses(net(images), labels), trunk, heads)
    for i, p in enumerate(trunk):
        expected = sum(w * row[i] for w, row in zip(weights, rows, strict=True) if row[i] is not None)
        torch.testing.assert_close(p.grad, expected)
    for p, g in zip(heads, own, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("weights", [(), (1.0, 0.0, 2.0, 0.5, 1.0, 3.0)], ids=["plain", "weighted"])
def test_the_sum_is_one_backward_pass_of_it(weights):
    net, images, labels = tiny()
    methods.make("sum", 6, weights).backward(separate_losses(net(images), labels), *parts(net))
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    losses = separate_losses(net(images), labels)
    sum(w * loss for w, loss in zip(weights or [1.0] * 6, losses, strict=True)).backward()
    for mine, p in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)


def test_a_layer_that_no_exit_reaches_gets_nothing():
    net, images, labels = tiny(dfs.Surgery(beta=0.0))  # nothing deeper reaches stage 1 to 5
    trunk, heads = parts(net)
    unused = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    Aggregated("pcgrad").backward(separate_losses(net(images), labels), [*trunk, unused], heads)
    assert unused.grad is None
    assert all(p.grad is not None for p in trunk)


# Training with them


class TwoSteps(Weighted):
    """Acts at all three levels: a weight that changes from epoch to epoch, in a step that updates twice."""

    def __init__(self, exits):
        super().__init__(exits)
        self.epochs_begun, self.updates = [], 0

    def begin_epoch(self, epoch, epochs):
        self.epochs_begun.append((epoch, epochs))
        self.weights = torch.tensor([1.0 - epoch / epochs] * 5 + [1.0])

    def step(self, training, x, y):
        for half in (slice(None, None, 2), slice(1, None, 2)):
            training.gradients(x[half], y[half])
            training.update()
            self.updates += 1


def test_a_method_may_act_on_the_weights_over_time_and_on_the_step_as_a_whole(monkeypatch):
    method = TwoSteps(6)
    monkeypatch.setattr(methods, "make", lambda *_: method)
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", train_images=128, epochs=2, schedule="multistep")
    run = dfs.train(recipe, out=None, device="cpu", progress=False)
    assert method.epochs_begun == [(0, 2), (1, 2)]
    assert method.updates == 2 * 2 * (128 // recipe.batch_size)
    assert all(math.isfinite(loss) for loss in run.record["epochs"][-1]["loss"])


def test_optional_libraries_are_imported_only_when_they_are_needed():
    code = "import sys, dfs_edu.backbones, dfs_edu.methods; print({'torchjd', 'timm', 'cvxpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_trunk_and_the_heads_finite_gradients_and_goes_on_from_its_state(name):
    net, images, labels = tiny()
    method = begun(name, net)
    for _ in range(2):
        method.backward(separate_losses(net(images), labels), *parts(net))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    state, found = copy.deepcopy(method.state_dict()), []
    for one in (method, begun(name, net)):
        one.load_state_dict(copy.deepcopy(state))
        net.zero_grad()
        torch.manual_seed(3)
        one.backward(separate_losses(net(images), labels), *parts(net))
        found.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_every_gradient_lies_in_memory_as_its_parameter_does(name):
    """Else the fused optimizer would add the wrong numbers, without a word."""
    net, images, labels = tiny()
    net.to(memory_format=torch.channels_last)
    begun(name, net).backward(separate_losses(net(images), labels), *parts(net))
    assert all(p.grad.stride() == p.stride() for p in net.parameters())
    assert any(not p.is_contiguous() for p in net.parameters())


def fits(name, epochs):
    try:
        return bool(methods.make(name, 6, epochs=epochs))
    except ValueError:
        return False


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(name):
    epochs = next(n for n in range(1, 10) if fits(name, n))
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", method=name, epochs=epochs)
    run = dfs.train(recipe, out=None, device="cpu", progress=False)
    assert run.record["recipe"]["method"] == name
    assert name == "sum" or f"-{name}-" in run.record["recipe"]["name"]
    *_, row = run.record["epochs"]
    assert all(math.isfinite(loss) for loss in row["loss"])
    assert row["loss"][-1] < 2.5  # ln 10 = 2.3 at the start


def test_one_exit_alone_makes_all_methods_one():
    """With nothing to weigh up, every method takes the gradient that there is."""
    J = drawn(2, exits=1)
    for name in NAMES:
        torch.testing.assert_close(direction(name, J, "sum"), J[0])


@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_compiled_it_trains_alike():
    """And none of its modules runs uncompiled, though there are more of them than one function may have graphs."""
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", method="upgrad", precision="fp32", train_images=128)
    plain, compiled = (
        dfs.train(replace(recipe, compile=compile), out=None, device="cpu", progress=False) for compile in (False, True)
    )
    ours, theirs = compiled.record["epochs"][-1]["loss"], plain.record["epochs"][-1]["loss"]
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_in_bfloat16_the_weights_are_chosen_from_float32_gradients():
    net, images, labels = tiny()
    net, images = net.float(), images.float()
    with torch.autocast("cpu", torch.bfloat16):
        losses = separate_losses(net(images), labels)
    rows = jacobian(losses, parts(net)[0])
    assert {g.dtype for row in rows for g in row if g is not None} == {torch.float32}
    wide = jacobian(separate_losses(net(images), labels), parts(net)[0])
    torch.testing.assert_close(gramian(rows).diagonal(), gramian(wide).diagonal(), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "pcgard"}, "method='pcgard': use one of sum, pcgrad"),
        ({"method": "pcgrad", "accumulate": 2}, "pcgrad needs a whole batch for a step"),
        ({"method": "pcgrad", "weights": (1.0,) * 6}, r"weights=\(1.0"),
        ({"weights": (1.0, -1.0)}, r"weights=\(1.0, -1.0\)"),
        ({"step_length": "short"}, "step_length='short': use one of sum, own"),
        ({"step_length": "own"}, "step_length='own': method 'sum' has no other length"),
    ],
)
def test_what_a_recipe_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        dfs.recipes.get("digits/vgg7-4", **changes)


def test_weights_for_another_number_of_exits_are_refused():
    with pytest.raises(ValueError, match="give 6 numbers from 0"):
        methods.make("sum", 6, (1.0, 2.0))
    with pytest.raises(ValueError, match="chooses them itself"):
        methods.make("upgrad", 2, (1.0, 2.0))
    with pytest.raises(ValueError, match="method='average'"):
        methods.make("average", 2)
    assert METHODS[0] == "sum"
