"""Tables in plain text: a line for each row, whatever the cells hold."""

from __future__ import annotations

from collections.abc import Sequence


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The head and the rows below each other, with cells flush right.

    >>> print(lines(["run", "epochs"], [["one", "12"], ["a\\nb", "4"]]))
     run  epochs
     one      12
    a\\nb       4
    """
    cells = [[printable(cell) for cell in line] for line in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in cells)


def printable(text: str) -> str:
    r"""The text in one line, with escapes for what a terminal would obey: names come from other people's files.

    >>> printable("mine\x1b[2K\nyours")
    'mine\\x1b[2K\\nyours'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
