"""One record a run: recipe, environment, data, metrics. What is shown of a run is read from its record."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file, save
from scipy.special import stdtrit

from dfs_edu.checkpoint import write_whole
from dfs_edu.spelling import junction_from, spell

RECORDED = Path(__file__).parents[1] / "data" / "recorded"  # of a checkout: what is committed of long runs

# Top-1 accuracies that others report, as fractions (Gong et al., ECCV 2024). The recipes of the rows differ, and the
# best epoch was chosen on the test split.
PUBLISHED = {
    "MSDNet, CIFAR-100": {
        "MSDNet, joint": [0.6410, 0.6746, 0.7034, 0.7238, 0.7306, 0.7381, 0.7389],
        "DFS": [0.7246, 0.7564, 0.7750, 0.7854, 0.7920, 0.7945, 0.7956],
    },
    "MSDNet, CIFAR-100, rivals": {
        "GE": [0.6400, 0.6841, 0.7186, 0.7350, 0.7446, 0.7539, 0.7596],
        "PCGrad": [0.6706, 0.7137, 0.7486, 0.7578, 0.7625, 0.7695, 0.7671],
        "CAGrad": [0.6878, 0.7255, 0.7423, 0.7497, 0.7535, 0.7582, 0.7608],
        "Nash-MTL": [0.6414, 0.6923, 0.7264, 0.7489, 0.7532, 0.7588, 0.7675],
    },
    "MSDNet, ImageNet": {
        "MSDNet, joint": [0.5664, 0.6514, 0.6842, 0.6977, 0.7134],
        "DFS": [0.6180, 0.6803, 0.7075, 0.7179, 0.7288],
    },
}


# What others report for the networks that `build` knows: parameters and MACs of leaving at each of the K exits.
# ResNet18's are of the path to the exit alone, its parameters without the linear classifier; the others' include all
# earlier heads.
PUBLISHED_COSTS = {
    "msdnet-cifar": {
        "params": [0.90e6, 1.84e6, 2.80e6, 3.76e6, 4.92e6, 6.10e6, 7.36e6],
        "macs": [56.43e6, 101.00e6, 155.31e6, 198.10e6, 249.53e6, 298.05e6, 340.64e6],
    },
    "msdnet-imagenet": {
        "params": [4.24e6, 8.77e6, 13.07e6, 16.75e6, 23.96e6],
        "macs": [0.34e9, 0.69e9, 1.01e9, 1.25e9, 1.36e9],
    },
    "resnet18": {
        "params": [0.43e6, 0.96e6, 3.11e6, 11.17e6],
        "macs": [169.62e6, 300.22e6, 431.05e6, 559.75e6],
    },
}


def environment(device: torch.device, precision: str, processes: int = 1) -> dict:
    """Machine and versions, so that a number can be read for what it is."""
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
    """The git revision of this code, marked where files differ from it; None where it is no checkout."""
    words = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory(device: torch.device) -> int:
    """Bytes held at most: of a GPU's memory since its count was last reset, of the machine's by this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
    """A record as JSON, whole or not at all."""
    text = json.dumps(record, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def changed(was: dict, now: dict) -> list[str]:
    """What differs between two recipes, or other parts of records, in words: name, old and new value."""
    return [f"{key} {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key]]


def read(path: str | os.PathLike) -> dict:
    """A record from its file, or from the folder that holds it. Raises ValueError naming a damaged one."""
    path = Path(path)
    path = path / "record.json" if path.is_dir() else path
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a whole record ({error})") from error


def runs(folder: str | os.PathLike, names: str = "*") -> dict[str, dict]:
    """Name -> record of the runs in a folder whose names match a pattern, finished or not."""
    return {path.parent.name: read(path) for path in sorted(Path(folder).glob(f"{names}/record.json"))}


def last_validation(record: dict) -> list[float]:
    """Validation accuracy of each exit after the last epoch so far; [] before the first has ended."""
    return record["epochs"][-1]["validation_accuracy"] if record["epochs"] else []


def minutes_to(record: dict, accuracy: float, exit: int = -1) -> float | None:
    """Minutes of training until an exit's validation accuracy was first as good, at an epoch's end; None: never."""
    seconds = 0.0
    for row in record["epochs"]:
        seconds += row["seconds"]
        if row["validation_accuracy"][exit] >= accuracy:
            return seconds / 60
    return None


def recorded(*names: str, folder: str | os.PathLike = RECORDED) -> dict[str, dict]:
    """Name -> record of the finished runs below `folder` that match patterns, such as "cifar100-vgg7-64-lesson-*"."""
    found = {name: record for pattern in names for name, record in runs(folder, pattern).items()}
    return {name: record for name, record in found.items() if "final" in record}


def keep(run: str | os.PathLike, folder: str | os.PathLike = RECORDED, weights: bool = False) -> Path:
    """Copy what is worth committing of a finished run below `folder`: record, exit outputs, and, if asked, its weights.

    Weights are kept as float16, half the size. Raises ValueError for a run that has not finished.
    """
    run = Path(run)
    record = read(run)
    if "final" not in record:
        raise ValueError(f"{run} has not finished: resume it first")
    kept = Path(folder) / record["recipe"]["name"]
    for name in ("validation.npz", "test.npz"):
        write_whole(kept / name, lambda file, name=name: file.write((run / name).read_bytes()))
    if weights:
        tensors = load_file(run / "weights.safetensors")
        half = save({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()})
        write_whole(kept / "weights.safetensors", lambda file: file.write(half))
    write(kept / "record.json", record)
    return kept


def accuracies(records: Iterable[dict], split: str = "test") -> dict[str, list[list[float]]]:
    """Final accuracy of finished runs, by arm: {"surgery own 0.5": n seeds x K exits, as fractions}, by seed."""
    table: dict[str, list[list[float]]] = {}
    for record in sorted(records, key=lambda record: record["recipe"]["seed"]):
        if "final" in record:
            table.setdefault(arm(record["recipe"]), []).append(record["final"][f"{split}_accuracy"])
    return table


def interval(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (K,) of (n, K) values, n seeds, and half the width of its 95 % t-interval (K,), NaN for n = 1.

    >>> mean, half = interval([[0.50, 0.71], [0.52, 0.72], [0.54, 0.73]])  # n = 3 seeds, K = 2 exits
    >>> mean.round(3), half.round(3)
    (array([0.52, 0.72]), array([0.05 , 0.025]))
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n == 1:
        return values[0], np.full(values.shape[1], np.nan)
    return values.mean(0), stdtrit(n - 1, 0.975) * values.std(0, ddof=1) / np.sqrt(n)


def arm(recipe: dict) -> str:
    """What a recipe compares, in words: its junction, and its method where that is not the sum."""
    method = recipe.get("method", "sum")
    own = ", own step" if recipe.get("step_length", "sum") == "own" else ""
    weights = f", weights {' '.join(f'{w:g}' for w in recipe['weights'])}" if recipe.get("weights") else ""
    loss = "" if recipe.get("loss", "cross-entropy") == "cross-entropy" else f", {recipe['loss']}"
    uncut = f", uncut for {recipe['uncut']}" if recipe.get("uncut") else ""
    return label(recipe["junction"]) + ("" if method == "sum" else f" + {method}") + own + weights + loss + uncut


def label(junction: dict) -> str:
    """A junction in words for tables and legends.

    >>> label({"name": "surgery", "beta": 0.5, "reference": False})
    'surgery own 0.5, no reference'
    """
    said = spell(junction_from(junction)).replace("-", " ")
    return said.replace(" partition", ", no reference").replace(" scales", ", all scales")
