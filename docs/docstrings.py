"""Docstrings of dfs_edu, which are plain text, as reStructuredText.

What they are made of, and what becomes of it:

    prose           stays; *, _, | and \\ mean themselves, **stress** is bold, a `name` may become a link
    Args:           a heading; `name: what` below it, indented, as the next line
    name  what      a line of a table, two or more spaces apart: an entry of a definition list
    indented lines  as they stand: a literal block
    >>> code        an example, as it stands
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SECTION = re.compile("(Args|Attributes|Returns|Raises|Yields|Source):")
GOOGLES = re.compile(r" {4}(\w+): (.*)")
ENTRY = re.compile(r"""("?\w+"?(?:, "?\w+"?)*) {2,}(?=\S)(.*)""")


def to_rst(lines: list[str]) -> list[str]:
    return [line for block in _blocks(_sections(lines)) for line in [*_block(block), ""]]


def _sections(lines: list[str]) -> list[str]:
    """Sections in Google's style, "Args:" and indented entries below it, as a heading and a table."""
    found, within = [], False
    for line in lines:
        if SECTION.fullmatch(line):
            within = True
            found += ["", f"**{line.removesuffix(':')}**", ""]
        elif within and (entry := GOOGLES.fullmatch(line)):
            found.append(f"{entry[1]}  {entry[2]}")
        elif within and line.startswith(" ") and not line.startswith(8 * " "):
            found.append(line.strip())
        else:
            within = within and (line.startswith(" ") or not line)
            found.append(line)
    return found


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines that belong together: a paragraph, an entry of a table, an indented block, an example."""
    block: list[str] = []
    for line in [*lines, ""]:
        indented, inside = line.startswith(" "), bool(block) and block[0].startswith(" ")
        example = bool(block) and block[0].startswith(">>>")
        if not line.strip() and inside:  # an indented block may have empty lines
            block.append("")
            continue
        entry = bool(block) and ENTRY.fullmatch(block[0])
        new = not line.strip() or (inside and not indented) or ENTRY.fullmatch(line) or (entry and not indented)
        if new and block and not (example and line.strip()):
            yield block
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield block


def _block(block: list[str]) -> list[str]:
    if block[0].startswith(">>>"):
        return block
    if block[0].startswith(" "):
        return ["::", "", *block]
    if entry := ENTRY.fullmatch(block[0]):
        return [f"``{entry[1]}``", *(f"    {line}" for line in _escape([entry[2], *map(str.strip, block[1:])]))]
    return _escape(block)


def _escape(lines: list[str]) -> list[str]:
    """What would mean something to reStructuredText, outside of `names` and **stress**, means itself."""
    parts = re.split(r"(`[^`]+`|\*\*[^*]+\*\*)", "\n".join(lines))
    parts[::2] = [re.sub(r"([\\*_|@]|^\((?=\w\)))", r"\\\1", part, flags=re.MULTILINE) for part in parts[::2]]
    for i in range(1, len(parts), 2):
        parts[i] = _name(parts[i]) if parts[i][0] == "`" else parts[i]
        parts[i] += "\\ " * bool(re.match(r"\w", parts[i + 1]))  # `name`s: markup has to end before the s
    return "".join(parts).split("\n")


def _name(quoted: str) -> str:
    """A link where there is such a name, in this module or, of classes and dotted names, in any; all else is code."""
    name = quoted.strip("`")
    if not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", name):
        return f"``{name}``"
    return f"`.{name}`" if "." in name or name[0].isupper() else quoted
