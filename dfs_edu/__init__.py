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
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers read; at run time, each name is imported when it is first used
    from dfs_edu import data, inference, probes, recipes
    from dfs_edu.backbones import attach, build
    from dfs_edu.multiexit import MultiExit
    from dfs_edu.surgery import Detached, Equilibrium, Joint, Junction, Surgery
    from dfs_edu.train import train

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
    "train": ("train",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str):
    """Import a public name, or a module of the package, when it is first asked for (PEP 562)."""
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif not name.startswith("__") and importlib.util.find_spec(f"{__name__}.{name}"):
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `dfs_edu.train` the function: importing the module of that name would bind the module instead."""

    def __setattr__(self, name: str, value) -> None:
        if name == "train" and isinstance(value, ModuleType):
            value = value.train
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
