"""The site that `make site` builds, in a real browser and without a network: every page, figure, formula and link."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import nbformat
import pytest
from warm import python

from dfs_edu.course.browser import chromium
from dfs_edu.course.publish import PLOTLY, STATE

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PATIENCE = 120_000  # milliseconds: a busy machine is slow

pytest.importorskip("sphinx", reason="no Sphinx: install the dev extras")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chrome or Chromium: install chromium or set BROWSER_PATH"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the pages, built as the Makefile builds them: a warning is an error."""
    (line,) = re.findall(r"^\t@\$\(VENV\) -m (sphinx .*) --doctree-dir", (ROOT / "Makefile").read_text(), re.MULTILINE)
    built = tmp_path_factory.mktemp("site")
    command = [*python(), "-m", *line.split(), "--doctree-dir", built / "doctrees", ".", built / "pages"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built / "pages"


@pytest.fixture
def page(browser, site) -> Iterator:
    """A page that fails the test if it says an error, or asks for anything outside the site."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
    page.set_default_timeout(PATIENCE)
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    inside = (f"{site.as_uri()}/", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(inside) else wrong.append(request.url))
    yield page
    page.close()
    assert wrong == []


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def figures_of(notebook: Path) -> int:
    cells = nbformat.read(notebook, as_version=4).cells
    bundles = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return sum(PLOTLY in data and STATE not in data for data in bundles)  # a widget starts in place of its figure


def test_every_notebook_document_and_module_has_its_page(site):
    there = {path.relative_to(site).with_suffix("") for path in pages(site)}
    wanted = [*NOTEBOOKS, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md"]
    assert {path.relative_to(ROOT).with_suffix("") for path in wanted} <= there
    navigation = (site / "README.html").read_text()
    for path in wanted[:-1]:
        assert f'href="{path.relative_to(ROOT).with_suffix(".html")}"' in navigation or path.name == "README.md"
    assert len(list(site.rglob("plotly*.js"))) == 1
    assert not any("plotly.js v" in path.read_text()[:2_000_000] for path in pages(site))  # in no page


def test_the_front_page_opens_with_a_live_explorer(site, page):
    """Of a recorded network, in place of the README's picture: in light and dark, and on a phone."""
    front = site / "README.html"
    assert front.stat().st_size < 1_000_000
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(front.as_uri())
        page.locator(".dfs-explorer .dfs-accuracy").wait_for()
        assert page.locator("article img[src*=explorer]").count() == 0
        assert page.locator(".dfs-explorer").bounding_box()["y"] < 600
        slider = page.get_by_role("slider", name="budget")
        slider.press("End")
        best = page.locator(".dfs-accuracy").inner_text()
        slider.press("Home")
        assert float(page.locator(".dfs-accuracy").inner_text().split()[0]) < float(best.split()[0])
        assert page.evaluate(TOO_WIDE) <= 0


LINKS = "[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))"
NAMES = "[...document.querySelectorAll('[id]')].map(e => e.id)"
TOO_WIDE = "document.documentElement.scrollWidth - innerWidth"


def test_every_page_opens_and_every_link_leads_somewhere(site, page):
    """In the page as it stands, not as it was written: what scripts do to it counts."""
    links, names = {}, {}
    for path in pages(site):
        page.goto(path.as_uri(), wait_until="load")
        if path == site / "index.html":  # leads on to the README
            page.wait_for_url("**/README.html")
            continue
        links[path.as_uri()] = {urljoin(path.as_uri(), href) for href in page.evaluate(LINKS)}
        names[path.as_uri()] = set(page.evaluate(NAMES))
        assert page.locator("article h1").count() == 1 or path.name == "search.html", path
        assert page.evaluate(TOO_WIDE) <= 0, path
    broken = []
    for source, targets in links.items():
        for target in targets:
            address, name = urldefrag(target)
            if not address.startswith("file:"):
                assert address.startswith("https://"), target
                continue
            there = Path(unquote(address.removeprefix("file://"))).is_file()
            if not there or (name and address in names and unquote(name) not in names[address]):
                broken.append((source, target))
    assert broken == []


DRAWN = """figure => {
    const size = e => { const box = e.getBoundingClientRect(); return [box.width, box.height]; };
    const ink = figure.querySelectorAll(
        ".trace path, .trace rect, .trace text, .points path, .hm image, .im image, .layer-above path, .bars path, "
        + ".layer-above image, "
        + ".boxes path, .textpoint text, .subplot image").length;
    const whole = figure.querySelector(".main-svg").getBoundingClientRect();
    const clipped = [...figure.querySelectorAll(".infolayer text")].filter(text => {
        const box = text.getBoundingClientRect();
        return box.width && (box.right > whole.right + 2 || box.left < whole.left - 2 || box.top < whole.top - 2);
    }).map(text => text.textContent);
    const drawings = (figure.layout.images ?? []).length;
    return {size: size(figure.querySelector(".main-svg")), ink, clipped, parts: figure.data.length + drawings};
}"""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_are_drawn(site, page, notebook):
    page.goto((site / "notebooks" / f"{notebook.stem}.html").as_uri())
    figures = page.locator(".plotly-graph-div")
    assert figures.count() == figures_of(notebook)
    assert page.locator("img[src*='_images']").count() == 0  # the PNG that stands in where no script runs
    for number in range(figures.count()):
        page.wait_for_function(
            "n => document.querySelectorAll('.plotly-graph-div')[n].matches('.js-plotly-plot')", arg=number
        )
        drawn = figures.nth(number).evaluate(DRAWN)
        assert min(drawn["size"]) > 100, (number, drawn)
        assert drawn["parts"], (number, drawn)
        assert drawn["ink"], (number, drawn)
        assert drawn["clipped"] == [], (number, drawn)


def with_player() -> list[Path]:
    return [path for path in NOTEBOOKS if "FramePlayer(" in path.read_text()]


@pytest.mark.parametrize("notebook", with_player(), ids=lambda path: path.stem)
def test_a_slider_changes_its_figure(site, page, notebook):
    page.goto((site / "notebooks" / f"{notebook.stem}.html").as_uri())
    player = page.locator(".dfs-frames").first
    drawn = player.locator("table, svg[role=img]").first
    before = drawn.inner_html()
    player.locator(".dfs-frame").press("Home")  # the committed notebook shows another frame
    page.wait_for_function("([drawn, before]) => drawn.innerHTML !== before", arg=[drawn.element_handle(), before])


def test_formulas_are_set_without_an_engine(site, page):
    found = 0
    for path in pages(site):
        if "<math" in path.read_text():
            page.goto(path.as_uri())
            for formula in page.locator("math").all():
                box = formula.bounding_box()
                assert box["width"] > 4, path
                assert box["height"] > 4, path
                assert "\\" not in formula.text_content(), path  # a command that nobody understood
                found += 1
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    written = sum(cell.source.count("$$") // 2 for cell in cells if cell.cell_type == "markdown")
    assert found >= written > 0


def brightness(page, of: str) -> float:
    found = page.evaluate("of => getComputedStyle(document.body).getPropertyValue(of)", of)
    return sum(map(float, re.findall(r"[0-9.]+", found)[:3]))


def test_dark_and_light(site, page):
    page.goto((site / "README.html").as_uri())
    seen = set()
    for _ in range(3):  # as the system says, light, dark
        page.locator(".theme-toggle:visible").first.click()
        dark = brightness(page, "color") > brightness(page, "background-color")
        seen.add((page.locator("body").get_attribute("data-theme"), dark))
    assert {("light", False), ("dark", True)} <= seen


@pytest.mark.parametrize(("words", "leads_to"), [("cosine", "notebooks/"), ("EarlyExit", "docs/reference/")])
def test_search_finds(site, page, words, leads_to):
    page.goto((site / "README.html").as_uri())
    page.locator(".sidebar-search").fill(words)
    page.keyboard.press("Enter")
    result = page.locator(f"#search-results li a[href*='{leads_to}']").first
    result.click()
    page.wait_for_url(f"**/{leads_to}**")
    assert words.lower() in page.locator("article").inner_text().lower()


@pytest.mark.parametrize(
    ("number", "target", "module"),
    [
        ("04", "../dfs_edu/surgery.py", "surgery"),
        ("05", "../dfs_edu/splitgrad.py", "splitgrad"),
        ("12", "cuts/", "cuts"),
    ],
)
def test_a_link_to_code_leads_to_the_reference(site, number, target, module):
    (path,) = [path for path in NOTEBOOKS if path.stem.startswith(f"{number}_")]
    assert target in path.read_text(encoding="utf-8")
    html = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
    assert f'href="../docs/reference/2_networks.html#module-dfs_edu.{module}"' in html


def test_nothing_of_the_library_is_a_download(site):
    tests = {path.name for path in (ROOT / "tests").glob("*.py")}  # which have no page of their own
    assert {path.name for path in site.glob("_downloads/*/*.py")} <= tests
