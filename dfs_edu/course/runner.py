"""The course as a whole: its notebooks executed by papermill, and what each of them found.

A notebook says what it found with `record`; `run` executes notebooks at a scale and reads that back. The same code
serves `make course`, the tests, and `make notebooks`, which writes the committed notebooks.
"""

from __future__ import annotations

import argparse
import html
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dfs_edu.course import report
from dfs_edu.course.report import PARAMETERS, RESULT, Recorded, cell_name, misrecorded, recorded
from dfs_edu.tables import printable
from dfs_edu.values import plain

CHECKOUT = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = CHECKOUT if CHECKOUT.is_dir() else Path(__file__).parents[1] / "notebooks"  # a wheel brings them along


def record(finding: str, **values) -> None:
    """Show what a notebook found, one sentence, and record it with its numbers for whoever executes the notebook.

    values  numbers, strings, lists, dicts, arrays and tensors; a NaN is recorded as None, which JSON knows
    """
    from IPython.display import display

    result = {"finding": finding, "values": {name: plain(value) for name, value in values.items()}}
    shown = f"<p><strong>Found:</strong> {html.escape(finding)}</p>"
    display({RESULT: result, "text/html": shown, "text/plain": f"Found: {finding}"}, raw=True)


@dataclass
class Result(Recorded):
    """What became of one notebook."""

    notebook: Path
    executed: Path  # the notebook with its outputs; the page beside it ends in .html
    minutes: float
    recorded: list[dict] = field(default_factory=list)  # of each `record`: "finding" and "values"
    error: str | None = None


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

    Raises ValueError, before anything runs, for a notebook that does not declare the parameters of the course, and for
    two of one name, of which `out` could hold one, or one that lies in `out` itself.
    """
    notebooks = [Path(notebook).resolve() for notebook in notebooks]
    if len({notebook.name for notebook in notebooks}) < len(notebooks):
        raise ValueError("two of the notebooks have the same name: run them one after the other, each into its own out")
    out = Path(out).resolve()
    for notebook in notebooks:
        if notebook.is_file() and notebook.parent == out:
            raise ValueError(f"{notebook}: its execution would take its place; choose another folder than {out}")
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

    from dfs_edu.course.publish import page

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
        result.error = result.error or next(iter(misrecorded(outputs)), None)
        executed.with_suffix(".html").write_text(page(outputs, notebook.stem), encoding="utf-8")
    return result


def _kernel_manager() -> type:
    """Kernels of this Python, reached by sockets in the file system: no ports, which other programs could block."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.paths import jupyter_runtime_dir

    class ThisPython(KernelSpecManager):
        """Whatever other kernel is installed under a notebook's name, this Python executes it."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    # a socket's path has at most 104 characters, and the kernel's own name takes about 50 of them
    transport = "ipc" if os.name != "nt" and len(jupyter_runtime_dir()) <= 50 else "tcp"

    named = os.environ.get("DFS_EDU_DATA")
    data = {"DFS_EDU_DATA": os.path.abspath(named)} if named else {}  # a kernel runs in the notebook's folder

    class Kernel(AsyncKernelManager):
        def __init__(self, **options):
            super().__init__(**{"transport": transport, "kernel_spec_manager": ThisPython()} | options)

        async def start_kernel(self, **options):
            environment = dict(options.pop("env", None) or os.environ)
            return await super().start_kernel(env=environment | data, **options)

        async def _async_interrupt_kernel(self) -> None:
            """Leave a kernel that is shut down uninterrupted: an idle one would print that it was interrupted."""
            if not self.shutting_down:
                await super()._async_interrupt_kernel()

        interrupt_kernel = _async_interrupt_kernel

    return Kernel


def _describe(exception: Exception, executed: Path) -> str:
    """Which cell failed and how, in one line."""
    from papermill.exceptions import PapermillExecutionError

    if isinstance(exception, PapermillExecutionError):
        return f"{cell_name(exception.source)}: {exception.ename}: {printable(exception.evalue.strip())}"
    message = f"{type(exception).__name__}: {str(exception).strip().splitlines()[0] if str(exception) else ''}"
    return f"{_last_cell(executed)}: {printable(message)}"


def _last_cell(executed: Path) -> str:
    """After a timeout or the kernel's death: the cell that papermill started last."""
    import nbformat

    cells = nbformat.read(executed, as_version=4).cells if executed.exists() else []
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    return cell_name(started[-1].source) if started else "starting the kernel"


def write_back(results: Sequence[Result]) -> None:
    """Replace each notebook that succeeded by its normalised execution, to be committed."""
    import nbformat

    from dfs_edu.course.publish import normalise

    for result in results:
        if result.error is None:
            nbformat.write(normalise(nbformat.read(result.executed, as_version=4)), result.notebook)


def table(results: Sequence[Result]) -> str:
    """One line a notebook: name, minutes, what it found or where it failed."""
    width = max((len(result.notebook.stem) for result in results), default=0)
    lines = [f"{'notebook':<{width}}  minutes  found"]
    for result in results:
        found = f"FAILED in {result.error}" if result.error else "; ".join(result.findings) or "(nothing recorded)"
        found = printable(found)
        lines.append(f"{result.notebook.stem:<{width}}  {result.minutes:7.1f}  {found}")
    return "\n".join(lines)


def chosen(paths: Sequence[str | Path] = (), only: Sequence[str] = ()) -> list[Path]:
    """The notebooks to execute: those at `paths` or all of the course, of these the numbers in `only`, in its order.

    Raises ValueError for a path that is no file, for a number that none of them has, and where there is no checkout,
    whose notebooks the course is: what an installation brings along is to be copied first.
    """
    notebooks = [Path(path) for path in paths] or sorted(CHECKOUT.glob("*.ipynb"))
    if not notebooks:
        raise ValueError(
            "there is no checkout of the project here: `dfs-edu course --copy DIR` writes its notebooks into a folder, "
            "then `dfs-edu course DIR/*.ipynb` executes them"
        )
    for notebook in notebooks:
        if not notebook.is_file():
            raise ValueError(f"{notebook}: no such notebook; by number they are chosen with --only 03,04")
    if not only:
        return notebooks
    by_number = {report.number(notebook): notebook for notebook in notebooks}
    for number in only:
        if number not in by_number:
            raise ValueError(f"--only {number}: none of {', '.join(filter(None, by_number))}")
    return [by_number[number] for number in only]


def copy_to(folder: str | Path) -> list[Path]:
    """Copy the notebooks of the course into a folder, which is made; their paths there.

    Raises:
        FileExistsError: the folder has one of them: somebody's answers may be in it.
    """
    copies = {Path(folder) / notebook.name: notebook for notebook in sorted(NOTEBOOKS.glob("*.ipynb"))}
    for copy in copies:
        if os.path.lexists(copy):
            raise FileExistsError(f"{copy} is there already, maybe with answers in it: name another folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for copy, notebook in copies.items():
        shutil.copyfile(notebook, copy)
    return list(copies)


def numbers(words: str) -> list[str]:
    """["03", "04"] of "03,04" or "3,4"."""
    found = [word.strip().zfill(2) for word in words.split(",")]
    if not all(word.isdecimal() for word in found):
        raise argparse.ArgumentTypeError(f"{words!r}: numbers of notebooks with commas between them, 03,04")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dfs-edu course`."""
    from dfs_edu.data import DATASETS
    from dfs_edu.training.recipes import SCALES

    add = parser.add_argument
    add("paths", nargs="*", help="notebooks, with --report also folders of them; default: the whole course")
    add("--only", type=numbers, default=(), metavar="03,04", help="of these notebooks the ones with such numbers")
    add("--scale", choices=SCALES, help="how much work; default: the notebook's own, lesson")
    add("--dataset", choices=DATASETS, help="default: the notebook's own, digits")
    add("--seed", type=int, help="default: the notebook's own, 0")
    add("--device", help="cpu, cuda, cuda:1, mps; default: the notebook's own")
    add("--out", default="build/course", metavar="DIR", help="folder of what was executed (default: %(default)s)")
    add("--timeout", type=int, default=3600, help="seconds that a cell may take (default: %(default)s)")
    add(
        "--write-back",
        action="store_true",
        help="replace the notebooks by their normalised execution, for committing; they run with their own parameters",
    )
    add(
        "--report",
        action="store_true",
        help="execute nothing: say what executed notebooks hold, of --out or of PATHS, a folder for each person",
    )
    add("--copy", metavar="DIR", help="execute nothing: copy the notebooks of the course into a folder, to work on")
    add("--csv", metavar="FILE", help="write the report there as well, a line for each person and notebook")


def main(args: argparse.Namespace) -> int:
    """`dfs-edu course`: the exit status is 0 when every notebook succeeded; of a report, when each could be read."""
    given = {name: getattr(args, name) for name in ("scale", "dataset", "seed", "device")}
    parametrised = any(value is not None for value in given.values())
    if args.report:
        if parametrised or args.write_back:
            raise ValueError("--report executes nothing: leave out parameters and --write-back")
        return _report(args)
    if args.copy:
        print(f"{len(copy_to(args.copy))} notebooks in {args.copy}: open them in JupyterLab")
        return 0
    if args.csv:
        raise ValueError("--csv belongs to --report")
    if args.write_back and parametrised:
        # a committed notebook must show what its own parameters give
        raise ValueError("--write-back runs the notebooks with their own parameters: leave out the others")
    results = run(chosen(args.paths, args.only), **given, out=args.out, timeout=args.timeout)
    failed = sum(bool(result.error) for result in results)
    print(f"\n{table(results)}\n\n{len(results) - failed} of {len(results)} notebooks succeeded.")
    print(f"Executed notebooks and pages: {args.out}")
    if args.write_back:
        write_back(results)
    return int(failed > 0)


def _report(args: argparse.Namespace) -> int:
    entries = report.collect(args.paths or [args.out], args.only, NOTEBOOKS)
    print(report.table(entries))
    if args.csv:
        report.write_csv(entries, args.csv)
        print(f"written to {args.csv}")
    return int(not all(entry.readable for entry in entries))
