"""Random crops, flips, AutoAugment and Cutout of a whole batch of uint8 images at once, on the device of the batch.

Nothing loops over images. The given generator draws on the CPU what happens to which image, so that every device sees
the same images and no device is waited for; the images that get the same operation are then changed together. If there
are several generators, each draws for its own equal part of the images: so several batches are augmented at once, and
each is what it would be alone.

The operations are torchvision's (``transforms.functional``, on uint8 tensors, nearest pixel), which applies them image
by image, and so are their magnitudes, probabilities and signs (``transforms.AutoAugment``). The published runs used
another implementation, on PIL images. It rounds translations, which are truncated here; it always rotates by +6.67
degrees, where both signs are drawn here; and it shears bicubically, where the nearest pixel is taken here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from dfs_edu.data.splits import Augmentation


def augment(images: Tensor, augmentation: Augmentation, *generators: torch.Generator) -> Tensor:
    """Return what training sees: images cropped and flipped, changed by AutoAugment's policy, with a square cut out.

    Args:
        images: uint8 (B, 3, H, W), not written to.
        augmentation: Which of these to apply.
        generators: On the CPU; each draws for its equal part of the images.

    Returns:
        uint8 (B, 3, H, W).
    """
    images = crop(images, augmentation.pad, augmentation.fill, augmentation.flip, *generators)
    if augmentation.autoaugment:
        images = autoaugment(images, augmentation.fill, *generators)
    return cutout(images, augmentation.cutout, *generators) if augmentation.cutout else images


def crop(images: Tensor, pad: int, fill: int, flip: bool, *generators: torch.Generator) -> Tensor:
    """Crop images at random after padding them by ``pad`` pixels of ``fill``, and mirror half of them if ``flip``.

    images uint8 (B, 3, H, W) -> the same shape
    """
    B, _, H, W = images.shape
    b = B // len(generators)
    top, left = draw(generators, lambda g: torch.randint(0, 2 * pad + 1, (2, b, 1), generator=g), dim=1)
    mirrored = torch.zeros(B, 1, dtype=torch.bool)
    if flip:
        mirrored = draw(generators, lambda g: torch.rand(b, 1, generator=g)) < 0.5

    # Crop and mirror in one gather: where does the pixel of each row and column come from?
    across = torch.arange(W)
    rows = top - pad + torch.arange(H)  # (B, H)
    columns = left - pad + torch.where(mirrored, across.flip(0), across)  # (B, W)
    return fetch(images, send(rows, images)[:, None, :, None], send(columns, images)[:, None, None, :], fill)


def cutout(images: Tensor, side: int, *generators: torch.Generator) -> Tensor:
    """Cut out a black square of ``side`` pixels whose centre is anywhere in the image; it may hang over the border.

    images uint8 (B, 3, H, W) -> the same shape

    Source:
        DeVries and Taylor, arXiv:1708.04552, 2017; their code erases after normalising, so that the square has the mean
        colour.
    """
    B, _, H, W = images.shape
    b = B // len(generators)
    y, x = (draw(generators, lambda g, n=n: torch.randint(n, (b, 1), generator=g)) for n in (H, W))
    rows, columns = (torch.arange(n) - c + side // 2 for n, c in ((H, y), (W, x)))  # 0 where the square begins
    rows, columns = (send(((n >= 0) & (n < side)).byte(), images) for n in (rows, columns))  # (B, H), (B, W)
    return images * (1 - rows[:, None, :, None] * columns[:, None, None, :])


# AutoAugment: Cubuk, Zoph, Mane, Vasudevan and Le, CVPR 2019

# The policy found on CIFAR-10: 25 lines of two operations, each with its probability and its level from 0 to 9. An
# image gets one line.
POLICY = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
SIGNED = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
LEVELS = 10


def autoaugment(images: Tensor, fill: int, *generators: torch.Generator) -> Tensor:
    """Apply the policy found on CIFAR-10; ``fill`` appears where an image is moved away.

    images uint8 (B, 3, H, W) -> the same shape
    """
    for order, counts, magnitudes in draw_policy(images, *generators):
        parts = zip(OPERATIONS, images.index_select(0, order).split(counts), magnitudes.split(counts), strict=True)
        changed = [operate(name, part, m, fill) for name, part, m in parts if len(part)]
        images = torch.cat(changed).index_select(0, order.argsort())
    return images


def draw_policy(images: Tensor, *generators: torch.Generator) -> Iterator[tuple[Tensor, list[int], Tensor]]:
    """Draw which operation comes first for each image, and which second.

    Yields:
        order (B,), which puts the images of one operation next to each other; counts, how many images each operation
        has, in the order of OPERATIONS; and magnitudes (B,), in the same order.
    """
    B, _, H, W = images.shape
    operations, probabilities, levels = policy()

    # A line of the policy for each image; whether its operations happen; the sign of their magnitudes
    b = B // len(generators)
    line = draw(generators, lambda g: torch.randint(len(POLICY), (b,), generator=g))
    happens = draw(generators, lambda g: torch.rand(b, 2, generator=g)) <= probabilities[line]
    positive = draw(generators, lambda g: torch.randint(2, (b, 2), generator=g))
    operation = operations[line].where(happens, list(OPERATIONS).index("Identity"))  # (B, 2)
    magnitude = scale((H, W))[positive, operation, levels[line]]  # (B, 2)

    # Sorted by operation
    for turn in range(2):
        order = operation[:, turn].argsort()
        counts = operation[:, turn].bincount(minlength=len(OPERATIONS)).tolist()
        yield send(order, images), counts, send(magnitude[order, turn], images)


@lru_cache(1)
def policy() -> tuple[Tensor, Tensor, Tensor]:
    """Return POLICY as CPU tensors: operations (numbered as in OPERATIONS), probabilities and levels, (25, 2) each."""
    number = {name: i for i, name in enumerate(OPERATIONS)}
    operations = torch.tensor([[number[name] for name, _, _ in line] for line in POLICY])
    probabilities = torch.tensor([[p for _, p, _ in line] for line in POLICY])
    return operations, probabilities, torch.tensor([[level or 0 for _, _, level in line] for line in POLICY])


@lru_cache(8)
def scale(size: tuple[int, int]) -> Tensor:
    """Return magnitudes (sign, operation, level) for images of (H, W) pixels; sign 0 is negative, 1 positive."""
    positive = torch.stack([levels_of(name, size) for name in OPERATIONS])
    signed = torch.tensor([[name in SIGNED] for name in OPERATIONS])
    return torch.stack([torch.where(signed, -positive, positive), positive])


def levels_of(name: str, size: tuple[int, int]) -> Tensor:
    """Return the magnitudes of an operation's levels 0 to 9, (10,), without their sign, in the units of ``operate``."""
    height, width = size
    ends = {
        "ShearX": (0, 0.3),
        "ShearY": (0, 0.3),
        "TranslateX": (0, 150 / 331 * width),  # 150 pixels of ImageNet's 331
        "TranslateY": (0, 150 / 331 * height),
        "Rotate": (0, 30),
        "Posterize": (8, 4),
        "Solarize": (255, 0),
        **dict.fromkeys(("AutoContrast", "Equalize", "Invert", "Identity"), (0, 0)),
    }
    levels = torch.linspace(*ends.get(name, (0, 0.9)), LEVELS)
    return levels.round() if name == "Posterize" else levels


# Operations


def operate(name: str, images: Tensor, magnitudes: Tensor | Sequence[float], fill: int = 128) -> Tensor:
    """Apply one operation of AutoAugment to all images, each with its own magnitude.

    Args:
        name: A key of OPERATIONS.
        images: uint8 (B, 3, H, W), not written to.
        magnitudes: (B,). ShearX, ShearY: pixels sideways per pixel. TranslateX, TranslateY: whole pixels, a fraction is
            dropped. Rotate: degrees, counter-clockwise. Brightness, Color, Contrast, Sharpness: 0 leaves the image as
            it is, -1 removes all of the quality. Posterize: bits that are kept. Solarize: the grey level from which
            onwards pixels are inverted. AutoContrast, Equalize, Invert, Identity: ignored.
        fill: 0-255, appears where an image is moved away.

    Returns:
        uint8 (B, 3, H, W).

    Raises:
        ValueError: The name is unknown, or there is not one magnitude per image.
    """
    if name not in OPERATIONS:
        raise ValueError(f"operation {name!r} is not known; use one of {', '.join(OPERATIONS)}")
    magnitudes = torch.as_tensor(magnitudes, dtype=torch.float32, device=images.device)
    if magnitudes.shape != images.shape[:1]:
        raise ValueError(f"magnitudes have shape {tuple(magnitudes.shape)}, not one for each of {len(images)} images")
    return OPERATIONS[name](images, magnitudes.view(-1, 1, 1, 1), fill)


# Below, m is the magnitude (b, 1, 1, 1), and x (W,), y (H, 1) are coordinates of pixels. An operation that moves an
# image says where the pixel at (x, y) of the result comes from.


def shear_x(images: Tensor, m: Tensor, fill: int) -> Tensor:
    y, x = grid(images)
    return fetch(images, y, x + m * (y + 0.5), fill)  # the upper edge stays: it is half a pixel above row 0


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
    return blend(images, torch.zeros_like(m), m)


def color(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return blend(images, grey(images), m)


def contrast(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return blend(images, grey(images).mean((1, 2, 3), keepdim=True), m)


def sharpness(images: Tensor, m: Tensor, fill: int) -> Tensor:
    """Blend with the smoothed image: a pixel weighs 5, each of its eight neighbours 1; the border stays."""
    pixels = images.float()
    columns = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
    around = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]  # the pixel among its neighbours
    smooth = pixels.clone()
    smooth[..., 1:-1, 1:-1] = ((around + 4 * pixels[..., 1:-1, 1:-1]) / 13).round()
    return blend(images, smooth, m)


def posterize(images: Tensor, m: Tensor, fill: int) -> Tensor:
    dropped = (8 - m).byte()
    return images >> dropped << dropped


def solarize(images: Tensor, m: Tensor, fill: int) -> Tensor:
    return torch.where(images >= m, 255 - images, images)


def autocontrast(images: Tensor, m: Tensor, fill: int) -> Tensor:
    """Stretch every channel: its darkest pixel becomes 0, its brightest 255."""
    low = images.amin((2, 3), keepdim=True).float()
    span = images.amax((2, 3), keepdim=True) - low  # (b, 3, 1, 1)
    flat = span == 0
    return to_uint8((images - low.masked_fill(flat, 0)) * (255 / span).masked_fill(flat, 1))


def equalize(images: Tensor, m: Tensor, fill: int) -> Tensor:
    """Map every channel by its own table of 256 grey levels, which makes its cumulative histogram straight."""
    values = images.flatten(2).long()  # (b, 3, H W)
    ones = images.new_ones(1, 1, 1, dtype=torch.float32).expand_as(values)
    count = ones.new_zeros(*values.shape[:2], 256).scatter_add_(2, values, ones)  # whole numbers: exact, and fast
    last = count.gather(2, values.amax(2, keepdim=True))  # pixels of the brightest level present
    step = ((values.shape[2] - last) / 255).floor()  # (b, 3, 1)
    below = count.cumsum(2) - count
    table = ((below + (step / 2).floor()) / step).floor().clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256.0, device=images.device))  # too few to spread: unchanged
    return to_uint8(table).gather(2, values).view_as(images)


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


# What the operations are made of


def draw(generators: Sequence[torch.Generator], one: Callable[[torch.Generator], Tensor], dim: int = 0) -> Tensor:
    """Concatenate what each generator draws for its part of the images."""
    return torch.cat([one(generator) for generator in generators], dim)


def fetch(images: Tensor, rows: Tensor, columns: Tensor, fill: int) -> Tensor:
    """Return the pixels nearest to (rows, columns), ``fill`` where these are outside; one gather for the whole batch.

    images (B, C, H, W); rows and columns broadcast to (B, 1, H, W) -> (B, C, H, W)
    """
    B, C, H, W = images.shape
    framed = F.pad(images, [1] * 4, value=fill)  # whatever is outside is read from the frame
    rows, columns = (1 + n.round().long().clamp(-1, end) for n, end in ((rows, H), (columns, W)))
    source = (rows * (W + 2) + columns).expand(B, C, H, W)
    return framed.flatten(2).gather(2, source.flatten(2)).view_as(images)


def blend(images: Tensor, other: Tensor, m: Tensor) -> Tensor:
    """Return (1 + m) images - m other: towards the other image if m is negative, away from it if it is positive."""
    return to_uint8((images * (1 + m) - m * other).clamp(0, 255))


def to_uint8(values: Tensor) -> Tensor:
    """Truncate numbers from 0 to 255 to uint8; by way of int16, which is three times as fast on a CPU."""
    return values.short().byte()


def grey(images: Tensor) -> Tensor:
    """Convert (b, 3, H, W) to grey levels: whole numbers (b, 1, H, W), float32."""
    red, green, blue = images.split(1, dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()


def grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates y (H, 1) and x (W,), on the images' device."""
    H, W = images.shape[-2:]
    y, x = (torch.arange(n, dtype=torch.float32, device=images.device) for n in (H, W))
    return y[:, None], x


def send(numbers: Tensor, images: Tensor) -> Tensor:
    """Copy a few numbers from the CPU to the images' device, without waiting for a GPU to finish its work."""
    return numbers.to(images.device, non_blocking=True)
