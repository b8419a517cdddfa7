"""Says once where this project is published, so that Binder and Colab open it from there.

    .venv/bin/python docs/online.py https://github.com/OWNER/REPOSITORY

writes the address into pyproject.toml, the links in README.md and the first cell of each notebook, which installs the
package in Colab. Without an address, the one in pyproject.toml is written again, for instance into a new notebook.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

from dfs_edu.course.publish import HIDE, number_cells

ROOT = Path(__file__).parents[1]
ADDRESS = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
COLAB = "colab"  # tag of the cell
IN_COLAB = """# Only in Colab: install the package, and allow its widgets
import sys

if "google.colab" in sys.modules:
    from google.colab import output

    get_ipython().run_line_magic("pip", "install --quiet 'dfs-edu[course] @ git+{address}'")
    output.enable_custom_widget_manager()"""
LINKS = (  # as words: a badge is a picture that the site would have to ask another server for
    "**[Open in Binder](https://mybinder.org/v2/gh/{name}/HEAD?labpath=notebooks%2F00_start_here.ipynb)** or "
    "**[in Colab](https://colab.research.google.com/github/{name}/blob/HEAD/notebooks/00_start_here.ipynb)**"
)
_LINKS = re.compile(r"\*\*\[Open in Binder\].*?\)\*\* or \*\*.*?\)\*\*")
_REPOSITORY = re.compile(r'(?m)^Repository = ".*"$')


def repository(root: Path = ROOT) -> str:
    """Return the address in pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def publish_at(address: str, root: Path = ROOT) -> None:
    """Write the address everywhere.

    Raises:
        ValueError: It is not the address of a repository on GitHub, or a file lacks the place to write it.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise ValueError(f"{address!r}: give an address such as https://github.com/OWNER/REPOSITORY")
    name = "/".join(match.groups())
    address = f"https://github.com/{name}"
    for file, place, text in (
        ("pyproject.toml", _REPOSITORY, f'Repository = "{address}"'),
        ("README.md", _LINKS, LINKS.format(name=name)),
    ):
        changed, count = place.subn(text, (root / file).read_text())
        if count != 1:
            raise ValueError(f"{file} has {count} places for the address, not one")
        (root / file).write_text(changed)
    for path in sorted((root / "notebooks").rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        put_first(notebook, IN_COLAB.format(address=address))
        nbformat.write(notebook, path)


def put_first(notebook: nbformat.NotebookNode, source: str) -> None:
    """Let the first code cell of a notebook, below its title, be the one that installs in Colab."""
    cells = [cell for cell in notebook.cells if COLAB not in cell.metadata.get("tags", [])]
    executed = any(cell.get("execution_count") for cell in cells)
    cell = new_code_cell(source, metadata={"tags": [COLAB, HIDE]}, execution_count=1 if executed else None)
    notebook.cells = [cells[0], cell, *cells[1:]]
    number_cells(notebook)


if __name__ == "__main__":
    publish_at(*(sys.argv[1:] or [repository()]))
