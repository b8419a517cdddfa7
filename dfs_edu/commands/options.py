"""Options of several commands, read by tyro: a recipe's come from the fields of `Recipe`, help, types and defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from dfs_edu import methods
from dfs_edu.commands.kinds import AnyFolder, Folder
from dfs_edu.training import recipes
from dfs_edu.training.fields import field_types
from dfs_edu.training.recipes import Recipe, Scale

_OWN = ("dataset", "backbone", "scale", "junction", "start", "content")  # have options of their own, or are filled in
_MORE = {
    "pixels": [arg(aliases=["--image-size"])],
    "method": [arg(help_behavior_hint=lambda default: f"(default: {default}; all: {', '.join(methods.names())})")],
}

if TYPE_CHECKING:
    Fields = Recipe
else:  # the other fields of a recipe, which is checked when all of them are known
    Fields = make_dataclass(
        "Fields",
        [
            (field.name, Annotated[field_types(Recipe)[field.name], *_MORE.get(field.name, [""])], field)
            for field in fields(Recipe)
            if field.name not in _OWN
        ],
        namespace={"__doc__": Recipe.__doc__},
    )


@dataclass(kw_only=True)
class Choice:
    """Options of commands that train by a recipe.

    Attributes:
        name: Data set and backbone: digits/vgg7-16, cifar100/resnet18, imagenet/msdnet, folder/vgg7-16 ...
        scale: How much work: seconds, minutes, hours of a GPU, as published.
        start: Weights to start from: the folder of a finished run, or a safetensors file.
        out: Folder for runs; each run gets a subfolder.
        data: Folder of data sets; otherwise $DFS_EDU_DATA, then data/.
        device: cpu, cuda, cuda:1 ...; auto is a GPU if there is one.
        recipe: Each replaces the recipe's own value.
    """

    name: Annotated[Positional[str], arg(metavar="DATASET/BACKBONE")]
    scale: Scale = "lesson"
    start: Annotated[str | None, arg(metavar="RUN")] = None
    out: Folder = "runs"
    data: AnyFolder = None
    device: str = "auto"
    recipe: OmitArgPrefixes[Fields]


Kind = TypeVar("Kind", bound=Choice)


def chosen(kind: type[Kind], words: Sequence[str], prog: str) -> tuple[Kind, dict[str, Any]]:
    """Read the options of a command that trains by a recipe, and which fields of the recipe they change.

    They are read twice: the first time tells which recipe is meant, whose values are the defaults of the second, so
    that the help shows them.
    """
    asked = [word for word in words if word not in ("-h", "--help")]
    default = Recipe("digits", "vgg7-16", "lesson")
    if asked or len(asked) == len(words):
        first = _read(kind, asked, prog, default)
        default = recipes.get(first.name, scale=first.scale)
    options = _read(kind, words, prog, default)
    values = vars(options.recipe).items()
    return options, {name: value for name, value in values if value != getattr(default, name)}


def _read(kind: type[Kind], words: Sequence[str], prog: str, default: Recipe) -> Kind:
    values = Fields(**{field.name: getattr(default, field.name) for field in fields(Fields)})
    return tyro.cli(kind, args=words, prog=prog, default=kind(name=tyro.MISSING, recipe=values))
