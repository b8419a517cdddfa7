"""CONTRIBUTING.md does what it says: its diffs apply, what they add meets the contracts and goes by its name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from test_notebooks import complaints, cumulative_macs, fractions
from warm import python

from dfs_edu.course import runner as course

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
TEMPLATE = ROOT / "docs" / "template.ipynb"
DIFFS = re.findall(r"^```diff\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)

# Each new thing by its name, as a reader would type it.
USE = """
import sys
import torch
import dfs_edu as dfs
from dfs_edu import cli, figures
from dfs_edu.training import arms, study

assert len(dfs.build("allconv", classes=10).heads) == 3
assert arms.junction_from("softened").strength == 0.5
assert study.arm("joint+rlw")["method"] == "rlw"
agreement = dfs.probes.agreement(dfs.build("allconv", 10), [(torch.rand(4, 3, 32, 32), torch.arange(4))])
assert agreement.shape == (3, 3) and (agreement == agreement.T).all() and (agreement.diagonal() == 1).all()
assert len(figures.agreement({"joint": agreement}).data) == 1
small = "--scale smoke --epochs 1 --train-images 128 --held-out-images 64 --device cpu --out".split()
words = "train digits/allconv-8 --junction softened-0.25 --method rlw".split()
sys.exit(cli.main([*words, *small, sys.argv[1]]))
"""


def git_apply(folder: Path, diff: str) -> None:
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}  # not a part of a repository around it
    done = subprocess.run(["git", "apply", "-"], cwd=folder, env=alone, input=diff, capture_output=True, text=True)
    assert done.returncode == 0, f"CONTRIBUTING.md: a diff does not apply any more\n{done.stderr}"


def run(folder: Path, *words: str) -> str:
    """What a Python says in which the copy in `folder` is the package."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([*python(), *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A copy of the package and its tests with all diffs applied."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("changed")
    for part in ("dfs_edu", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for diff in DIFFS:
        git_apply(folder, diff)
    return folder


def test_each_is_one_new_file_and_one_import():
    """Two rooms, those of probes and figures, list the name in `__all__` as well; a list of a test gets one line."""
    assert len(DIFFS) == 4
    for diff in DIFFS:
        parts = diff.split("diff --git ")[1:]
        new = [part for part in parts if "\nnew file mode " in part]
        registered = {part.split(" ")[0]: part for part in parts if part not in new}
        assert len(new) == sum(path.endswith("/__init__.py") for path in registered)
        for path, part in registered.items():
            listed = path.startswith(("a/dfs_edu/probes/", "a/dfs_edu/figures/", "a/tests/"))
            added = re.findall(r"^\+(?!\+\+ )(.*)", part, re.MULTILINE)
            assert [" import " in line for line in added] == [True] * path.endswith("/__init__.py") + [False] * listed
            assert not re.findall(r"^-(?!-- )", part, re.MULTILINE)


def test_what_is_added_has_the_style_of_the_rest(changed):
    run(changed, "-m", "ruff", "check", "--no-cache", "dfs_edu")
    run(changed, "-m", "ruff", "format", "--no-cache", "--check", "dfs_edu")


def test_what_is_added_meets_the_contracts(changed):
    """By the commands of the guide, in one process."""
    guide = GUIDE.partition("## Add a notebook")[0]
    commands = re.findall(r"-m pytest ((?:tests/[\w/]+\.py ?)+)-k (\"[^\"]+\"|\w+)", guide)
    files = [file for files, _ in commands for file in files.split()]
    wanted = [word for _, words in commands for word in words.strip('"').split(" or ")]
    said = run(changed, "-m", "pytest", "-p", "no:cacheprovider", "-vv", *files, "-k", " or ".join(wanted))
    assert len(commands) == 4
    for word in wanted:
        assert re.search(rf"\[[^]]*{word}[^]]*\] PASSED", said), f"{word}: no test has met it"


def test_what_is_added_goes_by_its_name(changed, tmp_path):
    said = run(changed, "-c", USE, str(tmp_path))
    assert "digits-allconv-8-smoke-softened-0.25-rlw-seed0" in said


# The notebook


def test_the_template_has_the_anatomy():
    notebook = nbformat.read(TEMPLATE, as_version=4)
    nbformat.validate(notebook)
    first, parameters, imports, *_, last = notebook.cells
    assert first.source.splitlines()[0].endswith("?")
    assert all(word in first.source for word in ("**You will learn**", "**Time**", "**You should know**"))
    assert parameters.metadata.tags == ["parameters"]
    *lines, banner = imports.source.splitlines()
    assert banner == "course.banner(SCALE)"
    assert all(line.startswith(("import ", "from ")) for line in filter(None, lines))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    wanted = (
        "**What to notice.**",
        "## Exercises",
        "<details><summary>Answer</summary>",
        "## Recap",
        "**Next.**",
        "**Further reading.**",
    )
    assert all(part in text for part in wanted)
    assert "course.record(" in last.source
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.notebook
@pytest.mark.usefixtures("warm_kernels")
def test_the_template_runs_and_the_guide_s_expectation_holds(tmp_path):
    (result,) = course.run([TEMPLATE], scale="smoke", device="cpu", out=tmp_path, timeout=300)
    assert result.error is None
    assert complaints(nbformat.read(result.executed, as_version=4)) == []
    (expectation,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    names = {"pytest": pytest, "fractions": fractions, "cumulative_macs": cumulative_macs}
    exec(expectation, names)
    names["my_question"](result.values)
    with pytest.raises(AssertionError):
        names["my_question"](result.values | {"part": 0.5})
