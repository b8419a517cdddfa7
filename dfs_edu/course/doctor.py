"""What this machine offers the course, and what to do about anything that is missing."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dfs_edu.course.browser import chromium
from dfs_edu.tables import lines, printable

OK, ADVICE, MISSING = "ok", "advice", "missing"  # MISSING: the course cannot run without it


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was examined, such as "torch".
        found: What this machine has, or the error that the examination ended in.
        state: ``OK``, ``ADVICE`` or ``MISSING``.
        todo: What to do about it; empty if the state is ``OK``.
    """

    name: str
    found: str
    state: str = OK
    todo: str = ""


def report() -> list[Check]:
    """Examine this machine, in the order of the report.

    It takes about four seconds of CPU, nearly all of it for importing torch, torchvision and scikit-learn: only an
    import shows that they work.
    """
    collecting = gc.isenabled()
    gc.disable()  # imports leave little garbage, and searching for it would take a sixth of the time
    try:
        return [_examined(name) for name in _CHECKS]
    finally:
        if collecting:
            gc.enable()


def _examined(name: str) -> Check:
    """One examination; if it fails, the error is its result, so that the rest of the report still appears."""
    try:
        return _CHECKS[name]()
    except Exception as error:
        found = printable(f"{type(error).__name__}: {error}")
        todo = "set the environment up again: make test, or pip install -e '.[dev]'"
        return Check(name, found, MISSING if name in _ESSENTIAL else ADVICE, todo)


def _python() -> Check:
    return Check("python", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Check:
    import torch

    return Check("torch", torch.__version__)


def _torchvision() -> Check:
    """Only torch 2.N and torchvision 0.(N + 15) match; other pairs may fail to import, or crash later."""
    import torch
    import torchvision
    from torchvision.ops import nms

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)  # compiled for one torch, fails with any other
    wanted = matching_torchvision(torch.__version__)
    if not torchvision.__version__.startswith(f"{wanted}."):
        todo = f"install the pair: pip install 'torch=={torch.__version__}' 'torchvision=={wanted}.*'"
        return Check("torchvision", f"{torchvision.__version__}, but torch is {torch.__version__}", MISSING, todo)
    return Check("torchvision", f"{torchvision.__version__}, built for torch {torch.__version__}")


def matching_torchvision(torch_version: str) -> str:
    """Return the major and minor version of the torchvision built for a version of torch.

    Raises:
        ValueError: The version of torch is not 2.x.

    >>> matching_torchvision("2.9.1+cpu")
    '0.24'
    """
    major, minor = torch_version.split(".")[:2]
    if major != "2":
        raise ValueError(f"torch {torch_version}: the matching torchvision is known for 2.x only")
    return f"0.{int(minor) + 15}"


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Check("gpu", ", ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in names))
    if torch.backends.mps.is_available():
        return Check("gpu", "Apple (mps)")
    return Check("gpu", "none", ADVICE, "the lesson scale needs none; full runs are meant for one")


def _bf16() -> Check:
    """Timed if the device has instructions for bf16: what a processor announces and what torch gains may differ."""
    import torch

    from dfs_edu.training.device import bf16_pays

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not bf16_pays(torch.device(device)):
        return Check("bf16", f"{device} has no instructions for it", ADVICE, "train in fp32 on this machine")
    fp32, bf16 = (_matmul_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    found = f"on {device}, a matrix product takes {bf16 / fp32:.2f} of its fp32 time"
    return Check("bf16", found) if bf16 < fp32 else Check("bf16", found, ADVICE, "train in fp32 on this machine")


def _matmul_seconds(device: str, dtype) -> float:
    """Seconds of a matrix product: the fastest of three, after one to warm up."""
    import torch

    a = torch.ones(1024, 1024, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # item() waits for the GPU
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _cores() -> Check:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("cores", f"{usable} usable, {torch.get_num_threads()} threads in torch")


def _memory() -> Check:
    if not hasattr(os, "sysconf"):
        return Check("memory", "unknown on this system")
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if gib < 4:
        return Check("memory", f"{gib:.1f} GiB", ADVICE, "close other programs if a notebook's kernel dies")
    return Check("memory", f"{gib:.1f} GiB")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < 2:
        todo = "free some space: CIFAR-100 takes 0.4 GiB, and runs need more"
        return Check("disk", f"{free:.1f} GiB free here", ADVICE, todo)
    return Check("disk", f"{free:.1f} GiB free here")


def _digits() -> Check:
    """Load the scans only: composing the course's scenes from them takes seconds."""
    import sklearn
    from sklearn.datasets import load_digits

    return Check("digits", f"embedded, {len(load_digits().target):,} scans in scikit-learn {sklearn.__version__}")


def _cifar100() -> Check:
    from dfs_edu import data

    try:
        folder = data.find(data.cifar100.FOLDER)
    except data.DataError as error:
        return Check("cifar100", "not found (the course's default, digits, is embedded)", ADVICE, str(error))
    return Check("cifar100", f"in {folder / data.cifar100.FOLDER}")


def _jupyter() -> Check:
    names = ("jupyterlab", "ipywidgets", "anywidget", "papermill")
    versions = {name: importlib.metadata.version(name) for name in names}
    return Check("jupyter", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _kernel() -> Check:
    """Find out which Python a notebook's kernel runs: a stale kernel in the user's folder may name another one."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # as `make lab` does
    from jupyter_client.kernelspec import KernelSpecManager

    program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    if program not in ("python", "python3", sys.executable):
        todo = "remove that kernel (jupyter kernelspec remove python3) or start JupyterLab with `make lab`"
        return Check("kernel", f"python3 is {program}, not this Python", MISSING, todo)
    return Check("kernel", "python3 is this Python")


def _chromium() -> Check:
    path = chromium()
    if path is None:
        todo = "only the browser tests and `make notebooks` need it: install chromium or set BROWSER_PATH"
        return Check("chromium", "none", ADVICE, todo)
    return Check("chromium", path)


_HARDWARE = (_gpu, _bf16, _cores, _memory, _disk)
_SOFTWARE = (_digits, _cifar100, _jupyter, _kernel, _chromium)
_CHECKS = {check.__name__.strip("_"): check for check in (_python, _torch, _torchvision, *_HARDWARE, *_SOFTWARE)}
_ESSENTIAL = ("torch", "torchvision", "digits", "jupyter", "kernel")


def text(checks: list[Check]) -> str:
    """Format the report as a table; below each problem it says what to do."""
    rows = []
    for check in checks:
        rows.append([check.state, check.name, check.found])
        if check.todo:
            rows.append(["", "", f"-> {check.todo}"])
    return lines(["state", "what", "found"], rows, align="<")
