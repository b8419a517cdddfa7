"""Batches in memory are the normalised images, in an order that can be repeated from any position."""

import pytest
import torch
from samples import collected, same, small_split
from torchvision.transforms import functional as TF

from dfs_edu.data import Augmentation, Batches, Split, augment, batching


def test_raw_batches_are_the_normalised_images():
    split, dataset = small_split()
    batches = Batches(split, dataset, batch_size=16)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = TF.normalize(split.images / 255, dataset.mean, dataset.std)
    torch.testing.assert_close(images, expected)
    assert torch.equal(batches.denormalise(images), split.images)
    assert torch.equal(labels, split.labels)
    assert len(batches) == 4
    assert next(iter(batches))[0].is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_of_training_shows_each_image_once_in_a_new_order():
    split, dataset = small_split(n=48)
    numbered = Split("train", split.images, torch.arange(48) % 5, torch.arange(48.0))
    batches = Batches(numbered, dataset, 16, train=True)
    batches.labels = torch.arange(48)
    first, second = ([label for _, labels in batches for label in labels.tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(48))
    assert first != second != list(range(48))
    assert batches.epoch == 2


def test_the_ragged_last_batch_is_dropped_in_training_only():
    split, dataset = small_split(n=50)
    assert [len(labels) for _, labels in Batches(split, dataset, 16, train=True)] == [16, 16, 16]
    assert [len(labels) for _, labels in Batches(split, dataset, 16)] == [16, 16, 16, 2]


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    split, dataset = small_split()
    runs = [collected(Batches(split, dataset, 16, train=True, seed=seed)) for seed in (3, 3, 4)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("position", range(6))
def test_a_saved_position_goes_on_as_if_it_had_never_stopped(position):
    """Six batches are two epochs; wherever it stops, what follows is what would have followed."""
    split, dataset = small_split()
    whole = Batches(split, dataset, 16, train=True, seed=7)
    expected = collected(whole) + collected(whole)

    stopped = Batches(split, dataset, 16, train=True, seed=7)
    seen = 0
    while seen < position:
        for _ in stopped:
            seen += 1
            if seen == position:
                break
    again = Batches(split, dataset, 16, train=True)
    again.load_state_dict(stopped.state_dict())
    rest = collected(again)
    rest += collected(again) if len(rest) + position < 6 else []
    assert same(rest, expected[position:])


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("at_once", [32, 40, 2048])
def test_batches_that_are_augmented_together_are_what_they_are_alone(at_once, train, flip, monkeypatch):
    split, dataset = small_split(n=90, flip=flip)
    how = Augmentation(2, 128, flip, autoaugment=True, cutout=3)
    options = {"train": train, "seed": 7, "augmentation": how}
    monkeypatch.setattr(batching, "AT_ONCE", 1)
    alone = Batches(split, dataset, 16, **options)
    expected = collected(alone) + collected(alone)
    calls = []
    monkeypatch.setattr(batching, "augment", lambda *given: (calls.append(1), augment(*given))[1])
    monkeypatch.setattr(batching, "AT_ONCE", at_once * 8 * 8)
    together = Batches(split, dataset, 16, **options)
    assert same(collected(together) + collected(together), expected)
    assert len(calls) == (2 * -(-5 // min(at_once // 16, 5)) if train else 0)  # of five whole batches an epoch
    second = Batches(split, dataset, 16, rank=1, world=2, **options)
    halves = [(images[1::2], labels[1::2]) for images, labels in expected[: len(second)]]
    assert same(collected(second), halves)


def test_random_state_outside_is_neither_used_nor_changed():
    split, dataset = small_split()
    before = torch.get_rng_state()
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(collected(Batches(split, dataset, 16, train=True)))
    assert same(*runs)
    torch.set_rng_state(before)
    collected(Batches(split, dataset, 16, train=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_is_torchvisions_for_the_same_draws(flip):
    split, _ = small_split()
    how = Augmentation(pad=3, fill=77, flip=flip)
    found = augment(split.images, how, torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(5)
    top, left = torch.randint(0, 7, (2, 50, 1), generator=draw)
    mirrored = torch.rand(50, 1, generator=draw) < 0.5 if flip else torch.zeros(50, 1)
    for n, image in enumerate(split.images):
        expected = TF.crop(TF.pad(image, [3], fill=77), int(top[n]), int(left[n]), 8, 8)
        expected = TF.hflip(expected) if mirrored[n] else expected
        assert torch.equal(found[n], expected)
    assert found.dtype == torch.uint8


def test_batches_refuse_no_images_a_batch():
    split, dataset = small_split()
    with pytest.raises(ValueError, match="batch_size=0"):
        Batches(split, dataset, 0)
