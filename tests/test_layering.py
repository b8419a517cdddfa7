"""The shape of the project: imports flow downwards, notebooks are fit to be committed, no file names a machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
DEFINED = (ast.FunctionDef, ast.ClassDef)
PACKAGE = ROOT / "dfs_edu"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Top to bottom. A room imports from lower lines only, never from its own line; a new room is added here.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("__init__",),  # the public names: whatever is imported from "dfs_edu" itself
    ("course",),
    ("widgets",),
    ("figures",),
    ("training",),
    ("inference", "data"),
    ("probes",),
    ("backbones", "losses", "methods"),
    ("multiexit", "cuts"),
    ("splitgrad", "distributed", "answers"),
    ("surgery", "extras", "files", "intervals", "modes", "precision", "tables", "values"),
)
LEVEL = {room: len(LAYERS) - i for i, layer in enumerate(LAYERS) for room in layer}


def imports(source: str, module: str) -> set[str]:
    """Absolute names of what a module, dotted, imports when it runs; the name of a package ends in .__init__."""
    tree, names = ast.parse(source), set()
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {id(part) for node in typing for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.rsplit(".", node.level)[0] + "." * bool(node.module) if node.level else ""
            base += node.module or ""
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def layer_of(name: str) -> str | None:
    """The entry of LAYERS that a dotted name belongs to; None for what is not ours."""
    first, *rest = name.split(".")
    if first != "dfs_edu":
        return None
    return rest[0] if rest and rest[0] in LEVEL else "__init__"


def upward(sources: dict[str, str]) -> list[str]:
    """The imports, of modules given as {dotted name: source}, that do not flow down from room to room."""
    wrong = []
    for module, source in sources.items():
        here = module.split(".")[1]
        for name in sorted(imports(source, module)):
            there = layer_of(name)
            if there not in (None, here) and LEVEL[there] >= LEVEL[here]:
                wrong.append(f"{module} imports {name}")
    return wrong


def circle(sources: dict[str, str]) -> list[str] | None:
    """Modules that import each other in a circle; None if there is none. A package stands for its `__init__`."""
    names = {name.removesuffix(".__init__"): name for name in sources}
    below = {name: set() for name in names}
    for name, module in names.items():
        for imported in imports(sources[module], module):
            while imported and imported not in names:
                imported = imported.rpartition(".")[0]
            below[name] |= {imported} - {name, ""}
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def named_twice(sources: dict[str, str]) -> list[str]:
    """Modules with the name of something that they hold, or that their package does: one would hide the other."""
    wrong = []
    for module, source in sources.items():
        package, _, own = module.removesuffix(".__init__").rpartition(".")
        door = sources.get(f"{package}.__init__", "")
        held = {node.name for text in (source, door) for node in ast.parse(text).body if isinstance(node, DEFINED)}
        named = {name for name in imports(door, f"{package}.__init__") if name != f"{package}.{own}"}
        if own in held or any(name.endswith(f".{own}") for name in named):
            wrong.append(module)
    return wrong


def modules() -> dict[str, str]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8") for path in paths}


def test_every_module_has_its_place():
    assert {name.split(".")[1] for name in modules()} <= set(LEVEL), "add the new module to LAYERS"
    files = [path for folder in ("dfs_edu", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in files if path.name in ("utils.py", "common.py")], "name it after what it owns"


def test_imports_flow_downwards_and_in_no_circle():
    assert upward(modules()) == []
    assert circle(modules()) is None


def test_a_circle_is_seen():
    sources = {"dfs_edu.a": "from dfs_edu import b", "dfs_edu.b": "from dfs_edu.c import f"}
    assert circle(sources | {"dfs_edu.c": ""}) is None
    assert set(circle(sources | {"dfs_edu.c": "import dfs_edu.a"})) == {"dfs_edu.a", "dfs_edu.b", "dfs_edu.c"}


def too_long(source: str) -> list[str]:
    """Functions of more than 40 lines below their docstring, and classes of more than 12 methods."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            if (size := node.end_lineno - body[0].lineno + 1) > 40:
                found.append(f"{node.name}: {size} lines")
        if isinstance(node, ast.ClassDef) and sum(isinstance(part, ast.FunctionDef) for part in node.body) > 12:
            found.append(f"{node.name}: more than 12 methods")
    return found


def test_functions_and_classes_fit_on_a_screen():
    assert {name: found for name, source in modules().items() if (found := too_long(source))} == {}
    assert too_long("def f():\n    'Doc'\n" + "    x\n" * 40) == []
    assert too_long("def f():\n" + "    x\n" * 41) == ["f: 41 lines"]
    assert too_long("class C:\n" + "    def f(self): ...\n" * 13) == ["C: more than 12 methods"]


def test_no_module_has_the_name_of_what_it_holds():
    """`import dfs_edu.room.name` would give the function in one program and the module in another."""
    assert named_twice(modules()) == []
    assert named_twice({"dfs_edu.a.b": "def b(): ..."}) == ["dfs_edu.a.b"]
    assert named_twice({"dfs_edu.a.b": "", "dfs_edu.a.__init__": "from dfs_edu.a.c import b"}) == ["dfs_edu.a.b"]
    assert named_twice({"dfs_edu.a.b": "", "dfs_edu.a.__init__": "from dfs_edu.a import b"}) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dfs_edu.surgery", "from dfs_edu.multiexit import MultiExit"),
        ("dfs_edu.surgery", "def f():\n    import dfs_edu.training.trainer"),
        ("dfs_edu.surgery", "from dfs_edu import multiexit"),
        ("dfs_edu.surgery", "from .multiexit import MultiExit"),
        ("dfs_edu.probes.cosines", "from ..training.trainer import train"),
        ("dfs_edu.probes.__init__", "from ..training.trainer import train"),
        ("dfs_edu.probes.cosines", "from dfs_edu.inference import collect"),
        ("dfs_edu.data.digits", "import dfs_edu as dfs"),
        ("dfs_edu.data.digits", "from dfs_edu import build"),
    ],
)
def test_an_upward_import_is_seen(module, source):
    assert len(upward({module: source})) == 1


def test_downward_and_sibling_imports_are_allowed():
    sources = {
        "dfs_edu.probes.cosines": "from .gradients import f\nfrom dfs_edu.multiexit import MultiExit\nimport torch",
        "dfs_edu.probes.__init__": "from .conflict import conflict\nfrom dfs_edu.probes.costs import cost",
        "dfs_edu.__init__": "from dfs_edu.training.trainer import train\nfrom . import probes",
    }
    assert upward(sources) == []


def importing(pattern: str, within: str) -> list[str]:
    """The modules, of those whose name matches `within`, that import something matching `pattern`."""
    found = {name: imports(source, name) for name, source in modules().items() if re.fullmatch(within, name)}
    assert found, f"no module matches {within}"
    return [name for name, imported in found.items() if any(re.match(pattern, i) for i in imported)]


def test_methods_and_backbones_do_not_know_each_other():
    assert importing(r"dfs_edu\.(surgery|methods)", within=r"dfs_edu\.backbones\.(?!__init__).*") == []
    assert importing(r"dfs_edu\.(?!surgery)", within=r"dfs_edu\.surgery") == []


def test_surgery_needs_torch_and_nothing_else():
    names = {name.split(".")[0] for name in imports(modules()["dfs_edu.surgery"], "dfs_edu.surgery")}
    assert names - set(sys.stdlib_module_names) == {"torch"}


def test_probes_never_plot_or_print():
    assert importing(r"plotly|matplotlib|dfs_edu\.figures", within=r"dfs_edu\.probes\..*") == []
    probes = [source for name, source in modules().items() if name.startswith("dfs_edu.probes.")]
    calls = [node for source in probes for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


# Notebooks

STALLING = re.compile(r"\bwith\s+(?:\w+\.)?Output\(|\b(?:interact|interactive|interactive_output|interact_manual)\(")
LIMIT = 500_000  # bytes of a committed notebook
FOLDED = {True: {"source_hidden": True}}  # what JupyterLab reads, by whether a cell is tagged


def notebook_problems(notebook, size: int) -> list[str]:
    """What is wrong with a notebook that is to be committed."""
    problems = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    if size > LIMIT:
        problems.append(f"{size} bytes are more than {LIMIT}")
    if set(notebook.metadata) - {"kernelspec", "language_info"}:
        problems.append(f"metadata left: {sorted(notebook.metadata)}")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("its kernel is not python3")
    if any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs):
        problems.append("widget views")
    if [cell.get("id") for cell in notebook.cells] != [f"cell-{i:02}" for i in range(1, len(notebook.cells) + 1)]:
        problems.append("cell ids are not cell-01, cell-02 ...")
    if any(set(cell.metadata) - {"tags", "jupyter"} for cell in notebook.cells):
        problems.append("times or other metadata in cells")
    if any(cell.metadata.get("jupyter") != FOLDED.get("hide-input" in cell.metadata.get("tags", [])) for cell in code):
        problems.append("JupyterLab folds the cells tagged hide-input, and no others")
    if not outputs:
        problems.append("no outputs: it was never executed")
    if [cell.execution_count for cell in code if cell.source.strip()] != list(range(1, len(code) + 1)):
        problems.append("not executed in order, or not all of it")
    if any(output.output_type == "error" for output in outputs):
        problems.append("error outputs")
    if any(STALLING.search(cell.source) for cell in code):
        problems.append("Output(), interact and interactive stall headless runs")
    tagged = [cell.source for cell in code if "parameters" in cell.metadata.get("tags", [])]
    declared = re.findall(r"^(\w+)\s*=", tagged[0], re.MULTILINE) if len(tagged) == 1 else tagged
    if declared != ["SCALE", "DATASET", "SEED", "DEVICE"]:
        problems.append(f"one cell tagged `parameters` declares SCALE, DATASET, SEED, DEVICE; found {declared}")
    return problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_fit_to_be_committed(path):
    assert notebook_problems(nbformat.read(path, as_version=4), path.stat().st_size) == [], "run `make notebooks`"


def good_notebook():
    parameters = 'SCALE = "lesson"\nDATASET = "digits"\nSEED = 0\nDEVICE = "cpu"'
    cells = [
        new_code_cell(parameters, id="cell-01", execution_count=1, metadata={"tags": ["parameters"]}),
        new_code_cell("print(1)", id="cell-02", execution_count=2, outputs=[new_output("stream", text="1\n")]),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def spoil(notebook, how: str) -> None:
    first, second = notebook.cells
    match how:
        case "metadata left":
            notebook.metadata.widgets = {}
        case "its kernel":
            notebook.metadata.kernelspec.name = "my-env"
        case "widget views":
            view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
            second.outputs = [new_output("display_data", data=view)]
        case "cell ids":
            second.id = "a1b2c3"
        case "times":
            second.metadata.execution = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
        case "JupyterLab folds":
            second.metadata.tags = ["hide-input"]
        case "no outputs":
            second.outputs = []
        case "not executed":
            second.execution_count = 7
        case "error outputs":
            second.outputs = [new_output("error", ename="E", evalue="", traceback=[])]
        case "Output(), interact":
            second.source = "with widgets.Output(): pass"
        case "one cell tagged":
            first.source = first.source.replace("SCALE", "SCAEL")


REASONS = (
    "metadata left",
    "its kernel",
    "widget views",
    "cell ids",
    "times",
    "JupyterLab folds",
    "no outputs",
    "not executed",
)


@pytest.mark.parametrize("how", [*REASONS, "error outputs", "Output(), interact", "one cell tagged"])
def test_each_fault_of_a_notebook_is_seen(how):
    notebook = good_notebook()
    assert notebook_problems(notebook, 1000) == []
    spoil(notebook, how)
    (problem,) = notebook_problems(notebook, 1000)
    assert problem.startswith(how)


def test_a_large_notebook_is_seen():
    assert len(notebook_problems(good_notebook(), LIMIT + 1)) == 1


def test_widgets_use_nothing_that_stalls():
    for name, source in modules().items():
        assert not (name.startswith("dfs_edu.widgets.") and STALLING.search(source)), name
    assert STALLING.search("interact(f, x=1)")
    assert STALLING.search("with Output() as out:")
    assert not STALLING.search("with torch.no_grad():")


# Paths of one machine

MACHINE_PATH = re.compile(r"(?<![\w.}~-])/(?:work|root|tmp|home)/")


def tracked() -> list[Path]:
    """The files that git tracks or would; without git, this test has nothing to hold on to."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine():
    found = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a binary file
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert found == []


@pytest.mark.parametrize("folder", ["work", "root", "tmp", "home"])
def test_such_a_path_is_seen(folder):
    assert MACHINE_PATH.search(f'"/{folder}/data"')
    assert MACHINE_PATH.search(f"see /{folder}/me")
    assert not MACHINE_PATH.search(f"https://example.org/{folder}/page")
    assert not MACHINE_PATH.search(f"~/{folder}/x")
