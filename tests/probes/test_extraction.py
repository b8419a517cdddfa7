"""Features against hooks on the stages; probes of features leave the network as it was."""

import pytest
import torch
from test_cosines import assert_untouched, snapshot
from tiny import FAMILIES
from torch import nn

from dfs_edu.backbones import build
from dfs_edu.cuts import Interleaved
from dfs_edu.probes import ablation, features
from dfs_edu.surgery import Joint, Surgery

CLASSES = 3
every_family = pytest.mark.parametrize("family", FAMILIES)


def pictures(family, batches=2, B=3):
    """Batches of unequal size."""
    side, generator = FAMILIES[family][1], torch.Generator().manual_seed(1)
    sizes = [B + i for i in range(batches)]
    return [(torch.randn(b, 3, side, side, generator=generator), torch.arange(b) % CLASSES) for b in sizes]


def network(family, junction):
    torch.manual_seed(0)
    net = build(FAMILIES[family][0], CLASSES, junction)
    for images, _ in pictures(family):
        net.train()(images)  # BatchNorm knows some pictures
    return net.eval()


@every_family
@pytest.mark.parametrize("junction", [Joint(), Surgery(0.3), Surgery(0.3, reference=False)], ids=str)
def test_probes_leave_the_network_as_found(family, junction):
    net, batches = network(family, junction), pictures(family)
    nn.functional.cross_entropy(net(batches[0][0])[0], batches[0][1]).backward()
    net.train()
    net.stages[0].eval()
    junctions, before = list(net.junctions), snapshot(net)
    features(net, batches, beta=0.5)
    ablation(net, batches, beta=0.5)
    ablation(net, batches, beta=0.5, fill="zero")
    assert_untouched(before, snapshot(net))
    assert net.junctions == junctions
    with pytest.raises(RuntimeError):
        features(net, [(torch.zeros(2, 5, 32, 32), torch.zeros(2).long())])  # in the midst of a pass
    assert_untouched(before, snapshot(net))


@every_family
def test_features_are_what_the_stages_make(family):
    net, batches = network(family, Surgery(0.3)), pictures(family)
    found = features(net, batches)
    hooked = [[] for _ in net.stages]
    for k, stage in enumerate(net.stages):
        stage.register_forward_hook(lambda module, given, f, k=k: hooked[k].append(f))
    with torch.no_grad():
        for images, _ in batches:
            net(images)
    for k, seen in enumerate(hooked):
        coarsest = [f if isinstance(f, torch.Tensor) else f[-1] for f in seen]
        whole = torch.cat(coarsest)
        expected = whole.mean(1) if whole.ndim == 3 else whole.mean((2, 3))  # tokens, or positions
        torch.testing.assert_close(found.pooled[k], expected)
    assert found.label.tolist() == [0, 1, 2, 0, 1, 2, 0]
    widths = [f.shape[1] for f in found.pooled]
    assert found.shared == [*(round(0.3 * C) for C in widths[:-1]), None]


def test_a_cut_of_other_channels_defines_its_parts():
    batches = pictures("vgg7")
    leading, spread = (features(network("vgg7", rule), batches) for rule in (Surgery(0.5), Interleaved(0.5)))
    whole = leading.part(4, "whole")
    mask = Interleaved(0.5).is_shared(whole)
    assert torch.equal(spread.part(4, "shared"), whole[:, mask])
    assert torch.equal(spread.part(4, "specific"), whole[:, ~mask])


def test_parts_are_the_junctions_own_or_asked_for():
    batches = pictures("vgg7")
    cut, joint = (features(network("vgg7", junction), batches) for junction in (Surgery(0.25), Joint()))
    assert cut.shared == [1, 1, 2, 2, 4, None]
    assert torch.equal(torch.cat([cut.part(4, "shared"), cut.part(4, "specific")], 1), cut.part(4, "whole"))
    assert cut.part(4, "shared").shape == (7, 4)
    assert joint.shared == [None] * 6
    asked = features(network("vgg7", Joint()), batches, beta=0.5)
    assert asked.shared == [2, 2, 4, 4, 8, None]
    with pytest.raises(ValueError, match="exit 6 is not cut: it has no shared part"):
        cut.part(5, "shared")
    with pytest.raises(ValueError, match="part='both': use one of shared, specific, whole"):
        cut.part(0, "both")


def test_partition_without_reference_hides_what_follows_not_what_leaves():
    """The feature is what the stage makes; only onward is zeroed, so the first exits of both networks agree."""
    batches = pictures("vgg7")
    whole, hidden = (features(network("vgg7", Surgery(0.5, reference=r)), batches) for r in (True, False))
    assert hidden.part(0, "specific").abs().sum() > 0
    assert torch.equal(whole.pooled[0], hidden.pooled[0])
    assert not torch.equal(whole.pooled[1], hidden.pooled[1])


def test_bad_calls_are_named():
    net = network("vgg7", Joint())
    with pytest.raises(TypeError, match="Linear"):
        features(nn.Linear(2, 2), [])
    for probe in (features, ablation):
        with pytest.raises(ValueError, match="batches holds no images"):
            probe(net, [], beta=0.5)
        with pytest.raises(ValueError, match="beta=2"):
            probe(net, pictures("vgg7"), beta=2)
    with pytest.raises(ValueError, match="exit 1 holds nan"):
        features(net, [(torch.full((2, 3, 16, 16), float("nan")), torch.zeros(2).long())])
    with pytest.raises(ValueError, match="fill='median': use one of mean, zero"):
        ablation(net, pictures("vgg7"), beta=0.5, fill="median")
    with pytest.raises(ValueError, match="nothing is cut"):
        ablation(net, pictures("vgg7"))
    with pytest.raises(ValueError, match="a second time"):
        ablation(net, iter(pictures("vgg7")), beta=0.5)
