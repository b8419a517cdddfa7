"""Part 1: tests/test_gpu.py to its end, and what each test said. Tests that have a result are not run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
KEPT = "DFS_EDU_GPU_TESTS"  # the file of results, for the process that tests


def run(out: Path, smoke: bool, device: torch.device) -> None:
    """Test in a process of its own, which a fault on the GPU may end; print what failed."""
    file = out / "tests.jsonl"
    command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-p", "benchmarks.gpu.checks", "-p", "no:xdist"]
    status = subprocess.run(command, cwd=ROOT, env=os.environ | {KEPT: str(file.absolute())}).returncode
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise ChildProcessError(f"the tests ended with status {status}: started again, they go on")
    outcomes = [row["outcome"] for row in results(file).values()]
    print(", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes))) + f": {file}")


def results(file: Path) -> dict[str, dict]:
    """Return what each test said: its name -> outcome, seconds, and the reason if it did not pass."""
    rows = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return {row["test"]: row for row in rows}


# What follows is pytest's, in the other process


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that have a result."""
    done = results(Path(os.environ[KEPT]))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Append a test's result: that of its call, or of its set-up if it did not come that far."""
    if report.when == "call" or (report.when == "setup" and not report.passed):
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        with Path(os.environ[KEPT]).open("a") as file:
            file.write(json.dumps(row | ({} if report.passed else {"reason": str(report.longrepr)})) + "\n")
