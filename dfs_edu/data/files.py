"""Pictures that lie on the disk: a split that knows where they are and decodes them when they are asked for."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from dfs_edu.data.splits import DataError, Split

RESIDENT = 2**30  # bytes of decoded pictures that are held in memory at once, at the most
FEW = 5  # names that an error shows of a longer list


@dataclass(frozen=True)
class Files:
    """One split of pictures on the disk; to `Dataset` and `Streamed` what `Split` is to `Batches`."""

    name: str  # "train", "validation" or "test"
    root: Path
    paths: tuple[str, ...]  # N, below root
    labels: Tensor  # (N,) int64
    pixels: int  # side of what a network reads

    difficulty = None  # as in `Split`: known of composed pictures only

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice | Tensor) -> Files:
        places = torch.arange(len(self))[index].tolist()
        return replace(self, paths=tuple(self.paths[n] for n in places), labels=self.labels[index])

    @property
    def images(self) -> Tensor:
        """uint8 (N, 3, pixels, pixels): decoded now, resized and cut from the middle. For a slice: `split[:24].images`.

        Raises DataError: a broken picture, by name; more than a GiB of pictures.
        """
        size = 3 * self.pixels**2 * len(self)
        if size > RESIDENT:
            raise DataError(f"{len(self)} pictures take {size / 2**30:.1f} GiB: take a slice, as in split[:24].images")
        split, broken = self.read()
        if broken:
            raise DataError(broken[0])
        return split.images

    def read(self) -> tuple[Split, list[str]]:
        """The pictures in memory, as `images`, without the broken ones; and which are broken, and why."""
        images = torch.empty(len(self), 3, self.pixels, self.pixels, dtype=torch.uint8)

        def put(n: int) -> str | None:
            try:
                images[n] = centred(decode(self.root / self.paths[n]), self.pixels)
            except DataError as error:
                return str(error)

        with ThreadPoolExecutor() as pool:  # threads do: decoding lets go of Python's lock
            faults = list(pool.map(put, range(len(self))))
        broken = [fault for fault in faults if fault]
        if not broken:
            return Split(self.name, images, self.labels), []
        good = torch.tensor([fault is None for fault in faults])
        return Split(self.name, images[good], self.labels[good]), broken

    def content(self) -> Iterator[bytes]:
        """What the checksum is made of: path, size and label of each file. Reading all of ImageNet would take hours."""
        yield f"{self.pixels} pixels\n".encode()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            yield os.fsencode(path) + f"\0{os.path.getsize(os.path.join(self.root, path))}\0{label}\n".encode()


def decode(path: Path) -> Tensor:
    """A JPEG, PNG or WEBP as uint8 RGB (3, H, W), upright; grey, CMYK and palettes are converted, alpha is dropped.

    Raises DataError naming the file, for what is missing, truncated or no picture.
    """
    try:
        content = np.fromfile(path, np.uint8)
        _check_png(content.data)
        picture = decode_image(torch.from_numpy(content), ImageReadMode.RGB, apply_exif_orientation=True)
    except (OSError, RuntimeError) as error:
        where, _, reason = str(error).splitlines()[0].rpartition(".cpp:")  # where in torchvision it was noticed
        reason = reason.lstrip("0123456789, ") if where else reason
        raise DataError(f"{path}: not a picture that can be read ({reason})") from error
    if picture.ndim != 3:
        raise DataError(f"{path}: {len(picture)} moving pictures, not one")
    return F.to_dtype(picture, torch.uint8, scale=True)  # of 16 bits a channel, the upper 8


def _check_png(content: memoryview) -> None:
    """Raise OSError where a PNG is damaged: torchvision 0.29 does not raise then, it takes the whole process down."""
    if content[:4] != b"\x89PNG":
        return
    at, kind = 8, b""
    while kind != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        kind, end = content[at + 4 : at + 8], at + 8 + length  # a chunk: length, kind, content, checksum
        if zlib.crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big") or end > len(content):
            raise OSError("a part of the PNG is damaged or missing")
        at = end + 4


def centred(picture: Tensor, pixels: int) -> Tensor:
    """uint8 (3, H, W) -> (3, pixels, pixels): the short side resized to 256 for 224 pixels, then the middle."""
    H, W = picture.shape[1:]
    most = 4 * min(H, W)  # a strip 1 pixel wide and 20,000 long would take gigabytes if it were resized whole
    picture = F.center_crop(picture, [min(H, most), min(W, most)])
    picture = F.resize(picture, [round(pixels * 256 / 224)], antialias=True)
    return F.center_crop(picture, [pixels, pixels])


def stop_if_many(broken: Collection[str], of: int) -> None:
    """Raise DataError where more than 0.1 % of the pictures of a split are broken, though one may always be."""
    if len(broken) > max(1, of // 1000):
        raise DataError(f"{len(broken)} of {of} pictures are broken, more than 0.1 %: {few(sorted(broken))}")


def few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
