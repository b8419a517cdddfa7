"""What `make gpu` runs, at its smallest and on a CPU: every part runs, goes on where it was, and says what it skips."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES
from warm import python

import dfs_edu as dfs
from benchmarks.early_exit import settle
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import checks, exits, step, training
from dfs_edu.inference import EarlyExit
from dfs_edu.training import records, results

ROOT = Path(__file__).parents[1]
CPU = ["--device", "cpu"]


def test_every_part_runs_and_nothing_is_measured_twice(tmp_path, capsys, monkeypatch):
    gpu.main(["--smoke", *CPU, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "tests: skipped, it needs a GPU" in said
    for name, variant in step.VARIANTS.items():
        assert (f"vgg7-2, {name}: skipped, it needs a GPU" in said) == variant.needs_gpu
        assert (f"vgg7-2, {name}" in records.load(tmp_path / "step.json")) != variant.needs_gpu
    assert "vgg7-2, bf16, 2 runs side by side" in records.load(tmp_path / "step.json")
    assert "exits: CUDA graphs are skipped, they need a GPU" in said
    for row in records.load(tmp_path / "exits.json").values():
        assert row["same exit"] > 0.9  # another size of batch rounds differently
        assert row["environment"]["device"]
    for part in (training.VGG7, training.MSDNET):
        kept = records.load(tmp_path / f"{part.name}.json")["runs"]
        assert len(kept) == len(part.arms)
        assert all("final" in record for record in kept)
    assert set(results.runs(tmp_path / "recorded")) == set(results.runs(tmp_path / "runs"))

    def again(*args, **options):
        raise AssertionError("measured twice")

    monkeypatch.setattr(dfs.probes, "seconds", again)
    monkeypatch.setattr(step, "side_by_side", again)
    monkeypatch.setattr(training.study, "train", again)
    gpu.main(["--smoke", *CPU, "--out", str(tmp_path)])


def test_without_a_gpu_every_part_is_skipped_by_name(tmp_path, capsys):
    gpu.main([*CPU, "--out", str(tmp_path), "--tflops", "10"])
    said = capsys.readouterr().out
    assert "at 10 TFLOP/s" in said
    for name in gpu.PARTS:
        assert f"{name}: skipped, it needs a GPU" in said
    assert not list(tmp_path.iterdir())


def test_the_long_runs_are_the_published_ones():
    cells = training.VGG7.cells(smoke=False)
    assert [cell.seed for cell in cells] == [0, 1, 2] * 3
    assert all((cell.epochs, cell.scale, cell.backbone) == (300, "paper", "vgg7-64") for cell in cells)
    assert [cell.junction for cell in cells[::3]] == [
        dfs.Joint(),
        dfs.Surgery(0.5),
        dfs.Surgery(0.5, exit_gradient="all"),
    ]
    cells = training.MSDNET.cells(smoke=False)
    assert [(cell.epochs, cell.backbone) for cell in cells] == [(300, "msdnet-cifar-dropout50")] * 2


def test_expected_times_follow_from_flops():
    cost = dfs.probes.cost(dfs.build("vgg7-64", 100))
    flops = 9 * 300 * 45_000 * (cost.forward_flops + cost.backward_flops)
    assert training.VGG7.flops(smoke=False) == {"vgg7-64": pytest.approx(flops)}
    minutes = flops / 50e12 / 60
    assert gpu.PARTS["vgg7"].minutes(50) == f"{minutes:,.0f} minutes"
    assert "not known" in gpu.PARTS["tests"].minutes(50)
    help_text = gpu._parser().format_help()
    for name, part in gpu.PARTS.items():
        assert f"{name:8} {part.minutes(None)}" in help_text


@pytest.mark.parametrize("family", ["vgg7", "msdnet-cifar"])
@pytest.mark.parametrize("B", [1, 7, 16])
def test_images_leave_where_early_exit_lets_them(family, B):
    name, pixels = FAMILIES[family]
    torch.manual_seed(0)
    net = dfs.build(name, 10)
    images = torch.randn(16, 3, pixels, pixels)
    settle(net, images)
    with torch.no_grad():
        confidence = torch.stack([logits.softmax(1).amax(1) for logits in net(images)])
    # Between the confidences of two images, so that rounding moves none of them
    middle = confidence.sort(1).values[:, 7:9].mean(1).tolist()
    thresholds = [*middle[:-1], 0]
    graphed = exits.GraphedExit(net, thresholds, images)
    labels, where = graphed(images[:B])
    expected = EarlyExit(net, thresholds)(images[:B])
    assert torch.equal(where, expected[1])
    assert torch.equal(labels, expected[0])
    assert B == 1 or len(where.unique()) > 1


def test_tests_that_have_a_result_are_not_run_again(tmp_path):
    (tmp_path / "test_two.py").write_text("def test_good():\n    pass\n\n\ndef test_bad():\n    assert 1 == 2\n")
    file = tmp_path / "tests.jsonl"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [*python(), "-m", "pytest", "test_two.py", "-p", "benchmarks.gpu.checks", "-p", "no:xdist"]

    def run() -> int:
        environment = os.environ | {"PYTHONPATH": path, checks.KEPT: str(file)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode

    assert run() == pytest.ExitCode.TESTS_FAILED
    rows = checks.results(file)
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "test_two.py::test_good": "passed",
        "test_two.py::test_bad": "failed",
    }
    assert "assert 1 == 2" in rows["test_two.py::test_bad"]["reason"]
    assert run() == pytest.ExitCode.NO_TESTS_COLLECTED
    assert checks.results(file) == rows
