"""One record a run: recipe, environment, data, metrics. What is shown of a run is read from its record."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch
import torchvision

from dfs_edu.checkpoint import write_whole


def environment(device: torch.device, precision: str) -> dict:
    """Machine and versions, so that a number can be read for what it is."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write(path: str | os.PathLike, record: dict) -> None:
    text = json.dumps(record, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read(path: str | os.PathLike) -> dict:
    """A record from its file, or from the folder that holds it. Raises ValueError naming a damaged one."""
    path = Path(path)
    path = path / "record.json" if path.is_dir() else path
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a whole record ({error})") from error


def accuracies(records: Iterable[dict], split: str = "test") -> dict[str, list[list[float]]]:
    """Final accuracy of finished runs, by junction: {"surgery own 0.5": n seeds x K exits, as fractions}, by seed."""
    table: dict[str, list[list[float]]] = {}
    for record in sorted(records, key=lambda record: record["recipe"]["seed"]):
        if "final" in record:
            table.setdefault(label(record["recipe"]["junction"]), []).append(record["final"][f"{split}_accuracy"])
    return table


def label(junction: dict) -> str:
    """A junction in words for tables and legends."""
    if junction["name"] != "surgery":
        return junction["name"]
    cut = "" if junction["reference"] else ", no reference"
    return f"surgery {junction['exit_gradient']} {junction['beta']:g}{cut}"
