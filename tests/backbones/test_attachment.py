"""Exits for existing networks: nine of torchvision's and timm's, and small ones with one fault each."""

import copy
import io
import pickle
import random
import types
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torch.fx
import torch.utils.checkpoint
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

import dfs_edu as dfs
from dfs_edu import splitgrad
from dfs_edu.backbones import build
from dfs_edu.backbones.attachment import Exit, attached
from dfs_edu.inference import EarlyExit
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import conflict, cost
from dfs_edu.splitgrad import propagate
from dfs_edu.surgery import Detached, Joint, Surgery

# Name -> size of the images here, and the names of three exits placed at 224x224 evenly in MACs.
NINE = {
    "resnet50": (64, ["layer2.0", "layer3.0", "layer3.4"]),
    "mobilenet_v3_large": (64, ["features.4", "features.10", "features.12"]),
    "efficientnet_b0": (64, ["features.3.0", "features.5.0", "features.6.1"]),
    "convnext_tiny": (64, ["features.3.0", "features.5.2", "features.5.6"]),
    "densenet121": (64, ["features.denseblock1", "features.transition1", "features.transition2"]),
    "vgg16": (32, ["features.9", "features.13", "features.20"]),
    "vit_tiny_patch16_224": (224, ["blocks.2", "blocks.5", "blocks.8"]),
    "regnety_002": (64, ["s3.b1", "s3", "s4.b4"]),
    "mixer_s32_224": (224, ["blocks.1", "blocks.3", "blocks.5"]),
}
every_network = pytest.mark.parametrize("name", NINE)


def on_meta(name):
    with torch.device("meta"):
        return (
            torchvision.models.get_model(name) if name in torchvision.models.list_models() else timm.create_model(name)
        )


def with_numbers(model):
    """Random weights, and BatchNorm statistics that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    model = model.to_empty(device="cpu")
    for name, t in model.state_dict().items():
        if t.ndim > 1:
            t.uniform_(-1, 1, generator=generator).mul_((3 / t[0].numel()) ** 0.5)
        elif t.is_floating_point():
            t.uniform_(0.5, 1.5, generator=generator).sub_(0 if name.endswith(("weight", "var")) else 1)
        else:
            t.fill_(7)
    return model


def images_of(size, B=2):
    return torch.randn(B, 3, size, size, generator=torch.Generator().manual_seed(1))


def attach(model, at, junction=Joint(), size=64, **options):
    return MultiExit(*attached(model, at, input_shape=(3, size, size), **options), junction)


def resnet(**options):
    return with_numbers(torchvision.models.resnet18(num_classes=7, **options))


class Small(nn.Module):
    """A network of one's own: dropout in a function, a skip connection, a chain of blocks."""

    def __init__(self, dropout=0.5, classes=5):
        super().__init__()
        self.dropout = dropout
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.dropout(x, self.dropout, training=self.training)
        x = F.relu(self.second(x) + x)
        x = F.relu(self.third(x))
        return self.fc(x.mean((2, 3)))


def flops(function):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


# The nine networks


@every_network
def test_the_last_exit_is_the_network(name):
    size, _ = NINE[name]
    model = with_numbers(on_meta(name)).eval()
    x = images_of(size)
    with torch.no_grad():
        expected = model(x)
        logits = attach(model, at=3, size=size)(x)
    assert torch.equal(logits[-1], expected)
    assert expected.std() > 1e-3
    assert [tuple(logits_k.shape) for logits_k in logits] == [(2, 1000)] * 4
    assert all(logits_k.isfinite().all() for logits_k in logits)


@every_network
def test_exits_are_even_in_macs(name):
    net = attach(on_meta(name), at=3, size=224)
    assert [stage.meta["end"] for stage in net.stages[:-1]] == NINE[name][1]
    macs = cost(net, (3, 224, 224)).macs
    off = abs(macs / macs[-1] - [0.25, 0.5, 0.75, 1]).max()
    assert off < (
        0.17 if name == "densenet121" else 0.06
    )  # a dense block has no end inside, and the first costs a third


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "vit_tiny_patch16_224", "densenet121"])
def test_an_exit_skips_the_rest(name):
    """The FLOPs of leaving at exit k are those of torchvision's feature extractor up to there, and of the heads."""
    model = on_meta(name).eval()
    net = attach(model, at=3, size=224).eval()
    x = torch.empty(2, 3, 224, 224, device="meta")
    spent = 0
    for k, place in enumerate(NINE[name][1]):
        with torch.no_grad():
            f = create_feature_extractor(model, {place: "f"})(x)["f"]
            spent += flops(lambda f=f, k=k: net.heads[k](f))
        trunk = flops(lambda place=place: create_feature_extractor(model, {place: "f"})(x))
        assert (
            flops(lambda k=k: [logits for _, logits in zip(range(k + 1), net.exits(x), strict=False)]) == trunk + spent
        )
    assert flops(lambda: net(x)) == flops(lambda: model(x)) + spent


@pytest.mark.parametrize("name", ["regnety_002", "mixer_s32_224"])
def test_weights_of_a_file_are_the_attached_network_s(name, tmp_path):
    torch.save(with_numbers(on_meta(name)).state_dict(), tmp_path / "weights.pt")
    model = timm.create_model(name)
    model.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    net = attach(model, at=3, size=NINE[name][0])
    found = {key.split(".", 2)[2]: t for key, t in net.state_dict().items() if key.startswith("stages.")}
    found |= {f"{net.stages[-1].meta['end']}.{key}": t for key, t in net.heads[-1].fc.state_dict().items()}
    kept = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert found.keys() == kept.keys()  # the original's own names
    assert all(torch.equal(found[key], kept[key]) for key in kept)


# Early exit


def test_an_image_that_leaves_at_exit_1_costs_stage_1_and_head_1():
    net = attach(resnet(), ["layer1", "layer3"]).eval()
    x = images_of(64, B=4)
    first = flops(lambda: net.heads[0](net.stages[0](x)))
    assert flops(lambda: EarlyExit(net, [0, 0, 0])(x)) == first
    assert flops(lambda: EarlyExit(net, [1, 1, 0])(x)) == flops(lambda: net(x)) > 2 * first


@pytest.mark.parametrize("at", [["layer1", "layer3"], ["layer2.0.conv2", "layer3"]], ids=str)
def test_images_that_left_cost_nothing_further(at):
    """Of four pictures two go on: their logits are the same, and they cost half; also where a list crosses the cut."""
    net = attach(resnet(), at).eval()
    x, going_on = images_of(64, B=4), torch.tensor([0, 3])

    def leave():
        steps = net.exits(x)
        return [next(steps), steps.send(going_on), next(steps)]

    with torch.no_grad():
        for found, all_four in zip(leave()[1:], net(x)[1:], strict=True):
            torch.testing.assert_close(found, all_four[going_on])
    first = flops(lambda: next(net.exits(x)))
    assert flops(leave) == first + (flops(lambda: net(x)) - first) / 2


# Places


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("resnet18", ["maxpool", "layer1", "layer2.0", "layer2.1.add", "layer3.1.relu", "layer4", "avgpool"]),
        (
            "resnet18",
            ["conv1", "bn1", "relu", "layer1.0.conv1", "layer1.0.bn2", "layer2.0.downsample", "layer2.0.relu"],
        ),
        ("alexnet", ["features.0", "features.1", "features.4", "features", "classifier.1", "classifier.4"]),
        (
            "mobilenet_v3_small",
            ["features.0", "features.4.block.1", "features.4.block.2", "features.12", "classifier.0"],
        ),
        ("densenet121", ["features.denseblock1.denselayer3", "features.denseblock2", "features"]),
        ("vit_tiny_patch16_224", ["patch_embed", "blocks.0", "blocks.3.attn", "blocks.3", "blocks", "norm"]),
        ("regnety_002", ["stem.bn", "s1.b1.se", "s2", "s3.b2.add", "final_conv"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_exits_by_name(name, at):
    """Every feature is what torchvision's feature extraction finds at that node, and the end is the network's."""
    size = NINE.get(name, (64,))[0]
    model = with_numbers(on_meta(name)).eval()
    x = images_of(size, B=1)
    net = attach(model, at, size=size).eval()
    found = []
    for stage in net.stages:
        stage.register_forward_hook(lambda _, __, state: found.append(state[-1] if isinstance(state, list) else state))
    with torch.no_grad():
        logits = net(x)
        # mean: later in-place operations of the original would change what its extractor returns
        original = copy.deepcopy(model)
        for module in original.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        expected = create_feature_extractor(original, {place: str(i) for i, place in enumerate(at)})(x)
        assert torch.equal(logits[-1], model(x))
    for i in range(len(at)):
        assert torch.equal(found[i], expected[str(i)])


def test_modules_and_their_names_are_the_same_places():
    model = resnet()
    by_module = attach(model, [model.layer1, model.layer2[0].conv1, model.layer4])
    by_name = attach(model, ["layer1", "layer2.0.conv1", "layer4"])
    assert [s.meta for s in by_module.stages] == [s.meta for s in by_name.stages]
    assert by_module.state_dict().keys() == by_name.state_dict().keys()


def test_inside_a_residual_block_a_list_crosses_with_the_feature_last():
    net = attach(resnet().eval(), ["layer1.0.conv1", "layer2"])
    skip, f = net.stages[0](images_of(64))
    assert skip.shape == f.shape == (2, 64, 16, 16)
    assert (skip >= 0).all()
    assert (f < 0).any()


def test_a_stage_has_only_what_its_exit_needs():
    """In the graph, conv1 of the other branch comes first; the exit does not need it."""
    net = attach(resnet(), ["layer2.0.downsample.0"])
    assert not [key for key in net.stages[0].state_dict() if key.startswith("layer2.0.conv1")]


class Branching(nn.Module):
    """torch.fx cannot follow it: it decides by the size of the picture."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(8, 8, 3, padding=1), nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        x = self.conv(x) * self.scale
        return x.neg() if x.shape[-1] > 4 else x


def test_a_block_that_cannot_be_traced_stays_whole():
    layers = [nn.Conv2d(3, 8, 1), Branching(), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)).eval()
    x = images_of(8)
    assert attach(model, 1, size=8).stages[0].meta["end"] == "3"  # its MACs count once, though tracing it was tried
    for at in (["0"], ["1", "3"]):
        net = attach(model, at, size=8)
        assert torch.equal(net(x)[-1], model(x))
    with pytest.raises(ValueError, match=r"no node '1.conv'; did you mean"):
        attach(model, ["1.conv"], size=8)


def test_a_classifier_with_a_forward_of_its_own():
    """timm casts the weights in its nn.Linear."""
    model = timm.create_model("mobilenetv3_small_050", num_classes=4).eval()
    assert type(model.classifier) is not nn.Linear
    net, x = attach(model, ["blocks.2"]), images_of(64)
    assert torch.equal(net(x)[-1], model(x))


@pytest.mark.parametrize("exits", [1, 2, 5, 8])
def test_any_number_of_exits(exits):
    net = attach(on_meta("resnet18"), at=exits)
    macs = cost(net, (3, 64, 64)).macs
    assert len(macs) == exits + 1
    assert (macs[1:] > macs[:-1]).all()


@pytest.mark.parametrize("size", [(64, 64), (64, 96)], ids=["square", "wide"])
def test_channels_last_features_reach_junction_and_head_with_channels_second(size):
    model = with_numbers(on_meta("swin_t")).eval()
    net = MultiExit(*attached(model, ["features.1", "features.5"], input_shape=(3, *size)), Surgery(0.5)).eval()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(x)[-1], model(x))
    assert [stage.meta["channels"] for stage in net.stages[:2]] == [[96], [384]]
    assert net.stages[0](x).shape == (2, 96, size[0] // 4, size[1] // 4)
    assert net.stages[0].meta["readers"] == []


# Classes and heads


def test_classes_decide_whether_the_classifier_is_kept():
    model = resnet()
    for classes in (None, 7):
        assert torch.equal(attach(model, ["layer1"], classes=classes).heads[-1].fc.weight, model.fc.weight)
    net = attach(model, ["layer1"], classes=3)
    assert [head.fc.weight.shape for head in net.heads] == [(3, 64), (3, 512)]


@pytest.mark.parametrize(("shape", "positions"), [((6, 4), None), ((6, 5, 4), 1), ((6, 4, 3, 2), (2, 3))])
def test_the_default_head_is_a_mean_over_positions_layernorm_and_linear(shape, positions):
    torch.manual_seed(0)
    f, head = torch.randn(shape), Exit(4, 3)
    pooled = f if positions is None else f.mean(positions)
    normed = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(head(f), normed @ head.fc.weight.T + head.fc.bias)
    torch.testing.assert_close(head([None, f]), head(f))


def test_a_head_of_one_s_own():
    made = []

    def head(channels, classes):
        made.append((channels, classes))
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))

    net = attach(resnet().double(), ["layer1", "layer2"], head=head)
    assert made == [(64, 7), (128, 7)]
    assert [logits.dtype for logits in net(images_of(64).double())] == [torch.float64] * 3
    with pytest.raises(TypeError, match="returns a module"):
        attach(resnet(), ["layer1"], head=lambda channels, classes: channels)


# Modes


def test_dropout_in_a_function_follows_the_mode():
    net = attach(Small(), ["first", "second"], size=8)
    x = images_of(8)
    for _ in range(2):  # there and back
        net.train()
        assert not torch.equal(net(x)[1], net(x)[1])
        net.eval()
        assert torch.equal(net(x)[1], net(x)[1])
        net.stages[1].training = True  # as probes put modes back, module by module
        assert not torch.equal(net(x)[1], net(x)[1])


def test_a_training_step_is_the_original_s():
    """Dropout drops the same, BatchNorm normalises the same and updates the same buffers."""
    for model, at in (
        (Small(), ["first"]),
        (resnet(), ["layer1.0.bn1", "layer3"]),
        (timm.create_model("regnety_002"), 3),
    ):
        net, x = attach(model.train(), at), images_of(64)
        torch.manual_seed(3)
        expected = model(x)
        torch.manual_seed(3)
        torch.testing.assert_close(net(x)[-1], expected)
        buffers = {key.split(".", 2)[2]: b for key, b in net.named_buffers()}
        assert buffers.keys() == dict(model.named_buffers()).keys()
        for name, b in model.named_buffers():
            torch.testing.assert_close(buffers[name], b)


def test_a_constant_chosen_by_mode():
    class Net(Small):
        def forward(self, x):
            x = self.second(F.relu(self.first(x)))
            return self.fc(x.mean((2, 3)) * (3.0 if self.training else 2.0))

    model = Net()
    net, x = attach(model, ["first"], size=8), images_of(8)
    assert torch.equal(net.train()(x)[-1], model.train()(x))
    assert torch.equal(net.eval()(x)[-1], model.eval()(x))
    assert not torch.equal(net.train()(x)[-1], net.eval()(x)[-1])


def test_another_path_in_training_is_refused_if_a_cut_crosses_it():
    class Net(Small):
        def forward(self, x):
            x = F.relu(self.second(self.first(x)))
            return self.fc((x.sigmoid() if self.training else x).mean((2, 3)))

    with pytest.raises(ValueError, match="something else in training"):
        attach(Net(), ["first"], size=8)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Net()).eval()  # here the other way is inside a module that stays whole
    model.append(nn.Linear(5, 4))
    net, x = attach(model, ["0"], size=8), images_of(8)
    for mode in (True, False):
        assert torch.equal(net.train(mode)(x)[-1], model.train(mode)(x))


# The original


def test_the_original_is_left_alone():
    model = resnet().train()
    model.layer1.eval()  # frozen by its owner
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    net = attach(model, ["layer1.0", "layer2"], Surgery(0.5))
    net(images_of(64))[-1].sum().backward()
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert model.relu.inplace
    assert type(model.layer2[0].conv1) is nn.Conv2d
    assert model.conv1.weight.grad is None
    assert not net.stages[0].get_submodule("layer1.0.bn1").training
    assert net.stages[0].bn1.training


# Gradients


def gradients(net, x, exit):
    net.zero_grad()
    net(x)[exit].square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["resnet18", "mixer_s32_224"])
def test_deeper_exits_reach_the_shared_channels_alone(name):
    size = NINE.get(name, (64,))[0]
    net = attach(with_numbers(on_meta(name)), at=2, junction=Surgery(0.25), size=size).eval()
    f = net.stages[0](images_of(size, B=1)).detach().requires_grad_()
    onward, seen = net.junctions[0](f)
    logits = [net.heads[0](seen), net.heads[1](net.junctions[1](net.stages[1](onward))[1])]
    channels = net.stages[0].meta["channels"][0]
    dims = (0, 1) if f.ndim == 3 else (0, 2, 3)
    own, deeper = (torch.autograd.grad(l[0, 0], f)[0].abs().amax(dims) > 0 for l in logits)
    shared = torch.arange(channels) < channels // 4
    assert torch.equal(own, ~shared)
    assert torch.equal(deeper, shared)


@pytest.mark.parametrize("beta", [0, 0.4, 1])
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("resnet18", ["maxpool", "layer1.0", "layer2.0.conv1", "layer3"]),
        ("mobilenet_v3_small", ["features.0", "features.2", "features.4.block.0.0", "features.9"]),
        ("vgg11", ["features.0", "features.3", "features.10", "features.13"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_skipping_gradients_changes_no_gradient(name, at, beta):
    model = on_meta(name)
    if name == "vgg11":
        model = nn.Sequential(OrderedDict(features=model.features, flatten=nn.Flatten(), fc=nn.Linear(512, 3)))
    model = with_numbers(model)
    net = attach(model.double().eval(), at, Surgery(beta), size=32)
    x = images_of(32).double()
    found = [gradients(net, x, k) for k in range(len(net.heads))]
    split = [m for m in net.modules() if isinstance(m, splitgrad.Conv2d)]
    assert len(split) >= 3
    assert all((m.live is None) == (beta == 1) for m in split)
    for m in split:
        m.live = None
    for k, ours in enumerate(found):
        plain = gradients(net, x, k)
        assert ours.keys() == plain.keys()
        for key in plain:
            torch.testing.assert_close(ours[key], plain[key])


@pytest.mark.parametrize(
    ("name", "at", "macs"),
    [
        # what reads layer1: a 1x1 and, with stride 2, the shortcut; what reads layer2.0: a 1x1
        ("resnet50", ["layer1", "layer2.0"], 16**2 * 256 * 128 + 8**2 * 256 * 512 + 8**2 * 512 * 128),
        ("vgg16", ["features.4", "features.13"], 32**2 * 64 * 128 * 9 + 16**2 * 256 * 256 * 9),
    ],
)
def test_backward_work_is_saved(name, at, macs):
    """Half of the input gradient of each convolution that reads a cut feature, and nothing else; 2 FLOPs a MAC."""
    joint, surgery = (cost(attach(on_meta(name), at, junction), (3, 64, 64)) for junction in (Joint(), Surgery(0.5)))
    assert joint.forward_flops == surgery.forward_flops
    assert joint.backward_flops - surgery.backward_flops == macs * 2 / 2


def test_the_conflict_probe_is_exact():
    net = attach(with_numbers(on_meta("mobilenet_v3_small")), at=2, junction=Surgery(0.5)).double()
    images, labels = images_of(64, B=3).double(), torch.tensor([0, 1, 2])
    found = conflict(net, images, labels)
    trunk = {name: p for name, p in net.named_parameters() if name.startswith("stages.")}
    assert found.layers == list(dict.fromkeys(name.rpartition(".")[0] for name in trunk))
    losses = [F.cross_entropy(logits, labels) for logits in net.train()(images)]
    grads = [torch.autograd.grad(l, list(trunk.values()), retain_graph=True, materialize_grads=True) for l in losses]
    for row, layer in enumerate(found.layers):
        mine = [n for n, name in enumerate(trunk) if name.rpartition(".")[0] == layer]
        flat = torch.stack([torch.cat([g[n].flatten() for n in mine]) for g in grads])  # (K, P)
        norm = flat.norm(dim=1)
        norm[norm == 0] = float("nan")
        unit = flat / norm[:, None]
        np.testing.assert_allclose(found.norm[row], norm, rtol=1e-9, err_msg=layer)
        np.testing.assert_allclose(found.cosine[row], unit @ unit.T, atol=1e-9, err_msg=layer)
    assert (found.norm[0] > 0).all()  # all three exits reach the first convolution


# Whatever else is done with a network


def test_a_copy_and_a_state_dict_are_the_same_network():
    net, x = attach(resnet(), ["layer1.0.conv1", "layer2"], Surgery(0.5)).eval(), images_of(64)
    twin = copy.deepcopy(net)
    other = attach(resnet(), ["layer1.0.conv1", "layer2"], Surgery(0.5)).eval()
    with torch.no_grad():
        for p in [*net.parameters(), *other.parameters()]:
            p.mul_(0.9)
    assert not torch.equal(twin(x)[2], net(x)[2])
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x)[0], net(x)[0])
    assert torch.equal(twin(x)[2], net(x)[2])
    assert propagate(twin.stages[1], None, {}).all()
    with pytest.raises(AssertionError):
        assert torch.equal(other(x)[0], net(x)[0])  # their fresh heads differ
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x)[0], net(x)[0])


def test_compile_autocast_and_channels_last():
    net, x = attach(Small(), ["first", "second"], Surgery(0.5), size=8), images_of(8)
    net.eval()
    expected = net(x)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    for found in (compiled(x), copy.deepcopy(net).to(memory_format=torch.channels_last)(x)):
        for logits, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(logits, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x)
    assert low[-1].dtype == torch.bfloat16
    torch.testing.assert_close(low[-1].float(), expected[-1], atol=0.05, rtol=0.05)
    net.train()
    compiled(x)[-1].sum().backward()
    assert net.stages[0].first.weight.grad.abs().sum() > 0


# Errors


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (["layer5"], "no node 'layer5'; did you mean 'layer"),
        (["layer1", "layer2.1.ad"], "no node 'layer2.1.ad'; did you mean 'layer2.1.add'"),
        (["x"], "no node 'x'"),
        (["layer3", "layer1"], "'layer1' comes before 'layer3'; exits go from shallow to deep"),
        (["layer1", "layer1.1"], "'layer1' and 'layer1.1' are the same place"),
        (["layer2", "layer2"], "'layer2' and 'layer2' are the same place"),
        (["fc"], "'fc' is not before 'fc'"),
        (["layer1", "flatten"], "'flatten' is not before 'fc'"),
        ([], r"at=\[\]: there must be at least one exit"),
        (0, "at=0: there must be at least one exit"),
        (-1, "at=-1: there must be at least one exit"),
        (10, "at=10: this network has 8 block ends"),
    ],
    ids=str,
)
def test_a_wrong_place_is_named(at, said):
    with pytest.raises(ValueError, match=said):
        attach(on_meta("resnet18"), at)


@pytest.mark.parametrize("at", [True, "layer1", None, 1.5, {"layer1": 1}, [3], [None]], ids=str)
def test_places_are_a_list_or_a_number(at):
    with pytest.raises(TypeError, match=r"at[:=].*node names or modules"):
        attach(on_meta("resnet18"), at)


def test_a_module_of_another_network_is_named():
    with pytest.raises(ValueError, match=r"Conv2d.* is not a module of the model"):
        attach(on_meta("resnet18"), [nn.Conv2d(3, 64, 7)])


@pytest.mark.parametrize("classes", [1, 0, True, 2.0, "7"])
def test_a_wrong_number_of_classes_is_named(classes):
    with pytest.raises(ValueError, match=f"classes={classes!r}: a classifier has at least 2 classes"):
        attach(on_meta("resnet18"), ["layer1"], classes=classes)


@pytest.mark.parametrize("shape", [(3, 64), (3, 64, 0), (3, 64.0, 64), (5, 64, 64), (3, 2, 2)])
def test_images_that_the_network_cannot_read_are_named(shape):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 62 * 62, 3))
    with pytest.raises(ValueError, match="input_shape="):
        attached(model, ["0"], input_shape=shape)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="model is a str"):
        attached("resnet50", 3)
    with pytest.raises(TypeError, match="has its exits already"):
        attached(build("vgg7-4", 3), 2)


def faulty(forward):
    return type("Faulty", (Small,), {"forward": forward})()


def through_an_int(self, x):
    B = x.shape[0]
    x = self.first(x.reshape(B, 3, 8, 8))
    return self.fc(self.second(x).mean(3).mean(2).reshape(B, -1))


def through_the_batch(self, x):
    x = self.first(x)
    mean = x.mean((0, 2, 3), keepdim=True)
    return self.fc(self.second(x - mean).mean((2, 3)) + mean.flatten(1))


def changed_in_place(self, x):
    x = self.first(x)
    y = self.second(x)
    return self.fc((y + x.mul_(2)).mean((2, 3)))


def shared(self, x):
    return self.fc(self.second(self.second(self.first(x))).mean((2, 3)))


def data_dependent(self, x):
    return self.fc((self.first(x) if x.sum() > 0 else x).mean((2, 3)))


def no_classifier(self, x):
    return self.second(self.first(x)).mean((2, 3))


def two_inputs(self, x, y):
    return self.fc(self.second(self.first(x) + y).mean((2, 3)))


@pytest.mark.parametrize(
    ("forward", "at", "said"),
    [
        (through_an_int, ["first"], "a cut at 'first' would be crossed by 'getitem', a int: only tensors"),
        (through_the_batch, ["second"], r"'mean', of shape \(1, 8, 1, 1\) for 5 images"),
        (changed_in_place, ["first"], "'first', which a later node changes in place"),
        (shared, ["first", "second"], "second.weight of stage 2 and second.weight of stage 3 are one parameter"),
        (data_dependent, ["first"], "Faulty cannot be traced by torch.fx: .*control flow"),
        (
            no_classifier,
            ["first"],
            "Faulty ends in 'mean': the last exit is the network's own classifier, an nn.Linear",
        ),
        (two_inputs, ["first"], "Faulty.forward needs y besides the images"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_network_that_cannot_be_cut(forward, at, said):
    with pytest.raises(ValueError, match=said):
        attach(faulty(forward), at, size=8)


def test_a_block_that_runs_twice_must_be_named_by_its_node():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
            self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.block(self.conv(self.block(x))).mean((2, 3)))

    with pytest.raises(ValueError, match=r"'block' runs 2 times; name a node in it, such as 'block\.0'"):
        attach(Net(), ["block"], size=8)
    net, x = attach(Net(), ["block.1", "conv"], size=8), images_of(8)
    torch.testing.assert_close(net.stages[0](x), F.max_pool2d(x.relu(), 2))


# What strangers brought


def all_gradients(net, x):
    """Of the trunk's and the heads' parameters, by name, from the sum of all logits squared."""
    net.eval().zero_grad()
    sum(logits.square().mean() for logits in net(x)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def saved_and_loaded(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("junction", [Surgery(0.5), Surgery(0.25, exit_gradient="all"), Detached()], ids=str)
def test_a_copy_joined_anew_has_the_gradients_of_the_original_joined_anew(copied, junction):
    net, x = attach(resnet(), ["layer2", "layer3"], junction), images_of(64)
    back = copied(net)
    torch.testing.assert_close(all_gradients(back, x), all_gradients(net, x), rtol=0, atol=0)
    for again in Joint(), junction:
        net.join(again), back.join(again)
        torch.testing.assert_close(all_gradients(back, x), all_gradients(net, x), rtol=0, atol=0)
        assert [getattr(m, "live", None) for m in back.modules()] == [getattr(m, "live", None) for m in net.modules()]


def test_a_saved_network_still_follows_the_mode():
    net = saved_and_loaded(attach(Small(dropout=0.9), ["first"], size=8))
    x = images_of(8)
    assert torch.equal(net.eval()(x)[-1], net(x)[-1])
    assert not torch.equal(net.train()(x)[-1], net(x)[-1])


@pytest.mark.parametrize("junction", [Joint(), Surgery(0.5)], ids=str)
def test_a_wrapped_stage_has_the_same_gradients(junction):
    net, x = attach(resnet(), ["layer2", "layer3"], Surgery(0.5)), images_of(64)
    expected = copy.deepcopy(net)
    expected.join(junction)
    net.stages[1] = nn.Sequential(net.stages[1])
    net.join(junction)
    found = all_gradients(net, x).values()
    torch.testing.assert_close(list(found), list(all_gradients(expected, x).values()))


class WithCall(Small):
    def __call__(self, x):
        return super().__call__(x) * 2


def patched(model):
    model.forward = lambda x: 2 * type(model).forward(model, x)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model.register_forward_hook(lambda m, inputs, out: out * 2), "Small has hooks"),
        (lambda model: model.register_forward_pre_hook(lambda m, inputs: (inputs[0] * 2,)), "Small has hooks"),
        (lambda model: model.register_full_backward_hook(lambda *_: None), "Small has hooks"),
        (patched, "Small has a forward (of its own|that is a closure)"),
    ],
    ids=["hook", "pre-hook", "backward hook", "forward"],
)
def test_what_runs_beside_forward_is_refused_by_name(change, said):
    model = Small()
    change(model)
    with pytest.raises(ValueError, match=said):
        attach(model, ["first"], size=8)


def test_custom_calls_and_inner_hooks_are_kept_or_refused():
    with pytest.raises(ValueError, match="WithCall has a __call__ of its own"):
        attach(WithCall(), ["first"], size=8)
    model = with_numbers(torchvision.models.resnet18(num_classes=7)).eval()
    model.layer1.register_forward_hook(lambda m, inputs, out: out * 2)  # a module that no cut opens runs whole
    x = images_of(64)
    torch.testing.assert_close(attach(model, ["layer2"]).eval()(x)[-1], model(x))
    with pytest.raises(ValueError, match="'layer1', which a cut opens, has hooks"):
        attach(model, ["layer1.0"])


def test_hooks_of_parameters_are_refused():
    """A copy loses them: their gradients would be others."""
    model = Small()
    name, parameter = next(iter(model.first.named_parameters()))
    parameter.register_hook(lambda gradient: 0 * gradient)
    with pytest.raises(ValueError, match=f"'first.*' of Small: its parameter '{name}' has hooks"):
        attach(model, ["second"], size=8)


def changes_a_list(self, x):
    maps = [self.first(x), x]
    maps = self.pair(maps)
    return self.fc(self.second(maps[0]).mean((2, 3)))


class Pair(nn.Module):
    def forward(self, maps):
        maps[0] = maps[0] + 1
        return maps


def test_a_list_that_is_changed_in_place_is_named_as_the_cause():
    model = type("Changing", (Small,), {"forward": changes_a_list})()
    model.pair = Pair()
    with pytest.raises(ValueError, match="changes a list in place"):
        attach(model, ["second"], size=8)


def no_grad(self, x):
    with torch.no_grad():
        x = self.first(x)
    return self.fc(self.second(x).mean((2, 3)))


def grad_disabled(self, x):
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    x = self.first(x)
    torch.set_grad_enabled(before)
    return self.fc(self.second(x).mean((2, 3)))


def inference_mode(self, x):
    with torch.inference_mode():
        x = self.first(x)
    return self.fc(self.second(x).mean((2, 3)))


def without_autocast(self, x):
    with torch.autocast("cpu", enabled=False):
        x = self.first(x)
    return self.fc(self.second(x).mean((2, 3)))


def with_autocast(self, x):
    with torch.autocast("cpu", torch.bfloat16):
        x = self.first(x)
    return self.fc(self.second(x.float()).mean((2, 3)))


def checkpointed(self, x):
    x = torch.utils.checkpoint.checkpoint(self.first, x, use_reentrant=False)
    return self.fc(self.second(x).mean((2, 3)))


def checkpointed_in_training(self, x):
    x = torch.utils.checkpoint.checkpoint(self.first, x, use_reentrant=True) if self.training else self.first(x)
    return self.fc(self.second(x).mean((2, 3)))


def layer_drop(self, x):
    x = self.first(x)
    if not self.training or random.random() > 0.01:
        x = x + self.second(x)
    return self.fc(self.second(x).mean((2, 3)))


def layer_drop_by_torch(self, x):
    x = self.first(x)
    if not self.training or torch.rand(()) > 0.01:
        x = x + self.second(x)
    return self.fc(self.second(x).mean((2, 3)))


def anything(self, *xs):
    return self.fc(self.second(self.first(xs[0])).mean((2, 3)))


def keyword(self, x, *, y):
    return self.fc(self.second(self.first(x) + y).mean((2, 3)))


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (no_grad, "runs under another gradient mode"),
        (grad_disabled, "runs under another gradient mode"),
        (inference_mode, "torch.inference_mode"),
        (without_autocast, "another torch.autocast"),
        (with_autocast, "another torch.autocast"),
        (checkpointed, "torch.utils.checkpoint"),
        (checkpointed_in_training, "a checkpoint"),
        (layer_drop, "draws random numbers"),
        (layer_drop_by_torch, "draws random numbers"),
        (anything, r"forward takes \*xs: name its one argument"),
        (keyword, "forward needs y besides the images"),
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["at the root", "in a block"])
def test_what_a_graph_would_lose_is_refused_by_name(forward, said, inside):
    model, at = faulty(forward), ["first"]
    if inside:
        if forward in (anything, keyword):
            pytest.skip("of the network's own forward")
        model, at = nn.Sequential(OrderedDict(block=model, flat=nn.Identity(), fc=nn.Linear(5, 4))), ["block.second"]
        said = f"'block'.*{said}"
    with pytest.raises(ValueError, match=said):
        attach(model, at, size=8)
    if inside:  # where no cut opens it, it stays whole and is run as it was written
        with torch.no_grad():
            assert attach(model, ["block"], size=8)(images_of(8))[-1].shape == (2, 4)


def centred(self, x):
    x = self.first(x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1))
    return self.fc((self.second(x) * torch.tensor(2.0)).mean((2, 3)))


def test_tensors_made_in_forward_are_constants():
    model, x = faulty(centred), images_of(8)
    for net in (attach(model, ["first"], size=8), copy.deepcopy(attach(model, ["first"], size=8))):
        for mode in True, False:
            torch.testing.assert_close(net.train(mode)(x)[-1], model.train(mode)(x))
        assert not [name for name in net.state_dict() if "constant" in name]


class PlainTensor(Small):
    def __init__(self):
        super().__init__()
        self.mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)

    def forward(self, x):
        return super().forward(x - self.mean)


def test_a_plain_tensor_is_named_and_a_buffer_advised():
    with pytest.raises(ValueError, match=r"mean is a plain tensor.*self.register_buffer\('mean'"):
        attach(PlainTensor(), ["first"], size=8)
    whole = nn.Sequential(OrderedDict(inner=PlainTensor(), flat=nn.Identity(), fc=nn.Linear(5, 4)))
    with pytest.raises(ValueError, match=r"inner.mean is a plain tensor"):
        attach(whole, ["inner"], size=8)
    with pytest.raises(ValueError, match=r"input_shape=\(3, 2, 2\): the network cannot read such images"):
        attached(nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4, 3)), ["0"], input_shape=(3, 2, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: torch.nn.utils.weight_norm(m.second), r"'second' of Small.*WeightNorm.*remove_weight_norm"),
        (lambda m: torch.nn.utils.spectral_norm(m.second), "'second' of Small.*SpectralNorm.*remove_spectral_norm"),
        (lambda m: prune.l1_unstructured(m.second, "weight", 0.5), "'second' of Small.*prune.remove"),
        (lambda m: setattr(m, "seen", m.fc.weight * 2), "its attribute 'seen' is the result of a computation"),
    ],
    ids=["weight_norm", "spectral_norm", "prune", "attribute"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_copied_is_named_with_the_cure(change, said):
    model = Small()
    change(model)
    with pytest.raises(ValueError, match=said):
        attach(model, ["first"], size=8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_scripted_and_quantized_networks_and_auxiliary_classifiers_are_named():
    with pytest.raises(TypeError, match="scripted by TorchScript"):
        attach(torch.jit.script(Small()), ["first"], size=8)
    quantized = torch.ao.quantization.quantize_dynamic(Small(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(TypeError, match="'fc' of Small is quantized"):
        attach(quantized, ["first"], size=8)
    with pytest.raises(ValueError, match=r"GoogLeNet returns several tensors.*aux_logits=False"):
        attach(on_meta("googlenet"), 2)


@pytest.mark.parametrize("wrapped", [torch.compile, nn.DataParallel], ids=["compiled", "parallel"])
def test_wrappers_are_taken_off(wrapped):
    model, x = Small().eval(), images_of(8)
    net = attach(wrapped(model), [model.first], size=8).eval()
    torch.testing.assert_close(net(x)[-1], model(x))
    assert not [name for name in net.state_dict() if "_orig_mod" in name or ".module." in name]


def test_a_network_that_was_traced_before():
    model, x = resnet(), images_of(64)
    net = attach(torch.fx.symbolic_trace(model), ["layer2.0.conv1", "layer3"], Surgery(0.5))
    for mode in True, False:
        torch.testing.assert_close(net.train(mode)(x)[-1], model.train(mode)(x), rtol=0, atol=0)


@pytest.mark.parametrize("classes", [None, 1])
def test_one_class_is_refused_wherever_it_comes_from(classes):
    with pytest.raises(ValueError, match="classes=1: a classifier has at least 2 classes"):
        attach(Small(classes=1), ["first"], classes=classes, size=8)


class SequenceFirst(nn.Module):
    """Five tokens, as many as the images of the trial run, before the batch."""

    def __init__(self):
        super().__init__()
        self.tokens, self.mix = nn.Conv2d(3, 8, (8, 8), stride=8), nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):  # (B, 3, 8, 40)
        x = self.tokens(x).flatten(2).permute(2, 0, 1)  # (5, B, 8)
        return self.fc(self.mix(x).mean(0))


class Conv1d(nn.Module):
    def __init__(self, turned):
        super().__init__()
        self.turned = turned
        self.first, self.norm, self.second = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 3)
        self.turn, self.fc = nn.Identity(), nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.first(x.flatten(2))).relu()
        if self.turned:
            x = self.turn(x.transpose(1, 2)).transpose(1, 2)  # (B, L, C) between
        return self.fc(self.second(x).mean(2))


def test_dimensions_are_not_mistaken():
    with pytest.raises(ValueError, match=r"of shape \(5, 5, 8\) for 5 images: it must have one entry per image"):
        attached(SequenceFirst(), ["mix"], input_shape=(3, 8, 40))
    for place in "norm", "relu":
        with pytest.raises(ValueError, match=r"of shape \(5, 8, 62\), \(B, C, L\) as from nn.Conv1d"):
            attach(Conv1d(False), [place], size=8)
    net = attach(Conv1d(True), ["turn"], Surgery(0.5), size=8)
    assert net.stages[0](images_of(8)).shape == (2, 62, 8)
    maps = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"of shape \(5, 8, 36\), \(B, C, L\)"):
        attach(maps, ["1"], size=8)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("efficientformer_l1", 224, r"from several classifiers, 'head.*' and 'head_dist': the last exit has one"),
        ("deit_tiny_distilled_patch16_224", 224, "from several classifiers, 'head' and 'head_dist'"),
        ("squeezenet1_1", 64, "ends in 'classifier.3'"),
    ],
)
def test_a_network_without_one_classifier_is_refused_for_the_true_reason(name, size, said):
    with pytest.raises(ValueError, match=said):
        attach(on_meta(name), 2, size=size)


def test_a_classifier_that_is_a_1x1_convolution_is_the_same_linear_layer():
    model, x = with_numbers(timm.create_model("resnetv2_18", num_classes=7)).eval(), images_of(64)
    net = attach(model, 2).eval()
    torch.testing.assert_close(net(x)[-1], model(x))
    assert torch.equal(net.heads[-1].fc.weight, model.head.fc.weight.flatten(1))
    with pytest.raises(ValueError, match="'2' is a convolution over 6x6 places: pool before it"):
        attach(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1), nn.Flatten()), ["0"], size=8)


def test_exits_that_are_far_from_even_are_warned_of():
    with pytest.warns(
        UserWarning, match=r"at=3: the nearest block ends lie at 41 %, 4[45] %, 73 % of the cost, not even"
    ):
        attach(on_meta("densenet121"), 3)


class Chain(nn.Module):
    """Three convolutions, so that each of two cuts has one that reads a feature."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.c = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.c(self.b(self.a(x))).mean((2, 3)))


class Tripled(nn.Conv2d):
    def __call__(self, x):
        return super().__call__(x) * 3


def thrice(conv, x):
    return nn.Conv2d.forward(conv, x) * 3


def bind(conv, name, function):
    setattr(conv, name, types.MethodType(function, conv))


BESIDE = {
    "a forward of its own": lambda conv: bind(conv, "forward", thrice),
    "a patched _conv_forward": lambda conv: bind(
        conv, "_conv_forward", lambda self, x, w, b: 3 * nn.Conv2d._conv_forward(self, x, w, b)
    ),
    "a backward hook": lambda conv: conv.register_full_backward_hook(lambda *_: (None,)),
    "a backward pre-hook": lambda conv: conv.register_full_backward_pre_hook(lambda _, g: (0 * g[0],)),
}


@pytest.mark.parametrize("at", [["a"], ["b"], ["a", "b"], ["b.0", "c.0"]])
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_a_convolution_that_reads_a_feature_keeps_what_it_does_beside_its_class(beside, at):
    torch.manual_seed(0)
    model = Chain()
    beside(model.c[0])
    try:
        net = dfs.attach(model, at, input_shape=(3, 16, 16))
    except ValueError as error:
        assert "of its own" in str(error) or "hooks" in str(error)  # refused by name  # noqa: PT017
        return
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(net.eval()(x)[-1], model.eval()(x))
    ours, theirs = net(x)[-1].square().sum(), model(x).square().sum()
    (g,) = torch.autograd.grad(ours, [net.stages[0].get_submodule("a.0").weight], allow_unused=True)
    (expected,) = torch.autograd.grad(theirs, [model.a[0].weight], allow_unused=True)
    torch.testing.assert_close(g, expected)


@pytest.mark.parametrize("part", ["b", "c", "fc", "c.0"])
def test_a_forward_that_holds_the_original_s_weights_is_refused_by_name(part):
    model = Chain()
    module = model.get_submodule(part)
    plain = module.forward
    module.forward = lambda x: plain(x) * 3
    with pytest.raises(ValueError, match=rf"'{part}' of Chain has a forward that is a closure"):
        dfs.attach(model, ["a"], input_shape=(3, 16, 16))


def test_a_custom_call_of_a_part_is_refused_by_name():
    model = Chain()
    model.c[0].__class__ = Tripled
    with pytest.raises(ValueError, match=r"'c.0' of Chain has a __call__ of its own"):
        dfs.attach(model, ["b", "c.0"], input_shape=(3, 16, 16))


@pytest.mark.parametrize(
    "make", [lambda: dfs.attach(Chain(), ["a"], input_shape=(3, 16, 16)), lambda: dfs.build("vgg7-4", 10)]
)
def test_a_network_made_under_inference_mode_can_be_trained(make):
    with torch.inference_mode():
        net = make()
    sum(logits.sum() for logits in net(torch.randn(2, 3, 16, 16))).backward()
    assert all(p.grad is not None for p in net.heads.parameters())
