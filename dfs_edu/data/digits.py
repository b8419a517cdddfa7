"""Real handwritten digits composed into colour scenes, from easy to hard: a data set that needs no download.

scikit-learn includes 1,797 scanned digits of 8x8 pixels (Alpaydin and Kaynak, UCI, 1998). Each is enlarged, rotated and
coloured, and placed in 32x32 scenes. The more difficult a scene, the smaller, fainter and further from the centre its
digit, and the more clutter (pieces of other digits) surrounds it. So a shallow exit can recognise some images, and only
a deep one the others. The splits are made from disjoint digits, and the whole data set is a function of one fixed seed.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dfs_edu.data.dataset import Dataset
from dfs_edu.data.splits import Augmentation, Split

SIZES = {"train": 12_000, "validation": 3_000, "test": 3_000}
SIDE = 32
CLUTTER = 6  # pieces around the digit in the most difficult scene
SEED = 2024


@cache
def load() -> Dataset:
    """Return 12,000 training, 3,000 validation and 3,000 test scenes of the digits 0 to 9."""
    from sklearn.datasets import load_digits  # slow to import, and not needed by what loads no digits
    from sklearn.model_selection import train_test_split

    # Split the scans, so that no two splits share one
    sources = load_digits()
    digits = torch.from_numpy(sources.images).float() / 16  # (1797, 8, 8), ink 0 to 1
    labels = torch.from_numpy(sources.target).long()
    rest, test = train_test_split(range(len(labels)), test_size=0.3, stratify=labels, random_state=SEED)
    train, validation = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=SEED)

    # Compose scenes from each part
    generator = torch.Generator().manual_seed(SEED)
    splits = {}
    for name, chosen in (("train", train), ("validation", validation), ("test", test)):
        splits[name] = _scenes(name, digits[chosen], labels[chosen], generator)

    pixels = splits["train"].images.double().div(255).transpose(0, 1).flatten(1)  # (3, N H W)
    return Dataset(
        name="digits",
        **splits,
        classes=tuple("0123456789"),
        mean=tuple(pixels.mean(1).tolist()),
        std=tuple(pixels.std(1).tolist()),
        augmentation=Augmentation(pad=2, fill=128, flip=False),  # a mirrored digit is another symbol
    )


def _scenes(name: str, digits: Tensor, labels: Tensor, generator: torch.Generator) -> Split:
    """Scenes of one split from its own digits, each digit used about equally often."""
    N = SIZES[name]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(N, *shape, generator=generator)

    chosen = torch.randperm(N, generator=generator) % len(digits)
    difficulty = uniform(0, 1)

    # A plain background, and an ink that stands out less the more difficult the scene
    paper = uniform(0.0, 0.5, 3, 1, 1)
    contrast = (0.85 - 0.55 * difficulty).view(N, 1, 1, 1)
    ink = (paper + contrast * uniform(0.7, 1.3, 3, 1, 1)).clamp(0, 1)
    scene = paper.expand(N, 3, SIDE, SIDE)

    # Clutter: a scene of difficulty d has about d * CLUTTER pieces, fainter than the digit, near its edges
    clutter = []
    for _ in range(CLUTTER):
        other = torch.randint(len(digits), (N,), generator=generator)
        place = F.normalize(uniform(-1, 1, 2)) * uniform(0.75, 1.1, 1)
        clutter.append((digits[other], uniform(0.25, 0.45), place, uniform(-3.1, 3.1)))

    # The digit, smaller and further from the centre the more difficult the scene; then noise
    scale = 0.85 - 0.4 * difficulty * uniform(0.5, 1)
    position = uniform(-1, 1, 2) * (0.1 + 0.9 * difficulty).view(N, 1) * (0.95 - scale).view(N, 1)
    subject = digits[chosen], scale, position, uniform(-0.25, 0.25)
    noise = torch.randn(N, 3, SIDE, SIDE, generator=generator) * (0.02 + 0.06 * difficulty).view(N, 1, 1, 1)

    # Composed in chunks that fit the processor's cache, and only the clutter that is there: twice as fast and more
    images = torch.empty(N, 3, SIDE, SIDE, dtype=torch.uint8)
    for rows in torch.arange(N).split(256):
        scene = paper[rows].expand(-1, 3, SIDE, SIDE).clone()
        for piece, parts in enumerate(clutter):
            there = difficulty[rows] * CLUTTER > piece + 0.5
            if there.any():
                mask = _placed(*(part[rows[there]] for part in parts))
                scene[there] = torch.lerp(scene[there], ink[rows[there]], 0.7 * mask)
        scene = torch.lerp(scene, ink[rows], _placed(*(part[rows] for part in subject)))
        images[rows] = (scene + noise[rows]).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Split(name, images, labels[chosen], difficulty)


def _placed(digits: Tensor, scale: Tensor, position: Tensor, angle: Tensor) -> Tensor:
    """Ink masks (N, 1, 32, 32) of digits (N, 8, 8), ``scale`` of the scene wide, centred at ``position`` (-1 to 1)."""
    cos, sin = angle.cos() / scale, angle.sin() / scale
    x, y = position.unbind(1)
    theta = torch.stack([cos, sin, -cos * x - sin * y, -sin, cos, sin * x - cos * y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(digits), 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(digits[:, None], grid, align_corners=False)
