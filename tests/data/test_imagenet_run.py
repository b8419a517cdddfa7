"""ImageNet from its folders to a finished run, on real images: trained, killed, shared out, with a broken JPEG.

$DFS_EDU_DATA/imagenet-sample is laid out as ImageNet is: train/<wnid>/ and val/<wnid>/ of all 1,000 classes, two of
which (ants and bees) hold 397 images together, and every other a single one. Without it these tests are skipped.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dying import SAME, Killed, die_in_step
from safetensors.torch import load_file
from torchvision.models.regnet import BlockParams, RegNet

import dfs_edu as dfs
from dfs_edu import cli, inference
from dfs_edu.course import runner as course
from dfs_edu.data import DataError, folder
from dfs_edu.losses import exit_losses
from dfs_edu.methods.method import Method
from dfs_edu.training import checkpoint, results
from dfs_edu.training.recipes import get
from dfs_edu.training.trainer import load_network

SAMPLE = Path(os.environ.get("DFS_EDU_DATA", "data"), "imagenet-sample").absolute()
pytestmark = pytest.mark.skipif(
    not SAMPLE.is_dir(), reason="no ImageNet images: $DFS_EDU_DATA, or data/, holds no imagenet-sample"
)
FILLED = ("n02206856", "n02219486")  # bees, ants
CHANCE = 1 / len(FILLED)
OPTIONS = ["--scale", "smoke", "--held-out-images", "8", "--precision", "fp32", "--device", "cpu"]
OPTIONS += ["--data", str(SAMPLE)]
SMALL = "msdnet-imagenet-blocks2-base2-step2-growth4-width4"
# 3 steps of 8 images, at a low rate: in float32, rounding grows quickly with each step
TRAIN_SMALL = ["train", f"imagenet/{SMALL}", "--train-images", "24", "--lr", "0.01", *OPTIONS]


def row(run):
    """What the record says of the only epoch."""
    (found,) = results.read(run)["epochs"]
    return found


# 224 pixels, 1,000 classes


def test_the_published_network_trains_end_to_end(tmp_path):
    assert cli.main(["train", "imagenet/msdnet", "--train-images", "16", *OPTIONS, "--out", str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    assert run.name == "imagenet-msdnet-imagenet-smoke-joint-seed0"
    record = results.read(run)
    for split in ("validation", "test"):
        accuracy = record["final"][f"{split}_accuracy"]
        assert len(accuracy) == 5
        assert all(0 <= a <= 1 for a in accuracy)
        assert inference.Outputs.load(run / f"{split}.npz").confidence.shape == (5, 8)
    assert all(6 < loss < 8 for loss in row(run)["loss"])  # ln 1000 = 6.9
    assert row(run)["pictures_per_second"] > 0
    assert "broken" not in record
    dataset = dfs.data.load("imagenet", SAMPLE).first(16, 8)
    known = {"name": "imagenet", "checksum": dataset.checksum, "classes": list(dataset.classes), "pixels": 224}
    assert record["data"] == known | {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert (dataset.pixels, len(dataset.classes)) == (224, 1000)
    kept = {"checkpoint.pt", "checkpoint.before.pt", "record.json", "weights.safetensors", "events"}
    assert {path.name for path in run.iterdir()} == kept | {"validation.npz", "test.npz"}
    weights = load_file(run / "weights.safetensors")
    torch.manual_seed(0)
    start = dfs.build("msdnet-imagenet", 1000).state_dict()
    assert {name: tensor.shape for name, tensor in weights.items()} == {name: t.shape for name, t in start.items()}
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not any(torch.equal(weights[name], start[name]) for name in weights if name.endswith("fc.weight"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run of a small MSDNet."""
    out = tmp_path_factory.mktemp("uninterrupted")
    assert cli.main([*TRAIN_SMALL, "--out", str(out)]) == 0
    return next(out.iterdir())


def test_killed_in_an_epoch_and_resumed_it_ends_bit_for_bit_alike(uninterrupted, tmp_path, monkeypatch):
    words = [*TRAIN_SMALL, "--out", str(tmp_path), "--checkpoint-steps", "1"]
    steps = die_in_step(monkeypatch, 3)
    with pytest.raises(Killed):
        cli.main(words)
    run = tmp_path / uninterrupted.name
    assert checkpoint.newest(run)["batches"] == {"seed": 0, "epoch": 0, "batch": 2}
    torch.manual_seed(99)  # another process has other random numbers
    assert cli.main([*words, "--resume"]) == 0
    assert len(steps) == 3 + 1  # what was done is not done again
    whole, resumed = ((folder / "weights.safetensors").read_bytes() for folder in (uninterrupted, run))
    assert resumed == whole
    for name in SAME:
        assert row(run)[name] == row(uninterrupted)[name]
    assert results.read(run)["final"]["test_accuracy"] == results.read(uninterrupted)["final"]["test_accuracy"]


def test_two_processes_train_what_one_does(uninterrupted, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "dfs_edu", *TRAIN_SMALL, "--out", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kept in") == 1
    run = tmp_path / uninterrupted.name
    record, alone = results.read(run), results.read(uninterrupted)
    assert (record["environment"]["processes"], alone["environment"]["processes"]) == (2, 1)
    assert record["data"] == alone["data"]
    assert row(run)["loss"] == pytest.approx(row(uninterrupted)["loss"], rel=1e-2)
    labels = [inference.Outputs.load(folder / "test.npz").label for folder in (run, uninterrupted)]
    assert torch.equal(*labels)  # every image once, in order


# Broken JPEGs


@pytest.fixture
def filled(tmp_path):
    """The two filled classes alone, laid out as ImageNet: links to the images, so that a test may break some."""
    root = tmp_path / "ants-and-bees"
    for part in ("train", "val"):
        for wnid in FILLED:
            place = root / part / wnid
            place.mkdir(parents=True)
            for image in (SAMPLE / part / wnid).iterdir():
                (place / image.name).symlink_to(image)
    return root


def small(**changes):
    small = {"batch_size": 16, "train_images": 48, "held_out_images": 16, "pixels": 64}
    return get("imagenet/vgg7-4", scale="smoke", **(small | changes))


def break_some(root, paths):
    """The first is cut off in the middle, the others are no images."""
    for path in paths:
        whole = (root / path).read_bytes()
        (root / path).unlink()  # the link: the sample's own image stays
        (root / path).write_bytes(whole[: len(whole) // 2] if path == paths[0] else b"<html>not found</html>")


def test_a_broken_jpeg_is_skipped_and_the_record_names_it(filled, tmp_path):
    broken = dfs.data.load("imagenet", filled, 64).train.paths[7:8]
    break_some(filled, broken)
    run = dfs.train(small(), tmp_path, root=filled, device="cpu", progress=False)
    assert run.record["broken"] == list(broken)
    assert results.read(run.folder)["broken"] == list(broken)
    assert len(run.record["final"]["test_accuracy"]) == 6


def test_broken_images_of_all_splits_are_named_and_a_kill_forgets_none(filled, tmp_path, monkeypatch):
    dataset = dfs.data.load("imagenet", filled, 64).first(48, 16)
    first = np.random.default_rng([0, 0]).permutation(48)[0]  # of the epoch: it is not met again after the kill
    broken = [dataset.train.paths[first], dataset.validation.paths[0], dataset.test.paths[0]]
    break_some(filled, broken)
    plain, met = Method.step, []

    def deadly(method, loop, *batch):
        plain(method, loop, *batch)
        met.append(set(loop.batches.broken))
        if len(met) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Method, "step", deadly)
        with pytest.raises(Killed):
            dfs.train(small(), tmp_path, root=filled, device="cpu", progress=False, checkpoint_steps=1)
    assert met[0] == {broken[0]}
    run = dfs.train(small(), tmp_path, root=filled, device="cpu", progress=False, resume=True)
    assert results.read(run.folder)["broken"] == sorted(broken)


def test_too_many_broken_jpegs_stop_the_run(filled, tmp_path, capfd):
    broken = dfs.data.load("imagenet", filled, 64).train.paths[7:10]
    break_some(filled, broken)
    with pytest.raises(DataError, match=r"of 48 images are broken, more than 0\.1 %: train/n02"):
        dfs.train(small(), tmp_path, root=filled, device="cpu", progress=False)
    words = ["train", "imagenet/vgg7-4", "--scale", "smoke", "--image-size", "64", "--device", "cpu"]
    words += ["--train-images", "48", "--data", str(filled), "--out", str(tmp_path / "command")]
    assert cli.main(words) == 1
    said = capfd.readouterr().err
    assert "images are broken" in said
    assert "Traceback" not in said


# Two classes of real images


def small_network():
    """The narrow RegNet of notebook 10, with exits at a third and two thirds of its cost."""
    widths = [16, 32, 64, 128]
    blocks = BlockParams(
        depths=[1] * 4, widths=widths, group_widths=widths, bottleneck_multipliers=[1.0] * 4, strides=[1, 2, 2, 2]
    )
    return dfs.attach(RegNet(blocks, num_classes=2, stem_width=16), at=2, input_shape=(3, 64, 64))


def test_a_small_network_learns_two_classes_of_real_images(filled):
    """Chance is 0.5, and three standard errors of 153 images are 0.12: who knows nothing stays below 0.62."""
    dataset = folder.load(filled, pixels=64)
    batches = dfs.data.Batches(dataset.train, dataset, batch_size=32, train=True)
    torch.manual_seed(0)
    net = small_network().to(memory_format=torch.channels_last).train()
    epochs = 25
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * len(batches), cycle_momentum=False)
    for _ in range(epochs):
        for images, labels in batches:
            exit_losses(net(images), labels).sum().backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    test = inference.collect(net.eval(), dfs.data.Batches(dataset.test, dataset, batch_size=153))
    assert test.accuracy[-1] > CHANCE + 3 * (CHANCE * (1 - CHANCE) / len(dataset.test)) ** 0.5


def test_a_folder_of_images_is_trained_evaluated_and_probed(filled, tmp_path, capsys):
    place = ["--data", str(filled), "--device", "cpu"]
    words = ["train", "folder/vgg7-16", "--scale", "smoke", "--image-size", "64", "--epochs", "2"]
    assert cli.main([*words, *place, "--out", str(tmp_path)]) == 0
    (run,) = tmp_path.glob("folder-*")
    final = results.read(run)["final"]
    assert len(final["test_accuracy"]) == 6
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), *place]) == 0
    said = capsys.readouterr().out
    shown = [float(line.split()[-1]) for line in said.splitlines()[1:7]]
    assert shown == pytest.approx([100 * a for a in final["test_accuracy"]], abs=1)  # one image may tip over
    assert "early exit" in said
    network, _ = load_network(run)
    first = dfs.probes.cost(network, (3, 64, 64)).macs[0].item()
    assert float(said.splitlines()[1].split()[1]) == pytest.approx(first / 1e6, abs=0.01)
    assert cli.main(["probe", str(run), *place, "--images", "64"]) == 0
    said = capsys.readouterr().out
    assert "64 training" in said
    assert len(said.splitlines()) > 6


@pytest.mark.notebook
@pytest.mark.usefixtures("warm_kernels")
def test_notebook_1_runs_on_a_folder(filled, tmp_path, monkeypatch):
    monkeypatch.setenv("DFS_EDU_DATA", str(filled))
    notebook = Path(__file__).parents[2] / "notebooks" / "01_why_several_exits.ipynb"
    (result,) = course.run([notebook], scale="smoke", dataset="folder", device="cpu", out=tmp_path, timeout=300)
    assert result.error is None
    assert len(result.values["accuracy"]) == 6
