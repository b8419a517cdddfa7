"""The images and weights that a recipe names; the recipe gets their checksums, which are part of its runs' names."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from dfs_edu import data
from dfs_edu.backbones import build, pixels_of
from dfs_edu.training import records
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.start import Start


def check_side(recipe: Recipe) -> None:
    """Raise ValueError if the network cannot read images of the side that the recipe asks for."""
    if recipe.pixels is None:
        return
    with torch.device("meta"):
        network = build(recipe.backbone, 2).eval()
        network(torch.empty(1, 3, recipe.pixels, recipe.pixels))


def load_data(recipe: Recipe, root: str | os.PathLike | None = None) -> data.Dataset:
    """Load the images that a recipe names.

    Args:
        recipe: What to train.
        root: Where the data set is (see ``data.load``).
    """
    pixels = pixels_of(recipe.backbone) if recipe.dataset in data.ANY_SIZE else None
    return data.load(recipe.dataset, root, recipe.pixels or pixels).first(recipe.train_images, recipe.held_out_images)


def fill_content(recipe: Recipe, dataset: data.Dataset, out: Path | None = None) -> Recipe:
    """Fill in the ``content`` of a recipe for a folder of images, which is part of its runs' names.

    Args:
        recipe: For a folder of images.
        dataset: These images.
        out: Folder of runs. An older version named a run without its content: if one of the same images is there, the
            recipe keeps that name.

    Raises:
        ValueError: The recipe is of other images.
    """
    facts = dataset.facts
    text = json.dumps([facts[part] for part in ("checksum", "classes")])
    content = hashlib.sha256(text.encode()).hexdigest()[:8]
    if recipe.content not in (None, content):
        raise ValueError(f"content={recipe.content!r}: the recipe is of other images than {dataset.name}, {content!r}")
    if out and not recipe.content and (out / recipe.name / records.RECORD).exists():
        older = records.read(out / recipe.name)
        if not records.changed_data(older.get("data", {}), facts):
            return recipe
    return replace(recipe, content=content)


def fill_start(recipe: Recipe, start: Start) -> Recipe:
    """Fill in the ``start`` of a recipe: the first digits of the checksum of the weights that it starts from.

    Raises:
        ValueError: The recipe starts from other weights.
    """
    if recipe.start not in (None, start.digits):
        raise ValueError(
            f"start={recipe.start!r}: the recipe starts from other weights than {start.file}, {start.digits!r}"
        )
    return replace(recipe, start=start.digits)
