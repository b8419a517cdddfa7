"""The images and weights that a recipe speaks of; the recipe learns their checksums, by which runs are named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch

from dfs_edu import data
from dfs_edu.backbones import build, pixels_of
from dfs_edu.training import results
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.start import Start


def check_side(recipe: Recipe) -> None:
    """Raise ValueError if the network cannot read images of the side that the recipe asks for."""
    if recipe.pixels is None:
        return
    with torch.device("meta"):
        network = build(recipe.backbone, 2).eval()
        network(torch.empty(1, 3, recipe.pixels, recipe.pixels))


def load_data(recipe: Recipe, root=None) -> data.Dataset:
    """The pictures that a recipe speaks of."""
    pixels = pixels_of(recipe.backbone) if recipe.dataset in data.ANY_SIZE else None
    return data.load(recipe.dataset, root, recipe.pixels or pixels).first(recipe.train_images, recipe.held_out_images)


def of_images(recipe: Recipe, dataset: data.Dataset, out: Path | None = None) -> Recipe:
    """A recipe for a folder of images with the `content` of these images, by which its runs are named.

    out   where an older run of the same images may lie, which was named without its content: it keeps its name

    Raises ValueError for a recipe of other images.
    """
    facts = dataset.facts
    said = json.dumps([facts[part] for part in ("checksum", "classes")])
    content = hashlib.sha256(said.encode()).hexdigest()[:8]
    if recipe.content not in (None, content):
        raise ValueError(f"content={recipe.content!r}: the recipe is of other images than {dataset.name}, {content!r}")
    if out and not recipe.content and (out / recipe.name / results.RECORD).exists():
        older = results.read(out / recipe.name)
        if not results.changed_data(older.get("data", {}), facts):
            return recipe
    return replace(recipe, content=content)


def from_weights(recipe: Recipe, start: Start) -> Recipe:
    """A recipe with the digits of the weights that it starts from. Raises ValueError for a recipe of other weights."""
    if recipe.start not in (None, start.digits):
        raise ValueError(
            f"start={recipe.start!r}: the recipe starts from other weights than {start.file}, {start.digits!r}"
        )
    return replace(recipe, start=start.digits)
