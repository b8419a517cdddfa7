"""A split whose images stay on disk: it holds their paths, and decodes them when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dfs_edu.data.decoding import centred, decode
from dfs_edu.data.splits import DataError, Split, few

RESIDENT = 2**30  # bytes of decoded images that are held in memory at once, at most


@dataclass(frozen=True)
class Files:
    """The image files and labels of one split; what ``Split`` is for images in memory.

    Attributes:
        name: "train", "validation" or "test".
        root: The folder below which the files are.
        paths: N paths, relative to root.
        labels: int64 (N,).
        pixels: Side length at which a network reads the images.
    """

    name: str
    root: Path
    paths: tuple[str, ...]
    labels: Tensor
    pixels: int

    difficulty = None  # known for composed images only, see ``Split``

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice | Tensor) -> Files:
        places = torch.arange(len(self))[index].tolist()
        return replace(self, paths=tuple(self.paths[n] for n in places), labels=self.labels[index])

    @property
    def images(self) -> Tensor:
        """All images, uint8 (N, 3, side, side), decoded now, resized and centre-cropped. Slice first (``split[:24]``).

        Raises:
            DataError: An image is broken, which is named; or the images take more than 1 GiB.
        """
        size = 3 * self.pixels**2 * len(self)
        if size > RESIDENT:
            raise DataError(f"{len(self)} images take {size / 2**30:.1f} GiB: take a slice, as in split[:24].images")
        split, faults = self.read()
        if faults:
            raise DataError(faults[0])
        return split.images

    def read(self) -> tuple[Split, list[str]]:
        """Return the split in memory without its broken images, and what is wrong with each of those."""
        images = torch.empty(len(self), 3, self.pixels, self.pixels, dtype=torch.uint8)

        def read_into(n: int) -> str | None:
            try:
                images[n] = centred(decode(self.root / self.paths[n]), self.pixels)
            except DataError as error:
                return str(error)

        with ThreadPoolExecutor() as pool:  # threads are enough: decoders release Python's lock
            faults = list(pool.map(read_into, range(len(self))))
        broken = {path: fault for path, fault in zip(self.paths, faults, strict=True) if fault}
        if not broken:
            return Split(self.name, images, self.labels), []
        good = torch.tensor([fault is None for fault in faults])
        split = Split(self.name, images[good], self.labels[good], broken=tuple(sorted(broken)))
        return split, list(broken.values())

    def content(self) -> Iterator[bytes]:
        """Yield path, size and label of each file, for the checksum: reading all of ImageNet would take hours."""
        yield f"{self.pixels} pixels\n".encode()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            yield os.fsencode(path) + f"\0{os.path.getsize(os.path.join(self.root, path))}\0{label}\n".encode()


def stop_if_many(broken: Collection[str], total: int) -> None:
    """Raise DataError if more than 0.1 % of the images of a split are broken; one broken image is always allowed."""
    if len(broken) > max(1, total // 1000):
        raise DataError(f"{len(broken)} of {total} images are broken, more than 0.1 %: {few(sorted(broken))}")
