"""Early exit against one-picture-at-a-time loops, hand-computed cases and torch's own counter."""

import copy
import io
import math
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.utils.flop_counter import FlopCounterMode

from dfs_edu import inference
from dfs_edu.backbones import build
from dfs_edu.inference import EarlyExit, Outputs
from dfs_edu.inference.outputs import fingerprint

MACS = [10.0, 30.0, 60.0]


def random_outputs(split="validation", pictures=200, exits=4, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randint(classes, shape, generator=generator)  # noqa: E731
    confidence = torch.rand(exits, pictures, generator=generator)
    return Outputs(confidence, draw(exits, pictures), draw(pictures), split)


def hand_outputs(split="test"):
    """Four pictures, three exits; every quantity below can be worked out on paper."""
    return Outputs(
        torch.tensor([[0.9, 0.6, 0.5, 0.2], [0.9, 0.8, 0.5, 0.4], [0.9, 0.9, 0.9, 0.9]]),
        torch.tensor([[1, 0, 0, 0], [1, 2, 0, 0], [1, 2, 3, 4]]),
        torch.tensor([1, 2, 3, 0]),
        split,
    )


def loop_apply(outputs, thresholds, macs):
    """The plain loop over pictures that `apply` replaces."""
    exits, right, cost = [], 0, 0.0
    K, N = outputs.confidence.shape
    for n in range(N):
        k = next(k for k in range(K) if k == K - 1 or outputs.confidence[k, n] >= thresholds[k])
        exits.append(k)
        right += int(outputs.prediction[k, n] == outputs.label[n])
        cost += macs[k]
    return exits, right / N, cost / N


def loop_fit(outputs, counts):
    """Which exit each picture takes when, exit by exit, the counts[k] most confident of those left leave."""
    here = set(range(outputs.confidence.shape[1]))
    exit = [len(counts) - 1] * len(here)
    for k, count in enumerate(counts[:-1]):
        for n in sorted(here, key=lambda n: -outputs.confidence[k, n].item())[:count]:
            exit[n] = k
            here.remove(n)
    return exit


# Points


def test_hand_computed_point():
    point = inference.apply(hand_outputs(), [0.6, 0.5, 0], MACS)
    assert point.exit.tolist() == [0, 0, 1, 2]  # 0.6 reaches 0.6, 0.5 reaches 0.5
    assert point.share.tolist() == [0.5, 0.25, 0.25]
    assert point.exit_accuracy.tolist() == [0.5, 0.0, 0.0]
    assert point.accuracy == 0.25
    assert point.macs == (10 + 10 + 30 + 60) / 4


def test_accuracy_is_not_a_number_where_nobody_leaves():
    point = inference.apply(hand_outputs(), [0.0, 0.5, 0], MACS)
    assert point.share.tolist() == [1, 0, 0]
    assert point.exit_accuracy[0] == 0.5
    assert point.exit_accuracy[1:].isnan().all()


@pytest.mark.parametrize("seed", range(3))
def test_apply_equals_the_loop(seed):
    outputs = random_outputs(exits=4, seed=seed)
    thresholds, macs = [0.9, 0.7, 0.4, 0.0], [1.0, 2.5, 4.0, 9.0]
    point = inference.apply(outputs, thresholds, macs)
    exits, accuracy, cost = loop_apply(outputs, thresholds, macs)
    assert point.exit.tolist() == exits
    assert point.accuracy == pytest.approx(accuracy, abs=1e-12)
    assert point.macs == pytest.approx(cost, abs=1e-12)
    assert (point.share @ point.exit_accuracy.nan_to_num()).item() == pytest.approx(accuracy)


# Thresholds


@pytest.mark.parametrize("share", [[0.25] * 4, [0.5, 0.3, 0.15, 0.05], [0, 0.5, 0, 0.5], [0, 0, 0, 1], [1, 0, 0, 0]])
def test_fitted_thresholds_send_exactly_the_share(share):
    outputs = random_outputs(pictures=200)
    thresholds = inference.fit_thresholds(outputs, share)
    point = inference.apply(outputs, thresholds, [1, 2, 3, 4])
    assert point.share.tolist() == share
    assert point.exit.tolist() == loop_fit(outputs, [round(200 * s) for s in share])
    assert ((thresholds >= 0) & (thresholds <= 1)).all()
    assert thresholds[-1] == 0


def test_counts_that_do_not_divide_are_within_half_a_picture():
    outputs = random_outputs(pictures=97)
    share = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    reached = inference.apply(outputs, inference.fit_thresholds(outputs, share), [1, 2, 3, 4]).share
    assert ((reached.cumsum(0) - share.cumsum(0)).abs() <= 0.5 / 97 + 1e-12).all()


def test_equal_confidences_leave_together_and_the_next_exit_makes_up():
    confidence = torch.tensor([[0.8, 0.8, 0.8, 0.1], [0.5, 0.5, 0.5, 0.7], [0.9] * 4])
    outputs = Outputs(confidence, torch.zeros(3, 4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "validation")
    point = inference.apply(outputs, inference.fit_thresholds(outputs, [0.25, 0.5, 0.25]), MACS)
    assert point.exit.tolist() == [0, 0, 0, 2]


def test_a_threshold_keeps_clear_of_both_neighbours():
    confidence = torch.tensor([[0.9, 0.7, 0.3, 0.1], [0.5] * 4])
    outputs = Outputs(confidence, torch.zeros(2, 4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "validation")
    assert inference.fit_thresholds(outputs, [0.5, 0.5]).tolist() == pytest.approx([0.5, 0])
    neighbours = torch.tensor([0.5, 0.5]).nextafter(torch.tensor([1.0, 0.0]))  # no float32 lies between these and 0.5
    outputs = Outputs(
        torch.stack([neighbours, neighbours]),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.int64),
        "validation",
    )
    assert inference.apply(outputs, inference.fit_thresholds(outputs, [0.5, 0.5]), [1, 2]).exit.tolist() == [0, 1]


def test_geometric_shares():
    shares = inference.geometric_shares(torch.tensor([0.5, 1.0, 2.0]), 3)
    expected = torch.tensor([[4, 2, 1], [7 / 3] * 3, [1, 2, 4]], dtype=torch.float64) / 7
    torch.testing.assert_close(shares, expected)


def test_budget_curve_measures_on_test_what_it_fitted_on_calibration():
    calibration, test = random_outputs("validation"), random_outputs("test", pictures=150, seed=1)
    macs = [1.0, 2.0, 4.0, 8.0]
    curve = inference.budget_curve(calibration, test, macs, budgets=9)
    assert curve.thresholds.shape == (9, 4)
    aimed = torch.linspace(1, 8, 9, dtype=torch.float64)
    for thresholds, cost, accuracy, right in zip(
        curve.thresholds, curve.macs, curve.accuracy, curve.right, strict=True
    ):
        point = inference.apply(test, thresholds, macs)
        assert (point.macs, point.accuracy) == (cost, accuracy)
        assert torch.equal(right, point.right)

    def shares(log_q):
        return np.exp(log_q * np.arange(4)) / np.exp(log_q * np.arange(4)).sum()

    for thresholds, cost in zip(curve.thresholds[1:-1], aimed[1:-1].tolist(), strict=True):
        log_q = brentq(lambda log_q, cost=cost: shares(log_q) @ macs - cost, -16, 16)
        assert torch.equal(thresholds, inference.fit_thresholds(calibration, shares(log_q)))
    spent = torch.tensor([inference.apply(calibration, t, macs).macs for t in curve.thresholds], dtype=torch.float64)
    assert (spent - aimed).abs().max() < 0.05  # rounding to whole pictures of 200
    assert curve.accuracy[0] == test.accuracy[0]
    assert curve.accuracy[-1] == test.accuracy[-1]


@pytest.mark.parametrize("budget", [1.0, 1.5, 3.0, 7.9, 8.0, 100.0])
def test_thresholds_for_a_budget_spend_it_and_no_more(budget):
    outputs, macs = random_outputs(pictures=500), [1.0, 2.0, 4.0, 8.0]
    spent = inference.apply(outputs, inference.thresholds_for_budget(outputs, macs, budget), macs).macs
    assert spent <= budget
    assert spent >= min(budget, 8.0) - 0.05


# Outputs


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


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path):
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


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"right": torch.zeros(2, 0)}, r"right of shape \(2, 0\): give \(P, N\), of one image at least"),
        ({"right": torch.ones(3)}, r"right of shape \(3,\)"),
        ({"resamples": 0}, "resamples=0: a whole number above zero"),
        ({"level": 1.5}, "level=1.5: between 0 and 1"),
        ({"level": math.nan}, "level=nan"),
        ({"seed": 10**20}, "seed=100000000000000000000: a whole number from 0, below 2"),
    ],
)
def test_what_the_bootstrap_refuses(how, message):
    with pytest.raises(ValueError, match=message):
        inference.bootstrap(**{"right": torch.ones(2, 5)} | how)


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
    with pytest.raises(ValueError, match="no pictures"):
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


def test_outputs_of_nobody_known_may_be_tried():
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


# Early exit


def simulated(net, images, thresholds, *how):
    with torch.no_grad():
        logits = net(images)
    outputs = Outputs.of(torch.stack(logits), torch.zeros(len(images), dtype=torch.int64), "test", *how)
    exits = inference.apply(outputs, thresholds, range(1, len(logits) + 1)).exit
    return outputs.prediction.gather(0, exits[None])[0], exits


def float64_net(seed):
    torch.manual_seed(seed)
    net = build("vgg7-2", classes=5).double()
    for stage in net.stages:
        stage.norm.momentum = 1.0  # one batch, and BatchNorm has the statistics of such pictures
    net.train()(varied(64))
    return net.eval()


def varied(pictures):
    """Noise of random tint and contrast, so that confidences differ from picture to picture."""
    noise, tint, contrast = (
        torch.randn(pictures, 3, 32, 32),
        torch.randn(pictures, 3, 1, 1),
        torch.rand(pictures, 1, 1, 1),
    )
    return (3 * tint + 3 * contrast * noise).double()


def spread_thresholds(net, images):
    """Thresholds at a random quantile of each exit's confidences."""
    confidence = [logits.detach().softmax(1).amax(1).float() for logits in net(images)]
    return [*(c.quantile(q).item() for c, q in zip(confidence[:-1], 0.3 + 0.6 * torch.rand(5), strict=True)), 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pictures", [1, 33])
def test_early_exit_equals_the_simulation(seed, pictures):
    net = float64_net(seed)
    images = varied(33)
    thresholds = spread_thresholds(net, images)
    images = images[:pictures]
    labels, exits = EarlyExit(net, thresholds)(images)
    expected_labels, expected_exits = simulated(net, images, thresholds)
    assert torch.equal(labels, expected_labels)
    assert torch.equal(exits, expected_exits)
    assert pictures == 1 or len(exits.unique()) >= 3


@pytest.mark.parametrize("criterion", inference.CRITERIA)
@pytest.mark.parametrize("pictures", [1, 33])
def test_every_criterion_and_temperature_equals_its_simulation(criterion, pictures):
    net = float64_net(3)
    images = varied(33)
    how = criterion, [2.0, 0.5, 1.0, 3.0, 1.5, 0.7]
    with torch.no_grad():
        scores = Outputs.of(torch.stack(net(images)), torch.zeros(33).long(), "validation", *how).confidence
    thresholds = [*scores[:-1].quantile(0.7, dim=1).tolist(), 0]
    if criterion == "patience":
        thresholds = [2 / 5] * 5 + [0]  # two agreements in a row
    images = images[:pictures]
    labels, exits = EarlyExit(net, thresholds, *how)(images)
    expected_labels, expected_exits = simulated(net, images, thresholds, *how)
    assert torch.equal(labels, expected_labels)
    assert torch.equal(exits, expected_exits)
    assert pictures == 1 or len(exits.unique()) >= 3


@pytest.mark.parametrize("criterion", ["confidence", "patience"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_named_by_their_exit(criterion, value):
    net = float64_net(0)
    with torch.no_grad():
        net.heads[2].fc.weight[0] = value
    with pytest.raises(FloatingPointError, match="the logits of exit 3 are not finite"):
        inference.collect(net, [(varied(8), torch.zeros(8).long())], "test", criterion=criterion)


@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_compiled_says_the_same():
    net = float64_net(2)
    images = varied(33)
    thresholds = spread_thresholds(net, images)
    fast = EarlyExit(net, thresholds, compile=True)
    for some in (images[:1], images, images[:7]):
        for ours, theirs in zip(fast(some), EarlyExit(net, thresholds)(some), strict=True):
            assert torch.equal(ours, theirs)
    assert not [name for name, _ in net.named_modules() if "_orig_mod" in name]  # the network itself is not compiled


@pytest.mark.parametrize("broken", ["weights", "pictures"])
def test_what_is_not_finite_is_an_error_and_no_answer(broken):
    net, images = build("vgg7-2", 5).eval(), torch.randn(4, 3, 32, 32)
    if broken == "pictures":
        images[2, 0, 0, 0] = torch.nan
    else:
        net.stages[1].conv.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        EarlyExit(net, [0.999] * 5 + [0])(images)
    with pytest.raises(FloatingPointError, match="not finite"):
        inference.collect(net, [(images, torch.zeros(4).long())], "test")


@pytest.mark.parametrize(("thresholds", "exit"), [([0] * 6, 0), ([1] * 5 + [0], 5), ([1, 1, 0, 1, 1, 0], 2)])
def test_all_leave_together(thresholds, exit):
    net = float64_net(0)
    images = varied(9)
    labels, exits = EarlyExit(net, thresholds)(images)
    assert exits.tolist() == [exit] * 9
    assert torch.equal(labels, net(images)[exit].argmax(1))


def vgg7_macs(width, classes):
    """Cumulative MACs of VGG7 by hand: 9 * C_in * C * H * W a convolution, C * classes a head."""
    total, channels_in, macs = 0, 3, []
    for channels, side in [(width, 32)] * 2 + [(2 * width, 16)] * 2 + [(4 * width, 8)] * 2:
        total += 9 * channels_in * channels * side * side + channels * classes
        macs.append(total)
        channels_in = channels
    return macs


@pytest.mark.parametrize("thresholds", [[0] * 6, "spread", [1] * 5 + [0]])
def test_pictures_that_left_cost_nothing_further(thresholds):
    net = float64_net(1)
    images = varied(40)
    spread = thresholds == "spread"
    thresholds = spread_thresholds(net, images) if spread else thresholds
    with FlopCounterMode(display=False) as counter:
        _, exits = EarlyExit(net, thresholds)(images)
    assert len(exits.unique()) >= 4 or not spread
    macs = vgg7_macs(2, 5)
    assert counter.get_total_flops() == sum(2 * macs[k] for k in exits.tolist())


def test_early_exit_leaves_the_network_as_found_and_its_answers_usable():
    net = build("vgg7-1", classes=2).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    labels, _ = EarlyExit(net, [0.5] * 5 + [0])(torch.randn(3, 3, 32, 32))
    labels += 1  # an ordinary tensor, not one of inference mode
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


# Errors


@pytest.mark.parametrize(
    ("thresholds", "says"),
    [
        ([0.5, 0], r"shape \(2,\) for 3 exits"),
        ([0.5, 0.5, 0.5], "threshold 0.5 of exit 3: the last exit takes all"),
        ([1.5, 0.5, 0], "threshold 1.5 of exit 1"),
        ([0.5, -0.1, 0], "threshold -0.1 of exit 2"),
        ([0.5, float("nan"), 0], "threshold nan of exit 2"),
    ],
)
def test_wrong_thresholds(thresholds, says):
    with pytest.raises(ValueError, match=says):
        inference.apply(hand_outputs(), thresholds, MACS)
    net = build("vgg7-1", classes=2)
    net.heads = net.heads[:3]
    with pytest.raises(ValueError, match=says):
        EarlyExit(net, thresholds)


@pytest.mark.parametrize("macs", [[1, 2], [1, 2, 2], [3, 2, 1], [0, 1, 2], [1, 2, float("nan")], [1, 2, float("inf")]])
def test_wrong_macs(macs):
    with pytest.raises(ValueError, match="macs"):
        inference.apply(hand_outputs(), [0.5, 0.5, 0], macs)


def test_the_test_split_never_fits_thresholds():
    validation, test = hand_outputs("validation"), hand_outputs("test")
    for calibration, tested in [(test, validation), (test, test), (validation, validation)]:
        with pytest.raises(ValueError, match="thresholds must be fitted on validation"):
            inference.budget_curve(calibration, tested, MACS)
    with pytest.raises(ValueError, match="thresholds must be fitted on validation"):
        inference.fit_thresholds(test, [0.5, 0.5, 0])
    with pytest.raises(ValueError, match="thresholds must be fitted on validation"):
        inference.thresholds_for_budget(test, MACS, 20)


def test_other_wrong_values():
    outputs = hand_outputs("validation")
    for share in ([0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0], [float("nan"), 0.5, 0.5]):
        with pytest.raises(ValueError, match="share="):
            inference.fit_thresholds(outputs, share)
    for budget in (9.9, float("nan")):
        with pytest.raises(ValueError, match="budget="):
            inference.thresholds_for_budget(outputs, MACS, budget)
    with pytest.raises(ValueError, match="exits"):
        inference.budget_curve(random_outputs(exits=4), outputs.__class__(*vars(hand_outputs()).values()), [1, 2, 3, 4])
    with pytest.raises(ValueError, match="budgets=1"):
        inference.budget_curve(outputs, hand_outputs("test"), MACS, budgets=1)
    with pytest.raises(ValueError, match="NaN"):
        Outputs(outputs.confidence * float("nan"), outputs.prediction, outputs.label, "test")
    with pytest.raises(ValueError, match="0 pictures"):
        Outputs(torch.empty(3, 0), torch.empty(3, 0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), "test")
    with pytest.raises(ValueError, match="shapes"):
        Outputs(outputs.confidence, outputs.prediction[:2], outputs.label, "test")
    with pytest.raises(ValueError, match="one at least"):
        EarlyExit(build("vgg7-1", classes=2), [0.5] * 5 + [0])(torch.empty(0, 3, 32, 32))


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


def test_a_policy_does_not_depend_on_the_budgets_beside_it():
    generator = torch.Generator().manual_seed(7)
    label = torch.randint(5, (400,), generator=generator)
    logits = torch.randn(4, 400, 5, generator=generator) + torch.arange(1, 5)[:, None, None] * (
        torch.nn.functional.one_hot(label, 5)
    )
    validation, macs, budgets = Outputs.of(logits, label, "validation"), [1.0, 2.0, 4.0, 8.0], [1.5, 3.0, 5.0, 8.0]
    together = inference.fit_policies(validation, macs, budgets, "margin")
    for budget, policy in zip(budgets, together, strict=True):
        (alone,) = inference.fit_policies(validation, macs, [budget], "margin")
        assert torch.equal(alone.thresholds, policy.thresholds)
        assert torch.equal(alone.temperatures, inference.fit_temperatures(validation))
        scored = validation.again("margin", alone.temperatures)
        assert inference.apply(scored, alone.thresholds, macs).macs <= budget
    scored = validation.again("margin", together[0].temperatures)
    searched = inference.best_thresholds(scored, macs, budgets)  # in which what serves one budget may serve another
    assert not all(torch.equal(t, policy.thresholds) for t, policy in zip(searched, together, strict=True))
    with pytest.raises(ValueError, match="test split"):
        inference.fit_policies(Outputs.of(logits, label, "test"), macs, budgets)
