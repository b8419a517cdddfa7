"""Backbones: each builder makes the stages and heads of a network and knows nothing of junctions or methods."""

from __future__ import annotations

import difflib
import re

from dfs_edu.backbones.vgg import vgg7, vgg16
from dfs_edu.multiexit import MultiExit
from dfs_edu.surgery import Joint, Junction

# Name -> (builder, published size). "{width}" stands for any whole number above zero.
BACKBONES = {
    "vgg7-{width}": (vgg7, "vgg7-64"),
    "vgg16-{width}": (vgg16, "vgg16-64"),
}


def build(name: str, classes: int, junction: Junction = Joint()) -> MultiExit:
    """A multi-exit network by name: "vgg7-64", "vgg16-64", or any other width ("vgg7-16").

    classes   number of classes, at least 2
    junction  one for all exits, or a list with one for each

    Raises ValueError for an unknown name (with the nearest known ones) or a wrong number of classes.
    """
    if not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes={classes!r}: a classifier has at least 2 classes")
    for pattern, (builder, _) in BACKBONES.items():
        if match := re.fullmatch(pattern.replace("{width}", r"(?P<width>[1-9]\d*)"), name):
            sizes = {size: int(number) for size, number in match.groupdict().items()}
            return MultiExit(*builder(classes, **sizes), junction)
    known = [published for _, published in BACKBONES.values()]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.3) or known
    raise ValueError(f"backbone {name!r} is not known; did you mean {' or '.join(near)}? (any width will do: vgg7-16)")
