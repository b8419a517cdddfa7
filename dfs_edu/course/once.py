"""Train nothing twice: notebooks that ask for the same run share it.

A finished run is kept under a hash of all that decides it: recipe, data, the code that trains, versions and device. The
first notebook that asks for it trains it, and the others read it back. A killed run is resumed by the next one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from platformdirs import user_cache_path

from dfs_edu import methods
from dfs_edu.training import machine, results
from dfs_edu.training.device import bf16_pays, pick_device
from dfs_edu.training.inputs import load_data
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.trainer import Run, train

PACKAGE = Path(__file__).parents[1]
UNRELATED = ("__main__.py", "cli.py", "commands", "course", "figures", "widgets")  # code that no run depends on
VERSIONS = ("torch", "torchvision", "numpy")


def train_once(
    recipe: Recipe, device: str = "auto", *, track: int | None = None, root: str | os.PathLike | None = None
) -> Run:
    """Return a finished run, trained now or found, and print which.

    Runs are kept in ``folder()`` and may be deleted at any time. A run with a junction or a method of your own is
    trained each time, because its code may have changed.

    Args:
        recipe: See ``dfs.train``.
        device: See ``dfs.train``.
        track: See ``dfs.train``.
        root: Where the data set is (see ``data.load``).

    Raises:
        ValueError: See ``dfs.train``.

    >>> from dfs_edu.training import recipes
    >>> run = train_once(recipes.get("digits/vgg7-2", scale="smoke"), "cpu")  # doctest: +ELLIPSIS
    digits-vgg7-2-smoke-joint-seed0: ...
    """
    own = {type(recipe.junction), methods.check(recipe.method)}
    if not all(cls.__module__.startswith("dfs_edu.") for cls in own):
        return train(recipe, out=None, device=device, track=track, root=root)

    out = folder() / key(recipe, device, track, root)
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):  # another notebook may be training it now
        found = "final" in _record(out / recipe.name)
        run = train(recipe, out, resume=True, device=device, track=track, root=root, progress=not found)
    print(f"{recipe.name}: {'found, trained before' if found else 'trained now'}")
    return run


def folder() -> Path:
    """Return where shared runs are kept.

    ``$DFS_EDU_RUNS``, or runs/once of the checkout or of the current folder, or the user's cache where that is
    read-only.
    """
    if os.environ.get("DFS_EDU_RUNS"):
        return Path(os.environ["DFS_EDU_RUNS"]).absolute()
    base = PACKAGE.parent if results.CHECKOUT.is_dir() else Path()
    home = base / "runs" if (base / "runs").exists() else base
    return base.absolute() / "runs" / "once" if os.access(home, os.W_OK) else user_cache_path("dfs_edu") / "once"


def key(recipe: Recipe, device: str, track: int | None, root: str | os.PathLike | None) -> str:
    """Return the hash of what decides a run, 16 hexadecimal digits."""
    place = pick_device(device)
    decisive = {
        "recipe": recipe.to_dict(),
        "data": load_data(recipe, root).facts,
        "track": track,
        "code": code(),
        "versions": [importlib.metadata.version(name) for name in VERSIONS],
        "device": [place.type, bf16_pays(place), str(torch.get_default_dtype())],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def code() -> str:
    """Return the hash of the package's sources that a run depends on."""
    return machine.sources(PACKAGE, UNRELATED)


def _record(run: Path) -> dict[str, Any]:
    try:
        return results.read(run)
    except (OSError, ValueError):  # not begun, or killed while its first record was written
        return {}
