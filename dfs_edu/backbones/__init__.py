"""Backbones: each builder makes the stages and heads of a network and knows nothing of junctions or methods.

A family is one file; importing it here, one line, makes its name known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from torch import nn

from dfs_edu.backbones.attachment import attached
from dfs_edu.backbones.families import BACKBONES, Backbone
from dfs_edu.backbones.msdnet import msdnet_cifar, msdnet_imagenet  # noqa: F401
from dfs_edu.backbones.resnet import resnet18  # noqa: F401
from dfs_edu.backbones.vgg import vgg7, vgg16  # noqa: F401
from dfs_edu.backbones.vit import vit_tiny  # noqa: F401
from dfs_edu.multiexit import MultiExit, check_classes
from dfs_edu.surgery import Joint, Junction

__all__ = ["BACKBONES", "Backbone", "attach", "build", "parse", "pixels_of"]


def build(name: str, classes: int, junction: Junction | list[Junction] = Joint(), **sizes: int) -> MultiExit:
    """A multi-exit network by name: "vgg7-64", "resnet18", "msdnet-cifar", "vit-tiny" and others (see BACKBONES).

    classes   number of classes, at least 2
    junction  one for all exits, or a list with one for each
    sizes     of the network, where they differ from the published ones; they may stand in the name as well:
              build("msdnet-cifar-blocks5-base2", 100) is build("msdnet-cifar", 100, blocks=5, base=2), and a bare
              number is the width, "vgg7-16"

    Raises ValueError for an unknown name (with the nearest known ones), an unknown size (with the family's own), a
    size that is no number above zero or too large to be made, or a wrong number of classes.

    >>> import torch
    >>> net = build("vgg7-16", classes=10)
    >>> [tuple(logits.shape) for logits in net(torch.zeros(2, 3, 32, 32))]
    [(2, 10), (2, 10), (2, 10), (2, 10), (2, 10), (2, 10)]
    """
    check_classes(classes)
    family, sizes = parse(name, **sizes)
    backbone = BACKBONES[family]
    try:
        stages, heads = backbone.builder(classes, **sizes)
    except RuntimeError as error:  # more than the memory, or than torch can count
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} cannot be made with sizes {sizes}, {classes} classes: {reason}") from error
    return MultiExit(stages, heads, junction, smallest=backbone.smallest)


def attach(
    model: nn.Module,
    at: int | list[str | nn.Module],
    classes: int | None = None,
    junction: Junction | list[Junction] = Joint(),
    head: Callable[[int, int], nn.Module] | None = None,
    input_shape: tuple[int, int, int] = (3, 224, 224),
) -> MultiExit:
    """Any classifier that torch.fx can trace, torchvision's, timm's or your own, with exits along its depth.

    The model is copied, its weights and its answers are kept; its own classifier is the last exit. `at` names nodes or
    modules behind which exits leave, shallow to deep, or says how many, evenly in MACs. All arguments and errors:
    `backbones.attach.attached`.

    >>> from torchvision.models import resnet18
    >>> net = attach(resnet18(num_classes=10), at=["layer2", "layer3"], input_shape=(3, 64, 64))
    >>> len(net.heads)
    3
    """
    return MultiExit(*attached(model, at, classes, head, input_shape), junction)


def pixels_of(name: str) -> int:
    """Height and width of the pictures that a network of this name was made for."""
    family, sizes = parse(name)
    return sizes.get("pixels", BACKBONES[family].pixels)


def parse(name: str, **sizes: int) -> tuple[str, dict[str, int]]:
    """The family that a name speaks of, and the sizes that it and `sizes` ask for. Raises ValueError as `build` does.

    >>> parse("msdnet-cifar-blocks5", base=2)
    ('msdnet-cifar', {'blocks': 5, 'base': 2})
    """
    family = max((f for f in BACKBONES if name == f or name.startswith(f"{f}-")), key=len, default=None)
    said = name.removeprefix(family or "").removeprefix("-")
    parts = [re.fullmatch(r"([a-z]*)(0|[1-9]\d*)", part) for part in said.split("-")] if said else []
    bare = family is not None and not said and family != BACKBONES[family].published  # vgg7: one name a network
    if family is None or bare or not all(parts):
        known = [backbone.published for backbone in BACKBONES.values()]
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.3) or known
        raise ValueError(
            f"backbone {name!r} is not known; did you mean {' or '.join(near)}? "
            "(any size will do: vgg7-16, msdnet-cifar-blocks5-growth8)"
        )
    known = BACKBONES[family].sizes
    sizes = {part[1] or "width": int(part[2]) for part in parts} | sizes
    for size, value in sizes.items():
        if size not in known:
            raise ValueError(f"{name}: {family} has no size {size!r}; it has {', '.join(known)}")
        if type(value) is not int or value < (size != "dropout"):
            raise ValueError(f"{name}: {size}={value!r} is not a whole number above zero")
    return family, sizes
