"""torchjd's other weightings, ConFIG, GradDrop: by hand for two exits, and against torchjd on whole Jacobians."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torchjd.aggregation
from networks import NESTED, parts, tiny

import dfs_edu as dfs
from dfs_edu import methods
from dfs_edu.losses import separate_losses
from dfs_edu.methods.aggregated import WEIGHTINGS, jacobian
from dfs_edu.methods.weightings import NAMES, REQUIRED

ALL = (*NAMES, "config", "graddrop")
LEFT_OUT = {  # class of torchjd -> why no method here uses it
    "ConstantWeighting": "the weights of the sum",
    "SumWeighting": "the sum",
    "CRMOGMWeighting": "needs another weighting",
    "ExcessMTLWeighting": "reads the gradients, not their Gramian",
    "KrumWeighting": "needs the number of exits that lie",
    "MoDoWeighting": "compares two batches",
    "SDMGradWeighting": "compares two batches",
}
OPPOSED = torch.tensor([[1.0, 0.0], [-1.0, 1.0]]).double()
STEEPER = torch.tensor([[1.0, 0.0], [-2.0, 1.0]]).double()
LARGER = 1 / math.sqrt(2 - math.sqrt(2))


def drawn(seed, exits=4, size=30):
    return torch.randn(exits, size, generator=torch.Generator().manual_seed(seed)).double()


def theirs(name):
    (found,) = (key for key in dir(torchjd.aggregation) if key.lower() == f"{name}weighting")
    return getattr(torchjd.aggregation, found)(**REQUIRED.get(name, {}))


def dense(rows, trunk):
    """The Jacobian (K, n), with zeros where an exit does not reach."""
    filled = [[torch.zeros_like(p) if g is None else g for g, p in zip(row, trunk, strict=True)] for row in rows]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in filled])


def flat(parameters):
    """Their gradients in one vector, zero where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def test_every_weighting_of_torchjd_has_a_name_or_is_left_out_for_a_reason():
    found = {key for key in torchjd.aggregation.__all__ if key.endswith("Weighting")} - {"Weighting"}
    used = {name.replace("-", "") + "weighting" for name in (*WEIGHTINGS, *NAMES)}
    assert {key for key in found if key.lower() not in used} == set(LEFT_OUT)
    assert used - {key.lower() for key in found} == {"nashmtlweighting"}  # private in torchjd


# Two exits, by hand: what each makes of g_1 = (1, 0) and g_2


@pytest.mark.parametrize(
    ("name", "J", "expected"),
    [
        ("mean", OPPOSED, [0, 0.5]),
        ("dualproj", OPPOSED, [0, 0.5]),  # the mean harms neither
        ("dualproj", STEEPER, [0, 0.5]),  # the mean (-1/2, 1/2) without its part along g_1
        # G w = 1/w: w_1 - w_2 = 1/w_1 and 2 w_2 - w_1 = 1/w_2, so that w_1 = sqrt 2 w_2
        ("fairgrad", OPPOSED, [(math.sqrt(2) - 1) * LARGER, LARGER]),
        ("gradvac", OPPOSED, [0.5, 1.5]),  # the average cosine begins at 0: PCGrad's step
        # g_2 / sqrt 2 comes first; the nearest to it that gains 0.02 along g_1; as long as g_2
        ("pcd", OPPOSED, [0.02 * math.sqrt(2 / 0.5004), math.sqrt(1 / 0.5004)]),
        # equal cosines with (1, 0) and (-1, 1): (1, 1 + sqrt 2); as long as the projection of the sum (0, 1)
        ("config", OPPOSED, [math.sqrt(2) / 4, (2 + math.sqrt(2)) / 4]),
    ],
)
def test_two_exits_by_hand(name, J, expected):
    found = methods.make(name, 2, length="own").weights(J @ J.T) @ J
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-3, rtol=0)


def test_random_weights_are_positive_add_up_to_one_and_change():
    draws = [methods.make("random", 4, length="own").weights(torch.eye(4).double()) for _ in range(2)]
    assert all((w > 0).all() and w.sum().item() == pytest.approx(1) for w in draws)
    assert not torch.equal(*draws)


def test_signs_by_hand():
    """Of (1, 0) and (-1, 1), the first number keeps one of both, each in half of the draws, the second all."""
    parameter = torch.nn.Parameter(torch.zeros(2).double())
    method, found = methods.make("graddrop", 2, length="own"), []
    for seed in range(40):
        torch.manual_seed(seed)
        parameter.grad = None
        method.backward([row @ parameter for row in OPPOSED], [parameter], [])
        found.append(tuple(parameter.grad.tolist()))
    assert set(found) == {(1.0, 1.0), (-1.0, 1.0)}
    assert 10 < found.count((1.0, 1.0)) < 30


# Against torchjd's own


@pytest.mark.parametrize("name", NAMES)
def test_several_steps_are_torchjds_own_with_the_last_exit_first(name):
    method, other = methods.make(name, 4, length="own"), theirs(name)
    for seed in range(3):
        J = drawn(seed)
        torch.manual_seed(seed)
        found = method.weights(J @ J.T) @ J
        torch.manual_seed(seed)
        torch.testing.assert_close(found, other(J.flip(0) @ J.flip(0).T) @ J.flip(0))


@pytest.mark.parametrize("backbone", NESTED)
def test_config_is_torchjds_on_the_whole_jacobian(backbone):
    net, images, labels = tiny(backbone=backbone)
    trunk, heads = parts(net)
    J = dense(jacobian(separate_losses(net(images), labels), trunk), trunk)
    methods.make("config", len(J), length="own").backward(separate_losses(net(images), labels), trunk, heads)
    torch.testing.assert_close(flat(trunk), torchjd.aggregation.ConFIG()(J))


def test_graddrop_has_no_weights_and_says_so():
    with pytest.raises(ValueError, match="graddrop chooses number by number"):
        methods.make("graddrop", 2).weights(torch.eye(2).double())


@pytest.mark.parametrize("length", ["own", "sum"])
@pytest.mark.parametrize("backbone", NESTED)
def test_graddrop_is_torchjds_on_the_whole_jacobian(backbone, length):
    net, images, labels = tiny(backbone=backbone)
    trunk, heads = parts(net)
    J = dense(jacobian(separate_losses(net(images), labels), trunk), trunk)
    torch.manual_seed(5)
    methods.make("graddrop", len(J), length=length).backward(separate_losses(net(images), labels), trunk, heads)
    after = torch.rand(1)  # whatever was drawn besides, the generator has moved by one number
    torch.manual_seed(5)
    seed = torch.randint(2**62, ()).item()
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(seed)
    expected = torchjd.aggregation.GradDrop()(J)
    if length == "sum":
        expected *= J.sum(0).norm() / expected.norm()
    torch.testing.assert_close(flat(trunk), expected)


# What holds for all of them


@pytest.mark.parametrize("name", NAMES)
def test_what_is_remembered_can_be_kept_and_loaded(name):
    """Through a checkpoint's format; loading moves no random number."""
    method, again = methods.make(name, 4), methods.make(name, 4)
    for seed in range(3):
        method.weights(drawn(seed) @ drawn(seed).T)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    torch.manual_seed(7)
    again.load_state_dict(torch.load(file, weights_only=True))
    found = [torch.rand(1)]
    torch.manual_seed(7)
    assert torch.equal(found[0], torch.rand(1))
    G, steps = drawn(9) @ drawn(9).T, []
    for one in (method, again, methods.make(name, 4)):
        torch.manual_seed(8)
        steps.append(one.weights(G))
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[0], steps[2]) == (name not in ("gradvac", "pcd"))


@pytest.mark.parametrize("name", [*NAMES, "config"])
def test_the_step_is_as_long_as_the_sums_and_points_where_the_method_says(name):
    J, steps = drawn(1), {}
    for length in ("sum", "own"):
        torch.manual_seed(0)
        steps[length] = methods.make(name, 4, length=length).weights(J @ J.T) @ J
    torch.testing.assert_close(steps["sum"].norm(), J.sum(0).norm())
    torch.testing.assert_close(*(step / step.norm() for step in steps.values()))


@pytest.mark.parametrize("name", ["mean", "config", "graddrop"])
def test_gradients_that_agree_are_added_up(name):
    J = drawn(3).abs()[:1].expand(3, -1) * torch.tensor([[1.0], [2.0], [3.0]]).double()
    parameter = torch.nn.Parameter(torch.zeros(30).double())
    methods.make(name, 3).backward([row @ parameter for row in J], [parameter], [])
    torch.testing.assert_close(parameter.grad, J.sum(0))


@pytest.mark.parametrize("name", ALL)
def test_an_exit_that_does_not_reach_the_trunk_has_no_say(name):
    net, images, labels = tiny(dfs.Detached())
    trunk, heads = parts(net)
    expected = torch.autograd.grad(sum(separate_losses(net(images), labels)), [*trunk, *heads])
    methods.make(name, 6).backward(separate_losses(net(images), labels), trunk, heads)
    for p, g in zip([*trunk, *heads], expected, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("name", ALL)
def test_a_loss_that_is_not_finite_is_reported(name):
    net, images, labels = tiny()
    images[0, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="a gradient is not finite"):
        methods.make(name, 6).backward(separate_losses(net(images), labels), *parts(net))


def test_the_mean_is_the_sum_at_the_sums_length():
    weights = methods.make("mean", 4).weights(drawn(1) @ drawn(1).T)
    torch.testing.assert_close(weights, torch.ones(4).double())


def test_opposite_gradients_leave_config_nothing():
    J = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    assert (methods.make("config", 2).weights(J @ J.T) @ J).abs().max() < 1e-12
