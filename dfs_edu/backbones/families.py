"""Families of backbones, and the names that they go by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType

from torch import nn

Builder = Callable[..., tuple[list[nn.Module], list[nn.Module]]]


@dataclass(frozen=True)
class Backbone:
    """A family of networks.

    Args:
        builder: A function ``(classes, **sizes)`` that returns stages and heads.
        published: Name of the published network.
        pixels: Height and width of the images that it was made for.
        smallest: Least height and width of an image that it can read.
    """

    builder: Builder
    published: str
    pixels: int
    smallest: int

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that can be chosen, with their defaults."""
        parameters = inspect.signature(self.builder).parameters.values()
        return {p.name: p.default for p in parameters if p.name != "classes"}


BACKBONES: dict[str, Backbone] = {}


def family(published: str, *, pixels: int, smallest: int) -> Callable[[FunctionType], FunctionType]:
    """Decorate a builder: ``build`` knows the family by the builder's name, with hyphens."""

    def register(builder: FunctionType) -> FunctionType:
        BACKBONES[builder.__name__.replace("_", "-")] = Backbone(builder, published, pixels, smallest)
        return builder

    return register
