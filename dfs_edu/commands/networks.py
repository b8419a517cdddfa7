"""`dfs-edu costs`: what networks cost, without weights or data."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from tyro.conf import Positional, arg

from dfs_edu import probes
from dfs_edu.backbones import BACKBONES, build, pixels_of
from dfs_edu.tables import lines
from dfs_edu.training.recipes import MOST
from dfs_edu.training.results import PUBLISHED_COSTS

NOTES = """
MACs of convolutions, linear layers and attention's products, with all heads up to the exit;
path: with only the exit's own head. The published MACs add one for each output of a ReLU, k x k for
each output of a pooling over k x k and one for each bias of a classifier, nothing for BatchNorm;
resnet18's published figures are for the path, with parameters without the classifier."""


def costs(
    backbone: Annotated[Positional[tuple[str, ...]], arg(metavar="BACKBONE")] = (),
    classes: int | None = None,
    batch: int | None = None,
) -> None:
    """Print parameters and MACs of every exit, beside the published ones.

    Args:
        backbone: vgg7-64, msdnet-cifar-blocks5 ... (default: all published ones).
        classes: Default: 100; 1000 for images of 224 pixels.
        batch: Also estimate the memory of a training step of this many images.
    """
    for option, value in (("classes", classes), ("batch", batch)):
        if value is not None and not 1 <= value <= MOST:
            raise ValueError(f"--{option} {value}: a whole number from 1 to {MOST}")
    for name in backbone or [known.published for known in BACKBONES.values()]:
        pixels = pixels_of(name)
        _print_costs(name, pixels, classes or (100 if pixels == 32 else 1000), batch)
    print(NOTES)


def _print_costs(name: str, pixels: int, classes: int, batch: int | None) -> None:
    with torch.device("meta"):
        net = build(name, classes)
    cost = probes.cost(net, (3, pixels, pixels))
    columns = {"params": cost.params, "MMACs": cost.macs / 1e6}
    columns |= {"params, path": cost.path_params, "MMACs, path": cost.path_macs / 1e6}
    if published := PUBLISHED_COSTS.get(name):
        columns |= {"published params": published["params"], "published MMACs": np.array(published["macs"]) / 1e6}
    print(f"\n{name}, {classes} classes, images of {pixels}x{pixels}")
    cells = [[f"{v:,.0f}" if "params" in title else f"{v:,.3f}" for v in values] for title, values in columns.items()]
    print(lines(["exit", *columns], [[str(k), *row] for k, row in enumerate(zip(*cells, strict=True), 1)]))
    if batch:
        fp32, bf16 = (probes.peak_memory(net, (3, pixels, pixels), batch, half).peak / 2**20 for half in (False, True))
        sizes = f"{fp32:,.0f} MiB in fp32, {bf16:,.0f} MiB in bf16 (estimated)"
        print(f"a training step of {batch} images holds at most {sizes}")
