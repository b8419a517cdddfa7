"""What is taken away says what the network says: every family, any number of images, early exit and all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from tiny import FAMILIES

import dfs_edu as dfs
from dfs_edu import cli, inference
from dfs_edu.inference import EarlyExit, Outputs
from dfs_edu.inference.exporting import export, in_float32
from dfs_edu.inference.runtime import Runner

ROOT = str(Path(dfs.__file__).parents[1])
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
TEMPERATURE = 0.1  # tiny untrained networks are hardly sure of anything


def pictures(side, count=12):
    generator = np.random.default_rng(0)
    tint = generator.integers(0, 256, (count, 3, 1, 1))  # so that exits are sure of some and not of others
    return np.clip(tint + generator.normal(0, 40, (count, 3, side, side)), 0, 255).astype(np.uint8)


def normalised(images):
    mean, std = (255 * torch.tensor(m).view(3, 1, 1) for m in (MEAN, STD))
    return (torch.from_numpy(images) - mean) / std


def exported(name, side, folder, criterion="confidence", junction=None):
    torch.manual_seed(0)
    net = dfs.build(name, 5, junction or dfs.Surgery(0.5, reference=False, scales="all"))  # what hides most
    net.train()(normalised(pictures(side, 64)))  # BatchNorm's statistics
    net.eval()
    K, images = len(net.heads), pictures(side)
    with torch.no_grad():
        logits = torch.stack(net(normalised(images)))
    scores = Outputs.of(logits, torch.zeros(len(images)).long(), "test", criterion, [TEMPERATURE] * K).confidence
    ranked = scores.sort(1).values[:-1]
    middle = (ranked[:, 7] + ranked[:, 8]) / 2  # between two images, so that rounding moves nobody
    thresholds = [*middle.tolist(), 0] if criterion != "patience" else [0.9 / (K - 1)] * (K - 1) + [0]
    how = {"thresholds": thresholds, "temperatures": [TEMPERATURE] * K, "criterion": criterion}
    export(net, folder, classes=list("abcde"), mean=MEAN, std=STD, input_shape=(3, side, side), name="mine", **how)
    return net, thresholds, logits


@pytest.fixture(scope="module", params=FAMILIES)
def taken(request, tmp_path_factory):
    name, side = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("export") / "net"
    return folder, side, *exported(name, side, folder)


@pytest.mark.parametrize("count", [1, 12])
def test_the_runner_gives_the_networks_answers(taken, count):
    folder, side, net, thresholds, logits = taken
    runner, images = Runner(folder), pictures(side)[:count]
    for ours, theirs in zip(runner.logits(images), logits, strict=True):
        np.testing.assert_allclose(ours, theirs[:count], atol=1e-4)
    labels, exits = runner(images)
    expected = EarlyExit(net, thresholds, temperatures=[TEMPERATURE] * len(thresholds))(normalised(images))
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_array_equal(exits, expected[1])
    assert count == 1 or len(set(exits)) > 1


def test_the_torch_programs_say_it_too(taken):
    folder, side, _, _, logits = taken
    manifest = json.loads((folder / "manifest.json").read_text())
    for count in (1, 5):
        state = (normalised(pictures(side)[:count]),)
        for stage, head, expected in zip(manifest["stages"], manifest["heads"], logits, strict=True):
            state = torch.export.load(folder / stage["program"]).module()(*state)
            state = state if isinstance(state, tuple) else (state,)
            found = torch.export.load(folder / head["program"]).module()(*state)
            torch.testing.assert_close(found, expected[:count], rtol=0, atol=1e-4)


def test_the_manifest_holds_what_is_needed(taken):
    folder, side, net, thresholds, _ = taken
    manifest = json.loads((folder / "manifest.json").read_text())
    K = len(net.heads)
    assert manifest["picture"] == {"shape": [3, side, side], "mean": list(MEAN), "std": list(STD)}
    assert manifest["classes"] == list("abcde")
    assert manifest["thresholds"] == pytest.approx(thresholds)
    assert manifest["macs"] == dfs.probes.cost(net, (3, side, side)).macs.tolist()
    assert len(manifest["stages"]) == len(manifest["heads"]) == K
    for before, head, after in zip(manifest["stages"], manifest["heads"], manifest["stages"][1:], strict=False):
        sizes = [[entry["shape"] for entry in part] for part in (before["outputs"], head["inputs"], after["inputs"])]
        assert sizes[0] == sizes[1] == sizes[2]
    files = {part[kind] for part in manifest["stages"] + manifest["heads"] for kind in ("onnx", "program")}
    assert {path.name for path in folder.iterdir()} == files | {"manifest.json", "runtime.py"}


@pytest.mark.parametrize("taken", ["vgg7"], indirect=True)
def test_a_network_is_a_file_of_the_folder_and_no_link(taken, tmp_path):
    folder = shutil.copytree(taken[0], tmp_path / "here")
    name = json.loads((folder / "manifest.json").read_text())["stages"][0]["onnx"]
    (folder / name).rename(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is not a file in it"):
        Runner(folder)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is not a file in it"):
        Runner(folder)


def test_the_folder_needs_neither_torch_nor_this_package(taken, tmp_path):
    folder, side, net, thresholds, _ = taken
    np.save(tmp_path / "pictures.npy", pictures(side))
    shutil.copytree(folder, tmp_path / "elsewhere")
    code = (
        "import sys, numpy; sys.modules['torch'] = sys.modules['dfs_edu'] = None; from runtime import Runner; "
        f"print(Runner('.')(numpy.load({str(tmp_path / 'pictures.npy')!r}))[1].tolist())"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    _, exits = EarlyExit(net, thresholds, temperatures=[TEMPERATURE] * len(thresholds))(normalised(pictures(side)))
    assert json.loads(said.stdout) == exits.tolist()


@pytest.mark.parametrize("taken", ["vgg7"], indirect=True)
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("stages", 0, "onnx"), "../stage1.onnx", r"'\.\./stage1\.onnx': the name of a file in this folder"),
        (("heads", 1, "onnx"), "/etc/net.onnx", "'/etc/net.onnx': the name"),
        (("heads", 0, "onnx"), "..\\net.onnx", "the name of a file"),
        (("heads", 0, "onnx"), "C:net.onnx", "the name of a file"),
        (("heads", 0, "onnx"), None, "None: the name of a file"),
        (("stages",), 3, "not what `dfs-edu export` writes"),
        (("heads",), [], "stages, 0 heads"),
        (("picture", "mean"), [0.5], "not what `dfs-edu export` writes"),
        (("criterion",), "vote", "'vote'"),
        (("temperatures",), {"a": 1}, "not what `dfs-edu export` writes"),
        (("format",), "other", "of format 'other', this runner reads"),
    ],
)
def test_the_runner_reads_its_own_folder_alone(taken, tmp_path, path, value, message):
    folder, *_ = taken
    manifest = json.loads((folder / "manifest.json").read_text())
    place = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    copy = tmp_path / "in" / "net"
    shutil.copytree(folder, copy)
    for outside in (copy.parent / "stage1.onnx", tmp_path / "net.onnx"):
        shutil.copy(folder / "stage1.onnx", outside)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        Runner(copy)


@pytest.mark.parametrize("criterion", ["margin", "entropy", "patience"])
def test_every_criterion(criterion, tmp_path):
    name, side = FAMILIES["vgg7"]  # whose exits agree now and then
    net, thresholds, _ = exported(name, side, tmp_path / "net", criterion, dfs.Joint())
    images = pictures(side)
    labels, exits = Runner(tmp_path / "net")(images)
    expected = EarlyExit(net, thresholds, criterion, [TEMPERATURE] * len(thresholds))(normalised(images))
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_array_equal(exits, expected[1])
    assert len(set(exits)) > 1


def test_what_the_runner_refuses(taken, tmp_path):
    folder, side, _, thresholds, _ = taken
    runner = Runner(folder)
    for wrong in (pictures(side)[0], pictures(side + 1), pictures(side)[:0]):
        with pytest.raises(ValueError, match="images of shape"):
            runner(wrong)
    with pytest.raises(ValueError, match="images of float64"):
        runner(pictures(side).astype(float))
    nothing = np.full((1, 3, side, side), np.nan, np.float32)
    with pytest.raises(ValueError, match="not finite"):
        runner(nothing)
    for wrong in ([0.5], [*thresholds[:-1], 0.5], [2.0, *thresholds[1:]]):
        with pytest.raises(ValueError, match="thresholds="):
            Runner(folder, wrong)
    assert set(Runner(folder, [0.0] * len(thresholds))(pictures(side))[1]) == {0}
    (tmp_path / "manifest.json").write_text('{"format": "dfs_edu export 0"}')
    with pytest.raises(ValueError, match="format 'dfs_edu export 0'"):
        Runner(tmp_path)


def test_what_export_refuses_leaves_nothing_behind(tmp_path):
    net = dfs.build("vgg7-2", 5)
    how = {"classes": list("abcde"), "mean": MEAN, "std": STD, "thresholds": [0.5] * 5 + [0]}
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        export(net, tmp_path / "there", **how)
    with pytest.raises(ValueError, match="3 names of classes for a network of 5"):
        export(net, tmp_path / "new", **how | {"classes": list("abc")})
    with pytest.raises(ValueError, match="the last exit takes all"):
        export(net, tmp_path / "new", **how | {"thresholds": [0.5] * 6})
    with pytest.raises(ValueError, match="temperatures="):
        export(net, tmp_path / "new", **how, temperatures=[1.0])
    with pytest.raises(ValueError, match="input_shape"):
        export(net, tmp_path / "new", **how, input_shape=(3, 2, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


WITHOUT_THE_EXTRA = """
import sys
sys.modules |= dict.fromkeys(["onnx", "onnxscript", "onnxruntime"])  # as if they were not installed
import dfs_edu as dfs
from dfs_edu.inference import exporting, runtime
net = dfs.build("vgg7-1", 2)
for call in (
    lambda: exporting.export(net, "net", classes="ab", mean=[0] * 3, std=[1] * 3, thresholds=[0] * 6),
    lambda: runtime.Runner("net"),
):
    try:
        call()
    except ImportError as error:
        print(error.name)
"""


def test_onnx_is_needed_only_for_an_export(tmp_path):
    code = [sys.executable, "-c", WITHOUT_THE_EXTRA]
    done = subprocess.run(code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True)
    assert done.stdout.split() == ["onnx", "onnxruntime"], done.stderr
    assert not list(tmp_path.iterdir())


def test_a_trained_network_from_the_command_line(tmp_path, capsys, monkeypatch):
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", train_images=2048, lr=0.1)
    run = dfs.train(recipe, tmp_path, device="cpu", progress=False)
    assert cli.main(["export", str(run.folder), "--budget", "0.3", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{run.folder / 'export'}: ")
    runner = Runner(run.folder / "export")
    test = dfs.data.load("digits").test[:64]
    labels, exits = runner(test.images.numpy())
    how = {"thresholds": runner.manifest["thresholds"], "temperatures": runner.manifest["temperatures"]}
    batches = dfs.data.batches(test, dfs.data.load("digits"), 64)
    expected = EarlyExit(run.network, **how)(next(iter(batches))[0])
    assert (labels == expected[0].numpy()).mean() > 0.98  # a image next to a threshold may cross it
    assert (exits == expected[1].numpy()).mean() > 0.98
    spent = np.array(runner.manifest["macs"])[exits].mean() / runner.manifest["macs"][-1]
    assert spent < 0.6
    monkeypatch.setattr(inference, "collect", None)  # it looks before it works
    assert cli.main(["export", str(run.folder), "--budget", "0.3", "--device", "cpu"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["export", str(run.folder), "--budget", "1.5"]) == 1
    assert "--budget 1.5" in capsys.readouterr().err


def test_attached_networks_too(tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=5)
    net = dfs.attach(model, at=2, input_shape=(3, 64, 64)).eval()
    how = {
        "classes": list("abcde"),
        "mean": MEAN,
        "std": STD,
        "thresholds": [0.21, 0.21, 0],
        "input_shape": (3, 64, 64),
    }
    runner, images = Runner(export(net, tmp_path / "net", **how)), pictures(64, 5)
    with torch.no_grad():
        for ours, theirs in zip(runner.logits(images), net(normalised(images)), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for ours, theirs in zip(runner(images), EarlyExit(net, how["thresholds"])(normalised(images)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_of_another_precision_is_exported_in_float32(tmp_path):
    torch.manual_seed(0)
    net = dfs.build("vgg7-2", 5).eval().bfloat16()
    how = {"classes": list("abcde"), "mean": MEAN, "std": STD, "thresholds": [0] * 6}
    runner, images = Runner(export(net, tmp_path / "net", **how)), pictures(32, 4)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}  # left as it was
    for ours, theirs in zip(runner.logits(images), net.float()(normalised(images)), strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.float32])
def test_what_is_exported_is_float32(dtype):
    net = dfs.build("vgg7-2", 5).to(dtype)
    copied = in_float32(net)
    assert {t.dtype for t in copied.state_dict().values()} == {torch.float32, torch.int64}
    assert (copied is net) == (dtype == torch.float32)
    assert next(net.parameters()).dtype == dtype
