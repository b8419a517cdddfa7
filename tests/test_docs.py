"""Every public name says what it is, what its docstring speaks of exists, and the site shows it as it was meant."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from torch import nn

import dfs_edu
from dfs_edu.course import publish

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

from docstrings import ENTRY, to_rst  # noqa: E402


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


def parameters(value: object) -> set[str]:
    names = set(getattr(value, "__annotations__", {})) | set(getattr(value, "__dict__", {}))
    names |= set(inspect.signature(value).parameters) if callable(value) else set()
    spoken_of = re.match(r"mine\(.*?\) ->", says(value))  # a check's parameter is the learner's function, with its own
    return names | set(re.findall(r"\w+", spoken_of[0] if spoken_of else ""))


def test_tables_in_docstrings_speak_of_parameters_and_fields_that_exist():
    wrong, seen = [], 0
    for name, value in NAMES.items():
        if not inspect.ismodule(value):
            entries = (ENTRY.fullmatch(line) for line in says(value).splitlines())
            found = [field for entry in entries if entry for field in entry[1].split(", ") if field[0] != '"']
            wrong += [(name, field) for field in found if field not in parameters(value)]
            seen += len(found)
    assert wrong == []
    assert seen > 150


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
    assert missing == ["dfs_edu", "dfs_edu.course", "dfs_edu.training", "dfs_edu.widgets"]  # doors: their rooms speak


def test_the_figures_of_a_page_share_one_engine():
    bundle = {publish.PLOTLY: {"data": [{"y": [1, 2]}], "layout": {"title": {"text": "one"}}}, "image/png": "AAAA"}
    output = new_output("display_data", data=bundle)
    notebook = new_notebook(cells=[new_code_cell("fig", execution_count=1, outputs=[output, output])])
    page = publish.alive(nbformat.writes(notebook), "../_static/plotly.min.js")
    one, other = (output.data for output in page.cells[0].outputs)
    assert list(one) == list(other) == ["text/html"]  # the PNG is for readers without JavaScript
    assert (one["text/html"] + other["text/html"]).count('src="../_static/plotly.min.js"') == 1
    assert len(one["text/html"]) < 10_000


DOCSTRING = """
Cut |g| in two* by `beta`s, **gently**: f_k, a_. See `at`
and `.grad`.

beta    share of f+, in [0, 1];
        round(C * beta) channels
a, b    two

Returns nothing (B, C):

    onward  a *b*

    seen    c

>>> 1 + 1
2
"""


def test_a_docstring_as_restructured_text():
    docutils = pytest.importorskip("docutils.core")
    lines = to_rst(DOCSTRING.strip().splitlines())
    settings = {"report_level": 1, "halt_level": 1, "warning_stream": ""}
    html = docutils.publish_parts("\n".join(lines), writer="html5", settings_overrides=settings)["body"]
    assert "Cut |g| in two* by <cite>beta</cite>s, <strong>gently</strong>: f_k, a_." in html
    assert 'See <cite>at</cite>\nand <span class="docutils literal">.grad</span>.' in html
    assert html.count("<dt>") == 2
    assert "round(C * beta) channels" in html
    assert "onward  a *b*\n\nseen    c" in html
    assert "&gt;&gt;&gt; 1 + 1" in html
