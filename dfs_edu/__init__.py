"""A course and a laboratory for multi-exit networks and the gradient conflict between their exits.

>>> import dfs_edu as dfs
>>> recipe = dfs.recipes.get("digits/vgg7-16", junction=dfs.Surgery(beta=0.5), scale="smoke", train_images=64)
>>> run = dfs.train(recipe, out=None, progress=False)
>>> cost = dfs.probes.cost(run.network)
>>> thresholds = dfs.inference.best_thresholds(run.validation, cost.macs, [cost.macs[-1] / 2])[0]
>>> point = dfs.inference.apply(run.test, thresholds, cost.macs)  # .accuracy, .macs, .share of each exit
>>> len(point.share)
6
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers read; at run time, each name is imported when it is first used
    from dfs_edu import data, inference, probes
    from dfs_edu.backbones import attach, build
    from dfs_edu.multiexit import MultiExit
    from dfs_edu.surgery import Detached, Equilibrium, Joint, Junction, Surgery
    from dfs_edu.training import recipes
    from dfs_edu.training.trainer import train

__version__ = "0.1.0"
__all__ = [
    "Detached",
    "Equilibrium",
    "Joint",
    "Junction",
    "MultiExit",
    "Surgery",
    "attach",
    "build",
    "data",
    "inference",
    "probes",
    "recipes",
    "train",
]

_HOMES = {
    "backbones": ("attach", "build"),
    "multiexit": ("MultiExit",),
    "surgery": ("Detached", "Equilibrium", "Joint", "Junction", "Surgery"),
    "training.trainer": ("train",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
# Modules of rooms that are known by a name alone: `from dfs_edu import study`
_ROOMS = {
    "checks": "course.checks",
    "doctor": "course.doctor",
    "follow": "widgets.live",
    "recipes": "training.recipes",
    "results": "training.results",
    "runs": "training.runs",
    "study": "training.study",
}


def __getattr__(name: str):
    """Import a public name, or a module of the package, when it is first asked for (PEP 562)."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    inside = f"{__name__}.{_ROOMS.get(name, name)}"
    if name.startswith("__") or not importlib.util.find_spec(inside):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(inside)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
