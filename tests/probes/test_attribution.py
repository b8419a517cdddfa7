"""Where exits look: against closed forms on tiny networks, and against finite differences on all of them."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from tiny import FAMILIES
from torch import nn
from torch.nn import functional as F

import dfs_edu as dfs
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import attribution, conductance, grad_cam, integrated_gradients
from dfs_edu.probes.watching import watched

CUTS = {
    "joint": dfs.Joint(),
    "detached": dfs.Detached(),
    "equilibrium": dfs.Equilibrium(),
    "own": dfs.Surgery(0.5),
    "all": dfs.Surgery(0.25, exit_gradient="all", scales="all"),
}
MAPPED = [family for family in FAMILIES if family not in ("vit-tiny", "vgg16")]  # vgg16 ends in 1x1 at this size


def tiny(family, junction=CUTS["joint"], dtype=torch.float64, pictures=2):
    """A tiny network with BatchNorms as after training, and pictures for it."""
    name, pixels = FAMILIES[family]
    torch.manual_seed(0)
    net = dfs.build(name, classes=5, junction=junction).to(dtype)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net, torch.randn(pictures, 3, pixels, pixels, dtype=dtype)


def linear_network(junction):
    """Two exits without any bend: logits are linear in the picture, and all attributions have a closed form."""
    torch.manual_seed(0)
    stages = [nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 3, 1, bias=False)]
    heads = [nn.Sequential(nn.Flatten(), nn.Linear(channels * 9, 5)) for channels in (4, 3)]
    return MultiExit(stages, heads, junction).double(), torch.randn(2, 2, 3, 3, dtype=torch.float64)


def slope(net, k, target):
    """(C, H, W): what a unit of each value of the picture adds to the logit of exit k, by linear algebra."""
    trunk = net.stages[0].weight[:, :, 0, 0]
    if k == 1:
        trunk = net.stages[1].weight[:, :, 0, 0] @ trunk
    head = net.heads[k][1].weight[target].view(-1, 3, 3)
    return torch.einsum("dc,dhw->chw", trunk, head).detach()


# Grad-CAM


def one_convolution():
    torch.manual_seed(1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return MultiExit([nn.Conv2d(2, 4, 3, stride=2, padding=1)], [head]).double(), torch.randn(5, 2, 8, 8).double()


def test_grad_cam_by_hand():
    net, images = one_convolution()
    targets = torch.tensor([0, 1, 2, 1, 0])
    f = net.stages[0](images).detach()  # (5, 4, 4, 4)
    weight = net.heads[0][2].weight[targets] / 16  # the gradient of a mean over 16 positions, the same at each of them
    expected = torch.einsum("bc,bchw->bhw", weight, f).relu()[:, None]
    expected = F.interpolate(expected, (8, 8), mode="bilinear")[:, 0]
    expected = expected / expected.amax((1, 2), keepdim=True)
    assert grad_cam(net, images, targets) == pytest.approx(expected[None].detach().numpy())


def test_a_map_of_nothing_stays_zero():
    net, images = one_convolution()
    with torch.no_grad():
        net.stages[0].weight.abs_()
        net.stages[0].bias.zero_()
        net.heads[0][2].weight.fill_(-1)  # all features above zero, all weights below: nothing speaks for a class
    assert (grad_cam(net, images.abs()) == 0).all()


@pytest.mark.parametrize("family", MAPPED)
def test_grad_cam_of_each_family_is_between_0_and_1(family):
    net, images = tiny(family)
    maps = grad_cam(net, images)
    assert maps.shape == (len(net.stages), 2, *images.shape[2:])
    assert ((maps >= 0) & (maps <= 1)).all()
    assert set(np.unique(maps.max((2, 3)))) <= {0.0, 1.0}


@pytest.mark.parametrize("model", ["own", "resnet"])
def test_the_last_exit_of_an_attached_network_is_seen_before_its_pooling(model):
    """There the hook's map is what pooling reads, and its gradient that of the logit."""
    torch.manual_seed(0)
    if model == "own":
        base, at, pixels = Own(), ["first"], 8
    else:
        base, at, pixels = torchvision.models.resnet18(num_classes=3), ["layer2", "layer4.0"], 64
    images = torch.randn(2, 3, pixels, pixels)
    net = dfs.attach(base, at, junction=dfs.Surgery(0.5), input_shape=(3, pixels, pixels)).eval()
    maps = grad_cam(net, images, torch.tensor([0, 2]))
    with torch.no_grad():
        if model == "own":
            last, fc = base.second(base.first(images).relu()).relu(), base.fc
        else:
            base.eval()
            last, fc = nn.Sequential(*list(base.children())[:-2])(images), base.fc
        expected = torch.einsum("bc,bchw->bhw", fc.weight[torch.tensor([0, 2])], last).relu()[:, None]
        expected = F.interpolate(expected, (pixels, pixels), mode="bilinear")[:, 0]
    assert maps.shape == (len(at) + 1, 2, pixels, pixels)
    assert maps[-1] == pytest.approx((expected / expected.amax((1, 2), keepdim=True)).numpy(), abs=1e-4)
    assert not any(hasattr(stage, "last_map") for stage in net.stages)


class Own(nn.Module):
    """Pools by a function, which captum could not hook."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.fc(F.dropout(x.mean((2, 3)), training=self.training))


def test_tokens_are_refused_by_name():
    net, images = tiny("vit-tiny")
    with pytest.raises(ValueError, match=r"exit 1, a dfs_edu.backbones.vit.Head, sees a feature \(B, 17, 24\)"):
        grad_cam(net, images)


# Integrated gradients


def test_integrated_gradients_of_a_linear_network():
    net, images = linear_network(dfs.Surgery(0.5))
    targets, black = torch.tensor([3, 1]), torch.tensor([-1.0, -2.0]).view(2, 1, 1).double()
    found = integrated_gradients(net, images, targets, steps=3, baseline=black)
    for k in range(2):
        for n, target in enumerate(targets):
            expected = (slope(net, k, target) * (images[n] - black)).sum(0)
            assert found[k, n] == pytest.approx(expected.numpy())


@pytest.mark.parametrize("family", list(FAMILIES))
def test_integrated_gradients_are_complete(family):
    """The pixels of a map sum to what the logit gains from the baseline to the picture."""
    net, images = tiny(family)
    targets = torch.tensor([4, 2])
    found = integrated_gradients(net, images, targets, steps=64)
    net.eval()
    for k, (at_picture, at_start) in enumerate(zip(net(images), net(torch.zeros_like(images)), strict=True)):
        gain = (at_picture - at_start)[torch.arange(2), targets].detach().numpy()
        assert found[k].sum((1, 2)) == pytest.approx(gain, abs=0.05 * np.abs(gain).max())


def test_without_targets_each_exit_explains_its_prediction():
    net, images = tiny("vgg7", pictures=8)
    said = torch.stack(net.eval()(images)).argmax(2)
    assert (said[0] != said[-1]).any()
    for probe in (grad_cam, integrated_gradients):
        found = probe(net, images)
        for k, classes in enumerate(said):
            assert found[k] == pytest.approx(probe(net, images, classes)[k])


@pytest.mark.parametrize("probe", [grad_cam, integrated_gradients])
def test_many_images_are_processed_part_by_part(probe, monkeypatch):
    net, images = tiny("vgg7", pictures=7)
    whole = probe(net, images)
    monkeypatch.setattr(attribution, "BATCH", 3)
    assert probe(net, images) == pytest.approx(whole)


def test_deeper_stages_do_not_run():
    net, images = tiny("vgg7")
    seen, _ = watched(net)
    deeper = [stage.register_forward_hook(lambda *_: pytest.fail("it ran")) for stage in seen.stages[2:]]
    logits = attribution._logits(seen, 1)(images)
    assert torch.equal(logits, net.eval()(images)[1])
    assert len(deeper) == 4


# Conductance


def test_conductance_of_a_linear_network():
    """What flows through a channel is its weight on the way to the logit times what the channel gains."""
    net, images = linear_network(dfs.Surgery(0.25))
    targets = torch.tensor([3, 1])
    found = conductance(net, images, targets, steps=100)
    f = net.stages[0](images).detach()  # (2, 4, 3, 3)
    own = [net.heads[0][1].weight[t].view(4, 3, 3) for t in targets]
    deep = [torch.einsum("dc,dhw->chw", net.stages[1].weight[:, :, 0, 0], slope_of_head(net, t)) for t in targets]
    for j, weights in enumerate((own, deep)):
        through = (torch.stack(weights) * f).detach().sum((2, 3)).numpy()  # (2, 4)
        # captum's path leaves out its very ends: 3 in 10,000 at 100 steps
        assert found.shared[0, j] == pytest.approx(through[:, 0], rel=1e-3)
        assert found.specific[0, j] == pytest.approx(through[:, 1:].sum(1), rel=1e-3)
        assert found.difference[j] == pytest.approx(through.sum(1))
    shared, specific = found.parts()
    assert (shared + specific)[0] == pytest.approx(found.difference.mean(1), rel=1e-3)


def slope_of_head(net, target):
    return net.heads[1][1].weight[target].view(3, 3, 3)


@pytest.mark.parametrize("family", ["vgg7", "resnet18", "vit-tiny"])
def test_the_whole_output_of_an_exit_flows_through_the_feature(family):
    net, images = tiny(family)
    found = conductance(net, images, torch.tensor([4, 2]), beta=0.5, steps=64)
    K = len(net.stages)
    assert found.shared.shape == found.specific.shape == (K - 1, K, 2)
    for k in range(K - 1):
        assert np.isnan(found.shared[k, :k]).all()
        total = found.shared[k, k:] + found.specific[k, k:]
        assert total == pytest.approx(found.difference[k:], abs=0.1 * np.abs(found.difference).max())


def test_of_several_scales_it_is_the_coarsest():
    net, images = tiny("msdnet-cifar", dfs.Surgery(0.5))
    found = conductance(net, images)
    total = found.shared + found.specific
    own = total[[0, 1], [0, 1]]  # the head reads the coarsest scale and nothing else
    assert own == pytest.approx(found.difference[:2], abs=0.1 * np.abs(found.difference).max())
    assert np.abs(total[0, 2] - found.difference[2]).max() > 0.1 * np.abs(found.difference[2]).max()


def test_beta_0_and_1_put_all_on_one_side():
    net, images = tiny("vgg7")
    none, everything = (conductance(net, images, beta=beta, steps=4) for beta in (0, 1))
    assert np.nanmax(np.abs(none.shared)) == np.nanmax(np.abs(everything.specific)) == 0
    assert none.specific == pytest.approx(everything.shared, nan_ok=True)


# Gradients are derivatives of what the network computes


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("cut", [name for name in CUTS if name != "joint"])
def test_cuts_do_not_change_attributions(family, cut):
    joint, images = tiny(family)
    other, _ = tiny(family, CUTS[cut])
    few = partial(integrated_gradients, steps=3)
    for probe in (few, grad_cam) if family in MAPPED else (few,):
        assert probe(other, images) == pytest.approx(probe(joint, images), abs=1e-10)
    if family == "vgg7":
        a, b = (conductance(net, images, beta=0.5, steps=8) for net in (joint, other))
        assert a.shared == pytest.approx(b.shared, nan_ok=True)


@pytest.mark.parametrize("family", ["vgg7", "resnet18", "msdnet-cifar"])
@pytest.mark.parametrize(
    "junction",
    [dfs.Surgery(0.5), dfs.Surgery(0.5, reference=False), dfs.Surgery(0.5, False, "all", "all"), dfs.Detached()],
    ids=repr,
)
def test_the_gradient_is_that_of_finite_differences(family, junction):
    """Partition changes values, and then the gradient is that of the changed values."""
    net, images = tiny(family, junction, pictures=1)
    torch.manual_seed(3)
    way = torch.randn_like(images)
    seen, _ = watched(net)
    assert all(torch.equal(a, b) for a, b in zip(seen(images), net.eval()(images), strict=True))
    x = images.clone().requires_grad_()
    for k, logits in enumerate(seen(x)):
        (gradient,) = torch.autograd.grad(logits[0, 1], x, retain_graph=True)
        high, low = (net(images + sign * 1e-6 * way)[k][0, 1].item() for sign in (1, -1))
        assert (gradient * way).sum().item() == pytest.approx((high - low) / 2e-6, rel=1e-4, abs=1e-7)


def test_the_gradient_of_a_cut_network_itself_is_another():
    """Or else the copy would not be needed."""
    net, images = tiny("vgg7", dfs.Surgery(0.5))
    x = images.requires_grad_()
    (cut,), (whole,) = (torch.autograd.grad(n(x)[-1].sum(), x) for n in (net.eval(), watched(net)[0]))
    assert (cut - whole).abs().max() > 0.01 * whole.abs().max()


# Left as found


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_network_is_left_as_found(family):
    net, images = tiny(family, dfs.Surgery(0.5), torch.float32)
    net(images)[-1].sum().backward()
    next(net.parameters()).requires_grad_(False)
    net.stages[0].eval()
    before = state_of(net)
    random = torch.get_rng_state()
    given = images.clone()
    for probe in (integrated_gradients, conductance, *([grad_cam] if family in MAPPED else [])):
        probe(net, images, **({} if probe is grad_cam else {"steps": 2}))
    after = state_of(net)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name], name
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(given, images)
    assert not images.requires_grad


def state_of(net) -> dict:
    found = {name: copy.deepcopy(tensor) for name, tensor in net.state_dict().items()}
    for name, p in net.named_parameters():
        found[f"{name} grad"], found[f"{name} trains"] = copy.deepcopy(p.grad), p.requires_grad
    for name, module in net.named_modules():
        found[f"{name} mode"], found[f"{name} live"] = module.training, getattr(module, "live", None)
        found[f"{name} hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return found | {"junctions": list(net.junctions)}


# Errors


@pytest.mark.parametrize("probe", [grad_cam, integrated_gradients, conductance])
def test_wrong_arguments_are_named(probe):
    net, images = tiny("vgg7", dfs.Surgery(0.5))
    with pytest.raises(TypeError, match="net is a Linear"):
        probe(nn.Linear(2, 2), images)
    with pytest.raises(ValueError, match=r"torch.uint8 \(2, 3, 16, 16\)"):
        probe(net, images.to(torch.uint8))
    with pytest.raises(ValueError, match="images: list"):
        probe(net, [1])
    with pytest.raises(ValueError, match=r"images: torch.float64 \(0, 3, 16, 16\)"):
        probe(net, images[:0])
    with pytest.raises(ValueError, match=r"targets: torch.int64 \(3,\).* each of the 2 images"):
        probe(net, images, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"targets: torch.float32"):
        probe(net, images, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="targets from 1 to 5: the network has classes 0 to 4"):
        probe(net, images, torch.tensor([5, 1]))
    with pytest.raises(ValueError, match="of 4x4 pixels"):
        probe(net, images[:, :, :4, :4])


@pytest.mark.parametrize("probe", [integrated_gradients, conductance])
def test_wrong_paths_are_named(probe):
    net, images = tiny("vgg7", dfs.Surgery(0.5))
    for steps in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"steps={steps}"):
            probe(net, images, steps=steps)
    with pytest.raises(ValueError, match=r"baseline of shape \(5,\): it does not fit images of \(3, 16, 16\)"):
        probe(net, images, baseline=torch.zeros(5))


def test_conductance_wants_to_know_the_cut():
    net, images = tiny("vgg7")
    with pytest.raises(ValueError, match=r"beta=None, but exit 1 has the junction Joint\(\)"):
        conductance(net, images)
    with pytest.raises(ValueError, match=r"beta=1\.5"):
        conductance(net, images, beta=1.5)
    alone, pictures = one_convolution()
    with pytest.raises(ValueError, match="a network with 1 exit"):
        conductance(alone, pictures, beta=0.5)
