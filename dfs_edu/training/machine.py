"""The machine and the versions that a run is measured with."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import torchvision


def environment(device: torch.device, precision: str, processes: int = 1) -> dict[str, Any]:
    """Describe the machine and the versions, for a record: measured times mean nothing without them.

    Args:
        device: Where the network is trained.
        precision: "bf16" or "fp32".
        processes: Number of processes that train together.
    """
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "precision": precision,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a plain str: a checkpoint holds nothing else
        "torchvision": str(torchvision.__version__),
        "system": f"{platform.system()} {platform.machine()}",
        "revision": revision(),
    }


def revision() -> str | None:
    """Return the git revision of this code, marked "-dirty" if files differ from it; None outside a checkout."""
    words = ["git", "-C", str(Path(__file__).parents[2]), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def sources(folder: Path, left_out: Collection[str] = ()) -> str:
    """Return the SHA-256 of the Python files in a folder, by which two machines or two days compare their code.

    Args:
        folder: Of a package.
        left_out: Names of files and folders in it that do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0] not in left_out:
            digest.update(name.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of a GPU since its count was last reset, on a CPU of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or the processor, as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
