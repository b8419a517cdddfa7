"""Other cuts: each rule by hand, what every junction that goes by a name promises, and what they share with surgery."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from tiny import FAMILIES

import dfs_edu as dfs
from dfs_edu.cuts import Damped, Graded, Interleaved, Projection
from dfs_edu.losses import exit_losses
from dfs_edu.surgery import Detached, Joint, Surgery, channel_dim
from dfs_edu.training.arms import KINDS, junction_from, junction_to, spell

CUTS = [
    Projection("exit"),
    Interleaved(0.3),
    Interleaved(0.3, exit_gradient="all", scales="all"),
    Graded(0.8, last=0.3),
    Damped(0.3, damping=0.25),
    *(kind() for kind in KINDS.values()),
]


def received(junction, f, g_onward, g_seen):
    """What f receives when its views receive these gradients."""
    f = f.clone().requires_grad_()
    views = [(view, g) for view, g in zip(junction(f), (g_onward, g_seen), strict=True) if view.requires_grad]
    torch.autograd.backward(*zip(*views, strict=True))
    return f.grad


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("junction", CUTS, ids=str)
def test_values_stay_and_gradients_are_finite_on_every_backbone(family, junction):
    name, pixels = FAMILIES[family]
    images, labels = torch.randn(3, 3, pixels, pixels), torch.tensor([0, 1, 2])
    said = []
    for rule in (Joint(), junction):
        torch.manual_seed(0)
        net = dfs.build(name, 3, rule)
        torch.manual_seed(1)  # dropout drops the same
        said.append(net(images))
    assert all(torch.equal(a, b) for a, b in zip(*said, strict=True))
    exit_losses(said[1], labels).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("shape", [(2, 6, 3, 3), (2, 6), (2, 5, 6)], ids=["maps", "vectors", "tokens"])
@pytest.mark.parametrize("junction", CUTS, ids=str)
def test_gradient_reaches_the_live_channels_and_no_others(junction, shape):
    """Convolutions skip what `live` leaves out; that must be what nobody uses."""
    junction = junction.at(1, 3)
    dim = channel_dim(torch.zeros(shape))
    g, zero = torch.randn(shape), torch.zeros(shape)
    for side, gradients in zip(junction.live(6), ((g, zero), (zero, g)), strict=True):
        if not side.any():
            continue  # no channel is live, and the view may be detached
        found = received(junction, torch.randn(shape), *gradients)
        reached = found.transpose(0, dim).flatten(1).any(1).numpy()
        assert (reached == side.numpy()).all()


@pytest.mark.parametrize("junction", CUTS, ids=str)
def test_a_junction_is_a_value_that_can_be_written_down(junction):
    assert junction_from(spell(junction)) == junction_from(junction_to(junction)) == junction
    assert len({junction, type(junction)(**asdict(junction))}) == 1
    assert junction.at(3, 3) == Joint()


# Projection


def test_the_projection_by_hand():
    """Two pictures: the first one's gradients oppose each other, the second one's do not."""
    g_onward = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    g_seen = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
    both = received(Projection(), torch.zeros(2, 2), g_onward, g_seen)
    # seen without onward: (0, 1); onward without seen: (1, 0) + 1/2 (-1, 1)
    torch.testing.assert_close(both, torch.tensor([[0.5, 1.5], [2.0, 1.0]]))
    exit = received(Projection("exit"), torch.zeros(2, 2), g_onward, g_seen)
    torch.testing.assert_close(exit, torch.tensor([[1.0, 1.0], [2.0, 1.0]]))


@pytest.mark.parametrize("shape", [(6, 5), (6, 4, 3, 3), (6, 7, 4)], ids=["vectors", "maps", "tokens"])
def test_after_projection_no_gradient_opposes_its_own_exit(shape):
    generator = torch.Generator().manual_seed(0)
    g_onward, g_seen = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    g_seen[:3] -= 0.8 * g_onward[:3]
    g = received(Projection(), torch.zeros(shape, dtype=torch.float64), g_onward, g_seen)
    for one in (g_onward, g_seen):
        assert ((g * one).flatten(1).sum(1) > -1e-12).all()
    agreed = (g_onward * g_seen).flatten(1).sum(1) >= 0
    assert agreed.any()
    assert not agreed.all()
    torch.testing.assert_close(g[agreed], (g_onward + g_seen)[agreed])


def test_a_gradient_of_zero_projects_to_zero():
    zero = torch.zeros(2, 3)
    assert torch.equal(received(Projection(), zero, zero, zero), zero)


def test_a_projection_needs_all_exits_in_one_pass():
    """Pulled one by one, the exits never meet: a method that does so would train joint under another name."""
    net = dfs.build("vgg7-4", 3, Projection())
    images, labels = torch.randn(3, 3, 16, 16), torch.tensor([0, 1, 2])
    first = next(net.parameters())
    together = torch.autograd.grad(exit_losses(net(images), labels).sum(), first)[0]
    losses = exit_losses(net(images), labels)
    apart = sum(torch.autograd.grad(loss, first, retain_graph=True)[0] for loss in losses)
    net.join(Joint())
    joint = torch.autograd.grad(exit_losses(net(images), labels).sum(), first)[0]
    torch.testing.assert_close(apart, joint)
    assert (together - joint).norm() > 1e-3 * joint.norm()
    with pytest.raises(ValueError, match="method='pcgrad': it pulls exits one by one"):
        dfs.recipes.get("digits/vgg7-4", junction=Projection(), method="pcgrad")


# The others


@pytest.mark.parametrize("channels", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("beta", [0, 0.25, 0.5, 0.7, 1])
def test_interleaved_channels_are_as_many_and_evenly_spread(channels, beta):
    junction = Interleaved(beta)
    mask = junction.is_shared(torch.zeros(1, channels, 2, 2)).flatten().numpy()
    assert mask.sum() == Surgery(beta).shared(channels)
    if mask.sum() > 1:
        gaps = np.diff(np.flatnonzero(mask))
        assert gaps.max() - gaps.min() <= 1
    onward, seen = junction.live(channels)
    assert (onward.numpy() == mask).all()
    assert (seen.numpy() == ~mask).all()
    assert Interleaved(beta, exit_gradient="all").live(channels)[1].all()


def test_interleaved_surgery_is_surgery_of_turned_channels():
    f, g_onward, g_seen = (torch.randn(2, 8, 3, 3) for _ in range(3))
    order = [1, 3, 5, 7, 0, 2, 4, 6]  # its shared channels first
    assert Interleaved(0.5).is_shared(f).flatten().nonzero().flatten().tolist() == order[:4]
    turned = received(Surgery(0.5), f[:, order], g_onward[:, order], g_seen[:, order])
    torch.testing.assert_close(received(Interleaved(0.5), f, g_onward, g_seen)[:, order], turned)


def test_interleaved_surgery_skips_what_nothing_uses():
    """With split convolutions the trunk gets the gradients that it gets without them."""
    torch.manual_seed(0)
    net = dfs.build("vgg7-4", 5, Interleaved(0.5)).double()
    images, labels = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    exit_losses(net(images), labels).sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    skipping = [m for m in net.modules() if getattr(m, "live", None) is not None]
    assert len(skipping) == 5
    net.zero_grad()
    for module in skipping:
        module.live = None
    exit_losses(net(images), labels).sum().backward()
    for mine, p in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)


def test_beta_goes_evenly_from_the_first_exit_to_the_last_that_is_cut():
    net = dfs.build("vgg7-4", 5, Graded(0.9, exit_gradient="all", last=0.5))
    *cut, last = net.junctions
    assert last == Joint()
    assert all(type(junction) is Surgery and junction.exit_gradient == "all" for junction in cut)
    assert [junction.beta for junction in cut] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert Graded(0.9, last=0.5).at(1, 2).beta == 0.9


def test_damping_is_between_own_and_all():
    f, g_onward, g_seen = (torch.randn(2, 6, 3, 3) for _ in range(3))
    for damping, like in ((0.0, Surgery(0.5)), (1.0, Surgery(0.5, exit_gradient="all"))):
        damped = received(Damped(0.5, damping=damping), f, g_onward, g_seen)
        torch.testing.assert_close(damped, received(like, f, g_onward, g_seen))
    half = received(Damped(0.5, damping=0.5), f, g_onward, g_seen)
    torch.testing.assert_close(half[:, :3], g_onward[:, :3] + g_seen[:, :3] / 2)
    torch.testing.assert_close(half[:, 3:], g_seen[:, 3:])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Projection, {"who": "nobody"}, "who='nobody'"),
        (Graded, {"last": 1.5}, "last=1.5"),
        (Damped, {"damping": -0.1}, "damping=-0.1"),
        (Damped, {"damping": "0.5"}, "damping='0.5'"),
        (Damped, {"exit_gradient": "own"}, "exit_gradient='own': damping is for"),
        (Interleaved, {"beta": 2}, "beta=2"),
    ],
)
def test_wrong_options_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


# Other junctions in the same network, and a cut that comes later


def test_joining_anew_is_a_network_built_with_it():
    torch.manual_seed(0)
    net = dfs.build("vgg7-4", 5, Surgery(0.5))
    net.join(Detached())
    fresh = dfs.build("vgg7-4", 5, Detached())
    assert net.junctions == fresh.junctions
    live = [[getattr(m, "live", None) for m in network.modules()] for network in (net, fresh)]
    assert live[0] == live[1]
    with pytest.raises(ValueError, match="6 stages, 6 heads, 2 junctions: one for every exit"):
        net.join([Joint(), Joint()])
    with pytest.raises(TypeError, match="junction=3"):
        net.join(3)


def test_the_first_epochs_are_trained_without_the_cut(tmp_path):
    small = {"scale": "smoke", "train_images": 128, "held_out_images": 64, "epochs": 3, "precision": "fp32"}

    def epochs(**changes):
        recipe = dfs.recipes.get("digits/vgg7-4", **(small | changes))
        run = dfs.train(recipe, tmp_path, device="cpu", progress=False)
        return run.network, [row["loss"] for row in run.record["epochs"]]

    network, late = epochs(junction=Surgery(0.5), uncut=2)
    joint, cut = epochs()[1], epochs(junction=Surgery(0.5))[1]
    assert late[:2] == joint[:2]
    assert late[2] not in (joint[2], cut[2])
    assert network.junctions[0] == Surgery(0.5)


@pytest.mark.parametrize("uncut", [-1, 4, 1.0, True])
def test_a_cut_that_never_comes_is_refused(uncut):
    with pytest.raises(ValueError, match=f"uncut={uncut!r}: (a whole number from 0|fewer than the 4 epochs)"):
        dfs.recipes.get("digits/vgg7-4", uncut=uncut)
