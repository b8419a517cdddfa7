"""Augmentation of whole batches does what torchvision does picture by picture, for the same parameters and draws."""

from importlib import import_module

import pytest
import torch
from sklearn.datasets import load_digits
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms import functional as TF
from torchvision.transforms.autoaugment import _apply_op

from dfs_edu.data import Augmentation
from dfs_edu.data.augmentation import LEVELS, OPERATIONS, POLICY, SIGNED, augment, autoaugment, cutout, operate

augmentation = import_module("dfs_edu.data.augmentation")
FILL = 77
SIZES = [(32, 32), (24, 40)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pictures() -> dict[tuple[int, int], torch.Tensor]:
    """Of each size: handwritten digits, one a channel, of all contrasts; noise; flat and nearly flat ones."""
    digits = torch.from_numpy(load_digits().images[:72]).float().view(24, 3, 8, 8)  # 0 to 16
    contrast = torch.linspace(1, 15, 24).view(24, 1, 1, 1)
    made = {}
    for size in SIZES:
        smooth = F.interpolate(digits, size, mode="bilinear") * contrast + (240 - 16 * contrast) / 2
        noise = torch.randint(256, (4, 3, *size), generator=random())
        flat = torch.tensor([0, 7, 255]).view(3, 1, 1, 1).expand(3, 3, *size)
        spot = flat.clone()
        spot[:, :, 3, 4] = 200
        made[size] = torch.cat([smooth, noise, flat, spot]).byte()  # (34, 3, H, W)
    return made


def by_torchvision(name: str, images: torch.Tensor, magnitude: float) -> torch.Tensor:
    """torchvision's operation on one picture or several, all by one magnitude."""
    return _apply_op(images, name, magnitude, InterpolationMode.NEAREST, [float(FILL)] * 3)


def table(size: tuple[int, int]) -> dict[str, tuple[torch.Tensor, bool]]:
    """torchvision's magnitudes of all levels of an operation, and whether they get a sign."""
    identity = {"Identity": (torch.tensor(0.0), False)}
    return AutoAugment(AutoAugmentPolicy.CIFAR10)._augmentation_space(LEVELS, size) | identity


def all_magnitudes(name: str, size: tuple[int, int]) -> list[float]:
    magnitudes, signed = table(size)[name]
    return [sign * m for m in magnitudes.reshape(-1).tolist() for sign in ((1, -1) if signed else (1,))]


# Operations


@every_size
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_torchvisions(name, size, pictures):
    """To the bit, except where a picture is sheared by exactly half a pixel: there, which of two is nearest is decided
    by torchvision's rounding errors. We take one of the two that it takes for a little less and a little more."""
    images = pictures[size]
    for m in all_magnitudes(name, size):
        found = operate(name, images, [m] * len(images), FILL)
        change = 1e-5 if name.startswith("Shear") else 0
        less, exactly, more = (by_torchvision(name, images, m + c) for c in (-change, 0, change))
        assert ((found == exactly) | (less != more)).all(), m
        assert ((found == less) | (found == more)).all(), m
    assert found.dtype == torch.uint8


def test_every_image_has_its_own_magnitude(pictures):
    images = pictures[32, 32]
    for name in OPERATIONS:
        magnitudes = all_magnitudes(name, (32, 32))
        each = [magnitudes[i % len(magnitudes)] for i in range(len(images))]
        one_by_one = [operate(name, images[i : i + 1], [m], FILL) for i, m in enumerate(each)]
        assert torch.equal(operate(name, images, each, FILL), torch.cat(one_by_one))


def test_an_operation_does_not_write_to_its_input(pictures):
    images = pictures[24, 40]
    before = images.clone()
    for name in OPERATIONS:
        operate(name, images, [all_magnitudes(name, (24, 40))[-1]] * len(images))
        assert torch.equal(images, before), name


def test_operations_refuse_what_they_do_not_know(pictures):
    images = pictures[32, 32][:2]
    with pytest.raises(ValueError, match="operation 'Blur' is not known; use one of ShearX, "):
        operate("Blur", images, [1, 1])
    with pytest.raises(ValueError, match=r"shape \(1,\), not one for each of 2 images"):
        operate("Rotate", images, [1])


# The policy


def test_the_policy_is_the_published_one():
    """As far as its first and last lines tell: torchvision has the rest."""
    assert len(POLICY) == 25
    assert POLICY[0] == (("Invert", 0.1, None), ("Contrast", 0.2, 6))
    assert POLICY[-1] == (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None))
    assert {name for line in POLICY for name, _, _ in line} <= set(OPERATIONS)


@every_size
def test_levels_mean_what_they_mean_in_torchvision(size):
    assert {name for name, (_, signed) in table(size).items() if signed} == set(SIGNED)
    assert set(table(size)) == set(OPERATIONS)
    for i, name in enumerate(OPERATIONS):
        magnitudes, signed = table(size)[name]
        negative, positive = augmentation.scale(size)[:, i]
        assert torch.equal(positive, magnitudes.float().expand(LEVELS))
        assert torch.equal(negative, -positive if signed else positive)


def test_a_single_image_is_augmented_as_by_torchvisions_class(pictures):
    """With one picture, our draws are those of AutoAugment itself."""
    transform = AutoAugment(AutoAugmentPolicy.CIFAR10, fill=FILL)
    images = pictures[32, 32]
    for seed in range(200):
        image = images[seed % len(images)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = transform(image)
        assert torch.equal(autoaugment(image[None], FILL, random(seed))[0], expected)


@every_size
def test_a_batch_is_augmented_as_torchvision_does_it_one_by_one(size, pictures):
    images = pictures[size].repeat(8, 1, 1, 1)
    draw = random(3)
    line = torch.randint(25, (len(images),), generator=draw)
    chance = torch.rand(len(images), 2, generator=draw)
    positive = torch.randint(2, (len(images), 2), generator=draw)
    found = autoaugment(images, FILL, random(3))
    done = set()
    for n, image in enumerate(images):
        for turn, (name, p, level) in enumerate(POLICY[line[n]]):
            if chance[n, turn] <= p:
                magnitudes, signed = table(size)[name]
                m = 0.0 if level is None else magnitudes[level].item()
                image = by_torchvision(name, image, -m if signed and not positive[n, turn] else m)
                done.add((name, turn))
        assert torch.equal(found[n], image)
    assert len(done) > 18


def test_lines_of_the_policy_are_drawn_alike(monkeypatch):
    """Of 40,000 draws, each of the 25 lines gets 1,600, with a deviation of 39."""
    lines = torch.arange(25)[:, None].expand(25, 2)
    invert = torch.full((25, 2), list(OPERATIONS).index("Invert"))
    numbered = torch.arange(25.0).expand(2, len(OPERATIONS), 25)  # the magnitude tells the line
    monkeypatch.setattr(augmentation, "policy", lambda: (invert, torch.ones(25, 2), lines))
    monkeypatch.setattr(augmentation, "scale", lambda size: numbered)
    for _, counts, magnitudes in augmentation.draw_policy(torch.zeros(40_000, 3, 1, 1).byte(), random()):
        assert counts[invert[0, 0]] == 40_000
        assert (magnitudes.long().bincount(minlength=25) - 1600).abs().max() < 5 * 39


def test_operations_happen_with_their_probabilities(pictures):
    """Of 25,000 pictures; the deviation of a count is at most that of a fair coin, 79."""
    images = torch.zeros(25_000, 3, 1, 1).byte()
    for turn, (_, counts, _) in enumerate(augmentation.draw_policy(images, random())):
        expected = dict.fromkeys(OPERATIONS, 0.0)
        for line in POLICY:
            name, p, _ = line[turn]
            expected[name] += 1000 * p
        expected["Identity"] = 25_000 - sum(expected.values())
        assert (torch.tensor(counts) - torch.tensor(list(expected.values()))).abs().max() < 5 * 79


def test_without_an_operation_images_stay_as_they_are(monkeypatch, pictures):
    operations, probabilities, levels = augmentation.policy()
    monkeypatch.setattr(augmentation, "policy", lambda: (operations, probabilities - 2, levels))
    images = pictures[32, 32]
    assert torch.equal(autoaugment(images, FILL, random()), images)


# Cutout


@every_size
@pytest.mark.parametrize("side", [1, 7, 8, 16, 100])
def test_a_black_square_is_cut_out(side, size):
    """Around a centre in the picture, and only there; half of an even side lies before the centre, as theirs."""
    images = torch.full((300, 3, *size), 9, dtype=torch.uint8)
    found = cutout(images, side, random(1))
    draw = random(1)
    y, x = (torch.randint(n, (300, 1), generator=draw) for n in size)
    for n, image in enumerate(found):
        expected = images[n].clone()
        top, left = int(y[n]) - side // 2, int(x[n]) - side // 2
        expected[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
        assert torch.equal(image, expected)
    area = (found == 0)[:, 0].sum((1, 2))
    assert area.max() == min(side, size[0]) * min(side, size[1])
    assert area.min() >= (side // 2 if side < 100 else 1) ** 2
    assert (images == 9).all()


def test_centres_are_anywhere_alike():
    found = cutout(torch.ones(20_000, 3, 4, 5, dtype=torch.uint8), 1, random())
    share = (found == 0)[:, 0].float().mean(0)  # (H, W): 1/20 each, of deviation 0.0015
    assert (share - 1 / 20).abs().max() < 0.008


# All of it

WHOLE = Augmentation(pad=4, fill=FILL, autoaugment=True, cutout=8)


@every_size
def test_crop_flip_policy_and_square_follow_each_other(size, pictures):
    images = pictures[size]
    before = images.clone()
    found, again = (augment(images, WHOLE, random(5)) for _ in range(2))
    draw = random(5)
    expected = augment(images, Augmentation(4, FILL), draw)
    expected = cutout(autoaugment(expected, FILL, draw), 8, draw)
    assert torch.equal(found, again)
    assert torch.equal(found, expected)
    assert torch.equal(images, before)
    assert found.shape == images.shape
    assert found.dtype == torch.uint8
    assert not torch.equal(found, augment(images, WHOLE, random(6)))


@every_size
@pytest.mark.parametrize("flip", [False, True])
def test_crops_are_torchvisions_for_the_same_draws(flip, size, pictures):
    images = pictures[size]
    found = augment(images, Augmentation(3, FILL, flip), random(5))
    draw = random(5)
    top, left = torch.randint(0, 7, (2, len(images), 1), generator=draw)
    mirrored = torch.rand(len(images), 1, generator=draw) < 0.5 if flip else torch.zeros(len(images), 1)
    for n, image in enumerate(images):
        expected = TF.crop(TF.pad(image, [3], fill=FILL), int(top[n]), int(left[n]), *size)
        assert torch.equal(found[n], TF.hflip(expected) if mirrored[n] else expected)


def test_the_memory_format_of_the_images_does_not_matter(pictures):
    images = pictures[24, 40]
    for name in OPERATIONS:
        m = [all_magnitudes(name, (24, 40))[-1]] * len(images)
        found = operate(name, images.contiguous(memory_format=torch.channels_last), m)
        assert torch.equal(found, operate(name, images, m)), name


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_of_one(seed, pictures):
    image = pictures[32, 32][:1]
    assert augment(image, WHOLE, random(seed)).shape == image.shape


def test_random_state_outside_is_neither_used_nor_changed(pictures):
    before = torch.get_rng_state()
    augment(pictures[32, 32], WHOLE, random())
    assert torch.equal(torch.get_rng_state(), before)


def test_on_a_missing_gpu(monkeypatch):
    """Fake CUDA tensors refuse the company of CPU tensors. How many pictures an operation happens to depends on
    numbers, which fake tensors lack: every operation is given three."""
    counts = [3] * len(OPERATIONS)

    def drawn(images, generator):
        order = torch.arange(len(images), device="cuda")
        return [(order, counts, torch.zeros(len(images), device="cuda"))] * 2

    monkeypatch.setattr(augmentation, "draw_policy", drawn)
    with FakeTensorMode():
        images = torch.empty(sum(counts), 3, 32, 32, dtype=torch.uint8, device="cuda")
        found = augment(images, WHOLE, torch.Generator())
        assert found.device.type == "cuda"
        assert found.dtype == torch.uint8
        assert found.shape == images.shape
