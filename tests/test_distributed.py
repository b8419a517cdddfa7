"""Two processes on gloo compute what one does, and a worker that is killed costs nothing."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from team import CASES, recipe
from torch import nn

import dfs_edu as dfs
from dfs_edu import distributed, inference
from dfs_edu.distributed import Team
from dfs_edu.training import results

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(*words):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*TORCHRUN, *map(str, words)], env=environment, **pipes)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """All cases, trained by two processes."""
    out = tmp_path_factory.mktemp("together")
    process = start(HERE / "team.py", out)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case, together, tmp_path):
    """In float64, since sums are taken in another order, and training magnifies what that changes."""
    (folder,) = (together / case).iterdir()
    dfs.data.load("digits")  # composed in float32, and kept
    torch.set_default_dtype(torch.float64)
    try:
        uncompiled = replace(recipe(case), compile=False)  # compiling takes a minute, and must change nothing
        alone = dfs.train(uncompiled, tmp_path, device="cpu", progress=False)
    finally:
        torch.set_default_dtype(torch.float32)
    record = results.read(folder)
    assert record["environment"]["processes"] == 2
    for ours, theirs in zip(record["epochs"], alone.record["epochs"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-9)
        for name in ("train_accuracy", "validation_accuracy"):
            assert ours[name] == pytest.approx(theirs[name])
    weights = load_file(folder / "weights.safetensors")
    start = dfs.build(recipe(case).backbone, 10).state_dict()
    for name, expected in load_file(alone.folder / "weights.safetensors").items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-7, atol=1e-9)
    assert any((weights[name] - start[name]).abs().max() > 0.01 for name in weights)  # it has moved at all
    outputs = inference.Outputs.load(folder / "test.npz")
    assert torch.equal(outputs.label, alone.test.label)  # every picture once, in order


def test_rank_0_alone_writes(together):
    """One run, whole; nothing half written is left beside it."""
    for case in CASES:
        (folder,) = (together / case).iterdir()
        kept = {"checkpoint.pt", "checkpoint.before.pt", "record.json", "weights.safetensors", "events"}
        assert {path.name for path in folder.iterdir()} == kept | {"validation.npz", "test.npz"}


@pytest.mark.kill
def test_a_killed_worker_is_restarted_and_the_run_ends_as_if_nothing_had_happened(tmp_path):
    words = "train digits/vgg7-4 --scale smoke --epochs 4 --train-images 128 --checkpoint-steps 1 --resume --device cpu"
    words += " --ema 0.9 --accumulate 2 --junction surgery"
    name = "digits-vgg7-4-smoke-surgery-own-0.5-seed0"
    whole = start("-m", "dfs_edu", *words.split(), "--out", tmp_path / "whole")
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    assert said.count("kept in") == 1

    process = start("--max-restarts", "3", "-m", "dfs_edu", *words.split(), "--out", tmp_path / "killed")
    checkpoint = tmp_path / "killed" / name / "checkpoint.before.pt"
    until = time.monotonic() + 240
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    workers = [pid for pid in children if "dfs_edu" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(workers) == 2
    os.kill(int(workers[1]), 9)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    both = [(tmp_path / which / name / "weights.safetensors").read_bytes() for which in ("whole", "killed")]
    assert both[0] == both[1]


# Without other processes


def test_a_split_that_cannot_be_shared_out_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "join", lambda device: (Team(0, 4), device))
    few = dfs.recipes.get("digits/vgg7-4", scale="smoke", train_images=16, held_out_images=3, batch_size=8)
    monkeypatch.setattr(Team, "wait", lambda team: None)
    with pytest.raises(ValueError, match="3 images of validation cannot be divided among 4 processes"):
        dfs.train(few, None, device="cpu", progress=False)


def test_a_team_of_one_waits_for_no_process():
    team, device = distributed.join(torch.device("cpu"))
    assert team == Team()
    assert (team.leads, device) == (True, torch.device("cpu"))
    team.wait()
    assert team.gather("mine") == ["mine"]
    assert team.sum(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize(("count", "world"), [(10, 3), (2, 2), (7, 4)])
def test_slices_cover_everything_once_and_evenly(count, world):
    parts = [range(count)[Team(rank, world).slice(count)] for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_a_batch_are_the_batch(world):
    dataset = dfs.data.load("digits")
    options = {"train": True, "seed": 3}
    whole = next(iter(dfs.data.batches(dataset.train[:64], dataset, 8, **options)))
    parts = [
        next(iter(dfs.data.batches(dataset.train[:64], dataset, 8, **options, rank=rank, world=world)))
        for rank in range(world)
    ]
    for kind in (0, 1):
        together = torch.stack([part[kind] for part in parts], 1).flatten(0, 1)
        assert torch.equal(together, whole[kind])
    with pytest.raises(ValueError, match="batch of 8 images cannot be divided evenly among 3"):
        dfs.data.batches(dataset.train[:64], dataset, 8, world=3)


def test_idle_parameters_are_found():
    assert distributed.has_idle(dfs.build("msdnet-cifar-blocks3-base2-step1-growth4-width4", 10), 32)
    assert not distributed.has_idle(dfs.build("vgg7-4", 10, dfs.Surgery(0.5)), 32)
    assert not distributed.has_idle(dfs.build("vgg7-4", 10, dfs.Detached()), 32)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batchnorm_over_one_process_is_torch_s(tmp_path, momentum):
    """Values, gradients, running averages, cumulative ones as well; and in evaluation."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        theirs = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, momentum=momentum), nn.ReLU()).double()
        nn.init.normal_(theirs[1].weight)
        ours = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, momentum=momentum), nn.ReLU()).double()
        ours.load_state_dict(theirs.state_dict())
        distributed.synchronise(ours)
        assert type(ours[1]) is distributed.BatchNorm2d
        x = torch.randn(4, 3, 6, 7, dtype=torch.float64)
        for net in (theirs, ours):
            (net(x) ** 3).sum().backward()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value)
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert ours.float().train()(x.float()).dtype == torch.bfloat16
    finally:
        distributed.leave()


def test_a_batchnorm_that_does_more_is_refused():
    """timm's ends in an activation, which another BatchNorm in its place would not have."""
    from timm.layers import BatchNormAct2d

    net = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4))
    with pytest.raises(ValueError, match=r"1 is a timm.*BatchNormAct2d: several processes share"):
        distributed.synchronise(net)
