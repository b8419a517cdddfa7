"""One thread a process: on tensors as small as the tests', threads bring nothing, and wait for each other for minutes
where other work shares the cores. Set before torch is imported, and handed on to the processes that tests start."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.modules.setdefault("rfc3987_syntax", None)  # as in figures/look.py; test modules import nbformat first

import pytest  # noqa: E402


@pytest.fixture(scope="module")
def warm_kernels():
    """Kernels of notebooks that this process executes start at once, see warm.py."""
    from ipykernel import kernelspec
    from warm import python

    argv = [*python(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernelspec, "get_kernel_dict", lambda: {"argv": argv, "language": "python"})
        yield


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


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens widgets in a page of their own, a file, and returns it; it may ask nobody for anything."""
    from dfs_edu.widgets import page

    pages = []

    def open_(*widgets, width: int = 1100, body: str = "", ready: str = ".dfs-widget > :last-child", **options):
        bundles = [widget._repr_mimebundle_()[0][page.STATE] for widget in widgets]
        names = list({state["widget"]: None for states in bundles for state in states})
        file = tmp_path / f"page{len(pages)}.html"
        html = f"<!doctype html><meta charset=utf-8><body {body}>" + "".join(map(page.place, bundles))
        file.write_text(html + page.starter(names), "utf-8")
        shown = browser.new_page(viewport={"width": width, "height": 900}, **options)
        requests, complaints = [], []
        shown.on("request", lambda request: requests.append(request.url))
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(file.as_uri())
        shown.wait_for_selector(ready, state="attached")
        pages.append((shown, requests, complaints))
        return shown

    yield open_
    for shown, requests, complaints in pages:
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        assert complaints == []
        shown.close()
