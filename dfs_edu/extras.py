"""Optional dependencies: which extra of this package installs them, for whoever lacks one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

EXTRAS = {
    "clarabel": "methods",
    "cvxpy": "methods",
    "ecos": "methods",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "qpsolvers": "methods",
    "quadprog": "methods",
    "ray": "cluster",
    "sphinx_revealjs": "course",
    "timm": "vision",
    "torchjd": "methods",
    "voila": "course",
}


class MissingExtra(ModuleNotFoundError):
    """A library is missing that only some uses of this package need; the message says how to install it."""


def need(module: str) -> ModuleType:
    """Import a module of an optional dependency.

    Args:
        module: Its dotted name, such as "torchjd.aggregation".

    Raises:
        MissingExtra: The module, or another optional one that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        if missing not in EXTRAS:
            raise
        advice = f"pip install 'dfs-edu[{EXTRAS[missing]}]'"
        raise MissingExtra(f"this needs {missing}, which is not installed: {advice}", name=missing) from error


@contextmanager
def hidden(module: str) -> Generator[None]:
    """Let what is imported inside do without a module that it could use, but need not."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # ty: ignore[invalid-assignment]  which makes its import fail
    try:
        yield
    finally:
        del sys.modules[module]
