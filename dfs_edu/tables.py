"""Tables for the eye and for spreadsheets, whose cells may hold what other people wrote."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# Where a cell may begin, also for a program that parts columns by semicolons or tabs, and what makes it a formula
_FORMULA = re.compile(r"(^|[;\t\r\n])([\s\"']*)(?=[=+\-@＝＋－＠])")


def lines(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Return the head and the rows below each other; the first `left` columns are flush left, the others flush right.

    >>> print(lines(["run", "epochs"], [["one", "12"], ["a\\nb", "4"]]))
     run  epochs
     one      12
    a\\nb       4
    """
    cells = [[printable(cell) for cell in line] for line in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    rows = ["  ".join(side(cell, w) for side, cell, w in zip(sides, line, widths, strict=True)) for line in cells]
    return "\n".join(row.rstrip() for row in rows)


def printable(text: str) -> str:
    r"""The text in one line, with escapes for what a terminal would obey: names come from other people's files.

    >>> printable("mine\x1b[2K\nyours")
    'mine\\x1b[2K\\nyours'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_csv(path: str | Path, head: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table as a CSV file: its head, then one line per row; None is an empty cell.

    UTF-8 with a mark at the beginning, without which Excel takes it for something else; all cells are quoted.

    Raises:
        OSError: the file cannot be written.
    """
    with Path(path).open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([cell(value) for value in row] for row in (head, *rows))


def cell(value):
    r"""A number as it is, a text such that no spreadsheet runs a part of it.

    >>> cell("=1+1"), cell("x;=cmd"), cell("\n@sum"), cell(-1.5), cell("plain - text")
    ("'=1+1", "x;'=cmd", "\n'@sum", -1.5, 'plain - text')
    """
    return _FORMULA.sub(r"\1\2'", value) if isinstance(value, str) else value
