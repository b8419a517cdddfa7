"""Images are streamed in the same batches however the work is shared, and broken ones are skipped."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from samples import collected, pil, same, smooth
from torchvision.transforms import RandomResizedCrop, v2

from dfs_edu.data import Batches, DataError, Split, Streamed, streamed
from dfs_edu.data.decoding import decode


@pytest.mark.parametrize(("height", "width"), [(300, 400), (33, 20), (1, 50), (50, 1), (1, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_random_crops_are_torchvisions_for_the_same_draws(height, width, flip):
    pixels = smooth(8, height, width)
    mirrored = 0
    for seed in range(8):
        torch.manual_seed(seed)
        expected = v2.RandomResizedCrop(64, antialias=True)(pixels)
        if flip and torch.rand(()) < 0.5:
            expected, mirrored = v2.functional.horizontal_flip(expected), mirrored + 1
        torch.manual_seed(seed)
        assert torch.equal(streamed.crop(pixels, 64, flip), expected)
    assert not flip or 0 < mirrored < 8


def test_crops_have_the_areas_and_shapes_that_they_should():
    whole = smooth(9, 300, 400)
    torch.manual_seed(0)
    shapes = torch.tensor([RandomResizedCrop.get_params(whole, streamed.AREA, streamed.RATIO)[2:] for _ in range(500)])
    area, ratio = shapes.prod(1) / 120_000, shapes[:, 1] / shapes[:, 0]
    assert 0.079 < area.min() < 0.15
    assert area.max() > 0.8
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35


def test_raw_batches_equal_those_of_a_split_in_memory(dataset):
    split = dataset.test
    resident = Split("test", split.images, split.labels)
    found = collected(Streamed(split, dataset, 4, workers=0))
    assert same(found, collected(Batches(resident, dataset, 4)))
    assert [len(labels) for _, labels in found] == [4, 4, 2]
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in found)


def train(dataset, batch_size=8, **how) -> Streamed:
    return Streamed(dataset.train, dataset, batch_size, train=True, **{"workers": 0, "seed": 3} | how)


def test_workers_change_nothing(dataset):
    alone, shared = train(dataset), train(dataset, workers=2)
    expected = collected(alone) + collected(alone)
    assert same(collected(shared) + collected(shared), expected)
    assert shared.state_dict() == alone.state_dict() == {"seed": 3, "epoch": 2, "batch": 0}
    assert len(expected) == 2 * len(alone) == 8


@pytest.mark.parametrize("world", [2, 4])
def test_the_parts_of_several_processes_are_the_batch_of_one(dataset, world):
    parts = [collected(train(dataset, rank=rank, world=world)) for rank in range(world)]
    joined = [  # image by image in turn
        tuple(torch.stack(some, 1).flatten(0, 1) for some in zip(*batch, strict=True))
        for batch in zip(*parts, strict=True)
    ]
    assert same(joined, collected(train(dataset)))


def test_each_process_reads_its_part_alone(dataset, monkeypatch):
    opened = [[], []]
    for rank in (0, 1):
        monkeypatch.setattr(streamed, "decode", lambda path, rank=rank: opened[rank].append(path) or decode(path))
        collected(train(dataset, rank=rank, world=2))
    assert [len(paths) for paths in opened] == [16, 16]
    assert not set(opened[0]) & set(opened[1])


def test_several_processes_share_a_ragged_batch_as_well(dataset):
    for world, parts in ((2, [2, 2, 1]), (4, [1, 1, 1])):
        found = [
            collected(Streamed(dataset.test, dataset, 4, rank=rank, world=world, workers=0)) for rank in range(world)
        ]
        labels = torch.cat([labels for batches in found for _, labels in batches])
        assert labels.sort().values.tolist() == [0] * 5 + [1] * 5
        assert [len(labels) for _, labels in found[0]] == parts


def test_an_epoch_shows_each_image_once_in_a_new_order(dataset, monkeypatch):
    shown = []
    monkeypatch.setattr(streamed, "decode", lambda path: shown.append(path) or decode(path))
    batches = train(dataset, batch_size=19)
    collected(batches), collected(batches)
    first, second = shown[:38], shown[38:]
    assert sorted(first) == sorted(second) == sorted(str(dataset.train.root / p) for p in dataset.train.paths)
    assert first != second


def test_seeds_and_epochs_and_places_draw_differently(dataset):
    assert not same(collected(train(dataset)), collected(train(dataset, seed=4)))
    one = replace(dataset, train=dataset.train[torch.zeros(8, dtype=torch.int64)])  # the same image eight times
    batches = train(one)
    images = torch.cat([images for _ in range(2) for images, _ in batches])
    assert len({image.numpy().tobytes() for image in images}) == 16


@pytest.mark.parametrize("position", range(9))
def test_a_saved_position_goes_on_as_if_it_had_never_stopped(dataset, position, monkeypatch):
    """Eight batches are two epochs; wherever it stops, what follows is what would have, and no more is read."""
    whole = train(dataset)
    expected = collected(whole) + collected(whole)
    stopped, seen = train(dataset), 0
    while seen < position:
        for _ in stopped:
            seen += 1
            if seen == position:
                break
    again, opened = train(dataset, seed=0), []
    again.load_state_dict(stopped.state_dict())
    monkeypatch.setattr(streamed, "decode", lambda path: opened.append(path) or decode(path))
    rest = []
    while len(rest) + position < 8:
        rest += collected(again)
    assert same(rest, expected[position:]) or position == 8
    assert len(opened) == 8 * (8 - position)


def test_random_state_outside_is_neither_used_nor_changed(dataset):
    before = torch.get_rng_state()
    runs = [collected(train(dataset, workers=workers)) for workers in (0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert same(runs[0], runs[1])
    assert same(runs[0], collected(train(dataset)))


def workers_alive() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if any("forkserver" in word for word in p.cmdline())]


@pytest.mark.parametrize("starting", [False, True])
def test_workers_go_when_the_epoch_is_abandoned_and_stay_when_ctrl_c_is_pressed(dataset, starting, monkeypatch):
    """Even one that has not come to its first line when the key is pressed."""
    if starting:
        monkeypatch.setattr(streamed, "_ignore_interrupts", None)
    batches = train(dataset, batch_size=2, workers=2)
    collected(train(dataset, workers=1))  # the server that starts workers stays
    resting = len(workers_alive())
    going = iter(batches)
    next(going)
    working = [p for p in workers_alive() if p.parent().pid != os.getpid()]
    assert len(working) == 2
    for process in working:
        process.send_signal(signal.SIGINT)
    assert len(list(going)) == len(batches) - 1
    going = iter(batches)
    next(going)
    del going
    deadline = time.monotonic() + 20
    while len(workers_alive()) > resting and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers_alive()) == resting


def test_what_workers_get_can_be_pickled(dataset):
    task = next(train(dataset)._tasks(np.arange(38), range(1)))
    images, shown = pickle.loads(pickle.dumps(streamed._Reader()))[pickle.loads(pickle.dumps(task))]
    assert images.shape == (8, 32, 32, 3)
    assert shown.tolist() == list(range(8))


def test_an_uneven_share_and_an_empty_batch_are_refused(dataset):
    with pytest.raises(ValueError, match="a batch of 8 images cannot be divided evenly among 3 processes"):
        train(dataset, world=3)
    with pytest.raises(ValueError, match="batch_size=0"):
        train(dataset, batch_size=0)


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    assert streamed.default_workers() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert streamed.default_workers() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert streamed.default_workers() == 1


def test_a_long_folder_of_temporary_files_stops_no_worker(small, tmp_path):
    """The sockets of multiprocessing would have paths that the system refuses."""
    long = tmp_path / ("t" * 91)
    long.mkdir()
    script = tmp_path / "read.py"
    script.write_text("""
import sys
from dfs_edu.data import imagenet
from dfs_edu.data.streamed import Streamed
dataset = imagenet.load(sys.argv[1], 16)
if __name__ == "__main__":
    print(sum(len(labels) for _, labels in Streamed(dataset.test, dataset, 4, workers=2)))
""")
    done = subprocess.run(
        [sys.executable, str(script), str(small)],
        env=os.environ | {"TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_the_place_of_a_broken_image_shows_a_good_one_of_its_batch(spoilt, workers):
    dataset, spoil = spoilt
    expected = collected(train(dataset))
    order = np.random.default_rng([3, 0]).permutation(38)
    place = 8 + 7  # the last of the second batch: the next good one is its first
    path = spoil(dataset.train, order[place])
    batches = train(dataset, workers=workers)
    found = collected(batches)
    assert batches.broken == [path]
    for (images, _), (_, labels) in zip(found, found, strict=True):
        assert images.shape == (8, 3, 32, 32)
        assert labels.shape == (8,)
    assert same([found[n] for n in (0, 2, 3)], [expected[n] for n in (0, 2, 3)])
    assert torch.equal(found[1][0][:7], expected[1][0][:7])
    assert torch.equal(found[1][0][7], expected[1][0][0])
    assert found[1][1][7] == expected[1][1][0]
    collected(batches)
    assert batches.broken == [path]  # each once


def test_a_broken_image_is_left_out_of_an_evaluation(spoilt):
    dataset, spoil = spoilt
    expected = collected(Streamed(dataset.test, dataset, 3, workers=0))
    path = spoil(dataset.test, 9)  # alone in the last batch
    batches = Streamed(dataset.test, dataset, 3, workers=0)
    assert same(collected(batches), expected[:3])
    assert batches.broken == [path]
    assert batches.state_dict()["epoch"] == 1


def test_more_than_one_in_a_thousand_stop_the_run(spoilt):
    dataset, spoil = spoilt
    paths = sorted(spoil(dataset.test, n) for n in (1, 5))
    with pytest.raises(DataError, match=rf"2 of 10 images are broken, more than 0\.1 %: {paths[0]}, {paths[1]}"):
        collected(Streamed(dataset.test, dataset, 5, workers=0))


def test_a_batch_of_broken_images_alone_stops_the_training(spoilt):
    dataset, spoil = spoilt
    path = spoil(dataset.train, np.random.default_rng([3, 0]).permutation(38)[1])
    with pytest.raises(DataError, match=f"all images of a batch are broken, .*: {path}"):
        collected(train(dataset, batch_size=1))


def test_strange_images_are_read_like_others(spoilt):
    dataset, spoil = spoilt
    for n, kind in enumerate(("L JPEG", "CMYK JPEG", "RGBA PNG", "RGB WEBP")):
        spoil(dataset.train, n, pil(kind, smooth(n)))
    spoil(dataset.train, 4, pil("RGB PNG", smooth(4, 60, 1)))
    batches = train(dataset, batch_size=38)
    assert len(collected(batches)) == 1
    assert batches.broken == []
