"""Outputs against the logits that they are made of, and on disk: what is read back, and what is refused."""

import copy
import io
import math
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from exits import float64_net, hand_outputs, random_outputs, varied

from dfs_edu import inference
from dfs_edu.backbones import build
from dfs_edu.inference import Outputs
from dfs_edu.inference.outputs import fingerprint


@pytest.mark.parametrize("classes", [5, 1000])
def test_outputs_survive_a_file(tmp_path, classes):
    outputs = random_outputs(classes=classes)
    outputs.confidence[0, :3] = torch.tensor([1.0, 1 - 2**-24, 1e-30])
    outputs.save(tmp_path / "outputs.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["outputs.npz"]
    again = Outputs.load(tmp_path / "outputs.npz")
    assert again.split == "validation"
    assert torch.equal(again.prediction, outputs.prediction)
    assert torch.equal(again.label, outputs.label)
    assert again.confidence.dtype == torch.float32
    assert torch.equal(again.confidence, outputs.confidence)  # thresholds fitted on the file are those of the outputs
    assert len(again.confidence[0].unique()) == len(outputs.confidence[0].unique())


def older(path, outputs):
    """A file as older versions wrote it: 1 - confidence in float16, without criterion and source."""
    doubt = (1 - outputs.confidence).numpy().astype(np.float16)
    narrow = {name: getattr(outputs, name).numpy().astype(np.uint8) for name in ("prediction", "label")}
    np.savez_compressed(path, doubt=doubt, split=np.array(outputs.split), **narrow)


def test_files_of_older_versions_are_read(tmp_path):
    outputs = random_outputs(pictures=5000)
    outputs.confidence[0, :3] = torch.tensor([1.0, 1 - 2**-24, 1 - 2**-23])  # certain, and the next float32 below
    older(tmp_path / "outputs.npz", outputs)
    again = Outputs.load(tmp_path / "outputs.npz")
    assert (again.split, again.criterion, again.source) == ("validation", "confidence", "")
    assert torch.equal(again.prediction, outputs.prediction)
    assert torch.equal(again.confidence[0, :3], outputs.confidence[0, :3])
    assert 0 < (again.confidence - outputs.confidence).abs().max() < 2.5e-4


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("confidence", np.zeros((6, 6_000_000), np.float16), r"confidence is float16 of shape \(6, 6000000\)"),
        ("split", np.array("a" * 2_000_000), "split is <U2000000"),
        ("more", np.zeros(3), "more is float64"),
        ("prediction", np.zeros((6, 30)), "prediction is float64"),
    ],
)
def test_a_file_that_unpacks_to_gigabytes_is_refused_from_its_headers(tmp_path, name, array, message):
    path = tmp_path / "outputs.npz"
    outputs = {"confidence": np.zeros((6, 30), np.float32), "prediction": np.zeros((6, 30), np.uint8)}
    outputs |= {"label": np.zeros(30, np.uint8), "split": np.array("test")}
    np.savez_compressed(path, **outputs)
    Outputs.load(path)  # or the refusals would prove nothing
    np.savez_compressed(path, **outputs | {name: array})
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()  # what numpy allocates is counted
    try:
        with pytest.raises(ValueError, match=rf"outputs\.npz does not hold outputs .*{message}"):
            Outputs.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_larger_than_its_file_is_refused(tmp_path):
    path, array = tmp_path / "outputs.npz", io.BytesIO()
    np.save(array, np.zeros((6, 30), np.float32))
    lying = array.getvalue().replace(b"(6, 30), }   ", b"(6, 3000), } ")
    assert lying != array.getvalue()
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("confidence.npy", lying)
    with pytest.raises(ValueError, match=r"confidence has 848 bytes, not those of float32 of shape \(6, 3000\)"):
        Outputs.load(path)


@pytest.mark.parametrize("highest", [0, 255, 256, 32_767, 32_768, 40_000, 2**31 - 1, 2**31, 2**40])
@pytest.mark.parametrize("lowest", [0, -1])
def test_classes_of_any_number_come_back(lowest, highest, tmp_path):
    label = torch.tensor([highest, lowest, 3])
    said = Outputs(torch.rand(2, 3), label.flip(0).expand(2, -1), label, "test")
    said.save(tmp_path / "test.npz")
    back = Outputs.load(tmp_path / "test.npz")
    assert torch.equal(back.label, label)
    assert torch.equal(back.prediction, said.prediction)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "outputs.npz"
    random_outputs().save(path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        random_outputs(seed=1).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["outputs.npz"]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "outputs.npz"
    with pytest.raises(FileNotFoundError):
        Outputs.load(path)
    random_outputs().save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (b"", whole[:100], bytes(flipped), b"text"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="does not hold outputs"):
            Outputs.load(path)


def test_collect_agrees_with_the_logits_and_leaves_the_network_as_found():
    torch.manual_seed(0)
    net = build("vgg7-2", classes=5).train()
    net.stages[1].norm.eval()  # a frozen layer stays frozen
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    images, labels = torch.randn(7, 3, 32, 32), torch.arange(7) % 5
    outputs = inference.collect(net, [(images[:4], labels[:4]), (images[4:], labels[4:])], split="validation")
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        for k, logits in enumerate(net.eval()(images)):
            confidence, prediction = logits.softmax(1).max(1)
            torch.testing.assert_close(outputs.confidence[k], confidence)
            assert torch.equal(outputs.prediction[k], prediction)
    assert torch.equal(outputs.label, labels)


def test_collect_takes_the_split_from_the_batches():
    class Batches(list):
        class split:
            name = "test"

    net = build("vgg7-1", classes=2)
    batches = Batches([(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))])
    assert inference.collect(net, batches).split == "test"
    with pytest.raises(ValueError, match="come from the test split"):
        inference.collect(net, batches, split="validation")
    with pytest.raises(ValueError, match="split=None"):
        inference.collect(net, list(batches))
    with pytest.raises(ValueError, match="no images"):
        inference.collect(net, [], split="test")


def test_logits_are_kept_where_they_are_asked_for():
    net = float64_net(0)
    batches = [(varied(4), torch.arange(4)), (varied(3), torch.arange(3))]
    outputs = inference.collect(net, batches, "validation", logits=True)
    assert outputs.logits.shape == (6, 7, 5)
    assert inference.collect(net, batches, "validation").logits is None
    again = outputs.again()
    torch.testing.assert_close(again.confidence, outputs.confidence)
    assert torch.equal(again.prediction, outputs.prediction)
    cooler = inference.collect(net, batches, "validation", criterion="margin", temperatures=[2.0] * 6)
    torch.testing.assert_close(outputs.again("margin", [2.0] * 6).confidence, cooler.confidence)
    assert cooler.criterion == "margin"


def test_the_criterion_is_kept_with_the_outputs(tmp_path):
    batches = [(varied(4), torch.arange(4))]
    outputs = inference.collect(float64_net(0), batches, "test", criterion="patience")
    outputs.save(tmp_path / "test.npz")
    assert Outputs.load(tmp_path / "test.npz").criterion == "patience"
    confident = inference.collect(float64_net(0), batches, "validation")
    with pytest.raises(ValueError, match="calibration by 'confidence', test by 'patience'"):
        inference.budget_curve(confident, outputs, [1, 2, 3, 4, 5, 6])


def test_thresholds_of_another_network_or_other_temperatures_are_refused(tmp_path):
    """Fitted on one network, tried on another: the outputs know whose they are, on disk as well."""
    batches, macs = [(varied(4), torch.arange(4))], [1, 2, 3, 4, 5, 6]
    net, other = float64_net(0), float64_net(1)
    validation = inference.collect(net, batches, "validation", logits=True)
    test = inference.collect(net, batches, "test", logits=True)
    inference.budget_curve(validation, test, macs)
    test.save(tmp_path / "test.npz")
    inference.budget_curve(validation, Outputs.load(tmp_path / "test.npz"), macs)
    with pytest.raises(ValueError, match=f"of network {validation.source}, test outputs of network [0-9a-f]{{16}}:"):
        inference.budget_curve(validation, inference.collect(other, batches, "test"), macs)
    cooled = test.again(temperatures=[0.5] * 6)
    with pytest.raises(ValueError, match=r"0\.5,0\.5"):
        inference.budget_curve(validation, cooled, macs)
    inference.budget_curve(validation.again(temperatures=[0.5] * 6), cooled, macs)
    assert inference.collect(net, batches, "test", temperatures=[0.5] * 6).source == cooled.source
    assert cooled.again().source == test.source  # not cooled any more
    assert Outputs.joined([validation, validation]).source == validation.source


def test_outputs_of_an_unknown_network_may_be_tried():
    """Recorded by an older version, or made by hand."""
    batches = [(varied(4), torch.arange(4))]
    known = inference.collect(float64_net(0), batches, "validation")
    unknown = replace(inference.collect(float64_net(0), batches, "test"), source="")
    inference.budget_curve(known, unknown, [1, 2, 3, 4, 5, 6])


def test_a_fingerprint_is_of_the_weights_and_of_nothing_else():
    net = float64_net(0)
    first = fingerprint(net)
    assert fingerprint(copy.deepcopy(net).train().to(memory_format=torch.channels_last)) == first
    with torch.no_grad():
        next(iter(net.heads[-1].parameters())).flatten()[0] += 1e-12
    assert fingerprint(net) != first
    net = float64_net(0)
    next(b for b in net.buffers() if b.is_floating_point())[0] += 1  # a running mean
    assert fingerprint(net) != first


@pytest.mark.parametrize("criterion", ["confidence", "patience"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_named_by_their_exit(criterion, value):
    net = float64_net(0)
    with torch.no_grad():
        net.heads[2].fc.weight[0] = value
    with pytest.raises(FloatingPointError, match="the logits of exit 3 are not finite"):
        inference.collect(net, [(varied(8), torch.zeros(8).long())], "test", criterion=criterion)


def test_the_parts_of_a_split_are_joined_in_order():
    confidence, prediction = torch.rand(2, 5), torch.randint(3, (2, 5))
    whole = inference.Outputs(confidence, prediction, torch.arange(5), "test")
    parts = [
        inference.Outputs(confidence[:, p], prediction[:, p], torch.arange(5)[p], "test")
        for p in (slice(3), slice(3, 5))
    ]
    joined = inference.Outputs.joined(parts)
    for name in ("confidence", "prediction", "label"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    assert joined.split == "test"
    assert inference.Outputs.joined([whole]) is whole


def test_wrong_values():
    outputs = hand_outputs("validation")
    with pytest.raises(ValueError, match="NaN"):
        Outputs(outputs.confidence * float("nan"), outputs.prediction, outputs.label, "test")
    with pytest.raises(ValueError, match="0 images"):
        Outputs(torch.empty(3, 0), torch.empty(3, 0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), "test")
    with pytest.raises(ValueError, match="shapes"):
        Outputs(outputs.confidence, outputs.prediction[:2], outputs.label, "test")


@pytest.mark.parametrize(("exits", "classes"), [(1, 3), (2, 3), (6, 2), (7, 100)])
def test_disagreement_counts_the_pairs_of_exits_that_differ(exits, classes):
    outputs = random_outputs(exits=exits, classes=classes)
    pairs = [(i, k) for i in range(exits) for k in range(i)]
    expected = [sum(bool(row[i] != row[k]) for i, k in pairs) for row in outputs.prediction.T]
    assert outputs.disagreement.tolist() == expected
    assert hand_outputs().disagreement.tolist() == [0, 2, 2, 2]
