"""Mixup and CutMix: by hand, against torchvision, and as batches that can be repeated and shared."""

from __future__ import annotations

import pytest
import torch
from networks import trained_as_an_arm
from samples import collected, same, small_split
from torch.nn import functional as F
from torchvision.transforms import v2

import dfs_edu as dfs
from dfs_edu.data import Batches, Streamed, mixing
from dfs_edu.data.mixing import MIXINGS, mix
from dfs_edu.training.meters import Meters

HOWS = MIXINGS[1:]
every_how = pytest.mark.parametrize("how", HOWS)


class Drawn:
    """A generator's draws, chosen: the share, then row and column."""

    def __init__(self, monkeypatch, share, *middle):
        middle = iter(middle)
        monkeypatch.setattr(mixing.torch, "rand", lambda *_, **__: torch.tensor(share))
        monkeypatch.setattr(mixing.torch, "randint", lambda *_, **__: torch.tensor(next(middle)))


def pairs():
    """Four images of 4x4 pixels that hold 1, 2, 3, 4 everywhere, of classes 0, 1, 2, 0."""
    return torch.arange(1.0, 5)[:, None, None, None].expand(4, 3, 4, 4).clone(), torch.tensor([0, 1, 2, 0])


def test_mixup_by_hand(monkeypatch):
    """Images 1 and 3 are partners, as are 2 and 4. At a share of 3/4: 3/4 + 3/4 = 1.5, and so on."""
    Drawn(monkeypatch, 0.75)
    images, shares = mix(*pairs(), 3, "mixup", None)
    assert images[:, 0, 0, 0].tolist() == [1.5, 2.5, 2.5, 3.5]
    assert shares.tolist() == [[0.75, 0, 0.25], [0.25, 0.75, 0], [0.25, 0, 0.75], [0.75, 0.25, 0]]


def test_cutmix_by_hand(monkeypatch):
    """A quarter of the area is a square of 2x2 pixels, here at the upper left corner, where only 1x1 is left of it."""
    Drawn(monkeypatch, 0.75, 0, 0)
    images, shares = mix(*pairs(), 3, "cutmix", None)
    assert images[0, 1].tolist() == [[3, 1, 1, 1]] + 3 * [[1, 1, 1, 1]]
    assert shares[0].tolist() == [15 / 16, 0, 1 / 16]
    Drawn(monkeypatch, 0.75, 2, 1)
    images, shares = mix(*pairs(), 3, "cutmix", None)
    assert images[1, 0].tolist() == [[2, 2, 2, 2], [4, 4, 2, 2], [4, 4, 2, 2], [2, 2, 2, 2]]
    assert shares[1].tolist() == [0.25, 0.75, 0]


@every_how
def test_a_share_of_one_is_plain(how, monkeypatch):
    Drawn(monkeypatch, 1.0, 2, 2)
    images, shares = mix(*pairs(), 3, how, None)
    assert torch.equal(images, pairs()[0])
    assert torch.equal(shares, F.one_hot(pairs()[1], 3).float())


@every_how
def test_of_two_images_it_is_torchvisions(how):
    images, labels = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1])
    for seed in range(5):
        found, shares = mix(images, labels, 5, how, torch.Generator().manual_seed(seed))
        drawn = torch.Generator().manual_seed(seed)
        share = torch.rand((), generator=drawn).item()
        if how == "mixup":
            theirs, params = v2.MixUp(num_classes=5), {"lam": share, "labels": labels, "batch_size": 2}
        else:
            y, x = (int(torch.randint(n, (), generator=drawn)) for n in (9, 14))
            (top, bottom), (left, right) = (mixing.extent(*side, share) for side in ((y, 9), (x, 14)))
            lam = 1 - (bottom - top) * (right - left) / (9 * 14)
            params = {"box": (left, top, right, bottom), "lam_adjusted": lam, "labels": labels, "batch_size": 2}
            theirs = v2.CutMix(num_classes=5)
        torch.testing.assert_close(found, theirs.transform(images, params))
        torch.testing.assert_close(shares, theirs.transform(labels, params))


@every_how
def test_shares_add_up_and_are_those_of_the_pixels(how):
    """Images of class c hold c alone: so the mean over the pixels is the mean class."""
    labels = torch.arange(12) % 4
    images = labels.double()[:, None, None, None].expand(12, 3, 8, 8)
    seen = set()
    for seed in range(30):
        mixed, shares = mix(images, labels, 4, how, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(shares.sum(1), torch.ones(12).double())
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ torch.arange(4.0).double())
        torch.testing.assert_close(shares.mean(0), F.one_hot(labels, 4).double().mean(0))  # no class gains or loses
        seen.add(round(shares.amax().item(), 6))
    assert len(seen) > 5


# As batches


@every_how
def test_training_batches_are_mixed_and_others_are_not(how):
    split, dataset = small_split()
    plain, mixed = (collected(Batches(split, dataset, 16, train=True, mixing=which)) for which in ("none", how))
    for (images, labels), (mixture, shares) in zip(plain, mixed, strict=True):
        assert shares.shape == (16, 5)
        assert (shares > 0).sum(1).max() == 2
        own, partner = F.one_hot(labels, 5).float(), F.one_hot(labels.roll(-8), 5).float()
        share = shares[labels != labels.roll(-8)][0, labels[labels != labels.roll(-8)][0]]
        torch.testing.assert_close(shares, share * own + (1 - share) * partner)
        assert mixture.is_contiguous(memory_format=torch.channels_last)
        assert not torch.equal(mixture, images)
    assert same(collected(Batches(split, dataset, 16, mixing=how)), collected(Batches(split, dataset, 16)))


@every_how
def test_a_saved_position_goes_on_alike(how):
    split, dataset = small_split()
    whole = Batches(split, dataset, 16, train=True, seed=7, mixing=how)
    expected = collected(whole) + collected(whole)
    stopped = Batches(split, dataset, 16, train=True, seed=7, mixing=how)
    for (images, shares), (theirs, their_shares) in zip(stopped, expected[:2], strict=False):
        assert torch.equal(images, theirs)
        assert torch.equal(shares, their_shares)
        if stopped.batch == 2:
            break
    resumed = Batches(split, dataset, 16, train=True, mixing=how)
    resumed.load_state_dict(stopped.state_dict())
    assert same(collected(resumed) + collected(resumed), expected[2:])


def shared_out(batches_of, how, count=2):
    """What several processes get, put together again as whole batches."""
    parts = [collected(batches_of(rank=rank, world=count, mixing=how)) for rank in range(count)]
    joined = [[torch.stack(tensors, 1) for tensors in zip(*batch, strict=True)] for batch in zip(*parts, strict=True)]
    return [tuple(t.flatten(0, 1) for t in batch) for batch in joined]


@every_how
def test_any_number_of_processes_mixes_alike(how):
    split, dataset = small_split()

    def of(**options):
        return Batches(split, dataset, 16, train=True, seed=3, **options)

    alone = collected(of(mixing=how))
    for count in (2, 4):
        assert same(shared_out(of, how, count), alone)
    with pytest.raises(ValueError, match=f"mixing='{how}': the 1 images of a process make no pairs"):
        of(mixing=how, rank=0, world=16)


@every_how
def test_streamed_images_too(how, dataset):
    def of(**options):
        return Streamed(dataset.train, dataset, 8, train=True, seed=3, workers=0, **options)

    alone = collected(of(mixing=how))
    assert alone[0][1].shape == (8, len(dataset.classes))
    assert same(shared_out(of, how), alone)
    assert not torch.equal(alone[0][0], collected(of())[0][0])


# In a run


@every_how
def test_it_is_an_arm(how):
    run = trained_as_an_arm("mixing", how)
    assert run.record["epochs"][0]["loss"][-1] < 2.5


def test_the_larger_share_counts_as_right():
    meters = Meters(2, torch.device("cpu"))
    shares = torch.tensor([[0.7, 0.3, 0], [0, 0.4, 0.6]])
    logits = [torch.tensor([[1.0, 0, 0], [0, 1, 0]]), torch.tensor([[1.0, 0, 0], [0, 0, 1]])]
    meters.add([torch.tensor(1.0)] * 2, logits, shares, parts=1)
    assert meters.correct.tolist() == [1, 2]


def test_an_unknown_one_is_named():
    with pytest.raises(ValueError, match="mixing='both': use one of none, mixup, cutmix"):
        dfs.recipes.get("digits/vgg7-4", mixing="both")
