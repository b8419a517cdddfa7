"""Backbones: each builder makes the stages and heads of a network, and knows nothing about junctions or methods.

A family is one file; importing it here, one line, makes its name known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

import torch
from torch import nn

from dfs_edu.backbones.attachment import attached
from dfs_edu.backbones.families import BACKBONES, Backbone
from dfs_edu.backbones.msdnet import msdnet_cifar, msdnet_imagenet  # noqa: F401
from dfs_edu.backbones.resnet import resnet18  # noqa: F401
from dfs_edu.backbones.vgg import vgg7, vgg16  # noqa: F401
from dfs_edu.backbones.vit import vit_tiny  # noqa: F401
from dfs_edu.modes import in_any_mode
from dfs_edu.multiexit import MultiExit, check_classes
from dfs_edu.surgery import Joint, Junction

__all__ = ["BACKBONES", "Backbone", "attach", "build", "parse", "pixels_of"]


@torch.inference_mode(False)
def build(name: str, classes: int, junction: Junction | list[Junction] = Joint(), **sizes: int) -> MultiExit:
    """Build a multi-exit network by name: "vgg7-64", "resnet18", "msdnet-cifar", "vit-tiny" and others (see BACKBONES).

    Args:
        name: A family of networks, with sizes if they differ from the published ones: "msdnet-cifar-blocks5-base2". A
            bare number is the width, "vgg7-16".
        classes: Number of classes, at least 2.
        junction: One for all exits, or a list with one for each.
        sizes: Sizes that are not in the name: build("msdnet-cifar", 100, blocks=5, base=2).

    Raises:
        ValueError: The name is unknown (the message lists the nearest known ones), a size is unknown (it lists the
            family's own), not a whole number above zero or too large to be built, or the number of classes is wrong.

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


@in_any_mode
def attach(
    model: nn.Module,
    at: int | list[str | nn.Module],
    classes: int | None = None,
    junction: Junction | list[Junction] = Joint(),
    head: Callable[[int, int], nn.Module] | None = None,
    input_shape: tuple[int, int, int] = (3, 224, 224),
) -> MultiExit:
    """Add exits along the depth of any classifier that torch.fx can trace: torchvision's, timm's or your own.

    The model is copied; its weights and its outputs stay the same, and its own classifier becomes the last exit. ``at``
    names the nodes or modules after which exits leave, shallow to deep, or says how many exits to place evenly in MACs.
    ``backbones.attachment.attached`` has all arguments and errors.

    >>> from torchvision.models import resnet18
    >>> net = attach(resnet18(num_classes=10), at=["layer2", "layer3"], input_shape=(3, 64, 64))
    >>> len(net.heads)
    3
    """
    return MultiExit(*attached(model, at, classes, head, input_shape), junction)


def pixels_of(name: str) -> int:
    """Return the height and width of the images that the network of this name was made for."""
    family, sizes = parse(name)
    return sizes.get("pixels", BACKBONES[family].pixels)


def parse(name: str, **sizes: int) -> tuple[str, dict[str, int]]:
    """Return the family of a name, and the sizes in it and in ``sizes``. Raises ValueError as ``build`` does.

    >>> parse("msdnet-cifar-blocks5", base=2)
    ('msdnet-cifar', {'blocks': 5, 'base': 2})
    """
    family = max((f for f in BACKBONES if name == f or name.startswith(f"{f}-")), key=len, default=None)
    in_name = name.removeprefix(family or "").removeprefix("-")
    parts = [re.fullmatch(r"([a-z]*)(0|[1-9]\d*)", part) for part in in_name.split("-")] if in_name else []
    bare = family is not None and not in_name and family != BACKBONES[family].published  # vgg7: which width?
    if family is None or bare or not all(parts):
        known = [backbone.published for backbone in BACKBONES.values()]
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.3) or known
        raise ValueError(
            f"backbone {name!r} is not known; did you mean {' or '.join(near)}? "
            "(other sizes are possible, too: vgg7-16, msdnet-cifar-blocks5-growth8)"
        )
    known = BACKBONES[family].sizes
    sizes = {part[1] or "width": int(part[2]) for part in parts if part} | sizes
    for size, value in sizes.items():
        if size not in known:
            raise ValueError(f"{name}: {family} has no size {size!r}; it has {', '.join(known)}")
        if type(value) is not int or value < min(1, known[size]):  # dropout and others may be zero
            raise ValueError(f"{name}: {size}={value!r} is not a whole number above zero")
    return family, sizes
