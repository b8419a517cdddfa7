"""On a real GPU what inference/test_devices.py cannot show: fake tensors hold no numbers. Skipped without a GPU."""

import copy
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tiny import FAMILIES

import dfs_edu as dfs
from benchmarks.early_exit import settle
from dfs_edu import data, inference, methods
from dfs_edu.data.augmentation import OPERATIONS, operate
from dfs_edu.losses import exit_losses, separate_losses
from dfs_edu.modes import evaluating
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery
from dfs_edu.training import machine, recipes
from dfs_edu.training.trainer import bf16_pays, load_network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

GPU = "cuda"
JUNCTIONS = [Joint(), Detached(), Equilibrium(), Surgery(0.5), Surgery(0.25, exit_gradient="all", scales="all")]
every_network = pytest.mark.parametrize(("name", "pixels"), FAMILIES.values(), ids=FAMILIES)
every_junction = pytest.mark.parametrize("junction", JUNCTIONS, ids=str)


def twins(name, pixels, junction, B=4):
    """The same network, pictures and labels on the CPU and on the GPU, in float64: both compute the same, nearly."""
    torch.manual_seed(0)
    net = dfs.build(name, 10, junction).double()
    images, labels = torch.randn(B, 3, pixels, pixels, dtype=torch.float64), torch.arange(B) % 10
    there = copy.deepcopy(net).to(GPU, memory_format=torch.channels_last)
    return (net, images, labels), (there, images.to(GPU), labels.to(GPU))


def same(found, expected, tolerance=1e-7):
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


# Networks, junctions, probes and methods: as on the CPU


@every_network
@every_junction
def test_losses_and_gradients(name, pixels, junction):
    (here, *batch), (there, *moved) = twins(name, pixels, junction)
    for net, (images, labels) in ((here, batch), (there, moved)):
        net.losses = exit_losses(net(images), labels)
        net.losses.sum().backward()
    same(there.losses, here.losses)
    for (parameter, ours), theirs in zip(there.named_parameters(), here.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), parameter
        if theirs.grad is not None:
            same(ours.grad, theirs.grad)


@every_network
def test_bf16_points_where_float32_does(name, pixels):
    found = []
    for bf16 in (False, True):
        _, (net, images, labels) = twins(name, pixels, Surgery(0.5), B=16)
        net.float()
        with torch.autocast(GPU, torch.bfloat16, enabled=bf16):
            logits = net(images.float())
        exit_losses(logits, labels).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*found, dim=0) > 0.8  # deep, tiny and untrained ones come to 0.9


@every_network
@pytest.mark.parametrize("junction", [Joint(), Surgery(0.5)], ids=str)
def test_the_conflict_between_exits(name, pixels, junction):
    reports = [dfs.probes.conflict(*twin) for twin in twins(name, pixels, junction)]
    for attribute in ("cosine", "norm"):
        np.testing.assert_allclose(*(getattr(report, attribute) for report in reports[::-1]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [name for name in methods.METHODS if name != "graddrop"])  # draws on the device
def test_methods_weigh_alike(method):
    found = []
    for net, images, labels in twins("vgg7-4", 16, Joint()):
        torch.manual_seed(0)  # PCGrad draws lots
        trunk = list(net.stages.parameters())
        made = methods.make(method, len(net.heads), (), "sum")
        made.begin([list(stage.parameters()) for stage in net.stages])
        made.backward(list(separate_losses(net(images), labels)), trunk, list(net.heads.parameters()))
        found.append([p.grad for p in trunk])
    for ours, theirs in zip(*found[::-1], strict=True):
        same(ours, theirs, 1e-4)  # solvers stop at a tolerance


# Pictures


@pytest.mark.parametrize("name", OPERATIONS)
def test_augmentation_gives_the_same_images(name):
    """But where rounding decides which of two pixels is nearest, or a grey level is a whole number nearly."""
    digits = torch.from_numpy(load_digits().images[:96] * 15).byte().view(32, 3, 8, 8)
    images = digits.repeat_interleave(4, 2).repeat_interleave(4, 3)
    low, high = {"Posterize": (4, 8), "Solarize": (0, 255), "Rotate": (-30, 30)}.get(name, (-0.3, 0.3))
    magnitudes = torch.linspace(low, high, len(images)) * (10 if name.startswith("Translate") else 1)
    here, there = operate(name, images, magnitudes), operate(name, images.to(GPU), magnitudes)
    assert (here != there.cpu()).float().mean() < 1e-3
    assert (here != images).any() or name == "Identity"


def test_batches_hold_the_same_images():
    dataset = data.load("digits").first(64, 16)
    how = {"train": True, "augmentation": data.Augmentation(autoaugment=True, cutout=16)}
    (here, labels), (there, theirs) = (
        next(iter(data.Batches(dataset.train, dataset, 64, device=device, **how))) for device in ("cpu", GPU)
    )
    assert there.is_contiguous(memory_format=torch.channels_last)
    assert (here - there.cpu()).abs().gt(1e-2).float().mean() < 1e-3
    assert torch.equal(labels, theirs.cpu())


# Training


def trained(tmp_path, backbone="vgg7-8", name="run", resume=False, checkpoint_steps=1000, **changes):
    small = {"epochs": 2, "batch_size": 32, "train_images": 256, "held_out_images": 64}
    recipe = recipes.get(f"digits/{backbone}", scale="smoke", **small | changes)
    options = {"device": GPU, "progress": False, "resume": resume, "checkpoint_steps": checkpoint_steps}
    return dfs.train(recipe, tmp_path / name, **options)


OPTIONS = {
    "joint": {},
    "own": {"junction": Surgery(0.5)},
    "all, every scale": {"backbone": FAMILIES["msdnet-cifar"][0], "junction": JUNCTIONS[-1]},
    "compiled": {"junction": Surgery(0.5), "compile": True},
    "projection": {"junction": dfs.cuts.Projection()},
    "pcgrad": {"method": "pcgrad"},
    "signs drawn": {"method": "graddrop"},
    "blocks": {"method": "bdl-final"},
    "last exit first": {"method": "mixed-1", "compile": True},
    "everything": {"ema": 0.9, "accumulate": 2, "clip": 1.0, "label_smoothing": 0.1, "augmentation": "autoaugment"},
    "distillation, fp32": {"loss": "distillation", "precision": "fp32", "backbone": FAMILIES["resnet18"][0]},
    "adamw": {"backbone": FAMILIES["vit-tiny"][0]},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_a_run(options, tmp_path):
    """Ends, says where it was, and its network says on the CPU what it said on the GPU."""
    run = trained(tmp_path, **OPTIONS[options])
    environment = run.record["environment"]
    assert environment["device"] == torch.cuda.get_device_name(0)
    bf16 = bf16_pays(torch.device(GPU)) and "fp32" not in options
    assert environment["precision"] == ("bf16" if bf16 else "fp32")
    assert all(row["peak_memory"] > 0 for row in run.record["epochs"])
    assert {p.device.type for p in run.network.parameters()} == {"cuda"}
    net, _ = load_network(run.folder)
    dataset = data.load("digits").first(256, 64)
    again = inference.collect(net, data.batches(dataset.test, dataset, 32))
    assert (again.prediction == run.test.prediction).float().mean() > 0.9  # bf16 there, float32 here
    assert (again.confidence - run.test.confidence).abs().mean() < 0.05


def test_training_learns(tmp_path):
    run = trained(tmp_path, "vgg7-16", epochs=8, train_images=2048, lr=0.1, junction=Surgery(0.5))
    assert run.test.accuracy.max() > 0.5  # chance: 0.1


@pytest.fixture
def float64():
    """A GPU adds in any order, and training magnifies what that changes: too little to be seen in float64."""
    data.load("digits")  # composed in float32, and kept
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Random state on the GPU, from which dropout draws, and all."""
    backbone = "msdnet-cifar-blocks2-base1-step1-growth4-width4-dropout50"
    whole = trained(tmp_path, backbone, "whole", precision="fp32")
    loop = sys.modules["dfs_edu.training.trainer"].Trainer
    step, taken = loop.step, []

    def dying(self, *batch):
        if len(taken) == 11:  # in the second epoch of two of eight steps
            raise KeyboardInterrupt
        taken.append(step(self, *batch))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, backbone, "stopped", precision="fp32", checkpoint_steps=1)
    taken.clear()
    monkeypatch.setattr(loop, "step", lambda self, *batch: taken.append(step(self, *batch)))
    torch.cuda.manual_seed(99)  # another process has other random numbers
    resumed = trained(tmp_path, backbone, "stopped", resume=True, precision="fp32")
    assert len(taken) == 5  # the rest of sixteen
    other = trained(tmp_path, backbone, "other", precision="fp32", seed=1)
    losses = lambda run: torch.tensor([row["loss"] for row in run.record["epochs"]])  # noqa: E731
    torch.testing.assert_close(losses(resumed), losses(whole), rtol=1e-6, atol=1e-6)
    assert (losses(other) - losses(whole)).abs().max() > 1e-2  # so that the comparison says something


def test_images_from_the_disk(tmp_path):
    """In pinned memory, decoded by workers."""
    random = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8)):
        for name, grey in (("dark", 40), ("light", 200)):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = random.integers(grey - 30, grey + 30, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{n}.png")
    recipe = recipes.get("folder/vgg7-8", scale="smoke", batch_size=8, epochs=8, pixels=16, lr=0.05)
    run = dfs.train(recipe, None, root=tmp_path / "pictures", device=GPU, progress=False)
    assert run.test.accuracy.max() > 0.9


# Early exit


def settled(name, pixels, B):
    """A network whose BatchNorm knows the pictures, of random tint and contrast: exits are sure of some."""
    _, (net, images, _) = twins(name, pixels, Surgery(0.5), B)
    torch.manual_seed(1)
    images = 3 * images * torch.rand(B, 1, 1, 1).to(images) + 3 * torch.randn(B, 3, 1, 1).to(images)
    settle(net, images)
    return net, images


@every_network
def test_images_leave_at_the_exits_computed_by_hand(name, pixels):
    net, images = settled(name, pixels, B=32)
    outputs = inference.collect(net, [(images, torch.zeros(32, dtype=torch.int64, device=GPU))], "validation")
    thresholds = [*outputs.confidence[:-1].quantile(0.5, dim=1).tolist(), 0]
    macs = dfs.probes.cost(net, (3, pixels, pixels)).macs
    expected = inference.apply(outputs, thresholds, macs)
    found, exits = inference.EarlyExit(net, thresholds)(images)
    assert len(exits.unique()) > 1
    assert torch.equal(exits.cpu(), torch.as_tensor(expected.exit))
    assert torch.equal(found.cpu(), outputs.prediction.gather(0, exits.cpu()[None])[0])


def test_compiled_and_eager_say_the_same():
    net, images = settled("vgg7-8", 32, B=16)
    with evaluating(net):
        confidence = torch.stack([logits.softmax(1).amax(1) for logits in net(images)])
    thresholds = [*confidence[:-1].quantile(0.5, dim=1).tolist(), 0]
    eager, compiled = (inference.EarlyExit(net, thresholds, compile=c)(images) for c in (False, True))
    assert (eager[1] == compiled[1]).float().mean() > 0.9  # a threshold lies on a picture's own confidence


# What is told about the machine


def test_the_memory_of_a_step_is_what_was_estimated():
    """By what the allocator counts, without the context; convolutions borrow working space besides."""
    B, pixels = 256, 32
    net = dfs.build("vgg7-64", 100).to(GPU, memory_format=torch.channels_last)
    images, labels = torch.randn(B, 3, pixels, pixels, device=GPU), torch.zeros(B, dtype=torch.int64, device=GPU)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True, fused=True)
    before = torch.cuda.memory_allocated() - sum(t.nbytes for t in (*net.parameters(), *net.buffers(), images, labels))
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast(GPU, torch.bfloat16):
            logits = net(images)
        exit_losses(logits, labels).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    taken = torch.cuda.max_memory_allocated() - before
    assert taken == pytest.approx(dfs.probes.peak_memory(net, (3, pixels, pixels), B, bf16=True).peak, rel=0.25)


def test_the_device_has_its_name():
    assert machine.device_name(torch.device(GPU)) == torch.cuda.get_device_name(0)
