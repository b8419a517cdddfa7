"""The lazy loop on toys whose every number can be told beforehand, and the losses against torch's cross-entropy."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dfs_edu.backbones import build
from dfs_edu.losses import exit_losses
from dfs_edu.multiexit import MultiExit
from dfs_edu.splitgrad import Conv2d
from dfs_edu.surgery import Detached, Equilibrium, Joint, Junction, Surgery


class AddOne(nn.Module):
    def forward(self, x):
        return x + 1


class TwoScales(nn.Module):
    """Turns a picture, or the state before it, into a list: fine counts up by one, coarse by ten."""

    def forward(self, x):
        fine, coarse = (x, x) if isinstance(x, torch.Tensor) else x
        return [fine + 1, coarse + 10]


class Coarsest(nn.Module):
    def forward(self, scales):
        return scales[-1]


def counting(net):
    """Lists that grow by the batch size whenever a stage or head runs."""
    stages, heads = [[] for _ in net.stages], [[] for _ in net.heads]
    for runs, modules in ((stages, net.stages), (heads, net.heads)):
        for k, module in enumerate(modules):
            module.register_forward_hook(
                lambda _, inputs, output, k=k, runs=runs: runs[k].append(len(first(inputs[0])))
            )
    return stages, heads


def first(state):
    return state if isinstance(state, torch.Tensor) else state[0]


# The lazy loop


def test_each_exit_sees_what_its_stages_made():
    net = MultiExit([AddOne() for _ in range(3)], [nn.Identity() for _ in range(3)])
    x = torch.tensor([[0.0], [5.0]])
    assert [logits.tolist() for logits in net(x)] == [[[1], [6]], [[2], [7]], [[3], [8]]]


@pytest.mark.parametrize("asked", range(1, 7))
def test_nothing_beyond_the_exit_asked_for_is_computed(asked):
    net = build("vgg7-4", 3, Surgery(0.5))
    stages, heads = counting(net)
    exits = net.exits(torch.randn(2, 3, 16, 16))
    assert sum(map(len, stages)) == 0  # not even the first stage, before anyone asks
    for _ in range(asked):
        next(exits)
    assert stages == heads == [[2]] * asked + [[]] * (6 - asked)


@pytest.mark.parametrize("junction", [Joint(), Surgery(0.3, False)], ids=str)
def test_forward_is_the_list_of_all_exits(junction):
    net = build("vgg7-4", 3, junction).eval()
    images = torch.randn(2, 3, 16, 16)
    together, one_by_one = net(images), list(net.exits(images))
    assert isinstance(together, list)
    assert len(together) == 6
    assert all(torch.equal(a, b) for a, b in zip(together, one_by_one, strict=True))


def test_only_the_images_chosen_by_send_continue():
    net = MultiExit([AddOne() for _ in range(3)], [nn.Identity() for _ in range(3)], Surgery(0.5))
    stages, heads = counting(net)
    exits = net.exits(torch.tensor([[0.0, 0], [10, 10], [20, 20], [30, 30]]))
    assert next(exits)[:, 0].tolist() == [1, 11, 21, 31]
    assert exits.send(torch.tensor([3, 1, 2]))[:, 0].tolist() == [32, 12, 22]  # in the order sent
    assert exits.send(torch.tensor([1]))[:, 0].tolist() == [13]
    assert stages == heads == [[4], [3], [1]]
    with pytest.raises(StopIteration):
        next(exits)


def test_send_reaches_every_scale_of_a_list():
    net = MultiExit([TwoScales() for _ in range(2)], [nn.Identity() for _ in range(2)], Surgery(0.5))
    exits = net.exits(torch.arange(4.0)[:, None].expand(4, 2))
    fine, coarse = next(exits)
    assert fine[:, 0].tolist() == [1, 2, 3, 4]
    assert coarse[:, 0].tolist() == [10, 11, 12, 13]
    fine, coarse = exits.send(torch.tensor([2, 0]))
    assert fine[:, 0].tolist() == [4, 2]
    assert coarse[:, 0].tolist() == [22, 20]


def test_asking_and_sending_may_alternate_and_a_mask_does_as_well_as_indices():
    net = MultiExit([AddOne() for _ in range(3)], [nn.Identity() for _ in range(3)])
    exits = net.exits(torch.tensor([[0.0], [1], [2]]))
    assert len(next(exits)) == 3
    assert len(next(exits)) == 3
    assert exits.send(torch.tensor([True, False, True])).tolist() == [[3], [5]]


def test_compacted_images_have_the_logits_of_the_whole_batch():
    net = build("vgg7-4", 3, Surgery(0.5)).eval()
    images, chosen = torch.randn(5, 3, 16, 16), torch.tensor([4, 0])
    with torch.no_grad():
        whole = net(images)
        exits = net.exits(images)
        next(exits)
        torch.testing.assert_close(exits.send(chosen), whole[1][chosen])
        torch.testing.assert_close(next(exits), whole[2][chosen])


# Stages, heads and junctions


@pytest.mark.parametrize(
    ("stages", "heads", "junctions", "message"),
    [
        (2, 3, Joint(), "2 stages, 3 heads, 2 junctions"),
        (3, 2, Joint(), "3 stages, 2 heads, 3 junctions"),
        (2, 2, [Joint()], "2 stages, 2 heads, 1 junctions"),
        (2, 2, [Joint()] * 3, "2 stages, 2 heads, 3 junctions"),
        (0, 0, Joint(), "0 stages, 0 heads, 0 junctions"),
        (0, 0, [], "0 stages"),
    ],
)
def test_wrong_numbers_are_named(stages, heads, junctions, message):
    with pytest.raises(ValueError, match=f"{message}.*one for every exit"):
        MultiExit([AddOne() for _ in range(stages)], [nn.Identity() for _ in range(heads)], junctions)


def test_one_junction_each():
    """Three exits; what comes back to a feature tells which junction it met."""
    junctions = [Surgery(0.5), Detached(), Surgery(1)]
    net = MultiExit([nn.Identity() for _ in range(3)], [nn.Identity() for _ in range(3)], junctions)
    assert net.junctions == [Surgery(0.5), Detached(), Joint()]  # the last exit is never split
    x = torch.zeros(1, 2, requires_grad=True)
    from_exit = [torch.autograd.grad(logits.sum(), x, materialize_grads=True)[0] for logits in net(x)[::2]]
    assert torch.equal(from_exit[0], torch.tensor([[0.0, 1.0]]))
    assert torch.equal(from_exit[1], torch.tensor([[1.0, 0.0]]))
    assert not net(x)[1].requires_grad


def test_one_junction_for_all_knows_where_it_stands():
    net = MultiExit([nn.Identity() for _ in range(4)], [nn.Identity() for _ in range(4)], Equilibrium())
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    found = [torch.autograd.grad(logits.sum(), x)[0].item() for logits in net(x)]
    expected = [1 / 4, 3 / 4 * 1 / 3, 3 / 4 * 2 / 3 * 1 / 2, 3 / 4 * 2 / 3 * 1 / 2]  # each a quarter: an equilibrium
    assert found == pytest.approx(expected, abs=1e-15)
    assert found == pytest.approx([1 / 4] * 4, abs=1e-15)


def test_a_single_exit_is_a_plain_network():
    conv = Conv2d(3, 3, 1)
    net = MultiExit([conv], [nn.Identity()], Surgery(0.5, False))
    x = torch.randn(2, 3, 2, 2)
    (logits,) = net(x)
    assert torch.equal(logits, conv(x))
    assert net.junctions == [Joint()]


def test_the_state_dict_holds_stages_and_heads_only():
    names = set(build("vgg7-4", 3, Surgery(0.5)).state_dict())
    assert {name.split(".")[0] for name in names} == {"stages", "heads"}


def test_by_default_exits_train_jointly():
    assert build("vgg7-4", 3).junctions == MultiExit([AddOne()] * 6, [AddOne()] * 6).junctions == [Joint()] * 6


# Which convolutions skip what


class Reading(nn.Module):
    """A stage or a head with convolutions that read its input, and one that reads something else."""

    def __init__(self, readers=1):
        super().__init__()
        self.convs = nn.ModuleList(Conv2d(4, 4, 1) for _ in range(readers))
        self.inner = Conv2d(4, 4, 1)
        self.readers, self.out_channels = [f"convs.{i}" for i in range(readers)], 4

    def forward(self, x):
        return self.inner(sum(conv(x) for conv in self.convs))


@pytest.mark.parametrize(
    ("junction", "onward", "seen"),
    [
        (Joint(), None, None),
        (Equilibrium(), None, None),
        (Detached(), None, ()),
        (Surgery(0.25), (slice(0, 1),), (slice(1, 4),)),
        (Surgery(0.25, exit_gradient="all"), (slice(0, 1),), None),
        (Surgery(0.25, False), (slice(0, 1),), (slice(1, 4),)),
        (Surgery(0), (), None),
        (Surgery(1), None, ()),
    ],
    ids=str,
)
def test_readers_skip_the_channels_that_pass_no_gradient_on(junction, onward, seen):
    stages, heads = [Reading(), Reading(2), Reading()], [Reading(), nn.Identity(), Reading()]
    net = MultiExit(stages, heads, junction)
    assert stages[0].convs[0].live is None  # reads the picture
    assert [conv.live for conv in stages[1].convs] == [onward] * 2
    assert heads[0].convs[0].live == seen
    assert heads[2].convs[0].live is None  # the last exit is never split
    assert all(module.inner.live is None for module in (*stages[:2], heads[0], heads[2]))
    assert all(logits.shape == (2, 4, 3, 3) for logits in net(torch.randn(2, 4, 3, 3)))


@pytest.mark.parametrize(
    "junction", [Joint(), Detached(), Equilibrium(), Surgery(0.25), Surgery(0.5, False, "all")], ids=str
)
def test_skipping_changes_no_gradient(junction):
    torch.manual_seed(0)
    stages, heads = [Reading(), Reading(2), Reading()], [Reading(), Reading(2), Reading()]
    net = MultiExit(stages, heads, junction).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    gradients = []
    for skipping in (True, False):
        if not skipping:
            for module in net.modules():
                module.live = None
        loss = sum(logits.square().sum() for logits in net(x))
        gradients.append(torch.autograd.grad(loss, [x, *net.parameters()]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_convolution_of_several_stages_skips_what_none_of_them_needs():
    """The first stage reads the images, of which it knows nothing; the second and third read cut features."""
    first, shared = Conv2d(4, 4, 1), Conv2d(4, 4, 1)
    MultiExit([nn.Sequential(first), nn.Sequential(shared), nn.Sequential(shared)], [nn.Flatten()] * 3, Surgery(0.25))
    assert shared.live == (slice(0, 1),)
    MultiExit([nn.Sequential(shared), nn.Sequential(shared)], [nn.Flatten()] * 2, Surgery(0.25))
    assert shared.live is None
    junctions = [Surgery(0.25), Surgery(0.5), Joint()]
    MultiExit([nn.Sequential(first), nn.Sequential(shared), nn.Sequential(shared)], [nn.Flatten()] * 3, junctions)
    assert shared.live == (slice(0, 2),)


def test_behind_a_module_without_readers_nothing_is_skipped_until_the_next_convolution():
    class Silent(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    torch.manual_seed(0)
    net = build("msdnet-cifar-blocks3-base1-step1-growth2", 3, Surgery(0.5, scales="all"))
    images, gradients = torch.randn(2, 3, 32, 32), []
    every = [m.live for m in net.modules() if isinstance(m, Conv2d)]
    for silent in (False, True):
        if silent:
            net.stages[0][0].scales[1] = Silent(net.stages[0][0].scales[1])
            net.join(net.junctions)
        loss = sum(logits.square().sum() for logits in net(images))
        gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    fewer = [m.live for m in net.modules() if isinstance(m, Conv2d)]
    assert sum(live is not None for live in every) > sum(live is not None for live in fewer) > 0
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_chain_with_a_custom_forward_skips_nothing():
    class Mixing(nn.Sequential):
        def forward(self, x):
            return super().forward(x.flip(1))

    conv = Conv2d(4, 4, 1)
    MultiExit([nn.Sequential(Conv2d(4, 4, 1)), Mixing(conv)], [nn.Flatten()] * 2, Surgery(0.25))
    assert conv.live is None


def test_a_junction_of_one_s_own():
    class Halved(Junction):
        def gradient(self, g_onward, g_seen):
            return g_onward + g_seen / 2

    net = MultiExit([nn.Identity(), nn.Identity()], [nn.Identity(), nn.Identity()], Halved())
    x = torch.zeros(1, 2, requires_grad=True)
    (found,) = torch.autograd.grad(sum(logits.sum() for logits in net(x)), x)
    assert torch.equal(found, torch.full((1, 2), 1.5))


# Losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_losses_are_cross_entropy_at_each_exit(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = [(3 * torch.randn(5, 4, generator=generator)).to(dtype).requires_grad_() for _ in range(3)]
    labels = torch.tensor([0, 3, 1, 1, 2])
    losses = exit_losses(logits, labels)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    assert losses.shape == (3,)
    assert losses.dtype == kept
    for loss, logits_k in zip(losses, logits, strict=True):
        assert torch.equal(loss, F.cross_entropy(logits_k.to(kept), labels))
        by_hand = -(logits_k.double() - logits_k.double().logsumexp(1, keepdim=True))[range(5), labels].mean()
        torch.testing.assert_close(loss.double(), by_hand, rtol=1e-6, atol=1e-7)
    losses.sum().backward()
    for logits_k in logits:
        assert logits_k.grad.dtype == dtype
        expected = (logits_k.detach().to(kept).softmax(1) - F.one_hot(labels, 4)) / 5
        torch.testing.assert_close(logits_k.grad, expected.to(dtype))


def test_the_losses_of_a_network():
    net = build("vgg7-4", 3)
    losses = exit_losses(net(torch.randn(2, 3, 16, 16)), torch.tensor([0, 2]))
    assert losses.shape == (6,)
    assert losses.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert exit_losses(net(torch.randn(2, 3, 16, 16)), torch.tensor([0, 2])).dtype == torch.float32
