"""The networks as published: sizes, shapes, and what a wrong name or number is answered."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import dfs_edu as dfs
from dfs_edu.backbones import BACKBONES, build, initial, parse
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import cost
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery
from dfs_edu.training.results import PUBLISHED_COSTS

VGG7 = [1, 1, 2, 2, 4, 4]  # channels in units of the width
VGG16 = [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8]


def features(net, images):
    found = []
    hooks = [stage.register_forward_hook(lambda _, inputs, f: found.append(f)) for stage in net.stages]
    logits = net(images)
    for hook in hooks:
        hook.remove()
    return found, logits


@pytest.mark.parametrize(
    ("name", "classes", "parameters"), [("vgg7-64", 100, 1_235_968), ("vgg16-64", 1000, 18_942_976)]
)
def test_parameters_as_published(name, classes, parameters):
    with torch.device("meta"):
        net = build(name, classes, Surgery(0.5))
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "classes", "size", "channels", "sizes"),
    [
        ("vgg7-64", 100, 32, [64, 64, 128, 128, 256, 256], [32, 16, 16, 8, 8, 4]),
        ("vgg7-16", 10, 32, [16, 16, 32, 32, 64, 64], [32, 16, 16, 8, 8, 4]),
        ("vgg16-64", 1000, 224, [64 * c for c in VGG16], [224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14, 7]),
        ("vgg16-2", 5, 64, [2 * c for c in VGG16], [64, 32, 32, 16, 16, 16, 8, 8, 8, 4, 4, 4, 2]),
    ],
)
def test_shapes(name, classes, size, channels, sizes):
    with torch.device("meta"):
        found, logits = features(build(name, classes), torch.empty(2, 3, size, size))
    assert [tuple(f.shape) for f in found] == [(2, C, s, s) for C, s in zip(channels, sizes, strict=True)]
    assert [tuple(logits_k.shape) for logits_k in logits] == [(2, classes)] * len(channels)


@pytest.mark.parametrize("width", [1, 3, 24, 128])
@pytest.mark.parametrize(("kind", "units"), [("vgg7", VGG7), ("vgg16", VGG16)])
def test_any_width(kind, units, width):
    with torch.device("meta"):
        net = build(f"{kind}-{width}", 2)
    assert len(net.stages) == len(net.heads) == len(units)
    assert [stage.conv.out_channels for stage in net.stages] == [width * unit for unit in units]


def test_a_stage_is_convolution_relu_batchnorm_and_pooling_at_a_group_s_end():
    net = build("vgg7-4", 3)
    for k, stage in enumerate(net.stages, start=1):
        x = torch.randn(2, stage.conv.in_channels, 8, 8)
        expected = stage.norm(nn.functional.conv2d(x, stage.conv.weight, stage.conv.bias, padding=1).relu())
        expected = nn.functional.max_pool2d(expected, 2) if k % 2 == 0 else expected
        torch.testing.assert_close(stage(x), expected)


def test_biases_are_where_they_were_published():
    """In the first convolution only; the classifiers have none."""
    net = build("vgg16-2", 3)
    assert [name for name, _ in net.named_parameters() if name.endswith("bias") and "norm" not in name] == [
        "stages.0.conv.bias"
    ]


def test_the_head_is_global_average_pooling_and_a_linear_classifier():
    net = build("vgg7-4", 3)
    for head, C in zip(net.heads, [4, 4, 8, 8, 16, 16], strict=True):
        f = torch.randn(2, C, 3, 5)
        torch.testing.assert_close(head(f), f.flatten(2).mean(2) @ head.fc.weight.T)


@pytest.mark.parametrize("junction", [Joint(), Detached(), Equilibrium(), Surgery(0.3), Surgery(0.3, False)], ids=str)
def test_every_junction_fits(junction):
    logits = build("vgg16-2", 3, junction)(torch.randn(2, 3, 32, 32))
    assert len(logits) == 13
    sum(logits_k.sum() for logits_k in logits).backward()


def test_a_list_of_junctions_fits():
    junctions = [Surgery(0.5), Detached(), Joint(), Surgery(0.25), Equilibrium(), Surgery(1)]
    net = build("vgg7-4", 3, junctions)
    assert net.junctions == [*junctions[:4], Equilibrium(2), Joint()]
    with pytest.raises(ValueError, match="6 stages, 6 heads, 2 junctions"):
        build("vgg7-4", 3, junctions[:2])


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (20, 36)])
def test_images_of_another_size(size):
    assert all(logits_k.shape == (1, 3) for logits_k in build("vgg7-4", 3).eval()(torch.randn(1, 3, *size)))


# The published networks: parameters and MACs of every exit, convolutions and linear layers (REFERENCE: counted by hand
# from the published code, and by torch's counter)

EXACT = {
    "msdnet-cifar": (
        [898_996, 1_835_992, 2_797_212, 3_758_208, 4_915_812, 6_102_472, 7_362_348],
        [56.030, 100.410, 154.556, 197.233, 248.560, 297.004, 339.550],
    ),
    "msdnet-imagenet": (
        [4_238_504, 8_772_240, 13_073_272, 16_748_416, 23_958_440],
        [337.214, 681.654, 1003.659, 1249.626, 1355.606],
    ),
    "resnet18": ([479_652, 1_347_336, 3_838_316, 12_283_344], [165.161, 308.187, 447.846, 582.115]),
}


def cost_of(name):
    pixels = BACKBONES[name].pixels
    classes = 100 if pixels == 32 else 1000
    with torch.device("meta"):
        return dfs.probes.cost(build(name, classes), (3, pixels, pixels))


@pytest.mark.parametrize("name", EXACT)
def test_parameters_and_macs_of_every_exit(name):
    found, (params, mmacs) = cost_of(name), EXACT[name]
    assert found.params.tolist() == params
    assert (found.macs / 1e6).round(3).tolist() == mmacs


def test_resnet18_s_path_to_each_exit_as_published():
    found = cost_of("resnet18")
    classifier = 512 * 100 + 100
    assert (found.path_params - classifier).tolist() == [428_352, 966_208, 3_115_072, 11_168_832]
    assert (found.path_macs / 1e6).round(3).tolist() == [165.161, 295.791, 426.641, 555.469]


@pytest.mark.parametrize("name", EXACT)
def test_published_costs_are_near_the_exact_ones(name):
    found, published = cost_of(name), dfs.results.PUBLISHED_COSTS[name]
    path = name == "resnet18"
    params = found.path_params - 51_300 if path else found.params
    assert (abs(params / published["params"] - 1) < 0.01).all()
    assert (abs((found.path_macs if path else found.macs) / published["macs"] - 1) < 0.03).all()


def test_one_operation_for_each_number_that_a_batchnorm_puts_out_explains_msdnet_s_published_macs():
    """On CIFAR-100 they are published to 0.01 million; BatchNorm and pooling bring the exact count to within that."""
    with torch.device("meta"):
        net = build("msdnet-cifar", 100).eval()
    more = []
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.AvgPool2d):
            module.register_forward_hook(lambda _, inputs, out: more.append(out.numel()))
    added = [sum(more) for _ in net.exits(torch.empty(1, 3, 32, 32, device="meta"))]
    counted = dfs.probes.cost(net).macs + added
    published = dfs.results.PUBLISHED_COSTS["msdnet-cifar"]["macs"]
    assert (abs(counted - published) < 0.011e6).all()


def test_vit_tiny_is_timm_s():
    from timm.models.vision_transformer import VisionTransformer

    from dfs_edu.backbones.vit import cut

    torch.manual_seed(0)
    vit = VisionTransformer(32, 8, embed_dim=24, depth=4, num_heads=2, num_classes=7).eval()
    net = MultiExit(*cut(vit, 7)).eval()
    images = torch.randn(2, 3, 32, 32)
    assert len(net.heads) == 2
    torch.testing.assert_close(net(images)[-1], vit(images), rtol=0, atol=0)
    features = vit.forward_features(images)  # through the last LayerNorm
    torch.testing.assert_close(net.heads[-1].embed(net.stages[1](net.stages[0](images))), features[:, 0])
    assert net.heads[-1].fc is vit.head
    assert MultiExit(*cut(vit, 3)).heads[-1].fc.out_features == 3


@pytest.mark.parametrize("exits", [[2, 1, 3], [1, 2], [], [1, 1, 3], [-1, 3], [3, 4]], ids=str)
def test_exits_of_a_transformer_out_of_order_are_named(exits):
    from timm.models.vision_transformer import VisionTransformer

    from dfs_edu.backbones.vit import cut

    vit = VisionTransformer(32, 8, embed_dim=24, depth=4, num_heads=2, num_classes=7)
    with pytest.raises(ValueError, match=re.escape(f"exits={exits}: rising numbers of blocks from 0 to 3")):
        cut(vit, 7, exits)


@pytest.mark.parametrize(
    ("name", "exits", "size"),
    [
        ("msdnet-cifar-blocks5-base2-step1-growth8", 5, {"blocks": 5, "base": 2, "step": 1, "growth": 8}),
        ("resnet18-width8-depth1", 4, {"width": 8, "depth": 1}),
        ("resnet18-8-depth1", 4, {"width": 8, "depth": 1}),
        ("vit-tiny-pixels32-patch8-depth6-width24-heads2", 3, {"pixels": 32, "patch": 8, "depth": 6, "width": 24}),
        ("vgg7-width8", 6, {"width": 8}),
    ],
)
def test_sizes_stand_in_the_name_or_beside_it(name, exits, size):
    net = build(name, 10)
    family, sizes = parse(name)
    assert len(net.heads) == exits
    assert size.items() <= sizes.items()
    shapes = {n: p.shape for n, p in net.named_parameters()}
    if family != "vgg7":  # it has no name without a size
        assert {n: p.shape for n, p in build(family, 10, **sizes).named_parameters()} == shapes


# Names and errors


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vgg7", "vgg7-64"),
        ("vgg16", "vgg16-64"),
        ("vg7-64", "vgg7-64"),
        ("VGG16-64", "vgg16-64"),
        ("vgg16_64", "vgg16-64"),
        ("vgg7-016", "vgg7-64"),
        ("vgg7--4", "vgg7-64"),
        ("vgg7-1.5", "vgg7-64"),
        ("xvgg7-64", "vgg7-64"),
        ("vgg7-64x", "vgg7-64"),
        ("vgg16-{width}", "vgg16-64"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(ValueError, match="is not known") as error:
        build(name, 10)
    said = str(error.value)
    assert said.startswith(f"backbone {name!r} is not known; did you mean {near}")


@pytest.mark.parametrize("name", ["", "qqq"])
def test_a_name_like_no_other_is_answered_with_all_names(name):
    with pytest.raises(ValueError, match="is not known") as error:
        build(name, 10)
    assert all(backbone.published in str(error.value) for backbone in BACKBONES.values())


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("vgg7-0", {}, "vgg7-0: width=0 is not a whole number above zero"),
        ("resnet18-growth4", {}, "resnet18 has no size 'growth'; it has width, depth"),
        ("msdnet-cifar", {"blocks": 2.5}, "blocks=2.5 is not a whole number"),
        ("msdnet-cifar", {"blocks": True}, "blocks=True is not a whole number"),
        ("vit-tiny-patch15", {}, "pixels=224, patch=15: patches tile the image"),
        ("vit-tiny-heads5", {}, "width=192, heads=5: attention heads share"),
    ],
)
def test_a_wrong_size_is_named(name, sizes, message):
    with pytest.raises(ValueError, match=message):
        build(name, 10, **sizes)


@pytest.mark.parametrize("junction", ["surgery", 0.5, None, [Joint(), "joint"], {"name": "joint"}], ids=str)
def test_what_is_no_junction_is_named(junction):
    with pytest.raises(TypeError, match=re.escape(f"junction={junction!r}: give a junction")):
        build("vgg7-4", 3, junction)


@pytest.mark.parametrize("classes", [1, 0, -3, "x", True, None, 10.0])
def test_a_wrong_number_of_classes_is_named(classes):
    with pytest.raises(ValueError, match=f"classes={classes!r}: a classifier has at least 2 classes"):
        build("vgg7-4", classes)


def test_every_published_size_can_be_built():
    for backbone in BACKBONES.values():
        with torch.device("meta"):
            assert build(backbone.published, 2).heads


def test_the_public_names():
    assert dfs.build is build
    assert (dfs.Joint, dfs.Detached, dfs.Equilibrium, dfs.Surgery) == (Joint, Detached, Equilibrium, Surgery)
    assert isinstance(dfs.build("vgg7-4", classes=2, junction=dfs.Surgery(beta=0.5)), dfs.MultiExit)


def test_where_convolutions_start():
    """He's variance is 2 / fan-out, torch's 1 / (3 fan-in): here fan-in and fan-out are 9 times 64."""
    net = nn.Sequential(nn.Conv2d(64, 64, 3, bias=False))
    for begin, variance in (initial.he, 2 / 576), (initial.torch_default, 1 / (3 * 576)):
        torch.manual_seed(0)
        begin([net])
        assert net[0].weight.var().item() == pytest.approx(variance, rel=0.02)


def test_convolutions_of_the_first_head():
    """vgg7-4-convs2: two convolutions of 4 x 4 x 3 x 3 weights each with their BatchNorm, and nothing else is new."""
    plain, deeper = (build(name, 3) for name in ("vgg7-4", "vgg7-4-convs2"))
    new = {name: p.numel() for name, p in deeper.named_parameters() if name not in dict(plain.named_parameters())}
    assert all(name.startswith("heads.0.convs.") for name in new)
    assert sum(new.values()) == 2 * (4 * 4 * 9 + 2 * 4)
    assert cost(deeper).macs[0] - cost(plain).macs[0] == (2 * 4 * 4 * 9 * 32 * 32)


def test_features_are_compared_before_dropout():
    """Of two passes that drop other halves, the embeddings are equal and the logits are not."""
    torch.manual_seed(0)
    net = build("msdnet-cifar-blocks2-base1-step1-growth4-width4-dropout50", 3).train()
    images = torch.randn(4, 3, 24, 24)
    (first, second) = (net.embed(images) for _ in range(2))
    for (a, logits_a), (b, logits_b) in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.allclose(logits_a, logits_b)


def published_operations(net, pixels):
    """MACs as MSDNet's authors count them: also ReLU outputs, k x k for a pooling output, biases of classifiers."""
    counted = []

    def count(module, inputs, out):
        if isinstance(module, nn.ReLU):
            counted.append(out.numel())
        elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
            counted.append(out.numel() * module.kernel_size**2)
        elif isinstance(module, nn.Linear):
            counted.append(module.bias.numel())

    for module in net.modules():
        module.register_forward_hook(count)
    added = [sum(counted) for _ in net.eval().exits(torch.zeros(1, 3, pixels, pixels, device="meta"))]
    return cost(net, (3, pixels, pixels)).macs + np.array(added)


@pytest.mark.parametrize(("name", "classes", "pixels"), [("msdnet-cifar", 100, 32), ("msdnet-imagenet", 1000, 224)])
def test_the_published_macs_are_reproduced_by_their_own_rule(name, classes, pixels):
    with torch.device("meta"):
        net = build(name, classes)
    published = PUBLISHED_COSTS[name]["macs"]
    np.testing.assert_allclose(
        published_operations(net, pixels), published, atol=0.0051 * 10 ** (6 if pixels == 32 else 9)
    )
