"""The page's side of a widget: a program and a style, what all widgets share before what is its own."""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"


def sources(name: str) -> tuple[str, str]:
    """The JavaScript module and the style sheet of a widget, such as "gallery", whole: the page loads nothing else."""
    return _joined(f"{name}.js"), _joined(f"{name}.css")


def _joined(file: str) -> str:
    shared = STATIC / f"shared{Path(file).suffix}"
    return shared.read_text("utf-8") + "\n" + (STATIC / file).read_text("utf-8")
