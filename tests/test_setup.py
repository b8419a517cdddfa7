"""What sets the project up agrees with itself: pyproject.toml, environment.yml, Makefile, .ci/run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TARGETS = ("course", "lab", "voila", "test", "bench", "gpu", "notebooks", "site")
CONDA_NAMES = {"torch": "pytorch", "ray": "ray-core"}
# Left to `pip install -e .[course]`: what is not on conda-forge, and what builds the site
PIP_ALONE = {"torchjd", "sphinx", "furo", "myst-nb", "latex2mathml", "sphinx-revealjs"}

project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
makefile = (ROOT / "Makefile").read_text()


def minima(requirements) -> dict[str, str]:
    """{name: minimum version} of requirements "name>=version"; any other form fails."""
    parsed = {}
    for requirement in requirements:
        if requirement.startswith("dfs-edu["):  # another extra
            continue
        match = re.fullmatch(r"([a-z0-9-]+)>=([0-9.]+)", requirement)
        assert match, f"{requirement!r}: this project asks for minimum versions only"
        parsed[match[1]] = match[2]
    return parsed


def environment() -> tuple[dict[str, str], list[str]]:
    """Minimum versions of environment.yml, and what it leaves to pip."""
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (by_pip,) = [package["pip"] for package in packages if isinstance(package, dict)]
    return minima(package for package in packages if isinstance(package, str) and package != "pip"), by_pip


def test_environment_and_pyproject_ask_for_the_same_versions():
    extras = project["optional-dependencies"]
    needed = minima([*project["dependencies"], *chain(*(extra for name, extra in extras.items() if name != "dev"))])
    wanted = {CONDA_NAMES.get(name, name): version for name, version in needed.items() if name not in PIP_ALONE}
    wanted["python"] = project["requires-python"].removeprefix(">=")
    packages, by_pip = environment()
    assert packages == wanted
    assert by_pip == ["-e .[course]"]


def test_the_comparison_sees_a_difference():
    assert minima(["torch>=2.9"]) != minima(["torch>=2.10"])
    with pytest.raises(AssertionError, match="minimum versions only"):
        minima(["torch==2.9"])


def test_the_installed_environment_meets_the_minima():
    for name, minimum in minima([*project["dependencies"], *chain(*project["optional-dependencies"].values())]).items():
        installed = importlib.metadata.version(name)
        assert version(installed) >= version(minimum), f"{name} {installed} is older than {minimum}"


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0]))


def test_version_is_one():
    assert importlib.metadata.version("dfs-edu") == project["version"]


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert all(set(author) == {"name"} for author in citation["authors"])
    (paper,) = citation["references"]
    assert paper["authors"][0]["family-names"] == "Gong"
    assert "Deep Feature Surgery" in paper["title"]
    assert paper["year"] == 2024
    assert [identifier["value"] for identifier in paper["identifiers"]] == ["arXiv:2407.13986"]


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## \[([^]]+)\]", text, re.MULTILINE)[1] == project["version"]


def test_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text()
    assert project["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert all(f"\n   {section}. " in text for section in range(1, 10))


def test_continuous_integration_knows_no_machine():
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert subprocess.run(["bash", "-n", ci]).returncode == 0
    text = ci.read_text()
    assert "set -euo pipefail" in text
    assert "\nmake test\n" in text
    assert not re.search(r'(?:^|[\s"=(])/(?!dev/null|usr/bin/env)', text.removeprefix("#!")), "an absolute path"


def test_every_target_needs_the_environment_and_says_what_it_does():
    for target in TARGETS:
        assert f"\n{target}: $(STAMP)\n\t@echo " in makefile, target
    assert not re.search(r"\.venv/bin/(?!python\b)", makefile), "scripts there have shebangs, which break in long paths"
    assert "127.0.0.1" in makefile


INSTALLED = """
from pathlib import Path
from dfs_edu.training import results, runs, study

print(results.__file__, len(study.recorded("digits-vgg7-16-lesson")), len(results.recorded("*-lesson-joint-*")))
runs.load_network(results.RECORDED / "cifar100-vgg7-64-lesson-joint-seed0")
"""


def test_a_wheel_brings_recorded_results_and_notebooks_along(tmp_path):
    """Built and used without the checkout, as `pip install` of a wheel leaves it."""
    for name in ("dfs_edu", "data/recorded", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path / "site"]
    subprocess.run(build, cwd=tmp_path / "source", check=True, capture_output=True)
    shutil.rmtree(tmp_path / "source")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    run = [sys.executable, "-c", INSTALLED]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    place, study_runs, joint = done.stdout.split()
    assert place.startswith(str(tmp_path))
    studied = json.loads((ROOT / "data" / "recorded" / "studies" / "digits-vgg7-16-lesson.json").read_text())["runs"]
    assert int(study_runs) == len(studied)
    assert int(joint) == len(list((ROOT / "data" / "recorded").glob("*-lesson-joint-*")))

    def course(*words):
        run = [sys.executable, "-m", "dfs_edu", "course", *words]
        return subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert course("--copy", "mine").returncode == 0
    copied = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    again = course("--copy", "mine")
    assert again.returncode == 1
    assert "00_start_here.ipynb already exists" in again.stderr
    advice = course("--scale", "smoke")
    assert advice.returncode == 1
    assert "dfs-edu course --copy DIR" in advice.stderr


# The recipes themselves, run in a scratch checkout whose path has a space, with a Python that only notes its calls.

FAKE = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
  *"-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
  *"-m pip install"*) [ ! -e fail ] || exit 1;;
  *) [ ! -e old ] || exit 1;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = tmp_path / "a path with space"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / "01_first.ipynb").touch()
    (folder / "notebooks" / "02_second.ipynb").touch()
    (folder / "Makefile").write_text(makefile)
    (folder / "pyproject.toml").touch()
    (folder / "python").write_text(FAKE)
    (folder / "python").chmod(0o755)
    return folder


def make(folder: Path, *words: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run make in the folder; its outcome and the calls of Python."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    environment = {**os.environ, "LOG": str(log), "PYTHON": "./python", "MAKEFLAGS": ""}
    done = subprocess.run(["make", *words], cwd=folder, env=environment, capture_output=True, text=True)
    return done, log.read_text().splitlines() if log.exists() else []


def installs(calls: list[str]) -> int:
    return sum("-m pip install" in call for call in calls)


def makes_venv(calls: list[str]) -> bool:
    return any("-m venv --clear .venv" in call for call in calls)


def test_help_is_the_default_and_names_every_target(checkout):
    done, calls = make(checkout)
    assert all(f"make {target} " in done.stdout for target in (*TARGETS, "clean"))
    assert not calls


def test_environment_is_made_once_and_again_when_pyproject_changes(checkout):
    done, calls = make(checkout, "course")
    assert done.returncode == 0, done.stderr
    assert makes_venv(calls)
    assert installs(calls) == 1
    assert calls[-1] == "-m dfs_edu course --scale lesson --dataset digits --jobs 2 --out build/course"
    assert "Setting up" in done.stdout
    _, calls = make(checkout, "course", "SCALE=smoke", "DATASET=cifar100")
    assert calls == ["-m dfs_edu course --scale smoke --dataset cifar100 --jobs 2 --out build/course"]
    later = time.time() + 5
    os.utime(checkout / "pyproject.toml", (later, later))
    _, calls = make(checkout, "bench")
    assert installs(calls) == 1
    assert not makes_venv(calls)
    assert calls[-1] == "-m benchmarks"


def test_an_interrupted_set_up_is_made_anew(checkout):
    (checkout / "fail").touch()
    done, calls = make(checkout, "course")
    assert done.returncode != 0
    assert not any("dfs_edu" in call for call in calls)
    (checkout / "fail").unlink()
    done, calls = make(checkout, "course")
    assert done.returncode == 0
    assert makes_venv(calls)
    assert installs(calls) == 1
    _, calls = make(checkout, "course")
    assert installs(calls) == 0


def test_a_moved_checkout_is_installed_again(checkout):
    make(checkout, "course")
    moved = checkout.rename(checkout.parent / "elsewhere")
    _, calls = make(moved, "course")
    assert installs(calls) == 1
    _, calls = make(moved, "course")
    assert installs(calls) == 0


def test_an_old_python_is_refused_clearly(checkout):
    (checkout / "old").touch()
    done, calls = make(checkout, "course")
    assert done.returncode != 0
    assert "needs Python 3.11 or later" in done.stderr
    assert installs(calls) == 0
    done, _ = make(checkout, "course", "PYTHON=./no-such-python")
    assert "no-such-python is missing" in done.stderr


def test_lab_opens_the_first_notebook_on_this_machine_only(checkout):
    _, calls = make(checkout, "lab")
    call = calls[-1]
    assert call.startswith("-m jupyterlab --ServerApp.ip=127.0.0.1")
    assert "--LabApp.default_url=/lab/tree/notebooks/01_first.ipynb" in call
    assert ("--allow-root" in call) == (os.geteuid() == 0)
    assert "token" not in call
    assert "password" not in call
    assert "--ServerApp.jpserver_extensions=voila.server_extension=False" in call  # a link would run any notebook


def test_voila_shows_the_notebook_that_was_named_and_no_other(checkout):
    _, calls = make(checkout, "voila", "NOTEBOOK=notebooks/02_second.ipynb")
    assert calls[-1] == "-m voila notebooks/02_second.ipynb --Voila.ip=127.0.0.1 --token"
    for words in ([], ["NOTEBOOK=notebooks"], ["NOTEBOOK=notebooks/03.ipynb"]):
        done, calls = make(checkout, "voila", *words)
        assert done.returncode != 0
        assert "make voila NOTEBOOK=FILE.ipynb: there is no notebook" in done.stderr
        assert calls == []


def test_test_stops_at_the_first_failure(checkout):
    _, calls = make(checkout, "test")
    assert calls[-6:-3] == ["-m ruff check .", "-m ruff format --check .", "-m ty check"]
    side_by_side = "--numprocesses auto --maxprocesses 4 --dist worksteal"
    by_file = side_by_side.replace("worksteal", "loadfile")  # what a file starts, such as the site, is started once
    assert calls[-3:] == [
        f"-m pytest {side_by_side} -m not browser",
        f"-m pytest {by_file} -m browser and not alone",
        "-m pytest -m alone",
    ]
    (checkout / "old").touch()  # from here on, every call fails
    done, calls = make(checkout, "test")
    assert done.returncode != 0
    assert calls == ["-m ruff check ."]


def test_gpu_runs_the_parts_that_are_named_where_clean_does_not_reach(checkout):
    _, calls = make(checkout, "gpu", "PARTS=tests step", "SMOKE=--smoke")
    assert calls[-1] == "-m benchmarks.gpu --smoke --parts tests step --out runs/gpu"
    _, calls = make(checkout, "gpu")
    assert calls[-1] == "-m benchmarks.gpu --parts tests step vgg7 msdnet exits --out runs/gpu"


def test_a_site_is_built_anew_and_warnings_are_errors(checkout):
    stale = checkout / "build" / "site" / "01_old_name.html"
    stale.parent.mkdir(parents=True)
    stale.touch()
    _, calls = make(checkout, "site")
    assert calls[-1].startswith("-m sphinx --quiet --fresh-env --fail-on-warning ")
    assert calls[-1].endswith(" . build/site")
    assert not stale.exists()


def test_clean_keeps_what_took_long(checkout):
    make(checkout, "course")
    for kept in ("runs", "data", "build", "dfs_edu/__pycache__", "tests", "benchmarks"):
        (checkout / kept).mkdir(parents=True)
    done, _ = make(checkout, "clean")
    assert done.returncode == 0, done.stderr
    assert not (checkout / "build").exists()
    assert not (checkout / "dfs_edu" / "__pycache__").exists()
    assert all((checkout / kept).exists() for kept in ("runs", "data", ".venv/.installed"))
