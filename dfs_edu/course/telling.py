"""What a notebook says of its numbers: nothing at scale "smoke", where they mean nothing."""

from __future__ import annotations

from typing import Any

from dfs_edu.training.recipes import SMOKE

BANNER = (
    "<strong>Scale <code>smoke</code>: the numbers below mean nothing.</strong> Networks are trained for seconds, only "
    'to show that everything runs. Set <code>SCALE = "lesson"</code> in the cell above and run all cells for results.'
)
SILENT = "*At scale `smoke` this result is not interpreted.*"


def banner(scale: str) -> Any:
    """Return a warning to display below the parameters at scale "smoke"; None at any other scale."""
    from IPython.display import HTML

    style = "border:2px solid #d55e00;border-radius:6px;padding:8px 12px;margin:4px 0"
    return HTML(f'<div role="note" style="{style}">{BANNER}</div>') if scale == SMOKE else None


def interpret(text: str, scale: str) -> Any:
    """Return what a result means, as Markdown; at scale "smoke" a line that says it is not interpreted.

    Args:
        text: Markdown, computed from the results.
        scale: The notebook's ``SCALE``.
    """
    from IPython.display import Markdown

    return Markdown(SILENT if scale == SMOKE else text)
