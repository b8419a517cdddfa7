"""Every public name has a docstring that describes arguments which exist, and that Sphinx renders without a warning."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from torch import nn
from warm import python

import dfs_edu
from dfs_edu.course import publish

ROOT = Path(__file__).parents[1]


def modules() -> Iterator:
    for found in pkgutil.walk_packages(dfs_edu.__path__, "dfs_edu."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            yield importlib.import_module(found.name)


def public() -> Iterator[tuple[str, object]]:
    """Modules, functions, classes and the methods that they define; a package's `__all__` speaks for its modules."""
    yield "dfs_edu", dfs_edu
    spoken_for = [module.__name__ + "." for module in modules() if hasattr(module, "__all__")]
    for module in modules():
        name = module.__name__
        yield name, module
        if name.startswith(tuple(spoken_for)):
            continue
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
        for key in getattr(module, "__all__", [key for key in own if not key.startswith("_")]):
            value = getattr(module, key)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{name}.{key}", value
                yield from methods(f"{name}.{key}", value)


def methods(name: str, kind: object) -> Iterator[tuple[str, object]]:
    for key, value in vars(kind).items() if inspect.isclass(kind) else ():
        described = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
        if described and not key.startswith("_"):
            yield f"{name}.{key}", getattr(kind, key)


NAMES = dict(public())


def says(value: object) -> str:
    """Its docstring, or, of a method that overrides another, that one's; what a dataclass makes up is none."""
    text = inspect.getdoc(value) if not inspect.isclass(value) else vars(value).get("__doc__")
    name = getattr(value, "__name__", "")
    torchs = inspect.getdoc(getattr(nn.Module, name)) if hasattr(nn.Module, name) else None  # nothing of ours
    made_up = tuple(text for text in (name and f"{name}(", torchs) if text)
    return "" if not text or text.startswith(made_up) else inspect.cleandoc(text)


def test_every_public_name_has_a_docstring():
    assert len(NAMES) > 300
    assert {"dfs_edu.surgery.Surgery.shared", "dfs_edu.probes.conflict", "dfs_edu.backbones.attach"} <= set(NAMES)
    assert [name for name, value in NAMES.items() if not says(value)] == []


def described(text: str) -> Iterator[str]:
    """The names that a docstring's sections Args and Attributes describe."""
    for section in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", text + "\n", re.MULTILINE):
        for names in re.findall(r"^    (?! )([\w*, ]+?)(?: \(.*?\))?: ", section, re.MULTILINE):
            yield from (name.strip(" *") for name in names.split(","))


def parameters(value: object) -> set[str]:
    names = set(getattr(value, "__annotations__", {})) | set(dir(value))
    names |= set(inspect.signature(value).parameters) if callable(value) else set()
    source = inspect.getsource(value) if inspect.isclass(value) else ""  # an attribute may be set by a method
    return names | set(re.findall(r"self\.(\w+)", source))


def test_docstrings_describe_arguments_and_attributes_that_exist():
    names = {name: list(described(says(value))) for name, value in NAMES.items() if not inspect.ismodule(value)}
    wrong = [(name, arg) for name, args in names.items() for arg in args if arg not in parameters(NAMES[name])]
    assert wrong == []
    assert sum(map(len, names.values())) > 50


def test_arguments_are_in_sections_not_in_tables():
    """Sphinx would run lines of a table, `name   what`, together without a warning."""
    table = re.compile(r"^\w+(?:, \w+)* {2,}\S", re.MULTILINE)
    prose = {name: says(value).partition(">>>")[0] for name, value in NAMES.items() if not inspect.ismodule(value)}
    assert [name for name, text in prose.items() if table.search(text)] == []


def test_every_public_docstring_renders_without_a_warning(tmp_path):
    """The reference alone, with the site's own settings: napoleon, autodoc, and the default role of `names`."""
    pytest.importorskip("sphinx", reason="no Sphinx: install the dev extras")
    settings = ["include_patterns=docs/reference/*", "root_doc=docs/reference/1_names"]
    settings.append("suppress_warnings=toc.not_included")  # there is no front page
    command = [*python(), "-m", "sphinx", "--quiet", "--builder", "dummy", "--conf-dir", "docs"]
    command += [f"--define={setting}" for setting in settings]
    command += ["--doctree-dir", tmp_path / "doctrees", ".", tmp_path / "pages"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line] == []
    assert done.returncode == 0, done.stderr


def module_of(name: str) -> str:
    while name not in sys.modules:
        name = name.rpartition(".")[0]
    return name


def test_the_reference_shows_every_public_name():
    """Its module stands there, or a package whose `__all__` speaks for it."""
    text = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.rst"))
    shown = set(re.findall(r"automodule:: (\S+)", text)) - {"dfs_edu"}
    speaking = tuple(f"{name}." for name in shown if hasattr(sys.modules[name], "__all__"))
    missing = [name for name in NAMES if module_of(name) not in shown and not name.startswith(speaking)]
    assert missing == [
        "dfs_edu",
        "dfs_edu.commands",
        "dfs_edu.course",
        "dfs_edu.training",
        "dfs_edu.widgets",
    ]  # doors: their rooms speak


def test_the_figures_of_a_page_share_one_engine():
    bundle = {publish.PLOTLY: {"data": [{"y": [1, 2]}], "layout": {"title": {"text": "one"}}}, "image/png": "AAAA"}
    output = new_output("display_data", data=bundle)
    notebook = new_notebook(cells=[new_code_cell("fig", execution_count=1, outputs=[output, output])])
    page = publish.alive(nbformat.writes(notebook), "../_static/plotly.min.js")
    one, other = (output.data for output in page.cells[0].outputs)
    assert list(one) == list(other) == ["text/html"]  # the PNG is for readers without JavaScript
    assert (one["text/html"] + other["text/html"]).count('src="../_static/plotly.min.js"') == 1
    assert len(one["text/html"]) < 10_000
