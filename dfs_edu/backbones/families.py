"""What a family of backbones is, and the names that families go by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Builder = Callable[..., tuple[list[nn.Module], list[nn.Module]]]


@dataclass(frozen=True)
class Backbone:
    """A family: builder(classes, **sizes) -> stages, heads.

    published   the name of the published network
    pixels      height and width of its pictures; smallest: the least that it can read
    """

    builder: Builder
    published: str
    pixels: int
    smallest: int

    @property
    def sizes(self) -> dict[str, int]:
        """What can be chosen, and what is chosen if nothing is said."""
        parameters = inspect.signature(self.builder).parameters.values()
        return {p.name: p.default for p in parameters if p.name != "classes"}


BACKBONES: dict[str, Backbone] = {}


def family(published: str, *, pixels: int, smallest: int) -> Callable[[Builder], Builder]:
    """Decorates a builder: `build` knows its family by its name, with hyphens."""

    def register(builder: Builder) -> Builder:
        BACKBONES[builder.__name__.replace("_", "-")] = Backbone(builder, published, pixels, smallest)
        return builder

    return register
