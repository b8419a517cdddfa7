"""Run the notebooks, check exercises, publish, report."""

from __future__ import annotations

import importlib

_HOMES = {
    "runner": ("Result", "chosen", "copy_to", "record", "run", "table", "write_back"),
    "report": ("recorded",),
    "once": ("train_once",),
    "telling": ("banner", "interpret"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str):
    """Import a name when it is first used (PEP 562): ``record`` alone needs no papermill."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
