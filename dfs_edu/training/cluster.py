"""A study on a cluster: every run of the grid is a task of Ray, on a machine that has the CPUs and GPUs it asks for.

Ray decides where a run trains. If its process or its machine dies, Ray starts it again, perhaps on another machine, and
it continues from its last checkpoint. All files are on storage that the machines share: the folder of runs, data sets,
weights to start from and modules of your own have the same path everywhere. This, and that all machines run the same
code, is checked on each of them before the first run.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dfs_edu import data
from dfs_edu.extras import need
from dfs_edu.files import check_writable
from dfs_edu.training import machine, plugins, progress, study
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.start import Start

RETRIES = 5  # how often a run is started again after its process or machine died
ANSWER = 180  # seconds until a machine must have answered: it imports torch, perhaps over a network
STOPPING = 60  # seconds in which runs that are stopped finish their step and save
CONNECT = 5  # seconds
STORE = 100 * 2**20  # bytes of a local cluster's object store, near Ray's minimum: nothing large is passed around


@dataclass(frozen=True)
class Share:
    """What a run gets of a machine.

    Attributes:
        cpus: Cores, and threads of torch.
        gpus: Fraction of a GPU, 0 for none: with 0.25, four runs share one.
    """

    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self):
        if self.cpus < 1:
            raise ValueError(f"--cpus {self.cpus}: a run needs at least one")
        if not 0 <= self.gpus <= 1:
            raise ValueError(f"--gpus {self.gpus:g}: a run uses one GPU, or a fraction of one")

    @property
    def device(self) -> str:
        """Where a run trains: Ray shows it no other GPU than its own."""
        return "cuda" if self.gpus else "cpu"

    def fits(self, node: dict[str, Any]) -> bool:
        """Tell whether a machine, idle, has that much."""
        has = node["Resources"]
        return self.cpus <= has.get("CPU", 0) and self.gpus <= has.get("GPU", 0)


@dataclass(frozen=True)
class Task:
    """What every machine is told besides the recipe: plain values and paths, since it has imported no plugin yet.

    Attributes:
        out: Folder of the runs.
        marker: A file in it that the driver, the process that starts the study, has just made.
        files: Other files and folders that runs read.
        folder: The driver's current folder, where plugins may be.
        plugins: Modules to import.
        code: What `code` returns on the driver's machine.
        share: What a run gets.
        options: Other options of `train`.
    """

    out: str
    marker: str
    files: tuple[str, ...]
    folder: str
    plugins: tuple[str, ...]
    code: dict[str, str]
    share: Share
    options: dict[str, Any]

    def check(self) -> None:
        """Raise OSError, which names this machine, unless runs can train on it."""
        try:
            self._check()
        except (OSError, ValueError) as error:
            raise OSError(f"machine {socket.gethostname()} of the cluster: {error}") from error

    def _check(self) -> None:
        for name, version in code().items():
            if version != self.code[name]:
                raise ValueError(
                    f"its {name} is {version}, the driver's is {self.code[name]}: install the same on both"
                )
        if not os.path.exists(self.marker):
            raise OSError(f"it does not see the folder {self.out}: name one by --out that all machines share")
        for path in self.files:
            if not os.path.exists(path):
                raise OSError(f"it does not see {path}: put it where all machines see it")
        check_writable(self.out)
        if self.plugins:
            sys.path.insert(0, self.folder)
        plugins.load(self.plugins)


def code() -> dict[str, str]:
    """Return the versions that all machines of a study must have."""
    return {"dfs_edu": machine.sources(Path(__file__).parents[1])[:12], "torch": str(torch.__version__)}


def work(
    cells: Sequence[Recipe],
    out: str | os.PathLike,
    on: str,
    *,
    cpus: int = 1,
    gpus: float | None = None,
    device: str = "auto",
    root: str | os.PathLike | None = None,
    start: Start | None = None,
    **options: Any,
) -> None:
    """Train every run of a grid that is neither finished nor being trained, on a cluster; see `study.work`.

    Finished runs are named on stderr. Ctrl-C lets the runs under way save, then stops them.

    Args:
        cells: Recipes of a grid.
        out: Folder of the runs, which this machine and those of the cluster see under the same path.
        on: "ray" is the cluster that $RAY_ADDRESS names or else the one that runs on this machine, "local" a cluster
            of this machine alone; or HOST:PORT, from a machine of the cluster, or ray://HOST:PORT, from any other.
        cpus: Of a run; see `Share`.
        gpus: Of a run; see `Share`. By default one if there is any, or if the device is "cuda".
        device: "auto", "cpu" or "cuda".
        root: Where the data set is (see `data.load`).
        start: Weights to start from.
        **options: Other options of `train`.

    Raises:
        MissingExtra: Ray is not installed.
        ConnectionError: No cluster answers.
        OSError: A machine does not see the folder or the data, or has another version of the code.
        ChildProcessError: A run died although it was started again `RETRIES` times.
        ValueError: No machine has that many CPUs or GPUs.
        Exception: Whatever else goes wrong in a run: it is not tried again, and the others are stopped.
    """
    cells = study.of_data(cells, root)
    homes = {recipe.dataset: data.locate(recipe.dataset, root) for recipe in cells}
    home = next((folder.resolve() for folder in homes.values() if folder), None)
    start = start and replace(start, file=start.file.resolve())
    out = Path(out).resolve()
    check_writable(out)
    with ExitStack() as held:
        left = [recipe for recipe in cells if held.enter_context(study.claimed(recipe, out))]
        left = [recipe for recipe in left if not study.is_over(recipe, out)]
        if not left:
            return
        ray = held.enter_context(connected(on))
        nodes = [node for node in ray.nodes() if node["Alive"]]
        share = Share(cpus, gpus_of(gpus, device, nodes))
        marker = held.enter_context(tempfile.NamedTemporaryFile(dir=out, prefix=".cluster-"))
        files = tuple(str(path) for path in (home, start and start.file) if path)
        options |= {"root": home, "start": start}
        task = Task(str(out), marker.name, files, os.getcwd(), plugins.loaded(), code(), share, options)
        check_nodes(ray, task, nodes)
        follow(ray, task, left)


def gpus_of(gpus: float | None, device: str, nodes: Sequence[dict[str, Any]]) -> float:
    """Return how many GPUs a run gets, by default one if there is any; raise ValueError if that is not the device."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: a cluster hands out its GPUs by itself; use auto, cpu or cuda")
    if gpus is None:
        there = any(node["Resources"].get("GPU") for node in nodes)
        return float(device == "cuda" or (device == "auto" and there))
    if device != "auto" and bool(gpus) != (device == "cuda"):
        raise ValueError(f"--gpus {gpus:g} and --device {device} contradict each other")
    return gpus


@contextmanager
def connected(on: str) -> Generator[Any]:
    """Connect to a cluster for a while, and yield Ray; see `work` for the addresses."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report how it is used
    ray, address = need("ray"), os.environ.get("RAY_ADDRESS", "auto") if on == "ray" else on
    options = {"include_dashboard": False, "object_store_memory": STORE} if address == "local" else {}
    if address not in ("auto", "local"):
        check_address(address)
    try:
        ray.init(address=address, logging_level="warning", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(
            f"--on {on}: no cluster can be reached ({reason}). `ray start --head` starts one on this machine, and "
            "--on local one for this study alone"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raise ValueError unless this is an address, ConnectionError if nothing answers there: Ray would try for long."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--on {address}: use ray, local, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except OSError as error:
        raise ConnectionError(f"--on {address}: nothing answers there ({error})") from error


def check_nodes(ray: Any, task: Task, nodes: Sequence[dict[str, Any]]) -> None:
    """Check, on every machine that can hold a run, that runs can train there.

    Raises:
        OSError: One has other code, does not see a folder or does not answer; the message names it.
        ValueError: No machine has what a run asks for.
    """
    able = [node for node in nodes if task.share.fits(node)]
    if not able:
        most = {name: max((node["Resources"].get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
        raise ValueError(
            f"--cpus {task.share.cpus} --gpus {task.share.gpus:g}: no machine of the cluster has that many "
            f"(at most {most['CPU']:g} CPUs and {most['GPU']:g} GPUs)"
        )
    on_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    check = ray.remote(num_cpus=0)(Task.check)
    answers = {
        check.options(scheduling_strategy=on_node(node["NodeID"], soft=False)).remote(task): node["NodeManagerAddress"]
        for node in able
    }
    ready, late = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER)
    for answer in ready:
        try:
            ray.get(answer)
        except ray.exceptions.RayError as error:
            cause = _cause(error)
            if isinstance(cause, OSError):  # of `check`
                raise cause from error
            # as where this package is missing
            raise OSError(f"machine {answers[answer]} of the cluster: {_line(cause)}") from error
    if late:
        raise OSError(f"machine {answers[late[0]]} of the cluster did not answer within {ANSWER} seconds")


def follow(ray: Any, task: Task, cells: Sequence[Recipe]) -> None:
    """Hand the runs of a grid to Ray, and name each when it is over; stop all if one goes wrong, or on Ctrl-C."""
    share = {"num_cpus": task.share.cpus, "num_gpus": task.share.gpus, "scheduling_strategy": "SPREAD"}
    # Each run has a process of its own, so that its peak memory is its own
    cell = ray.remote(max_calls=1, max_retries=RETRIES, retry_exceptions=False, **share)(train_cell)
    names = {cell.options(name=recipe.name).remote(task, recipe.to_dict()): recipe.name for recipe in cells}
    left = list(names)
    try:
        with progress.bar("study", len(names), 0, shown=True) as bar:
            while left:
                (done,), left = ray.wait(left, num_returns=1)
                bar.write(f"{names[done]}: {_result(ray, done, names[done])}", file=sys.stderr)
                bar.update()
    except BaseException:
        for run in left:
            ray.cancel(run)  # as Ctrl-C: the run saves after its step
        if left:
            ray.wait(left, num_returns=len(left), timeout=STOPPING)
        raise


def train_cell(task: Task, recipe: dict[str, Any]) -> str:
    """Train one run, on a machine of the cluster.

    Args:
        task: What all runs have in common.
        recipe: As a record holds it, since the classes of plugins are not known yet.

    Returns:
        How it ended and on which machine, in words.
    """
    host = socket.gethostname()
    task.check()  # the machine may have joined since the study began
    torch.set_num_threads(task.share.cpus)
    run = Recipe.from_dict(recipe)
    study.train_cell(run, task.out, device=task.share.device, progress=False, **task.options)
    failed = (study.record_of(run, task.out) or {}).get("failed")
    return f"failed on {host}: {failed}" if failed else f"finished on {host}"


def _result(ray: Any, run: Any, name: str) -> str:
    """Return what `train_cell` returned, or raise what went wrong in it."""
    try:
        return ray.get(run)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from error
    except ray.exceptions.RayError as error:
        raise ChildProcessError(f"{name}: {_line(error)}; started again, the study goes on") from error


def _cause(error: BaseException) -> BaseException:
    """Return what was raised on the machine, without the traceback that Ray writes into its message."""
    return getattr(error, "cause", None) or error


def _line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
