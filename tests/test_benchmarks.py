"""Every benchmark still runs, with a network and a number of rounds so small that its times mean nothing.

ImageNet's is not tested: it needs a thousand images to measure anything.
"""

import importlib
import sys

import pytest

from dfs_edu import data

TINY = ["--backbone", "vgg7-4", "--batch", "4", "--rounds", "1"]
# benchmark -> its arguments, and how lines of its results start
RUNS = {
    "engine": ([*TINY, "--no-compile"], ["plain", "engine in fp32", "where the time goes"]),
    "step": (TINY, ["joint", "surgery, cat and detach", "surgery, as built here"]),
    "conflict": (TINY, ["two gradients", "naive", "truncated", "probe"]),
    "methods": (TINY, ["sum", "pcgrad", "nash-mtl", "equilibrium"]),
    "early_exit": (TINY, ["whole network", "none leave early", "nearly all leave early"]),
    "thresholds": (["--rounds", "1"], ["geometric shares, all at once", "search for the highest accuracy"]),
    "augment": (["--batch", "8", "--rounds", "1", "--workers", "1"], ["PIL, 1 workers", "whole batches of 8"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(name, monkeypatch, capsys):
    arguments, expected = RUNS[name]
    benchmark = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    if name == "augment":
        monkeypatch.setattr(benchmark, "load", lambda: data.load("digits").first(64, 8))
        monkeypatch.setattr(benchmark, "WHOLE", 16)
        monkeypatch.setattr(benchmark, "PIL", 16)
    benchmark.main()
    said = capsys.readouterr().out.splitlines()
    for words in expected:
        assert any(line.startswith(words) for line in said), words
