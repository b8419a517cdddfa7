"""Execute the notebooks of the course with papermill, and collect what each of them found.

A notebook records its findings with `record`; `run` executes notebooks at a scale and reads the findings back. The same
code serves `make course`, the tests, and `make notebooks`, which writes the committed notebooks.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from dfs_edu.course import report
from dfs_edu.course.report import PARAMETERS, RESULT, Recorded, cell_name, misrecorded, recorded
from dfs_edu.tables import lines, printable
from dfs_edu.values import plain

CHECKOUT = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = CHECKOUT if CHECKOUT.is_dir() else Path(__file__).parents[1] / "notebooks"  # a wheel includes them


def record(finding: str, **values) -> None:
    """Show a notebook's finding, and record it with its numbers in the notebook's outputs.

    Args:
        finding: One sentence.
        **values: Numbers, strings, lists, dicts, arrays and tensors. NaN and infinity are recorded as None, because
            JSON has neither.

    Raises:
        TypeError: JSON cannot hold a value.
    """
    from IPython.display import display

    result = {"finding": finding, "values": {name: plain(value) for name, value in values.items()}}
    shown = f"<p><strong>Found:</strong> {html.escape(finding)}</p>"
    display({RESULT: result, "text/html": shown, "text/plain": f"Found: {finding}"}, raw=True)


@dataclass
class Result(Recorded):
    """The outcome of executing one notebook.

    Attributes:
        notebook: The notebook's file.
        executed: The file with its outputs; the HTML page beside it has the suffix .html.
        minutes: How long it took.
        recorded: One dict for each ``record``, with "finding" and "values".
        error: The cell that failed, and how; None if all went well.
    """

    notebook: Path
    executed: Path
    minutes: float
    recorded: list[dict] = field(default_factory=list)
    error: str | None = None


def run(
    notebooks: Sequence[str | Path],
    scale: str | None = None,
    dataset: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    out: str | Path = "build/course",
    timeout: int = 3600,
    jobs: int = 1,
) -> list[Result]:
    """Execute the notebooks; if one fails, the others still run. What each found is printed when it ends.

    Args:
        notebooks: Files.
        scale: The parameter ``SCALE``; None keeps the notebook's own value, here and for the next three.
        dataset: The parameter ``DATASET``.
        seed: The parameter ``SEED``.
        device: The parameter ``DEVICE``.
        out: Folder for the executed notebooks and their HTML pages.
        timeout: Limit for one cell, in seconds.
        jobs: Number of notebooks that run at once; they share the processor's cores. Of more notebooks than that, the
            first runs by itself.

    Raises:
        ValueError: Before anything runs: ``jobs`` is below 1; a notebook does not declare the parameters of the course
            or cannot be read; two have the same name, so that one would overwrite the other in ``out``;
            or one is itself in ``out``.
    """
    if jobs < 1:
        raise ValueError(f"jobs={jobs}: at least 1 notebook runs at a time")
    notebooks = [Path(notebook).resolve() for notebook in notebooks]
    if len({notebook.name for notebook in notebooks}) < len(notebooks):
        raise ValueError("two of the notebooks have the same name: run them one at a time, each into its own out")
    out = Path(out).resolve()
    for notebook in notebooks:
        if notebook.is_file() and notebook.parent == out:
            raise ValueError(f"{notebook}: its execution would overwrite it; choose another folder than {out}")
    out.mkdir(parents=True, exist_ok=True)
    given = zip(PARAMETERS, (scale, dataset, seed, device), strict=True)
    parameters = {name: value for name, value in given if value is not None}
    for notebook in notebooks:
        _check_parameters(notebook)
    jobs = min(jobs, len(notebooks))
    if jobs <= 1:
        return [_execute(notebook, parameters, out, timeout) for notebook in notebooks]
    # Of many, the first by itself, on all cores: its finding comes soon, and the others find the runs that it trained
    alone = notebooks[: len(notebooks) > jobs]
    results = [_execute(notebook, parameters, out, timeout) for notebook in alone]

    # Processes, because papermill changes the folder of the whole process; a worker takes the first notebook left
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (threads,)) as pool:
        rest = notebooks[len(alone) :]
        running = [pool.submit(_execute, notebook, parameters, out, timeout) for notebook in rest]
        return [*results, *(future.result() for future in running)]


def _begin(threads: int) -> None:
    """Prepare a worker process: its kernels use their share of the cores, unless a number was chosen."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _check_parameters(notebook: Path) -> None:
    from papermill import inspect_notebook

    if not notebook.is_file():
        raise ValueError(f"{notebook}: no such notebook")
    try:
        declared = set(inspect_notebook(notebook))  # papermill itself only warns of a parameter that is not declared
    except Exception as error:  # no JSON, no kernelspec, cells of any content: it may be a hand-in
        reason = printable(str(error).strip() or type(error).__name__)
        raise ValueError(f"{notebook}: not a notebook that can be executed: {reason[:200]}") from error
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
    with TemporaryDirectory(prefix="dfs-", ignore_cleanup_errors=True) as sockets:
        try:
            papermill.execute_notebook(
                notebook,
                executed,
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                execution_timeout=timeout,
                cwd=notebook.parent,  # where JupyterLab runs it
                kernel_manager_class=_kernel_manager(sockets),
                store_widget_state=False,
            )
        except Exception as exception:  # whatever one notebook does, the others run
            error = _describe(exception, executed)
    result = Result(notebook, executed, (time.perf_counter() - start) / 60, error=error)
    if executed.exists():
        outputs = nbformat.read(executed, as_version=4)
        result.recorded = recorded(outputs)
        result.error = result.error or next(iter(misrecorded(outputs)), None)
        executed.with_suffix(".html").write_text(page(outputs, notebook.stem), encoding="utf-8")
    print(f"{notebook.name}: {result.minutes:.1f} minutes. {_outcome(result)}", flush=True)
    return result


def _outcome(result: Result) -> str:
    """What a notebook found, or where it failed."""
    return f"FAILED in {result.error}" if result.error else "; ".join(result.findings) or "(nothing recorded)"


def _kernel_manager(sockets: str) -> type:
    """Kernels of this Python, reached through sockets in a folder: other programs may block ports.

    Without a folder of its own, a kernel's sockets are in the current one, where two kernels would share them.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(KernelSpecManager):
        """Give every notebook a kernel of this Python, whichever other kernel is installed under its name."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    # A socket's path may have 104 characters
    through = {"transport": "ipc", "ip": f"{sockets}/kernel"} if os.name != "nt" and len(sockets) <= 80 else {}

    # A kernel runs in the notebook's folder: a relative path would lead elsewhere from there
    folder = os.environ.get("DFS_EDU_DATA")
    data = {"DFS_EDU_DATA": os.path.abspath(folder)} if folder else {}

    class Kernel(AsyncKernelManager):
        def __init__(self, **options):
            super().__init__(**{"kernel_spec_manager": ThisPython()} | through | options)

        async def _async_start_kernel(self, **options):
            environment = dict(options.pop("env", None) or os.environ)
            return await super()._async_start_kernel(env=environment | data, **options)

        async def _async_interrupt_kernel(self) -> None:
            """Do not interrupt a kernel before shutting it down: if it is idle, it would print the interruption."""
            if not self.shutting_down:
                await super()._async_interrupt_kernel()

        start_kernel = _async_start_kernel
        interrupt_kernel = _async_interrupt_kernel

    return Kernel


def _describe(exception: Exception, executed: Path) -> str:
    """The cell that failed, and how, in one line."""
    from papermill.exceptions import PapermillExecutionError

    if isinstance(exception, PapermillExecutionError):
        return f"{cell_name(exception.source)}: {exception.ename}: {printable(exception.evalue.strip())}"
    message = f"{type(exception).__name__}: {str(exception).strip().splitlines()[0] if str(exception) else ''}"
    return f"{_last_cell(executed)}: {printable(message)}"


def _last_cell(executed: Path) -> str:
    """The cell that papermill started last: the one that timed out, or in which the kernel died."""
    import nbformat

    cells = nbformat.read(executed, as_version=4).cells if executed.exists() else []
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    return cell_name(started[-1].source) if started else "starting the kernel"


def write_back(results: Sequence[Result]) -> None:
    """Replace each notebook that succeeded with its normalised execution, ready to be committed."""
    import nbformat

    from dfs_edu.course.publish import normalise

    for result in results:
        if result.error is None:
            nbformat.write(normalise(nbformat.read(result.executed, as_version=4)), result.notebook)


def table(results: Sequence[Result]) -> str:
    """Format the results: one row per notebook, with its minutes and what it found or where it failed."""
    rows = [[result.notebook.stem, f"{result.minutes:.1f}", _outcome(result)] for result in results]
    return lines(["notebook", "minutes", "found"], rows, align="<><")


def chosen(paths: Sequence[str | Path] = (), only: Sequence[str] = ()) -> list[Path]:
    """Select the notebooks to execute.

    Args:
        paths: Notebooks; without any, all of the course.
        only: Numbers, such as "03", of those to keep, in this order; without any, all are kept.

    Raises:
        ValueError: A path is not a file, no notebook has one of the numbers, or no paths are given and this is not a
            checkout of the project. (The notebooks in an installation have to be copied before they are executed.)
    """
    notebooks = [Path(path) for path in paths] or sorted(CHECKOUT.glob("*.ipynb"))
    if not notebooks:
        raise ValueError(
            "this is not a checkout of the project: copy the notebooks into a folder with `dfs-edu course --copy DIR`, "
            "then execute them with `dfs-edu course DIR/*.ipynb`"
        )
    for notebook in notebooks:
        if not notebook.is_file():
            raise ValueError(f"{notebook}: no such notebook; to choose by number, use --only 03,04")
    if not only:
        return notebooks
    by_number = {report.number(notebook): notebook for notebook in notebooks}
    for number in only:
        if number not in by_number:
            raise ValueError(f"--only {number}: not one of {', '.join(filter(None, by_number))}")
    return [by_number[number] for number in only]


def copy_to(folder: str | Path) -> list[Path]:
    """Copy the notebooks of the course into a folder, which is created; return the paths of the copies.

    Raises:
        FileExistsError: The folder already has one of them, which may hold someone's answers.
    """
    copies = {Path(folder) / notebook.name: notebook for notebook in sorted(NOTEBOOKS.glob("*.ipynb"))}
    for copy in copies:
        if os.path.lexists(copy):
            raise FileExistsError(f"{copy} already exists and may hold answers: name another folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for copy, notebook in copies.items():
        shutil.copyfile(notebook, copy)
    return list(copies)


def numbers(words: str) -> list[str]:
    """Parse numbers of notebooks: "03,04b" or "3,4b" becomes ["03", "04b"].

    Raises:
        ValueError: One of them is not a number, with or without a letter.
    """
    parsed = [re.fullmatch(r"(\d+)([a-z]?)", word.strip().lower(), re.ASCII) for word in words.split(",")]
    if not all(parsed):
        raise ValueError(f"--only {words!r}: give numbers of notebooks separated by commas, such as 03,04b")
    return [match[1].zfill(2) + match[2] for match in parsed if match]
