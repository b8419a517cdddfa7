"""Widgets in a page of their own, opened as a file."""

from __future__ import annotations

import pytest


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens widgets as a file and returns the page; it may ask nobody for anything."""
    from dfs_edu.widgets import page

    pages = []

    def open_(*widgets, width: int = 1100, body: str = "", **options):
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
        shown.wait_for_selector(".dfs-widget > :last-child", state="attached")
        pages.append((shown, requests, complaints))
        return shown

    yield open_
    for shown, requests, complaints in pages:
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        assert complaints == []
        shown.close()
