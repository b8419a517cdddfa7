"""The conflict probe against plain torch.autograd, hand-computed cases, and a network that must not notice."""

import copy
import itertools
import json
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from dfs_edu.backbones import build
from dfs_edu.multiexit import MultiExit
from dfs_edu.probes import Conflict, ConflictTracker, conflict, history, share_by_stage
from dfs_edu.probes.memory import LiveBytes
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery

JUNCTIONS = [
    Joint(),
    Detached(),
    Equilibrium(),
    *(Surgery(beta, reference, own) for beta in (0, 0.3, 1) for reference in (True, False) for own in ("own", "all")),
]


class Scales(nn.Module):
    """Like MSDNet's: the state is a list, fine to coarse; the first stage makes it, the others read it."""

    def __init__(self, channels_in, channels=6):
        super().__init__()
        self.fine = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.across = nn.Conv2d(channels, channels, 1) if channels_in == channels else None
        self.scale = nn.Parameter(torch.tensor(0.7))  # a layer that is the stage itself

    def forward(self, x):
        fine, coarse = (x, 0) if isinstance(x, torch.Tensor) else (x[0], self.across(x[1]))
        fine = self.fine(fine).tanh()
        return [self.scale * fine, (self.down(fine) + coarse).tanh()]


class CoarseHead(nn.Module):
    def __init__(self, channels=6, classes=4):
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, f):
        return self.fc(f[-1].mean((2, 3)))


def scales_network(junction):
    return MultiExit([Scales(3), Scales(6), Scales(6)], [CoarseHead() for _ in range(3)], junction)


def batch(classes=4, size=8, dtype=torch.float64):
    images = torch.randn(5, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(5) % classes


def by_autograd(net, images, labels):
    """An independent construction: the whole network at once, K gradients of everything, each layer by its names."""
    net = copy.deepcopy(net).train()
    trunk = {name: p for name, p in net.named_parameters() if name.startswith("stages.")}
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in trunk))
    logits, K = net(images), len(net.stages)
    rows = []
    for k in range(K):
        loss = nn.functional.cross_entropy(logits[k], labels)
        found = torch.autograd.grad(loss, list(trunk.values()), retain_graph=True, materialize_grads=True)
        rows.append(dict(zip(trunk, found, strict=True)))
    cosine, norm = np.full((len(layers), K, K), np.nan), np.full((len(layers), K), np.nan)
    for row, layer in enumerate(layers):
        flat = [torch.cat([g.flatten() for name, g in r.items() if name.rpartition(".")[0] == layer]) for r in rows]
        for i, a in enumerate(flat):
            if a.norm() > 0:
                norm[row, i] = a.norm()
            for j, b in enumerate(flat):
                if a.norm() > 0 and b.norm() > 0:
                    cosine[row, i, j] = a @ b / (a.norm() * b.norm())
    return Conflict(layers, cosine, norm)


def assert_same(report, expected):
    assert report.layers == expected.layers
    np.testing.assert_allclose(report.norm, expected.norm, rtol=1e-9)
    np.testing.assert_allclose(report.cosine, expected.cosine, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("junction", JUNCTIONS, ids=str)
def test_equals_autograd_on_vgg(junction):
    torch.manual_seed(0)
    net = build("vgg7-5", classes=4, junction=junction).double()  # 5, 10, 20 channels: beta cuts unevenly
    images, labels = batch()
    assert_same(conflict(net, images, labels), by_autograd(net, images, labels))


@pytest.mark.parametrize("scales", ["last", "all"])
@pytest.mark.parametrize("junction", [Joint(), Detached(), Surgery(0.3), Surgery(0.5, exit_gradient="all")], ids=str)
def test_equals_autograd_where_the_state_is_a_list(junction, scales):
    torch.manual_seed(0)
    if isinstance(junction, Surgery):
        junction = Surgery(junction.beta, exit_gradient=junction.exit_gradient, scales=scales)
    net = scales_network(junction).double()
    images, labels = batch()
    report = conflict(net, images, labels)
    assert_same(report, by_autograd(net, images, labels))
    assert report.layers[:3] == ["stages.0", "stages.0.fine", "stages.0.down"]


def two_exits(junction):
    """f = w x with w = (0, 0), x = 1, so both exits are undecided: d loss / d logits = (-1/2, 1/2) for class 0."""
    stages = [nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)]
    heads = [nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)) for _ in range(2)]
    net = MultiExit(stages, heads, junction).double()
    for parameter, value in zip(
        net.parameters(),
        ([0, 0], [[1, 0], [0, 1]], [[1, 0], [0, 1]], [[0, 3], [4, 0]]),
        strict=True,
    ):
        parameter.data = torch.tensor(value, dtype=torch.float64).reshape(parameter.shape)
    return net, torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.tensor([0])


@pytest.mark.parametrize(
    ("junction", "first", "second"),
    [  # the gradients of w: exit 1's I^T (-1/2, 1/2), exit 2's [[0, 4], [3, 0]] (-1/2, 1/2), then the junction's rule
        (Joint(), (-0.5, 0.5), (2, -1.5)),
        (Detached(), None, (2, -1.5)),
        (Equilibrium(), (-0.25, 0.25), (1, -0.75)),
        (Surgery(0.5), (0, 0.5), (2, 0)),
        (Surgery(0.5, exit_gradient="all"), (-0.5, 0.5), (2, 0)),
        (Surgery(0), (-0.5, 0.5), None),
        (Surgery(1), None, (2, -1.5)),
    ],
    ids=str,
)
def test_by_hand(junction, first, second):
    report = conflict(*two_exits(junction))
    assert report.layers == ["stages.0", "stages.1"]
    norm = [np.nan if g is None else np.hypot(*g) for g in (first, second)]
    np.testing.assert_allclose(report.norm[0], norm)
    cosine = np.nan if None in (first, second) else np.dot(first, second) / np.prod(norm)
    np.testing.assert_allclose(report.cosine[0, 0, 1], cosine)
    assert np.isnan(report.norm[1]).all()  # f = 0, so the second stage's weights get gradient zero from everybody
    assert np.isnan(report.cosine[1]).all()


def test_not_a_number_exactly_where_an_exit_does_not_reach():
    net = build("vgg7-4", classes=4)
    images, labels = batch(dtype=torch.float32)
    stage = np.array([int(name.split(".")[1]) for name in conflict(net, images, labels).layers])
    below = stage[:, None] <= np.arange(6)  # (L, K): exit k lies behind the layer

    def reached(junction):
        net.junctions = build("vgg7-4", classes=4, junction=junction).junctions
        report = conflict(net, images, labels)
        reach = ~np.isnan(report.norm)
        assert (~np.isnan(report.cosine) == reach[:, :, None] & reach[:, None, :]).all()
        np.testing.assert_allclose(report.cosine.diagonal(axis1=1, axis2=2)[reach], 1)
        return reach

    assert (reached(Joint()) == below).all()
    assert (reached(Equilibrium()) == below).all()
    assert (reached(Surgery(0.5)) == below).all()
    assert (reached(Detached()) == below & (np.arange(6) == 5)).all()  # the last exit alone trains the trunk
    assert (reached(Surgery(0)) == (stage[:, None] == np.arange(6))).all()  # every stage has its own exit only
    assert (reached(Surgery(1)) == below & (np.arange(6) == 5)).all()  # nothing is specific but behind the last
    assert (reached(Surgery(1, exit_gradient="all")) == below).all()


def test_frozen_parameters_are_not_reached():
    net = build("vgg7-4", classes=4).double()
    for frozen in (*net.stages[0].parameters(), *net.stages[2].conv.parameters(), net.stages[3].norm.bias):
        frozen.requires_grad_(False)
    images, labels = batch()
    report = conflict(net, images, labels)
    silent = [name for name, norm in zip(report.layers, report.norm, strict=True) if np.isnan(norm).all()]
    assert silent == ["stages.0.conv", "stages.0.norm", "stages.2.conv"]
    row = report.layers.index("stages.3.norm")  # half frozen: the weight alone
    twin = copy.deepcopy(net)
    nn.functional.cross_entropy(twin(images)[5], labels).backward()
    np.testing.assert_allclose(report.norm[row, 5], twin.stages[3].norm.weight.grad.norm())


def test_pairs_and_share_of_conflicting_pairs():
    nan = np.nan
    cosine = np.array([[[1, -0.5, 0.2], [-0.5, 1, -0.1], [0.2, -0.1, 1]], [[nan] * 3, [nan, 1, 0], [nan, 0, 1]]])
    report = Conflict(["a", "b"], cosine, np.ones((2, 3)))
    np.testing.assert_array_equal(report.pairs(), [[-0.5, 0.2, -0.1], [nan, nan, 0]])
    np.testing.assert_allclose(report.conflicting(), [2 / 3, 0])
    alone = Conflict(["a"], np.array([[[1, nan], [nan, nan]]]), np.ones((1, 2)))
    assert np.isnan(alone.conflicting()).all()


def dropping_network():
    """BatchNorm and dropout in the trunk and in the heads."""
    torch.manual_seed(0)
    widths = [3, 4, 6, 8]
    stages = [
        nn.Sequential(nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.Dropout(0.3), nn.ReLU())
        for a, b in itertools.pairwise(widths)
    ]
    heads = [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(c), nn.Dropout(0.5), nn.Linear(c, 4))
        for c in widths[1:]
    ]
    return MultiExit(stages, heads, Surgery(0.5))


def snapshot(net):
    return {
        "state": {name: t.clone() for name, t in net.state_dict().items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()},
        "modes": [module.training for module in net.modules()],
        "objects": [id(t) for t in (*net.parameters(), *net.buffers())],
        "learns": [p.requires_grad for p in net.parameters()],
        "random": torch.get_rng_state(),
    }


def assert_untouched(before, after):
    for key in ("state", "grads"):
        assert before[key].keys() == after[key].keys()
        for name, old in before[key].items():
            new = after[key][name]
            assert (old is None and new is None) or torch.equal(old, new), name
    assert torch.equal(before["random"], after["random"])
    for key in ("modes", "objects", "learns"):
        assert before[key] == after[key], key


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_network_as_found(training):
    net = dropping_network()
    images, labels = batch(dtype=torch.float32)
    sum(nn.functional.cross_entropy(logits, labels) for logits in list(net.exits(images))[1:]).backward()
    assert net.heads[0][-1].weight.grad is None  # some parameters have a gradient, some none
    net.train(training)
    net.stages[1][1].train(not training)  # a frozen BatchNorm, say
    before = snapshot(net)
    first = conflict(net, images, labels)
    assert_untouched(before, snapshot(net))
    with pytest.raises(ValueError, match="labels up to 4"):
        conflict(net, images, torch.tensor([0, 1, 2, 3, 4]))  # found out after the first stage has run
    assert_untouched(before, snapshot(net))
    with torch.no_grad():
        assert_same(conflict(net, images, labels), first)  # the same dropout, too


@pytest.mark.parametrize("junction", [Joint(), Surgery(0.5)], ids=str)
def test_under_autocast_nearly_the_same(junction):
    torch.manual_seed(0)
    net = scales_network(junction)
    images, labels = batch(dtype=torch.float32)
    exact = conflict(net, images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = conflict(net, images, labels)
    many = [name.count(".") == 2 for name in exact.layers]  # not the single numbers, whose sums nearly cancel out
    np.testing.assert_allclose(found.norm[many], exact.norm[many], rtol=0.1)  # NaN at the same places, too
    np.testing.assert_allclose(found.cosine[many], exact.cosine[many], atol=0.1)


def test_sees_the_batch_as_training_does():
    net = build("vgg7-4", classes=4)
    images, labels = batch(dtype=torch.float32)
    assert_same(conflict(net.eval(), images, labels), conflict(net.train(), images, labels))


@pytest.mark.parametrize("junction", [Joint(), Surgery(0.5)], ids=str)
def test_never_holds_the_gradients_of_two_stages(junction, monkeypatch):
    net = build("vgg7-4", classes=4, junction=junction)
    owner = {p: s for s, stage in enumerate(net.stages) for p in stage.parameters()}
    alive, most, computed = [], {}, []
    original = torch.autograd.grad

    def watched(outputs, inputs, *args, **kwargs):
        stage = owner[inputs[0]]
        held = [s for ref, s in alive if ref() is not None]
        assert set(held) <= {stage}, f"gradients of stages {set(held)} live while stage {stage} is walked"
        found = original(outputs, inputs, *args, **kwargs)
        alive.extend((weakref.ref(g), owner[p]) for p, g in zip(inputs, found, strict=True) if p in owner)
        most[stage] = max(most.get(stage, 0), len(held) + len([p for p in inputs if p in owner]))
        computed.append(stage)
        return found

    monkeypatch.setattr(torch.autograd, "grad", watched)
    conflict(net, *batch(dtype=torch.float32))
    # Every exit walks its own depth once, the deepest stage first.
    assert computed == [s for s in reversed(range(6)) for _ in range(6 - s)]
    assert most == {s: (6 - s) * len(list(net.stages[s].parameters())) for s in range(6)}  # the watch does see them


def test_holds_less_than_two_gradients_of_the_trunk_beyond_the_forward_pass():
    """Of all tensors that are alive at the same time; K gradients of the trunk are what the usual way keeps."""
    torch.manual_seed(0)
    net = build("msdnet-cifar", classes=4)  # seven exits
    images, labels = batch(size=64, dtype=torch.float32)
    trunk = sum(p.nbytes for p in net.stages.parameters())

    def most(way):
        with LiveBytes() as live:
            before = live.follow(list(net.parameters()), list(net.buffers()), images, labels)
            way()
        return live.peak - before

    forward = most(lambda: [nn.functional.cross_entropy(z, labels) for z in net.train()(images)])
    assert 0 < most(lambda: conflict(net, images, labels)) - forward < 2 * trunk
    # The gradients of parameters alone: of stage s, from 0, those of the K - s exits behind it. At any batch size.
    held = [(7 - s) * sum(p.nbytes for p in stage.parameters()) for s, stage in enumerate(net.stages)]
    assert max(held) < trunk


def test_a_pass_ends_where_the_gradient_has_died(monkeypatch):
    calls = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or original(*a, **k))
    conflict(build("vgg7-4", classes=4, junction=Surgery(0)), *batch(dtype=torch.float32))
    assert len(calls) == 6  # every exit at its own stage only


IMAGES, LABELS = batch(dtype=torch.float32)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], LABELS, r"images: torch.float32 \(3, 8, 8\); give floating-point images \(B, C, H, W\)"),
        (IMAGES.byte(), LABELS, "images: torch.uint8"),
        (IMAGES[:0], LABELS[:0], "B at least 1"),
        (IMAGES.numpy(), LABELS, "images: ndarray"),
        (IMAGES, LABELS[:4], r"labels: torch.int64 \(4,\); give one int64 class for each of the 5 images"),
        (IMAGES, LABELS.float(), "labels: torch.float32"),
        (IMAGES, LABELS.tolist(), "labels: list"),
        (IMAGES, LABELS - 1, "labels down to -1"),
        (IMAGES, LABELS + 1, "labels up to 4: exit 1 has 4 classes"),
    ],
)
def test_bad_batches_are_named(images, labels, message):
    with pytest.raises(ValueError, match=message):
        conflict(build("vgg7-4", classes=4), images, labels)


def test_a_loss_that_is_not_finite_has_no_direction():
    with pytest.raises(FloatingPointError, match="the loss of exit 1 is nan"):
        conflict(build("vgg7-4", classes=4), IMAGES * float("nan"), LABELS)


def test_bad_networks_are_named():
    with pytest.raises(TypeError, match="Linear"):
        conflict(nn.Linear(2, 2), IMAGES, LABELS)
    stage = nn.Conv2d(3, 3, 1)
    heads = [nn.Sequential(nn.Flatten(), nn.Linear(192, 4)) for _ in range(2)]
    with pytest.raises(ValueError, match="stages 0 and 1 share a parameter"):
        conflict(MultiExit([stage, stage], heads), IMAGES, LABELS)
    with pytest.raises(ValueError, match="stage 0 and head 1 share a parameter"):
        conflict(MultiExit([stage, nn.Identity()], [heads[0], nn.Sequential(stage, *heads[1])]), IMAGES, LABELS)
    same = MultiExit([stage, nn.Conv2d(3, 3, 1)], [heads[0], heads[0]]).double()  # one classifier for all exits is fine
    images, labels = batch()
    assert_same(conflict(same, images, labels), by_autograd(same, images, labels))


def test_what_an_exit_s_pull_is_in_all():
    """Three layers, two exits; the second layer hears exit 2 alone."""
    nan = float("nan")
    cosine = np.array([[[1, -0.5], [-0.5, 1]], [[nan, nan], [nan, 1]], [[1, 0.5], [0.5, 1]]])
    report = Conflict(["a", "b", "c"], cosine, np.array([[3.0, 1], [nan, 2], [4, 2]]))
    assert report.exit_norm().tolist() == [5, 3]
    assert report.exit_conflict().tolist() == [0.5, 0.5]
    alone = Conflict(["a"], np.ones((1, 1, 1)), np.ones((1, 1)))
    assert np.isnan(alone.exit_conflict()).all()


# By stage, in length, through training


def test_a_stage_is_its_layers_end_to_end():
    net = build("vgg7-4", classes=4, junction=Surgery(0.5, exit_gradient="all")).double()
    images, labels = batch()
    report, K = conflict(net, images, labels), 6
    found = report.by_stage()
    assert found.layers == [f"stages.{s}" for s in range(K)]
    losses = [nn.functional.cross_entropy(z, labels) for z in net.train()(images)]
    for s, stage in enumerate(net.stages):
        rows = [
            torch.autograd.grad(l, list(stage.parameters()), retain_graph=True, allow_unused=True) for l in losses[s:]
        ]
        flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        np.testing.assert_allclose(found.norm[s, s:], flat.norm(dim=1), rtol=1e-6)
        unit = flat / flat.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(found.cosine[s, s:, s:], unit @ unit.T, atol=1e-9)
        assert np.isnan(found.norm[s, :s]).all()


def test_a_stage_without_parameters_is_a_row_of_its_own():
    stages = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    heads = [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)) for _ in stages]
    net, (images, labels) = MultiExit(stages, heads).double(), batch()
    found = conflict(net, images, labels).by_stage()
    assert found.layers == ["stages.0", "stages.1", "stages.2"]
    assert (np.isnan(found.norm).sum(1) == [0, 3, 2]).all()
    assert np.isnan(found.cosine[1]).all()
    look = ConflictTracker(images, labels, every=1)(0, net)
    assert look["cosine"][1] == look["norm"][1] == [None] * 3


def test_a_tracker_measures_at_its_interval_and_keeps_plain_values():
    net, (images, labels) = build("vgg7-4", classes=4, junction=Detached()).double(), batch()
    tracker = ConflictTracker(images, labels, every=4)
    looks = [look for step in range(9) if (look := tracker(step, net))]
    assert [look["step"] for look in looks] == [0, 4, 8]
    json.dumps(looks, allow_nan=False)
    found = history(looks)
    stages = conflict(net, images, labels).by_stage()
    np.testing.assert_allclose(found["cosine"][1], stages.pairs(), atol=1e-3)
    np.testing.assert_allclose(found["norm"][2], stages.norm, rtol=1e-2)
    assert found["conflicting"].shape == (3, len(conflict(net, images, labels).layers))
    assert history([]) == {}
    assert np.isnan(share_by_stage({"layers": tracker.layers, "looks": looks})).all()  # the last exit meets nobody
    with pytest.raises(ValueError, match="every=0"):
        ConflictTracker(images, labels, every=0)


def test_the_share_of_a_stage_is_the_mean_of_its_layers():
    norm = [[1.0, 1.0], [None, 1.0]]
    looks = [
        {"step": 0, "norm": norm, "conflicting": [1.0, 0.5, None, None]},
        {"step": 9, "norm": norm, "conflicting": [0.0, None, None, None]},
    ]
    layers = ["stages.0.conv", "stages.0.norm", "stages.1.conv", "stages.1.norm"]
    np.testing.assert_array_equal(share_by_stage({"layers": layers, "looks": looks}), [[0.75, np.nan], [0, np.nan]])
