"""What this machine has for the course, and what to do about what it lacks."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dfs_edu.course.browser import chromium
from dfs_edu.tables import printable

OK, ADVICE, MISSING = "ok", "advice", "missing"  # MISSING: the course cannot run


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was found, and whether it will do."""

    name: str
    found: str
    state: str = OK
    todo: str = ""  # what to do, unless the state is OK


def report() -> list[Check]:
    """All checks, in the order in which they are shown. Takes a few seconds: it imports torch and times bf16."""
    checks = (_python, _torch, _torchvision, _gpu, _bf16, _cores, _memory, _disk, _digits, _cifar100)
    return [_guarded(check) for check in (*checks, _jupyter, _kernel, _browser)]


def _guarded(check: Callable[[], Check]) -> Check:
    """A check that fails is a finding, not the end of the report."""
    try:
        return check()
    except Exception as error:
        essential = check in (_torch, _torchvision, _digits, _jupyter, _kernel)
        todo = "set the environment up again: make test, or pip install -e '.[dev]'"
        found = printable(f"{type(error).__name__}: {error}")
        return Check(check.__name__.strip("_"), found, MISSING if essential else ADVICE, todo)


def _python() -> Check:
    return Check("python", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Check:
    import torch

    return Check("torch", torch.__version__)


def _torchvision() -> Check:
    """torch 2.N and torchvision 0.(N + 15) belong together; others may fail to import or crash later."""
    import torch
    import torchvision
    from torchvision.ops import nms

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)  # compiled against one torch, fails with others
    wanted = matching_torchvision(torch.__version__)
    if not torchvision.__version__.startswith(f"{wanted}."):
        todo = f"install the pair: pip install 'torch=={torch.__version__}' 'torchvision=={wanted}.*'"
        return Check("torchvision", f"{torchvision.__version__}, but torch is {torch.__version__}", MISSING, todo)
    return Check("torchvision", f"{torchvision.__version__}, made for torch {torch.__version__}")


def matching_torchvision(torch_version: str) -> str:
    """Major and minor version of the torchvision made for a torch: "2.9.1+cpu" -> "0.24".

    >>> matching_torchvision("2.9.1+cpu")
    '0.24'
    """
    major, minor = torch_version.split(".")[:2]
    if major != "2":
        raise ValueError(f"torch {torch_version}: only 2.x is known to have a matching torchvision")
    return f"0.{int(minor) + 15}"


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Check("gpu", ", ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in names))
    if torch.backends.mps.is_available():
        return Check("gpu", "Apple (mps)")
    return Check("gpu", "none", ADVICE, "the lesson scale needs none; full runs are made for one")


def _bf16() -> Check:
    """Timed where there are instructions for it: what a processor announces and what torch makes of it may differ."""
    import torch

    from dfs_edu.training.device import bf16_pays

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not bf16_pays(torch.device(device)):
        return Check("bf16", f"no instructions for it on {device}", ADVICE, "train in fp32 on this machine")
    fp32, bf16 = (_matmul_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    found = f"on {device}, a matrix product takes {bf16 / fp32:.2f} of its fp32 time"
    return Check("bf16", found) if bf16 < fp32 else Check("bf16", found, ADVICE, "train in fp32 on this machine")


def _matmul_seconds(device: str, dtype) -> float:
    """The best of five, after one to warm up."""
    import torch

    a = torch.ones(1024, 1024, device=device, dtype=dtype)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # the item waits for the GPU
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
        todo = "make room: CIFAR-100 takes 0.4 GiB, runs come on top"
        return Check("disk", f"{free:.1f} GiB free here", ADVICE, todo)
    return Check("disk", f"{free:.1f} GiB free here")


def _digits() -> Check:
    """The scans alone: the scenes composed of them take seconds."""
    import sklearn
    from sklearn.datasets import load_digits

    return Check("digits", f"embedded, {len(load_digits().target):,} scans in scikit-learn {sklearn.__version__}")


def _cifar100() -> Check:
    from dfs_edu import data

    try:
        place = data.find(data.cifar100.FOLDER)
    except data.DataError as error:
        return Check("cifar100", "not found (the course's default, digits, is embedded)", ADVICE, str(error))
    return Check("cifar100", f"in {place / data.cifar100.FOLDER}")


def _jupyter() -> Check:
    names = ("jupyterlab", "ipywidgets", "anywidget", "papermill")
    versions = {name: importlib.metadata.version(name) for name in names}
    return Check("jupyter", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _kernel() -> Check:
    """Which Python a notebook's kernel is: with a stale kernel of the user, not this one."""
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # as `make lab` and `dfs-edu course` do
    from jupyter_client.kernelspec import KernelSpecManager

    program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    if program not in ("python", "python3", sys.executable):
        todo = "remove that kernel (jupyter kernelspec remove python3) or start JupyterLab by `make lab`"
        return Check("kernel", f"python3 is {program}, not this Python", MISSING, todo)
    return Check("kernel", "python3 is this Python")


def _browser() -> Check:
    path = chromium()
    if path is None:
        todo = "only the browser tests and `make notebooks` need one: install chromium or set BROWSER_PATH"
        return Check("chromium", "none", ADVICE, todo)
    return Check("chromium", path)


def text(checks: list[Check]) -> str:
    """The report as lines; what is to be done stands below what was found."""
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8} {check.name:<12} {check.found}")
        if check.todo:
            lines.append(f"{'':<21} -> {check.todo}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`dfs-edu doctor` takes no options."""


def main(args: argparse.Namespace) -> int:
    """`dfs-edu doctor`: the exit status is 1 when something is missing without which the course cannot run."""
    checks = report()
    print(text(checks))
    return int(any(check.state == MISSING for check in checks))
