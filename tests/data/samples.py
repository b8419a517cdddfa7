"""What the tests of data sets are made of: small splits, image files in folders, and a comparison of batches."""

import io
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.io import encode_jpeg, encode_png

from dfs_edu.data import Augmentation, Dataset, Split, places


def smooth(n: int, height: int = 40, width: int = 48) -> torch.Tensor:
    """A smooth image that no other n has, uint8 (3, H, W)."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(n))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return smooth.clamp(0, 1).mul(255).to(torch.uint8)


def write(path: Path, pixels: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = encode_png if path.suffix == ".png" else encode_jpeg
    path.write_bytes(encode(pixels).numpy().tobytes())


def make(root: Path, counts: dict[str, int], suffix: str = ".JPEG") -> Path:
    """counts: folder of a class, as "train/cat" -> images in it, of various sizes."""
    for c, (place, count) in enumerate(counts.items()):
        for n in range(count):
            write(root / place / f"{n:03}{suffix}", smooth(1000 * c + n, 30 + 7 * (n % 3), 33 + 5 * (n % 4)))
    return root


def sample() -> Path:
    """The real images of ImageNet, where there are some."""
    for place in places():
        if (place / "imagenet-sample" / "train").is_dir():
            return place / "imagenet-sample"
    pytest.skip("no imagenet-sample/ below $DFS_EDU_DATA or data/")


def pil(kind: str, pixels: torch.Tensor) -> bytes:
    """The image encoded as another kind of file."""
    mode, format = kind.split()
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.convert(mode).save(file, format, **({"lossless": True} if format == "WEBP" else {}))
    return file.getvalue()


def jpeg(size: tuple[int, int], mode: str = "RGB", seed: int = 0, **options) -> bytes:
    """A JPEG of noise over a smooth ground: data of some length in every block."""
    noise = torch.randn(3, size[1], size[0], generator=torch.Generator().manual_seed(seed)).mul(12)
    pixels = (smooth(seed, size[1], size[0]) + noise).clamp(0, 255).byte()
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def cut(whole: bytes, share: float) -> bytes:
    """The first part of the data behind the first scan's header, ended as if it were all."""
    start = whole.index(b"\xff\xda") + 16
    return whole[: start + int((len(whole) - start) * share)] + b"\xff\xd9"


def collected(batches) -> list:
    return list(batches)


def same(a: list, b: list) -> bool:
    return len(a) == len(b) > 0 and all(
        torch.equal(x, y) and torch.equal(s, t) for (x, s), (y, t) in zip(a, b, strict=True)
    )


def small_split(n=50, flip=True) -> tuple[Split, Dataset]:
    """Random images of 8x8 pixels, and a data set of them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    parts = [Split(name, images, torch.arange(n) % 5) for name in ("train", "validation", "test")]
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    return parts[0], Dataset("small", *parts, tuple("abcde"), mean, std, Augmentation(2, 128, flip))


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of 8 bits RGB whose chunks have right checksums, whatever is in them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
