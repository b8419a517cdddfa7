"""Measurements of a part in one file, which is written whole after each: what is there is not measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dfs_edu.training import machine, records


class Kept:
    """Named rows, each with the machine that it was measured on.

    Args:
        path: Of the file, JSON.
        device: Where the rows are measured from now on.
    """

    def __init__(self, path: Path, device: torch.device):
        self.path, self.device = path, device
        self.rows: dict[str, dict[str, Any]] = records.load(path) if path.exists() else {}

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def add(self, name: str, precision: str = "fp32", processes: int = 1, **values: Any) -> None:
        """Keep a row, and print it."""
        environment = machine.environment(self.device, precision, processes)
        self.rows[name] = values | {"environment": environment}
        records.write(self.path, self.rows)
        print(f"{name}: " + ", ".join(f"{key} {_short(value)}" for key, value in values.items()), flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
