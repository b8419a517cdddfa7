"""Weights to start from and frozen epochs: exact, recorded, resumed, studied; for attached networks as for ours."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from dying import SAME, Killed, die_in_step
from safetensors.torch import load_file, save_file
from tiny import FAMILIES
from torch import nn
from warm import python

import dfs_edu as dfs
from dfs_edu import methods
from dfs_edu.cli import main
from dfs_edu.methods import METHODS
from dfs_edu.methods.method import Method
from dfs_edu.training import results, runs, study
from dfs_edu.training.recipes import Recipe, get
from dfs_edu.training.start import Start, find

train_module = sys.modules["dfs_edu.training.trainer"]
SMALL = {"epochs": 2, "batch_size": 8, "train_images": 24, "held_out_images": 8, "precision": "fp32"}
FIRST = next(iter(dfs.build("vgg7-4", 10).state_dict()))


def recipe_for(backbone="vgg7-4", **options):
    return get(f"digits/{backbone}", scale="smoke", **(SMALL | options))


def train(recipe, out=None, **kwargs):
    return dfs.train(recipe, out, device="cpu", progress=False, **kwargs)


def built(recipe):
    """The network as the run's seed makes it."""
    torch.manual_seed(recipe.seed)
    return dfs.build(recipe.backbone, 10, recipe.junction)


def trunk_of(network):
    return {name: t.clone() for name, t in network.state_dict().items() if name.startswith("stages.")}


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    """A finished run, whose weights others start from."""
    return train(recipe_for(seed=5), tmp_path_factory.mktemp("donor"))


def test_the_first_loss_is_that_of_the_weights(donor, tmp_path):
    """No step moves anything at a rate of nearly zero: the answers are the donor's own."""
    run = train(recipe_for(lr=1e-30, epochs=1, weight_decay=0.0, frozen=1), tmp_path, start=donor.folder)
    for name, t in run.network.state_dict().items():
        if name.startswith("stages."):
            assert torch.equal(t, donor.network.state_dict()[name]), name
    for name, p in run.network.named_parameters():
        assert torch.equal(p, donor.network.state_dict()[name]), name
    assert run.record["start"]["fresh"] == []
    assert run.record["start"]["sha256"].startswith(run.record["recipe"]["start"])
    assert run.record["recipe"]["name"].endswith(f"-start-{run.record['recipe']['start']}-frozen-1-seed0")


@pytest.mark.parametrize("backbone", [name for name, _ in FAMILIES.values() if "imagenet" not in name])
def test_a_frozen_trunk_stays_bit_for_bit(backbone):
    recipe = recipe_for(backbone, frozen=2, ema=0.9, clip=1.0, weight_decay=0.1)
    initial, run = built(recipe), train(recipe)
    before, after = trunk_of(initial), trunk_of(run.network)
    assert all(torch.equal(before[name], after[name]) for name in before)  # weights and averages of BatchNorm
    heads = [name for name, _ in initial.heads.named_parameters()]
    moved = [
        name
        for name in heads
        if not torch.equal(initial.heads.get_parameter(name), run.network.heads.get_parameter(name))
    ]
    assert moved == heads
    assert all(norm > 0 for row in run.record["epochs"] for norm in row["gradient_norm"])  # probes pull all the same


def test_then_all_of_it_moves():
    recipe = recipe_for(frozen=1)
    initial, run = built(recipe), train(recipe)
    assert not any(
        torch.equal(p, run.network.get_parameter(name)) for name, p in initial.named_parameters() if p.ndim > 1
    )
    assert all(p.requires_grad for p in run.network.parameters())
    norms = [m for m in run.network.stages.modules() if isinstance(m, nn.BatchNorm2d)]
    steps = 24 // 8
    assert norms
    assert all(m.num_batches_tracked == steps for m in norms)  # of the second epoch alone


@pytest.fixture(scope="module")
def frozen():
    return train(recipe_for(frozen=2)).network.state_dict()


# "gradual" leaves heads out, "shifting" weights them; a step of its own may weight them, too, or take turns
OTHERS = {"sum", "gradual", "shifting", *(name for name in METHODS if methods.find(name).step is not Method.step)}


@pytest.mark.parametrize("method", sorted({*METHODS} - OTHERS))
def test_every_method_takes_the_plain_gradients_of_the_heads(method, frozen):
    """A frozen trunk is no matter of conflict: whatever the method, heads go their own way."""
    other = train(recipe_for(frozen=2, method=method))
    for name, t in frozen.items():
        torch.testing.assert_close(other.network.state_dict()[name], t, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "junction", [dfs.Surgery(0.5), dfs.Surgery(0.5, reference=False), dfs.Detached(), dfs.Equilibrium()], ids=str
)
def test_under_every_junction(junction):
    run = train(recipe_for(junction=junction, frozen=1))
    assert run.test.confidence.isfinite().all()


OPTIONS = {
    "plain": {},
    "everything": {"ema": 0.9, "accumulate": 2, "clip": 1.0, "augmentation": "autoaugment", "uncut": 1},
    "pcgrad": {"method": "pcgrad"},
    "distillation, adamw": {"loss": "distillation", "optimizer": "adamw", "lr": 1e-3},
}


@pytest.mark.parametrize("step", [2, 3, 4, 5])  # of three an epoch: in frozen epochs, at their end, and behind
@pytest.mark.parametrize("options", OPTIONS)
def test_resumed_equals_uninterrupted(options, step, donor, tmp_path, monkeypatch):
    """Killed in a step and resumed, without the file that it started from."""
    recipe = recipe_for(frozen=1, junction=dfs.Surgery(0.5), **OPTIONS[options])
    weights = tmp_path / "elsewhere.safetensors"
    weights.write_bytes((donor.folder / "weights.safetensors").read_bytes())
    whole = train(recipe, tmp_path / "whole", start=weights)
    with monkeypatch.context() as patch:
        die_in_step(patch, step)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "killed", checkpoint_steps=1, start=weights)
    weights.unlink()
    torch.manual_seed(99)
    resumed = train(Recipe.from_dict(whole.record["recipe"]), tmp_path / "killed", resume=True)
    read = lambda run: (run.folder / "weights.safetensors").read_bytes()  # noqa: E731
    assert read(resumed) == read(whole)
    assert resumed.record["start"] == whole.record["start"]
    for ours, theirs in zip(resumed.record["epochs"], whole.record["epochs"], strict=True):
        for name in SAME:
            assert ours[name] == theirs[name]


def test_tracking_changes_nothing(donor, tmp_path):
    plain, tracked = (train(recipe_for(frozen=1), start=donor.folder, track=every) for every in (None, 2))
    for name, t in plain.network.state_dict().items():
        assert torch.equal(t, tracked.network.state_dict()[name])
    assert all(look["norm"] for look in tracked.record["conflict"]["looks"])


def test_other_classes_get_new_classifiers(donor, tmp_path):
    """By number, or by name where the donor's record says which they were."""
    start = Start.of(donor.folder)
    classifiers = sorted(f"heads.{k}.fc.weight" for k in range(6))
    for classes in ("abc", "klmnopqrst"):
        network = dfs.build("vgg7-4", len(classes))
        before = {name: t.clone() for name, t in network.state_dict().items()}
        assert start.load(network, classes)["fresh"] == classifiers
        for name, t in network.state_dict().items():
            assert torch.equal(t, before[name] if name in classifiers else donor.network.state_dict()[name])
    alone = tmp_path / "weights.safetensors"  # without a record, ten classes may be the same ten
    alone.write_bytes((donor.folder / "weights.safetensors").read_bytes())
    assert Start.of(alone).load(dfs.build("vgg7-4", 10), "klmnopqrst")["fresh"] == []


def test_half_precision_will_do(donor, tmp_path):
    kept = runs.keep(donor.folder, tmp_path, weights=True)
    run = train(recipe_for(frozen=2), start=kept)
    for name, t in trunk_of(run.network).items():
        expected = donor.network.state_dict()[name]
        assert torch.equal(t, (expected.half() if expected.is_floating_point() else expected).to(t.dtype))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda file, own: save_file({**own, "stages.9.weight": torch.ones(2)}, file), "stages.9.weight"),
        (lambda file, own: save_file({n: t for n, t in own.items() if n != FIRST}, file), f"{FIRST} is missing"),
        (lambda file, own: save_file(own | {FIRST: own[FIRST][:2].contiguous()}, file), rf"{FIRST} is \(2, 3, 3, 3\)"),
        (lambda file, own: save_file(own | {FIRST: own[FIRST] / 0}, file), f"{FIRST} is not finite"),
        (lambda file, own: torch.save(own, file), "no safetensors file"),
        (lambda file, own: file.write_bytes(b""), "no safetensors file"),
        (lambda file, own: os.mkfifo(file), "not a file"),
        (lambda file, own: None, "there is no"),
    ],
    ids=["more", "less", "other shape", "not finite", "torch's own", "empty", "pipe", "missing"],
)
def test_what_does_not_fit_is_refused_before_a_step(make, said, tmp_path):
    file = tmp_path / "w.safetensors"
    make(file, dfs.build("vgg7-4", 10).state_dict())
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        train(recipe_for(), tmp_path / "runs", start=file)
    assert not list((tmp_path / "runs").glob("*/checkpoint*"))


def test_an_unfinished_run_and_other_weights_are_named(donor, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match="give a finished run"):
        train(recipe_for(), start=tmp_path / "run")
    with pytest.raises(ValueError, match=r"start='00000000'.*other weights"):
        train(recipe_for(start="00000000"), start=donor.folder)
    with pytest.raises(ValueError, match="name the file"):
        train(recipe_for(start="00000000"), tmp_path)


@pytest.mark.parametrize("value", [-1, 3, 1.0, True, "1", None])
def test_frozen_epochs_in_range(value):
    with pytest.raises(ValueError, match=f"frozen={value!r}"):
        recipe_for(frozen=value)


@pytest.mark.parametrize("value", ["", "runs/a", "ABCDEF01", 12345678, b"00000000"])
def test_a_recipe_holds_digits_and_no_path(value):
    with pytest.raises(ValueError, match="start="):
        recipe_for(start=value)


def test_arms():
    assert study.arm("joint+frozen-2")["frozen"] == 2
    assert study.arm("joint+scratch")["start"] is None
    recipe = recipe_for(start="0123abcd", frozen=1)
    assert results.label(recipe.to_dict()) == "joint, from 0123abcd, trunk frozen for 1"
    with pytest.raises(ValueError, match="frozen-N"):
        study.arm("joint+frozen")


MINE = """
import torch
import torchvision
from safetensors.torch import load_file

from dfs_edu.backbones.attachment import attached
from dfs_edu.backbones.families import family


@family("mypretrained", pixels=32, smallest=32)
def mypretrained(classes: int):
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    model.load_state_dict(load_file("pretrained.safetensors"))
    model.fc = torch.nn.Linear(1024, classes)
    return attached(model, at=["stage2", "stage3"], input_shape=(3, 32, 32))
"""


def shell(folder, words):
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, str(folder)]), "OMP_NUM_THREADS": "1"}
    command = [*python(), "-m", "dfs_edu", *words.split()]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)


SHELL = "--scale smoke --epochs 1 --train-images 64 --held-out-images 32 --device cpu --precision fp32"


def test_a_builders_pretrained_weights_in_the_shell(tmp_path):
    """Attached, trained with a frozen trunk, and studied from the weights of that run."""
    import torchvision

    (tmp_path / "mine_pre.py").write_text(MINE)
    torch.manual_seed(3)
    pretrained = torchvision.models.shufflenet_v2_x0_5(num_classes=7).state_dict()
    save_file({name: t.contiguous() for name, t in pretrained.items()}, tmp_path / "pretrained.safetensors")
    done = shell(tmp_path, f"train digits/mypretrained {SHELL} --frozen 1 --plugin mine_pre")
    assert done.returncode == 0, done.stderr
    name = "digits-mypretrained-smoke-joint-frozen-1-seed0"
    kept = load_file(tmp_path / "runs" / name / "weights.safetensors").items()
    values = {t.sum().item() for n, t in kept if n.startswith("stages.")}
    theirs = {t.sum().item() for n, t in pretrained.items() if not n.startswith("fc.")}
    assert len(theirs) > 50
    assert theirs <= values
    words = f"study digits/mypretrained {SHELL} --arms joint joint+frozen-1 joint+scratch --seeds 1 --start runs/{name}"
    done = shell(tmp_path, f"{words} --out again --plugin mine_pre")
    assert done.returncode == 0, done.stderr
    digits, _ = find(tmp_path / "runs" / name)
    records = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "again").glob("*/record.json")}
    assert {n: record.get("start", {}).get("sha256", "")[:8] for n, record in records.items()} == {
        f"digits-mypretrained-smoke-joint-start-{digits}-seed0": digits,
        f"digits-mypretrained-smoke-joint-start-{digits}-frozen-1-seed0": digits,
        "digits-mypretrained-smoke-joint-seed0": "",
    }
    (tmp_path / "runs" / name).rename(tmp_path / "moved")  # the digits are enough where all is done
    words = words.replace(f"runs/{name}", digits)
    assert "3 of 3 runs are finished" in shell(tmp_path, f"{words} --out again --report --plugin mine_pre").stdout


def test_compiled_too(donor, monkeypatch):
    """Traced anew where the trunk is let go, as torch.compile does it, without the minutes of machine code."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = (train(recipe_for(frozen=1, compile=on), start=donor.folder) for on in (False, True))
    for name, t in plain.network.state_dict().items():
        torch.testing.assert_close(compiled.network.state_dict()[name], t, rtol=1e-2, atol=1e-3)


def test_a_study_whose_arms_do_not_all_fit_the_weights_is_refused_before_it_begins(donor, tmp_path, capsys):
    words = f"study digits/vgg7-4 --scale smoke --seeds 1 --device cpu --out {tmp_path / 'runs'} --arms joint"
    assert main(f"{words} joint@vgg7-8 --start {donor.folder}".split()) == 1
    assert "holds other weights" in capsys.readouterr().err
    assert main(f"{words} joint+scratch".split()) == 1
    assert "--start" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_weights_of_another_kind_of_number_are_refused(tmp_path):
    network = dfs.build("vgg7-4", 10)
    file = tmp_path / "w.safetensors"
    save_file({name: torch.zeros_like(t, dtype=torch.int64) for name, t in network.state_dict().items()}, file)
    with pytest.raises(ValueError, match=r"is torch\.int64, not torch\.float32"):
        Start.of(file).load(network, "abcdefghij")
    with pytest.raises(TypeError, match="start is a int"):
        train(recipe_for(), start=5)
