"""Modules of your own that add names: networks (``@family``), junctions (``arms.KINDS``), methods (``@named``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

_LOADED: list[str] = []


def loaded() -> tuple[str, ...]:
    """Return the modules that were loaded, for worker processes that need the same names."""
    return tuple(_LOADED)


def load(modules: Sequence[str]) -> None:
    """Import modules by name, from the current folder as well; importing one registers its names.

    Raises:
        ValueError: A module cannot be imported; the message names it and the reason.
    """
    _LOADED[:] = modules
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            import_module(module)
        except Exception as error:  # it is other people's code
            reason = f"{type(error).__name__}: {error}"
            name = module.removesuffix(".py").replace("/", ".")
            raise ValueError(
                f"--plugin {module} cannot be imported ({reason}): give the name of a module, as in `import {name}`"
            ) from error
