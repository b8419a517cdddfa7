"""One thread a process: on tensors as small as the tests', threads bring nothing, and wait for each other for minutes
where other work shares the cores. Set before torch is imported, and handed on to the processes that tests start."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """JupyterLab for all browser tests."""
    from lab import running_lab

    with running_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def browser():
    from lab import running_browser

    with running_browser() as running:
        yield running


@pytest.fixture
def run_all(lab, browser):
    """A function that opens a notebook in JupyterLab, runs all its cells and returns the page."""
    from lab import run_all_cells, shut_down

    pages = []

    def run(notebook, name: str, ready: str = ".dfs-explorer .dfs-accuracy"):
        page = browser.new_page(viewport={"width": 1400, "height": 6000})  # JupyterLab renders what is in view
        pages.append(page)
        run_all_cells(lab, page, notebook, name, ready)
        return page

    yield run
    for page in pages:
        shut_down(page)
