"""Random crops, flips, AutoAugment and Cutout of a whole batch of uint8 pictures at once, wherever the batch lies.

Nothing loops over pictures. What happens to which picture is drawn on the CPU by the given generator, so that every
device sees the same pictures and none is waited for; the pictures that one operation happens to are then changed
together. Of several generators each draws for its own, equal part of the pictures: several batches are augmented at
once, and each is what it would be alone. The operations are torchvision's (transforms.functional, on uint8 tensors,
nearest pixel), which applies them picture by picture, and so are their magnitudes, probabilities and signs
(transforms.AutoAugment). The published runs used another
implementation, on PIL images: it rounds translations, which are cut off here; it always rotates by +6.67 degrees, where
both signs are drawn here; and it shears bicubically, where the nearest pixel is taken here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dfs_edu.data.splits import Augmentation


def augment(images: Tensor, how: Augmentation, *generators: torch.Generator) -> Tensor:
    """What training sees: cropped and flipped, then by the policy of AutoAugment, then with a square cut out.

    images uint8 (B, 3, H, W), not written to -> the same shape
    """
    images = crop(images, how.pad, how.fill, how.flip, *generators)
    if how.autoaugment:
        images = autoaugment(images, how.fill, *generators)
    return cutout(images, how.cutout, *generators) if how.cutout else images


def crop(images: Tensor, pad: int, fill: int, flip: bool, *generators: torch.Generator) -> Tensor:
    """Random crops of the pictures with `pad` pixels of `fill` around them, half of them mirrored where `flip`.

    images uint8 (B, 3, H, W) -> the same shape
    """
    B, _, H, W = images.shape
    b = B // len(generators)
    top, left = each(generators, lambda g: torch.randint(0, 2 * pad + 1, (2, b, 1), generator=g), dim=1)
    mirrored = torch.zeros(B, 1, dtype=torch.bool)
    if flip:
        mirrored = each(generators, lambda g: torch.rand(b, 1, generator=g)) < 0.5
    across = torch.arange(W)
    rows = top - pad + torch.arange(H)  # (B, H)
    columns = left - pad + torch.where(mirrored, across.flip(0), across)  # (B, W)
    return fetch(images, send(rows, images)[:, None, :, None], send(columns, images)[:, None, None, :], fill)


def cutout(images: Tensor, side: int, *generators: torch.Generator) -> Tensor:
    """Pictures with a black square of `side` pixels, its centre anywhere in the picture: it may hang over the border.

    images uint8 (B, 3, H, W) -> the same shape. DeVries and Taylor, arXiv:1708.04552, 2017; their code erases after
    normalising, so that the square has the mean colour.
    """
    B, _, H, W = images.shape
    b = B // len(generators)
    y, x = (each(generators, lambda g, n=n: torch.randint(n, (b, 1), generator=g)) for n in (H, W))
    rows, columns = (torch.arange(n) - c + side // 2 for n, c in ((H, y), (W, x)))  # 0 where the square begins
    rows, columns = (send(((n >= 0) & (n < side)).byte(), images) for n in (rows, columns))  # (B, H), (B, W)
    return images * (1 - rows[:, None, :, None] * columns[:, None, None, :])


# AutoAugment: Cubuk, Zoph, Mane, Vasudevan and Le, CVPR 2019

# The policy found on CIFAR-10: a picture gets one line of it, and of that line each operation with its probability, at
# its level of 0 to 9.
POLICY = (
    (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
    (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
    (("Color", 0.9, 9), ("Equalize", 0.6, None)),
    (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, None), ("Invert", 0.1, None)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
)
SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
LEVELS = 10


def autoaugment(images: Tensor, fill: int, *generators: torch.Generator) -> Tensor:
    """Pictures changed by the policy found on CIFAR-10; `fill` comes in where a picture is moved away.

    images uint8 (B, 3, H, W) -> the same shape
    """
    for order, counts, magnitudes in drawn(images, *generators):
        parts = zip(OPERATIONS, images.index_select(0, order).split(counts), magnitudes.split(counts), strict=True)
        parts = [operate(name, part, m, fill) for name, part, m in parts if len(part)]
        images = torch.cat(parts).index_select(0, order.argsort())
    return images


def drawn(images: Tensor, *generators: torch.Generator) -> Iterator[tuple[Tensor, list[int], Tensor]]:
    """What happens first and what happens then: (order (B,), counts, magnitudes (B,)), each in the order of OPERATIONS.

    order puts the pictures of one operation next to each other, counts says how many each has.
    """
    B, _, H, W = images.shape
    operations, probabilities, levels = policy()
    b = B // len(generators)
    line = each(generators, lambda g: torch.randint(len(POLICY), (b,), generator=g))
    happens = each(generators, lambda g: torch.rand(b, 2, generator=g)) <= probabilities[line]
    positive = each(generators, lambda g: torch.randint(2, (b, 2), generator=g))
    operation = operations[line].where(happens, list(OPERATIONS).index("Identity"))  # (B, 2)
    magnitude = scale((H, W))[positive, operation, levels[line]]  # (B, 2)
    for turn in range(2):
        order = operation[:, turn].argsort()
        counts = operation[:, turn].bincount(minlength=len(OPERATIONS)).tolist()
        yield send(order, images), counts, send(magnitude[order, turn], images)


@lru_cache(1)
def policy() -> tuple[Tensor, Tensor, Tensor]:
    """POLICY in tensors, on the CPU: operations (numbered as in OPERATIONS), probabilities and levels, (25, 2) each."""
    number = {name: i for i, name in enumerate(OPERATIONS)}
    operations = torch.tensor([[number[name] for name, _, _ in line] for line in POLICY])
    probabilities = torch.tensor([[p for _, p, _ in line] for line in POLICY])
    return operations, probabilities, torch.tensor([[level or 0 for _, _, level in line] for line in POLICY])


@lru_cache(8)
def scale(size: tuple[int, int]) -> Tensor:
    """What levels mean for pictures of (H, W) pixels: magnitudes (sign 0 negative or 1 positive, operation, level)."""
    positive = torch.stack([levels_of(name, size) for name in OPERATIONS])
    signed = torch.tensor([[name in SIGNED] for name in OPERATIONS])
    return torch.stack([torch.where(signed, -positive, positive), positive])


def levels_of(name: str, size: tuple[int, int]) -> Tensor:
    """Magnitudes of the levels 0 to 9 of an operation, (10,), without their sign, in the units of `operate`."""
    height, width = size
    ends = {
        "ShearX": (0, 0.3),
        "ShearY": (0, 0.3),
        "TranslateX": (0, 150 / 331 * width),  # 150 pixels of ImageNet's 331
        "TranslateY": (0, 150 / 331 * height),
        "Rotate": (0, 30),
        "Posterize": (8, 4),
        "Solarize": (255, 0),
        "AutoContrast": (0, 0),
        "Equalize": (0, 0),
        "Invert": (0, 0),
        "Identity": (0, 0),
    }
    levels = torch.linspace(*ends.get(name, (0, 0.9)), LEVELS)
    return levels.round() if name == "Posterize" else levels


# Operations


def operate(name: str, images: Tensor, magnitudes: Tensor | Sequence[float], fill: int = 128) -> Tensor:
    """One operation of AutoAugment on every picture, each with its own magnitude.

    name        a key of OPERATIONS
    images      uint8 (B, 3, H, W), not written to
    magnitudes  (B,). ShearX, ShearY: pixels sideways a pixel. TranslateX, TranslateY: whole pixels, a fraction is cut
                off. Rotate: degrees, counter-clockwise. Brightness, Color, Contrast, Sharpness: 0 leaves the picture
                as it is, -1 takes all of it. Posterize: bits that stay. Solarize: the grey level from which on is
                inverted. AutoContrast, Equalize, Invert, Identity: ignored
    fill        0-255, what comes in where a picture is moved away

    -> uint8 (B, 3, H, W). Raises ValueError: an unknown name, or not one magnitude a picture.
    """
    if name not in OPERATIONS:
        raise ValueError(f"operation {name!r} is not known; use one of {', '.join(OPERATIONS)}")
    magnitudes = torch.as_tensor(magnitudes, dtype=torch.float32, device=images.device)
    if magnitudes.shape != images.shape[:1]:
        raise ValueError(f"magnitudes have shape {tuple(magnitudes.shape)}, not one for each of {len(images)} images")
    return OPERATIONS[name](images, magnitudes.view(-1, 1, 1, 1), fill)


# Below, m is the magnitude (b, 1, 1, 1), and x (W,), y (H, 1) count pixels: an operation says where the pixel that is
# to lie at (x, y) comes from.


def shear_x(images: Tensor, m: Tensor, fill: int) -> Tensor:
    y, x = grid(images)
    return fetch(images, y, x + m * (y + 0.5), fill)  # the upper edge stays: it lies half a pixel above row 0


def shear_y(images: Tensor, m: Tensor, fill: int) -> Tensor:
    y, x = grid(images)
    return fetch(images, y + m * (x + 0.5), x, fill)


def translate_x(images: Tensor, m: Tensor, fill: int) -> Tensor:
    y, x = grid(images)
    return fetch(images, y, x - m.trunc(), fill)


def translate_y(images: Tensor, m: Tensor, fill: int) -> Tensor:
    y, x = grid(images)
    return fetch(images, y - m.trunc(), x, fill)


def rotate(images: Tensor, m: Tensor, fill: int) -> Tensor:
    y, x = grid(images)
    sin, cos = m.deg2rad().sin(), m.deg2rad().cos()
    middle_y, middle_x = y.mean(), x.mean()
    y, x = y - middle_y, x - middle_x
    return fetch(images, middle_y + sin * x + cos * y, middle_x + cos * x - sin * y, fill)


def brightness(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return away_from(torch.zeros_like(m), images, m)


def color(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return away_from(grey(images), images, m)


def contrast(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return away_from(grey(images).mean((1, 2, 3), keepdim=True), images, m)


def sharpness(images: Tensor, m: Tensor, fill: int) -> Tensor:
    """Away from the smoothed picture: a pixel counts 5, its eight neighbours 1; the border stays."""
    pixels = images.float()
    columns = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
    around = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]  # the pixel among its neighbours
    smooth = pixels.clone()
    smooth[..., 1:-1, 1:-1] = ((around + 4 * pixels[..., 1:-1, 1:-1]) / 13).round()
    return away_from(smooth, images, m)


def posterize(images: Tensor, m: Tensor, fill: int) -> Tensor:
    dropped = (8 - m).byte()
    return images >> dropped << dropped


def solarize(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return torch.where(images >= m, 255 - images, images)


def autocontrast(images: Tensor, m: Tensor, fill: int) -> Tensor:
    """Every channel from its darkest pixel, which becomes 0, to its brightest, which becomes 255."""
    low = images.amin((2, 3), keepdim=True).float()
    span = images.amax((2, 3), keepdim=True) - low  # (b, 3, 1, 1)
    flat = span == 0
    return whole((images - low.masked_fill(flat, 0)) * (255 / span).masked_fill(flat, 1))


def equalize(images: Tensor, m: Tensor, fill: int) -> Tensor:
    """Every channel by its own table of 256 grey levels, which makes its cumulative histogram straight."""
    values = images.flatten(2).long()  # (b, 3, H W)
    ones = images.new_ones(1, 1, 1, dtype=torch.float32).expand_as(values)
    count = ones.new_zeros(*values.shape[:2], 256).scatter_add_(2, values, ones)  # whole numbers: exact, and fast
    last = count.gather(2, values.amax(2, keepdim=True))  # pixels of the brightest grey level that occurs
    step = ((values.shape[2] - last) / 255).floor()  # (b, 3, 1)
    below = count.cumsum(2) - count
    table = ((below + (step / 2).floor()) / step).floor().clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256.0, device=images.device))  # too few to be spread: as it is
    return whole(table).gather(2, values).view_as(images)


def invert(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return 255 - images


def identity(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return images


OPERATIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Identity": identity,
}


# What they are made of


def each(generators: Sequence[torch.Generator], draw: Callable[[torch.Generator], Tensor], dim: int = 0) -> Tensor:
    """What each of them draws, one part after the other."""
    return torch.cat([draw(generator) for generator in generators], dim)


def fetch(images: Tensor, rows: Tensor, columns: Tensor, fill: int) -> Tensor:
    """The pixels nearest to (rows, columns), `fill` where these lie outside; one gather for the whole batch.

    images (B, C, H, W); rows and columns broadcast to (B, 1, H, W) -> (B, C, H, W)
    """
    B, C, H, W = images.shape
    framed = F.pad(images, [1] * 4, value=fill)  # whatever lies outside is read from the frame
    rows, columns = (1 + n.round().long().clamp(-1, end) for n, end in ((rows, H), (columns, W)))
    source = (rows * (W + 2) + columns).expand(B, C, H, W)
    return framed.flatten(2).gather(2, source.flatten(2)).view_as(images)


def away_from(other: Tensor, images: Tensor, m: Tensor) -> Tensor:
    """(1 + m) images - m other: towards the other picture where m is negative, away from it where it is positive."""
    return whole((images * (1 + m) - m * other).clamp(0, 255))


def whole(values: Tensor) -> Tensor:
    """Numbers of 0 to 255, their fraction cut off -> uint8; by way of int16, which is three times as fast on a CPU."""
    return values.short().byte()


def grey(images: Tensor) -> Tensor:
    """(b, 3, H, W) -> whole numbers (b, 1, H, W), float32."""
    red, green, blue = images.split(1, dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()


def grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """y (H, 1) and x (W,), where the images lie."""
    H, W = images.shape[-2:]
    y, x = (torch.arange(n, dtype=torch.float32, device=images.device) for n in (H, W))
    return y[:, None], x


def send(numbers: Tensor, images: Tensor) -> Tensor:
    """A few numbers from the CPU to where the images lie, without waiting for what a GPU still has to do."""
    return numbers.to(images.device, non_blocking=True)
