"""Tables to print and tables for spreadsheets, whose cells may hold what other people wrote."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# Where a cell may begin, also for a program that separates columns by semicolons or tabs, and what makes it a formula
_FORMULA = re.compile(r"(^|[;\t\r\n])([\s\"']*)(?=[=+\-@＝＋－＠])")


def lines(head: Sequence[str], rows: Iterable[Sequence[str] | str], align: str = ">") -> str:
    """Return a table as text: the head, then one line per row, with columns two spaces apart.

    Args:
        head: Titles of the columns; empty for a table without a head.
        rows: The cells of each row. A string among the rows is a line of its own, as between two groups of rows.
        align: ``<`` flush left or ``>`` flush right, one sign per column; the last sign holds for all that follow.

    Raises:
        ValueError: Rows have different numbers of cells.

    >>> print(lines(["run", "epochs"], [["one", "12"], ["a\\nb", "4"]]))
     run  epochs
     one      12
    a\\nb       4
    >>> rows = [["joint", "61.2", "71.2"], "minus joint:", ["surgery", "+0.4", "0"]]
    >>> print(lines(["arm", "exit 1", "last"], rows, align="<>"))
    arm      exit 1  last
    joint      61.2  71.2
    minus joint:
    surgery    +0.4     0
    """
    table = [row if isinstance(row, str) else [*map(printable, row)] for row in ([head] if head else []) + [*rows]]
    columns = zip(*(row for row in table if not isinstance(row, str)), strict=True)
    widths = [max(map(len, column)) for column in columns]
    signs = align.ljust(len(widths), align[-1])

    def line(row: Sequence[str] | str) -> str:
        if isinstance(row, str):
            return printable(row)
        return "  ".join(f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths, strict=True)).rstrip()

    return "\n".join(map(line, table))


def printable(text: str) -> str:
    r"""Return the text in one line, with whatever a terminal would obey escaped.

    >>> printable("mine\x1b[2K\nyours")
    'mine\\x1b[2K\\nyours'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cut(text: str, most: int) -> str:
    """Return the text, printable, in at most the given number of characters; an ellipsis stands for what was cut.

    >>> cut("a long name", 6), cut("a name", 6)
    ('a lon…', 'a name')
    """
    text = printable(text[: most + 1])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def write_csv(path: str | os.PathLike, head: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table as a CSV file: its head, then one line per row; None is an empty cell.

    The file is UTF-8 with a byte order mark, without which Excel assumes another encoding; all cells are quoted.

    Raises:
        OSError: The file cannot be written.
    """
    with Path(path).open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([cell(value) for value in row] for row in (head, *rows))


def cell(value):
    r"""Return a number as it is, and a text in such a form that no spreadsheet takes a part of it for a formula.

    >>> cell("=1+1"), cell("x;=cmd"), cell("\n@sum"), cell(-1.5), cell("plain - text")
    ("'=1+1", "x;'=cmd", "\n'@sum", -1.5, 'plain - text')
    """
    return _FORMULA.sub(r"\1\2'", value) if isinstance(value, str) else value
