"""JupyterLab in a real browser: start a server and a browser, open notebooks in it and run them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat

from dfs_edu.course.browser import chromium

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TOKEN = "of-this-test"
PATIENCE = 240  # seconds for JupyterLab to start, the notebook to run, a number to change: a busy machine is slow


@dataclass
class Lab:
    """A running JupyterLab."""

    folder: Path  # of its notebooks
    address: str


@contextmanager
def running_lab(home: Path) -> Iterator[Lab]:
    """Run JupyterLab with its home, settings and notebooks in a folder, until the block ends."""
    notebooks, settings, runtime = home / "notebooks", home / "settings", home / "runtime"
    notebooks.mkdir()
    notifications = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notifications.parent.mkdir(parents=True)
    notifications.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    places = {
        "HOME": home,
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": runtime,
        "IPYTHONDIR": home / "ipython",
        "JUPYTERLAB_SETTINGS_DIR": settings,
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
    }
    environment = {**os.environ, **{name: str(path) for name, path in places.items()}, "JUPYTER_PREFER_ENV_PATH": "1"}
    options = ["--no-browser", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", "--expose-app-in-browser"]
    options += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={notebooks}"]
    if os.name == "posix" and os.geteuid() == 0:
        options.append("--allow-root")
    log = home / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Lab(notebooks, address(server, runtime, log))
    finally:
        server.terminate()
        server.wait(30)


def address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """Return the server's address, which it writes into a file once it listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        for file in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(file.read_text())["url"]
            except json.JSONDecodeError:  # being written
                pass
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start in {PATIENCE} s: {log.read_text()}")


@contextmanager
def running_browser():
    from playwright.sync_api import sync_playwright

    quiet = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    quiet += ["disable-component-update", "disable-sync", "no-sandbox"]  # as root there is no sandbox
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=[f"--{option}" for option in quiet])
        yield launched
        launched.close()


def run_all_cells(lab: Lab, page, notebook, name: str, ready: str) -> None:
    """Open a notebook on the page, run all its cells, wait for the element."""
    nbformat.write(notebook, lab.folder / name)
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{lab.address}lab/tree/{name}?token={TOKEN}&reset")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.evaluate(
        """async () => {
            const panel = jupyterapp.shell.currentWidget;
            await panel.context.ready;
            await panel.sessionContext.ready;
            await panel.sessionContext.session.kernel.info;
        }"""
    )
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    page.locator(ready).first.wait_for()


def shut_down(page) -> None:
    """End the page and its kernel."""
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    page.close()


def complaints(page) -> list[str]:
    """Return a list that fills with the page's errors from now on, except for the missing icon."""
    messages = []

    def note(text: str) -> None:
        if "favicon" not in text:
            messages.append(text)

    page.on(
        "console",
        lambda message: note(f"{message.text} {message.location['url']}") if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: note(str(error)))
    return messages


def errors(page) -> list[dict]:
    """Return the errors in the outputs of the notebook on the page."""
    cells = page.evaluate("jupyterapp.shell.currentWidget.model.toJSON().cells")
    return [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]


def course_notebook(number: str, *wanted: str, scale: str = "smoke"):
    """Return a notebook of the course at a scale, on digits, without outputs.

    Args:
        number: Such as "08".
        *wanted: Pieces of code: only the cells that contain one are kept, and those that they need; without any, all.
        scale: The parameter ``SCALE``.
    """
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = f'SCALE = "{scale}"\nDATASET = "digits"\nSEED = 0\nDEVICE = "cpu"'
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    if wanted:
        keep_what_is_needed(notebook, wanted)
    return notebook


def keep_what_is_needed(notebook, wanted: tuple[str, ...]) -> None:
    """Drop the cells that no wanted cell depends on, by the names that cells set and read."""
    kept, names, missing = [], set(), set(wanted)
    for cell in reversed(notebook.cells):
        if cell.cell_type != "code":
            kept.append(cell)
            continue
        sets, reads = names_in(cell.source)
        here = {piece for piece in wanted if piece in cell.source}
        if here or sets & names:
            kept.append(cell)
            names = (names - sets) | (reads - sets)
            missing -= here
    assert not missing, f"no cell has {missing}"
    notebook.cells = kept[::-1]


def names_in(source: str) -> tuple[set[str], set[str]]:
    """Return the names that a cell sets, and those that it reads."""
    sets, reads = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (reads if isinstance(node.ctx, ast.Load) else sets).add(node.id)
        elif isinstance(node, ast.alias):
            sets.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.FunctionDef):
            sets.add(node.name)
    return sets, reads
