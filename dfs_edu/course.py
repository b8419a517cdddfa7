"""The course as a whole: its notebooks executed by papermill, and what each of them found.

A notebook says what it found with `record`; `run` executes notebooks at a scale and reads that back. The same code
serves `make course`, the tests, and `make notebooks`, which writes the committed notebooks.
"""

from __future__ import annotations

import argparse
import html
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESULT = "application/vnd.dfs.result+json"
PARAMETERS = ("SCALE", "DATASET", "SEED", "DEVICE")
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def record(finding: str, **values) -> None:
    """Show what a notebook found, one sentence, and record it with its numbers for whoever executes the notebook.

    values  numbers, strings, lists, dicts, arrays and tensors; a NaN is recorded as None, which JSON knows
    """
    from IPython.display import display

    result = {"finding": finding, "values": {name: _plain(value) for name, value in values.items()}}
    shown = f"<p><strong>Found:</strong> {html.escape(finding)}</p>"
    display({RESULT: result, "text/html": shown, "text/plain": f"Found: {finding}"}, raw=True)


def _plain(value):
    """The value as JSON has it; arrays and tensors become lists, their scalars numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"cannot record {value!r}: use numbers, strings, lists, dicts, arrays or tensors")


@dataclass
class Result:
    """What became of one notebook."""

    notebook: Path
    executed: Path  # the notebook with its outputs; the page beside it ends in .html
    minutes: float
    recorded: list[dict] = field(default_factory=list)  # of each `record`: "finding" and "values"
    error: str | None = None

    @property
    def values(self) -> dict:
        """All recorded values of the notebook, by name."""
        return {name: value for result in self.recorded for name, value in result["values"].items()}

    @property
    def findings(self) -> list[str]:
        """The sentence of each `record`, in order."""
        return [result["finding"] for result in self.recorded]


def run(
    notebooks: Sequence[str | Path],
    scale: str | None = None,
    dataset: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    out: str | Path = "build/course",
    timeout: int = 3600,
) -> list[Result]:
    """Execute the notebooks one after the other; one that fails does not stop the others.

    scale, dataset, seed, device   the notebooks' parameters; None leaves what the notebook says
    out                            folder for the executed notebooks and their HTML pages
    timeout                        seconds that one cell may take

    Raises ValueError, before anything runs, for a notebook that does not declare the parameters of the course.
    """
    notebooks = [Path(notebook).resolve() for notebook in notebooks]
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    given = zip(PARAMETERS, (scale, dataset, seed, device), strict=True)
    parameters = {name: value for name, value in given if value is not None}
    for notebook in notebooks:
        _check_parameters(notebook)
    return [_execute(notebook, parameters, out, timeout) for notebook in notebooks]


def _check_parameters(notebook: Path) -> None:
    from papermill import inspect_notebook

    if not notebook.is_file():
        raise ValueError(f"{notebook}: no such notebook")
    declared = set(inspect_notebook(notebook))  # papermill itself only warns of a parameter that nobody reads
    if declared != set(PARAMETERS):
        raise ValueError(
            f"{notebook.name}: its cell tagged `parameters` declares {', '.join(sorted(declared)) or 'nothing'}; "
            f"a notebook of the course declares exactly {', '.join(PARAMETERS)}"
        )


def _execute(notebook: Path, parameters: dict, out: Path, timeout: int) -> Result:
    import nbformat
    import papermill

    from dfs_edu.publish import page

    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a stale kernel of the user must not win over this environment's
    executed = out / notebook.name
    executed.unlink(missing_ok=True)
    print(f"{notebook.name} ...", flush=True)
    start, error = time.perf_counter(), None
    try:
        papermill.execute_notebook(
            notebook,
            executed,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=timeout,
            cwd=notebook.parent,  # where JupyterLab runs it
            kernel_manager_class=_kernel_manager(),
            store_widget_state=False,
        )
    except Exception as exception:  # whatever a notebook does, the others are executed
        error = _describe(exception, executed)
    result = Result(notebook, executed, (time.perf_counter() - start) / 60, error=error)
    if executed.exists():
        outputs = nbformat.read(executed, as_version=4)
        result.recorded = recorded(outputs)
        executed.with_suffix(".html").write_text(page(outputs, notebook.stem), encoding="utf-8")
    return result


def _kernel_manager() -> type:
    """Kernels reached by sockets in the file system: no ports, which other programs could take or block."""
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.paths import jupyter_runtime_dir

    class SocketFiles(AsyncKernelManager):
        def __init__(self, **options):
            options.setdefault("transport", "ipc")
            super().__init__(**options)

    # a socket's path has at most 104 characters, and the kernel's own name takes about 50 of them
    fits = os.name != "nt" and len(jupyter_runtime_dir()) <= 50
    return SocketFiles if fits else AsyncKernelManager


def _describe(exception: Exception, executed: Path) -> str:
    """Which cell failed and how, in one line."""
    from papermill.exceptions import PapermillExecutionError

    if isinstance(exception, PapermillExecutionError):
        return f"{_cell(exception.source)}: {exception.ename}: {exception.evalue.strip()}"
    message = f"{type(exception).__name__}: {str(exception).strip().splitlines()[0] if str(exception) else ''}"
    return f"{_last_cell(executed)}: {message}"


def _last_cell(executed: Path) -> str:
    """After a timeout or the kernel's death: the cell that papermill started last."""
    import nbformat

    cells = nbformat.read(executed, as_version=4).cells if executed.exists() else []
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("status", "pending") != "pending"]
    return _cell(started[-1].source) if started else "starting the kernel"


def _cell(source: str) -> str:
    return f"the cell `{source.strip().splitlines()[0]}`"


def recorded(notebook) -> list[dict]:
    """What the notebook's cells have recorded, in order: dicts with "finding" and "values"."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    bundles = [output.get("data", {}) for cell in cells for output in cell.outputs]
    return [dict(data[RESULT]) for data in bundles if RESULT in data]


def write_back(results: Sequence[Result]) -> None:
    """Replace each notebook that succeeded by its normalised execution, to be committed."""
    import nbformat

    from dfs_edu.publish import normalise

    for result in results:
        if result.error is None:
            nbformat.write(normalise(nbformat.read(result.executed, as_version=4)), result.notebook)


def table(results: Sequence[Result]) -> str:
    """One line a notebook: name, minutes, what it found or where it failed."""
    width = max((len(result.notebook.stem) for result in results), default=0)
    lines = [f"{'notebook':<{width}}  minutes  found"]
    for result in results:
        found = f"FAILED in {result.error}" if result.error else "; ".join(result.findings) or "(nothing recorded)"
        lines.append(f"{result.notebook.stem:<{width}}  {result.minutes:7.1f}  {found}")
    return "\n".join(lines)


def chosen(names: Sequence[str]) -> list[Path]:
    """The notebooks meant: all of the course, or those given by number ("04") or path."""
    course = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not names:
        if not course:
            raise ValueError(f"no notebooks in {NOTEBOOKS}: run from a checkout of the project, or give paths")
        return course
    found = []
    for name in names:
        by_number = [notebook for notebook in course if notebook.name.startswith(f"{name}_")]
        if not by_number and not Path(name).is_file():
            numbers = ", ".join(notebook.name.split("_")[0] for notebook in course)
            raise ValueError(f"notebook {name!r}: neither a file nor one of {numbers}")
        found += by_number or [Path(name)]
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dfs-edu course`."""
    from dfs_edu.data import DATASETS
    from dfs_edu.recipes import SCALES

    parser.add_argument("notebooks", nargs="*", help="numbers (01 04) or paths; default: the whole course")
    parser.add_argument("--scale", choices=SCALES, help="how much work; default: the notebook's own, lesson")
    parser.add_argument("--dataset", choices=DATASETS, help="default: the notebook's own, digits")
    parser.add_argument("--seed", type=int, help="default: the notebook's own, 0")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; default: the notebook's own")
    parser.add_argument("--out", default="build/course", help="folder of what was executed (default: %(default)s)")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds that a cell may take (default: %(default)s)")
    parser.add_argument(
        "--write-back",
        action="store_true",
        help="replace the notebooks by their normalised execution, for committing; they run with their own parameters",
    )


def main(args: argparse.Namespace) -> int:
    """`dfs-edu course`: the exit status is 0 when every notebook succeeded."""
    given = {"scale": args.scale, "dataset": args.dataset, "seed": args.seed, "device": args.device}
    if args.write_back and any(value is not None for value in given.values()):
        # a committed notebook must show what its own parameters give
        raise ValueError("--write-back runs the notebooks with their own parameters: leave out the others")
    results = run(chosen(args.notebooks), **given, out=args.out, timeout=args.timeout)
    print(f"\n{table(results)}\n\nExecuted notebooks and pages: {args.out}")
    if args.write_back:
        write_back(results)
    return int(any(result.error for result in results))
