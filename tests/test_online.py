"""Binder and Colab: one address, written everywhere by docs/online.py, and what the Colab cell does."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import types
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
spec = importlib.util.spec_from_file_location("online", ROOT / "docs" / "online.py")
online = importlib.util.module_from_spec(spec)
spec.loader.exec_module(online)


@pytest.fixture
def copy(tmp_path):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(NOTEBOOKS[0], tmp_path / "notebooks")
    return tmp_path


def test_everything_names_the_address_in_pyproject():
    name = "/".join(online.ADDRESS.fullmatch(online.repository()).groups())
    assert online.LINKS.format(name=name) in (ROOT / "README.md").read_text()
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        source = online.IN_COLAB.format(address=online.repository())
        assert [cell.source for cell in cells if "colab" in cell.metadata.get("tags", [])] == [source], path.name
        assert next(cell for cell in cells if cell.cell_type == "code").source == source, path.name


def test_a_new_address_is_written_everywhere_and_nothing_else_changes(copy):
    before = nbformat.read(copy / "notebooks" / NOTEBOOKS[0].name, as_version=4)
    online.publish_at("https://github.com/someone/their.course.git", copy)
    assert online.repository(copy) == "https://github.com/someone/their.course"
    assert "mybinder.org/v2/gh/someone/their.course/HEAD" in (copy / "README.md").read_text()
    after = nbformat.read(copy / "notebooks" / NOTEBOOKS[0].name, as_version=4)
    assert "git+https://github.com/someone/their.course'" in after.cells[1].source
    assert [cell.source for cell in after.cells[2:]] == [cell.source for cell in before.cells[2:]]
    online.publish_at(online.repository(ROOT), copy)
    for name in ("pyproject.toml", "README.md", f"notebooks/{NOTEBOOKS[0].name}"):
        assert (copy / name).read_text() == (ROOT / name).read_text()


@pytest.mark.parametrize(
    "address", ["github.com/a/b", "https://github.com/a", "https://github.com/a/b/c", "x'; rm -r /"]
)
def test_other_addresses_are_refused(address, copy):
    with pytest.raises(ValueError, match="give an address such as"):
        online.publish_at(address, copy)


def test_the_first_cell_installs_in_colab_and_does_nothing_elsewhere(monkeypatch):
    code = online.IN_COLAB.format(address="https://github.com/a/b")
    exec(code, {})  # get_ipython does not exist: it is not called

    done = []
    output = types.SimpleNamespace(enable_custom_widget_manager=lambda: done.append("widgets"))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(output=output))
    monkeypatch.setitem(sys.modules, "google", types.SimpleNamespace(colab=sys.modules["google.colab"]))
    shell = types.SimpleNamespace(run_line_magic=lambda *words: done.append(words))
    exec(code, {"get_ipython": lambda: shell})
    assert done == [("pip", "install --quiet 'dfs-edu[course] @ git+https://github.com/a/b'"), "widgets"]


def test_binder_gets_all_that_the_course_needs():
    """Binder reads environment.yml of the root: it installs this package with what the course needs."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "-e .[course]" in environment["dependencies"][-1]["pip"]
