"""How `make site` builds the pages: Sphinx, from the whole checkout, so that links which work there work here."""

import sys
from pathlib import Path

import plotly
from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import dfs_edu  # noqa: E402
from dfs_edu.widgets import page, recorded  # noqa: E402

project, author, release = "dfs_edu", "the authors of dfs_edu", dfs_edu.__version__
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "docs/**", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "runs", "tests", "dfs_edu", "benchmarks", "data/[!R]*", "**/.ipynb_checkpoints"]
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "myst_nb",
]
suppress_warnings = ["mystnb.unknown_mime_type"]  # a Result has HTML beside it
highlight_language = "none"  # of blocks that do not name one
default_role = "py:obj"  # `name` in a docstring is a link where there is such a name, else code

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks as committed
nb_custom_formats = {".ipynb": ["dfs_edu.course.publish.alive", {"engine": "../_static/plotly.min.js"}]}
nb_render_markdown_format = "myst"  # commonmark has no tables
nb_code_prompt_show, nb_code_prompt_hide = "Show code", "Hide code"  # of cells tagged hide-input
nb_ipywidgets_js = {}  # would be fetched

napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of a class as a list; autodoc describes those that have docstrings themselves
napoleon_custom_sections = ["Source"]

autosummary_generate = False  # it only lists
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
maximum_signature_line_length = 180  # names count with the modules that are not shown

html_theme = "furo"
html_title = "dfs_edu"
pygments_dark_style = "github-dark"
html_additional_pages = {"index": "index.html"}
templates_path = ["templates"]
html_static_path = ["static", str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js")]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses of file://

STILL = "docs/explorer.png"  # of the README, which is alive on the site
SHOWN = "cifar100-vgg7-64-lesson-joint-seed0"

GROUPS = {  # of the navigation
    "The course": ["notebooks/*"],
    "Reference": ["docs/reference/*"],
    "Around it": ["docs/*", "data/README", "CONTRIBUTING", "CHANGELOG"],
}


def add_navigation(app, docname: str, source: list[str]) -> None:
    """The README is the front page; what a site needs besides, a list of its pages, is added to it here."""
    if docname == root_doc:
        for caption, pages in GROUPS.items():
            found = [path for page in pages for path in sorted(ROOT.glob(f"{page}.[imr]*"))]  # .ipynb, .md, .rst
            names = "\n".join(path.relative_to(ROOT).with_suffix("").as_posix() for path in found)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n"


def link_modules(app, doctree: nodes.document) -> None:
    """A link to a file or folder of the library, [surgery.py](dfs_edu/surgery.py), leads to where it is explained."""
    kinds = addnodes.download_reference | addnodes.pending_xref
    for link in [node for node in doctree.findall() if isinstance(node, kinds) and node.get("reftype") == "myst"]:
        path = (ROOT / app.env.docname).parent.joinpath(link["reftarget"]).resolve()
        if path.is_relative_to(ROOT / "dfs_edu") and (path.suffix == ".py" or path.is_dir()):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            # Not every module has a page: the name of one that has none stays as text
            how = {"refdomain": "py", "reftype": "mod", "refexplicit": True, "refwarn": not path.exists()}
            reference = addnodes.pending_xref("", *link.children, reftarget=name, refdoc=app.env.docname, **how)
            link.replace_self(reference)


def start_explorer(app, doctree: nodes.document) -> None:
    """Replace the README's image of the explorer by the explorer itself, with its data in the page."""
    for image in [node for node in doctree.findall(nodes.image) if node["uri"] == STILL]:
        explorer = recorded.explorer(SHOWN, "A recorded CIFAR-100 network with six exits: move a slider")
        states = [{"widget": explorer.name, "state": explorer.page_state()}]
        html = page.place(states) + page.starter([explorer.name])
        image.parent.replace_self(nodes.raw("", html, format="html"))


def nest_parts(app, doctree: nodes.document) -> None:
    """A page has one title: parts of a notebook that are written like it, # Part one, are sections below it."""
    sections = [child for child in doctree.children if isinstance(child, nodes.section)]
    for part in sections[1:]:
        doctree.remove(part)
        sections[0].append(part)


def write_formula(translator, node: nodes.Element) -> None:
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("source-read", add_navigation)
    for change in (link_modules, nest_parts, start_explorer):  # before titles and files to be downloaded are collected
        app.connect("doctree-read", change, priority=400)
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
