"""Every junction, on every form of feature, held to weights written down by hand; then whole networks.

A junction is known by two numbers for each channel of f: the share of the onward gradient that f receives, and the
share of the exit's. `weights` writes them from the paper's rules, with the counts of shared channels in a table.
"""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from dfs_edu.backbones import build
from dfs_edu.surgery import Detached, Equilibrium, Joint, Junction, Surgery

FEATURES = {  # shape, the axis of the channels
    "maps": ((2, 5, 3, 2), 1),
    "vectors": ((3, 7), 1),
    "tokens": ((2, 4, 10), 2),
}
# (channels, beta) -> round(channels * beta); Python rounds a half to the even number
SHARED = {
    **{(5, 0): 0, (5, 0.3): 2, (5, 0.5): 2, (5, 1): 5},
    **{(7, 0): 0, (7, 0.3): 2, (7, 0.5): 4, (7, 1): 7},
    **{(10, 0): 0, (10, 0.3): 3, (10, 0.5): 5, (10, 1): 10},
    **{(20, 0): 0, (20, 0.3): 6, (20, 0.5): 10, (20, 1): 20},
}
SURGERIES = [
    Surgery(beta, reference, exit_gradient)
    for beta, reference, exit_gradient in itertools.product((0, 0.3, 0.5, 1), (True, False), ("own", "all"))
]
JUNCTIONS = [Joint(), Detached(), Equilibrium(), Equilibrium(5), *SURGERIES]

every_junction = pytest.mark.parametrize("junction", JUNCTIONS, ids=str)
every_form = pytest.mark.parametrize("form", FEATURES)


def feature(form):
    """A feature in float64 and a function that shapes one number a channel to broadcast over it."""
    shape, axis = FEATURES[form]
    f = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    spread = [1] * len(shape)
    spread[axis] = shape[axis]
    return f, lambda per_channel: torch.tensor(per_channel, dtype=torch.float64).view(spread)


def channels_of(form):
    shape, axis = FEATURES[form]
    return shape[axis]


def weights(junction, channels):
    """By hand: what share of the gradient of (onward, seen) each channel of f receives."""
    ones, none = [1.0] * channels, [0.0] * channels
    match junction:
        case Joint():
            return ones, ones
        case Detached():
            return ones, none
        case Equilibrium(following=n):
            return [(n - 1) / n] * channels, [1 / n] * channels
        case Surgery():
            shared = SHARED[channels, junction.beta]
            plus = [1.0] * shared + [0.0] * (channels - shared)
            return plus, ones if junction.exit_gradient == "all" else [1 - w for w in plus]


def visible(junction, channels):
    """By hand: which channels of f have their values in (onward, seen); only partitioning hides any."""
    ones = [1.0] * channels
    if not isinstance(junction, Surgery) or junction.reference:
        return ones, ones
    return weights(junction, channels)


def noise_like(t, seed):
    return torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(seed))


# Values and gradients at the junction


@every_form
@every_junction
def test_values(junction, form):
    f, spread = feature(form)
    for view, mask in zip(junction(f), visible(junction, channels_of(form)), strict=True):
        assert torch.equal(view, f * spread(mask))
        assert view.dtype == f.dtype
        if getattr(junction, "reference", True):
            assert view.data_ptr() == f.data_ptr()  # a view: nothing is copied


def test_what_is_cut_is_exactly_zero_even_where_the_feature_is_not_finite():
    f = torch.full((1, 4, 1, 1), math.nan)
    onward, seen = Surgery(0.5, reference=False)(f)
    assert torch.equal(onward[:, 2:], torch.zeros(1, 2, 1, 1))
    assert torch.equal(seen[:, :2], torch.zeros(1, 2, 1, 1))


@every_form
@every_junction
def test_gradient_support_is_exact_and_equals_live(junction, form):
    f, spread = feature(form)
    C = channels_of(form)
    for side, weight in enumerate(weights(junction, C)):
        view = junction(f)[side]
        g = noise_like(f, seed=1)
        if view.requires_grad:
            (received,) = torch.autograd.grad(view, f, g)
        else:
            received = torch.zeros_like(f)
        expected = g * spread(weight)
        torch.testing.assert_close(received, expected, rtol=1e-15, atol=0)
        assert torch.equal(received == 0, expected == 0)
        live = junction.live(C)[side]
        assert live.tolist() == [bool(weight[channel]) for channel in range(C)]


@every_form
@every_junction
def test_gradients_of_both_views_come_together(junction, form):
    f, spread = feature(form)
    onward, seen = junction(f)
    a, b = noise_like(f, 1), noise_like(f, 2)
    (received,) = torch.autograd.grad((a * onward).sum() + (b * seen).sum(), f)
    w_onward, w_seen = map(spread, weights(junction, channels_of(form)))
    torch.testing.assert_close(received, a * w_onward + b * w_seen, rtol=1e-14, atol=0)


class Perturbed:
    """A smooth loss of the two views as a function of f, in which only what is live varies: the rest is held constant.

    So its true derivative is what the junction is to hand back.
    """

    def __init__(self, junction, form):
        self.f, self.spread = feature(form)
        self.junction = junction
        self.values = [self.f.detach() * self.spread(mask) for mask in visible(junction, channels_of(form))]
        self.weights = [self.spread(weight) for weight in weights(junction, channels_of(form))]
        self.a, self.b = noise_like(self.f, 3), noise_like(self.f, 4)

    def loss(self, onward, seen):
        return (onward.sin() * self.a).sum() + (seen * self.b).exp().sum() + (onward.mean() + 1).square()

    def by_hand(self, change):
        return self.loss(*(v + w * change for v, w in zip(self.values, self.weights, strict=True)))

    def by_junction(self):
        return self.loss(*self.junction(self.f))


@every_form
@every_junction
def test_finite_differences(junction, form):
    case = Perturbed(junction, form)
    assert torch.equal(case.by_junction(), case.by_hand(torch.zeros_like(case.f)))
    (received,) = torch.autograd.grad(case.by_junction(), case.f)
    h = 1e-6
    for index in itertools.product(*map(range, case.f.shape)):
        step = torch.zeros_like(case.f)
        step[index] = h
        slope = (case.by_hand(step) - case.by_hand(-step)) / (2 * h)
        torch.testing.assert_close(received[index], slope.detach(), rtol=1e-6, atol=1e-8)


@every_form
@every_junction
def test_double_backward(junction, form):
    case = Perturbed(junction, form)
    v = noise_like(case.f, 5)
    (first,) = torch.autograd.grad(case.by_junction(), case.f, create_graph=True)
    (found,) = torch.autograd.grad((first * v).sum(), case.f)
    change = torch.zeros_like(case.f, requires_grad=True)
    (first,) = torch.autograd.grad(case.by_hand(change), change, create_graph=True)
    (expected,) = torch.autograd.grad((first * v).sum(), change)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@every_form
@every_junction
def test_gradcheck_where_only_live_channels_vary(junction, form):
    """torch's own checks, on each view as a function of the channels whose gradient is true: those with weight one."""
    f, _ = feature(form)
    _, axis = FEATURES[form]
    for side, weight in enumerate(weights(junction, channels_of(form))):
        live = [channel for channel, w in enumerate(weight) if w == 1]
        if not live:
            continue
        varying = f.detach().index_select(axis, torch.tensor(live)).requires_grad_()

        def view(varying, side=side, live=live):
            return junction(f.detach().index_copy(axis, torch.tensor(live), varying))[side]

        assert gradcheck(view, varying)
        assert gradgradcheck(view, varying)


# Lists of scales


@pytest.mark.parametrize(
    "junction",
    [
        *(junction for junction in JUNCTIONS if not isinstance(junction, Surgery)),
        *(dataclasses.replace(junction, scales=scales) for junction in SURGERIES for scales in ("last", "all")),
    ],
    ids=str,
)
def test_scales(junction):
    scales = [
        torch.randn(2, C, size, size, dtype=torch.float64).requires_grad_() for C, size in ((10, 4), (7, 2), (5, 1))
    ]
    onward, seen = junction(scales)
    assert isinstance(onward, list)
    assert isinstance(seen, list)
    assert len(onward) == len(seen) == 3
    only_last = isinstance(junction, Equilibrium) or (isinstance(junction, Surgery) and junction.scales == "last")
    for i, f in enumerate(scales):
        rule = Joint() if only_last and i < 2 else junction
        C = f.shape[1]
        masks = [torch.tensor(mask, dtype=f.dtype).view(C, 1, 1) for mask in visible(rule, C)]
        assert torch.equal(onward[i], f * masks[0])
        assert torch.equal(seen[i], f * masks[1])
        a, b = noise_like(f, 1), noise_like(f, 2)
        (received,) = torch.autograd.grad((a * onward[i]).sum() + (b * seen[i]).sum(), f)
        w_onward, w_seen = (torch.tensor(weight, dtype=f.dtype).view(C, 1, 1) for weight in weights(rule, C))
        torch.testing.assert_close(received, a * w_onward + b * w_seen, rtol=1e-14, atol=0)


def test_the_list_of_scales_given_is_left_alone():
    scales = [torch.randn(1, 4, 2, 2), torch.randn(1, 4, 1, 1)]
    before = list(scales)
    for junction in (Joint(), Surgery(), Surgery(scales="all")):
        onward, _ = junction(scales)
        onward.append(None)
    assert all(now is then for now, then in zip(scales, before, strict=True))
    assert len(scales) == 2


# Where a junction stands


@pytest.mark.parametrize("exits", [1, 2, 7])
@every_junction
def test_the_last_exit_is_never_split(junction, exits):
    last = junction.at(exits, exits)
    f = torch.randn(2, 5, requires_grad=True)
    onward, seen = last(f)
    assert torch.equal(onward, f)
    assert torch.equal(seen, f)
    (received,) = torch.autograd.grad(seen.sum(), f)
    assert torch.equal(received, torch.ones(2, 5))
    assert [side.tolist() for side in last.live(5)] == [[True] * 5] * 2


@every_junction
def test_before_the_last_exit_a_junction_stays_what_it_is(junction):
    for k in (1, 2):
        assert type(junction.at(k, 3)) is type(junction)
        if not isinstance(junction, Equilibrium):
            assert junction.at(k, 3) == junction


def test_factors_of_equilibrium_by_hand():
    """Four exits: exit k's gradient times 1/(K-k+1), that of the deeper ones times (K-k)/(K-k+1)."""
    for k, (onward_share, seen_share) in enumerate([(3 / 4, 1 / 4), (2 / 3, 1 / 3), (1 / 2, 1 / 2), (1, 1)], start=1):
        f = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        onward, seen = Equilibrium().at(k, 4)(f)
        assert torch.autograd.grad(onward.sum(), f)[0].item() == pytest.approx(onward_share, abs=1e-15)
        onward, seen = Equilibrium().at(k, 4)(f)
        assert torch.autograd.grad(seen.sum(), f)[0].item() == pytest.approx(seen_share, abs=1e-15)


# Forms of tensors


@every_junction
def test_half_precision_and_memory_format_are_kept(junction):
    f = torch.randn(2, 10, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    onward, seen = junction(f)
    (received,) = torch.autograd.grad(onward.square().sum() + seen.sin().sum(), f)
    for t in (onward, seen, received):
        assert t.dtype == torch.bfloat16
        assert t.is_contiguous(memory_format=torch.channels_last)


@every_junction
def test_without_gradients(junction):
    f = torch.randn(2, 5)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            views = junction(f)
        for view, mask in zip(views, visible(junction, 5), strict=True):
            assert torch.equal(view, f * torch.tensor(mask))
            assert not view.requires_grad


# Names, records and errors


@every_junction
def test_a_junction_is_a_frozen_value(junction):
    twin = type(junction)(**dataclasses.asdict(junction))
    assert twin == junction
    assert hash(twin) == hash(junction)
    assert len({twin, junction}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        junction.beta = 0.1
    junction(torch.randn(2, 5))
    assert vars(junction) == dataclasses.asdict(twin)  # nothing was kept


def test_different_junctions_are_different_values():
    other = Surgery(0.25, False, "all", "all")
    assert len({*JUNCTIONS, other}) == len(JUNCTIONS) + 1
    assert Surgery() == Surgery(0.5, True, "own", "last")


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan, math.inf, "x", None, True])
def test_a_wrong_beta_is_named(beta):
    with pytest.raises(ValueError, match=f"beta={beta!r}.* from 0 to 1"):
        Surgery(beta)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reference": "all"}, "reference='all': use True or False"),
        ({"exit_gradient": "both"}, 'exit_gradient=\'both\': use "own" or "all"'),
        ({"exit_gradient": None}, "exit_gradient=None"),
        ({"scales": "first"}, 'scales=\'first\': use "last" or "all"'),
        ({"scales": 1}, "scales=1"),
    ],
)
def test_other_wrong_options_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Surgery(**wrong)


def test_a_rule_of_one_s_own():
    """A subclass gives `gradient` alone: here the larger of the two wins."""

    class Larger(Junction):
        def gradient(self, g_onward, g_seen):
            return torch.where(g_onward.abs() > g_seen.abs(), g_onward, g_seen)

    f = torch.randn(1, 3, requires_grad=True)
    onward, seen = Larger().at(1, 2)(f)
    a, b = torch.tensor([[1.0, -5.0, 2.0]]), torch.tensor([[3.0, 4.0, -1.0]])
    (received,) = torch.autograd.grad((a * onward).sum() + (b * seen).sum(), f)
    assert torch.equal(received, torch.tensor([[3.0, -5.0, 2.0]]))


# Whole networks against the paper's text


def cut(f, k, exits, junction):
    """Two tensors by detach and cat, from the paper: the exit sees [f+ detached, f-], the trunk [f+, f- detached]."""
    if k == exits:
        return f, f
    match junction:
        case Joint():
            return f, f
        case Detached():
            return f, f.detach()
        case Equilibrium():
            to_exit = 1 / (exits - k + 1)
            return ((1 - to_exit) * f + to_exit * f.detach(), to_exit * f + (1 - to_exit) * f.detach())
    shared = SHARED[f.shape[1], junction.beta]
    plus, minus = f[:, :shared], f[:, shared:]
    other = torch.Tensor.detach if junction.reference else torch.zeros_like
    onward = torch.cat([plus, other(minus)], 1)
    seen = f if junction.exit_gradient == "all" else torch.cat([other(plus), minus], 1)
    return onward, seen


def vgg7_of_plain_functions(p, x, junction):
    """p: the parameters by name. Convolution, ReLU, BatchNorm, pooling after every second; exits after each."""
    logits = []
    for k in range(1, 7):
        stage = f"stages.{k - 1}"
        x = F.conv2d(x, p[f"{stage}.conv.weight"], p.get(f"{stage}.conv.bias"), padding=1)
        x = F.batch_norm(x.relu(), None, None, p[f"{stage}.norm.weight"], p[f"{stage}.norm.bias"], training=True)
        if k in (2, 4, 6):
            x = F.max_pool2d(x, 2)
        x, seen = cut(x, k, 6, junction)
        logits.append(F.linear(seen.mean((2, 3)), p[f"heads.{k - 1}.fc.weight"]))
    return logits


def network_and_batch(junction):
    torch.manual_seed(0)
    net = build("vgg7-5", 4, junction).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".norm." in name:
                p.add_(0.3 * torch.randn_like(p))  # so that no gradient is special
    return net, torch.randn(3, 3, 8, 8, dtype=torch.float64).requires_grad_(), torch.tensor([0, 2, 3])


def joint_loss(logits, labels):
    return sum(F.cross_entropy(logits_k, labels) for logits_k in logits)


@pytest.mark.parametrize("junction", [Joint(), Detached(), Equilibrium(), *SURGERIES], ids=str)
def test_a_whole_network_equals_detach_and_cat(junction):
    net, images, labels = network_and_batch(junction)
    mine = dict(net.named_parameters())
    plain = {name: p.detach().clone().requires_grad_() for name, p in mine.items()}
    logits, logits_plain = net(images), vgg7_of_plain_functions(plain, images, junction)
    for a, b in zip(logits, logits_plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(joint_loss(logits, labels), [images, *mine.values()], materialize_grads=True)
    expected = torch.autograd.grad(
        joint_loss(logits_plain, labels), [images, *plain.values()], materialize_grads=True, allow_unused=True
    )
    for name, a, b in zip(["images", *mine], found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "junction", [Equilibrium(), Surgery(0.3), Surgery(0.5, False), Surgery(0.3, True, "all")], ids=str
)
def test_double_backward_of_a_whole_network_equals_detach_and_cat(junction):
    """The gradient of a gradient penalty: what goes back through the weight gradients stays on live channels too."""
    net, images, labels = network_and_batch(junction)
    mine = dict(net.named_parameters())
    plain = {name: p.detach().clone().requires_grad_() for name, p in mine.items()}
    second = []
    for p, logits in ((mine, net(images)), (plain, vgg7_of_plain_functions(plain, images, junction))):
        first = torch.autograd.grad(joint_loss(logits, labels), list(p.values()), create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        second.append(torch.autograd.grad(penalty, list(p.values())))
    for name, a, b in zip(mine, *second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
