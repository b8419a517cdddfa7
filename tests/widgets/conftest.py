"""A page without a kernel for widgets, opened as a file, that may ask nobody for anything."""

import pytest

from dfs_edu.widgets import page


@pytest.fixture
def open_page(browser, tmp_path):
    """A function that opens widgets of the given kinds and returns the page once all of them are ready."""
    opened = []

    def open_(widgets, kinds, ready: str, width: int = 1100, **options):
        places = [page.place(widget._repr_mimebundle_()[0][page.STATE]) for widget in widgets]
        file = tmp_path / f"page{len(opened)}.html"
        file.write_text("<!doctype html><meta charset=utf-8>" + "".join(places) + page.starter(kinds), "utf-8")
        shown = browser.new_page(viewport={"width": width, "height": 900}, **options)
        requests, complaints = [], []
        shown.on("request", lambda request: requests.append(request.url))
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(file.as_uri())
        shown.wait_for_selector(ready, state="attached")
        opened.append((shown, requests, complaints))
        return shown

    yield open_
    for shown, requests, complaints in opened:
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        assert complaints == []
        shown.close()
