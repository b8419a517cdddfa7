"""The networks as published: sizes, shapes, and what a wrong name or number is answered."""

import pytest
import torch
from torch import nn

import dfs_edu as dfs
from dfs_edu.backbones import BACKBONES, build
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery

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
def test_pictures_of_another_size(size):
    assert all(logits_k.shape == (1, 3) for logits_k in build("vgg7-4", 3).eval()(torch.randn(1, 3, *size)))


# Names and errors


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vgg7", "vgg7-64"),
        ("vgg16", "vgg16-64"),
        ("vg7-64", "vgg7-64"),
        ("VGG16-64", "vgg16-64"),
        ("vgg16_64", "vgg16-64"),
        ("vgg7-0", "vgg7-64"),
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


@pytest.mark.parametrize("name", ["", "transformer"])
def test_a_name_like_none_is_answered_with_all(name):
    with pytest.raises(ValueError, match="is not known") as error:
        build(name, 10)
    assert all(published in str(error.value) for _, published in BACKBONES.values())


@pytest.mark.parametrize("classes", [1, 0, -3, "x", True, None, 10.0])
def test_a_wrong_number_of_classes_is_named(classes):
    with pytest.raises(ValueError, match=f"classes={classes!r}: a classifier has at least 2 classes"):
        build("vgg7-4", classes)


def test_every_published_size_can_be_built():
    for _, published in BACKBONES.values():
        with torch.device("meta"):
            assert build(published, 2).heads


def test_the_public_names():
    assert dfs.build is build
    assert (dfs.Joint, dfs.Detached, dfs.Equilibrium, dfs.Surgery) == (Joint, Detached, Equilibrium, Surgery)
    assert isinstance(dfs.build("vgg7-4", classes=2, junction=dfs.Surgery(beta=0.5)), dfs.MultiExit)
