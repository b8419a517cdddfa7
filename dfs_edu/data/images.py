"""Pictures that lie on the disk: a split that knows where they are and decodes them when they are asked for."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from dfs_edu.data.splits import DataError, Split

RESIDENT = 2**30  # bytes of decoded pictures that are held in memory at once, at the most
MOST_PIXELS = 2**26  # of one image: 192 MiB when it is decoded, and several are decoded at a time
FORMATS = ("JPEG", "PNG", "WEBP", "MPO")  # MPO: how some cameras call a JPEG with a preview behind it
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, steps
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
BARE = (0x00, 0x01, *range(0xD0, 0xD8), 0xFF)  # after FF, these begin no segment: within a scan, FF is written FF 00
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames with Huffman codes
CORNERS = ((-1, -1), (0, 0), (0, -1), (-1, 0))  # where a JPEG ends, before and after it is turned upright
FILL = b"\xff\x00" * 8  # eight bytes of ones, which are no Huffman code: the decoder looks ahead no further
MANY_PIXELS = 2**24  # Pillow needs 17 bytes for each while it decodes: images of more are decoded one at a time
_LARGE = threading.Lock()
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
        """The pictures in memory, as `images`, without the broken ones; and what is wrong with those."""
        images = torch.empty(len(self), 3, self.pixels, self.pixels, dtype=torch.uint8)

        def put(n: int) -> str | None:
            try:
                images[n] = centred(decode(self.root / self.paths[n]), self.pixels)
            except DataError as error:
                return str(error)

        with ThreadPoolExecutor() as pool:  # threads do: decoding lets go of Python's lock
            faults = list(pool.map(put, range(len(self))))
        broken = {path: fault for path, fault in zip(self.paths, faults, strict=True) if fault}
        if not broken:
            return Split(self.name, images, self.labels), []
        good = torch.tensor([fault is None for fault in faults])
        split = Split(self.name, images[good], self.labels[good], broken=tuple(sorted(broken)))
        return split, list(broken.values())

    def content(self) -> Iterator[bytes]:
        """What the checksum is made of: path, size and label of each file. Reading all of ImageNet would take hours."""
        yield f"{self.pixels} pixels\n".encode()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            yield os.fsencode(path) + f"\0{os.path.getsize(os.path.join(self.root, path))}\0{label}\n".encode()


def decode(path: Path) -> Tensor:
    """A JPEG, PNG or WEBP as uint8 RGB (3, H, W), upright; grey, CMYK and palettes are converted, alpha is dropped.

    The format is told by the content. JPEGs take torchvision's fast way; the others are read by Pillow, which raises
    where torchvision 0.29 takes the whole process down (bad pixel data in a PNG) or leaves an image on its side (WEBP).
    A JPEG that was cut is refused even if an end marker was put after the cut (see `_check_jpeg` for the limits).

    Raises DataError naming the file if it is missing, truncated, too large or not an image.
    """
    try:
        content = np.fromfile(path, np.uint8)
        with Image.open(io.BytesIO(content)) as image:  # reads the header alone
            _check_header(image)
            if image.format in ("JPEG", "MPO"):
                decoded = decode_image(torch.from_numpy(content), ImageReadMode.RGB, apply_exif_orientation=True)
                if _may_be_cut(image, decoded):
                    _check_jpeg(content.tobytes())
                return decoded
            _check_png(content.data)
            with _LARGE if image.width * image.height > MANY_PIXELS else nullcontext():
                return _by_pillow(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not a picture that can be read ({len(content)} bytes of no known format)") from error
    except Exception as error:  # whatever a decoder dies of: the file is to blame, and is named
        text = next(iter(str(error).splitlines()), "") or type(error).__name__
        where, _, reason = text.rpartition(".cpp:")  # where in torchvision it was noticed
        reason = reason.lstrip("0123456789, ") if where else reason
        raise DataError(f"{path}: not a picture that can be read ({reason})") from error


def _check_header(image: Image.Image) -> None:
    """Raise ValueError for another format, several images in one, and more pixels than memory should be given for."""
    if image.format not in FORMATS:
        raise ValueError(f"{image.format}, not {', '.join(FORMATS[:3])}")
    if image.format == "WEBP" and getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"{image.n_frames} moving pictures, not one")
    W, H = image.size
    if W * H > MOST_PIXELS:
        raise ValueError(f"{W}x{H} pixels, more than {MOST_PIXELS:,}")


def _by_pillow(image: Image.Image) -> Tensor:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, the upper 8
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()  # (3, H, W)


def _may_be_cut(image: Image.Image, decoded: Tensor) -> bool:
    """Whether a JPEG needs a closer look: a rare kind, or its last block is as grey as decoders fill a cut."""
    if "progressive" in image.info or image.mode == "CMYK":
        return True
    pixels = decoded.numpy()
    corners = CORNERS if "exif" in image.info else CORNERS[:1]  # it may have been turned upright
    return any(_is_grey(pixels[:, y, x].tolist()) and _is_grey_block(pixels, y, x) for y, x in corners)


def _check_jpeg(content: bytes) -> None:
    """Raise ValueError or OSError if a JPEG ends before its last pixel, although an end marker follows.

    A sequential JPEG in one scan (nearly all are) is decoded once more, without the marker and what follows: then
    Pillow asks for the data that are missing. A cut within the last 8x8 to 16x16 pixels may go unnoticed.

    Of a JPEG in several scans, the headers must promise every bit of every coefficient. So a progressive JPEG that was
    cut before its last scan is refused. A cut within the last scan, which usually refines the finest detail, is not
    noticed, nor one after the first scan of a sequential JPEG in several scans, which loses colour. Arithmetic codes,
    which may omit trailing zeros, are not checked.
    """
    segments = _segments(content)
    kind, frame = next((marker, body) for marker, _, body in segments if marker in FRAMES)
    scan = next(body for marker, _, body in segments if marker == START_OF_SCAN)
    components = frame[6::3]
    if kind == PROGRESSIVE or (kind in SEQUENTIAL and scan[0] < len(components)):
        scans = [scan, *(body for marker, _, body in segments if marker == START_OF_SCAN)]
        if not all(_is_complete(component, scans, kind) for component in components):
            raise ValueError("the JPEG ends early: some of its scans are missing")
    elif kind in SEQUENTIAL:
        end = next((start for _, start, _ in segments), len(content))
        with Image.open(io.BytesIO(content[:end] + FILL)) as image:
            image.load()  # raises OSError: image file is truncated


def _segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, place and body of each segment of a JPEG, up to and including the end of the image."""
    at = 2
    while (at := content.find(b"\xff", at) + 1) and at < len(content):
        marker = content[at]
        if marker in BARE:
            continue
        length = 0 if marker == END_OF_IMAGE else int.from_bytes(content[at + 1 : at + 3], "big")
        yield marker, at - 1, content[at + 3 : at + 1 + length]
        if marker == END_OF_IMAGE:
            return
        at += 1 + length


def _is_complete(component: int, scans: list[bytes], kind: int) -> bool:
    """Whether the scans give a component the last bit of all 64 coefficients."""
    given = set()
    for scan in scans:  # a count, two bytes for each component, first and last coefficient, bits: high and low
        first, last, bits = scan[-3:] if kind == PROGRESSIVE else (0, 63, 0)
        if component in scan[1:-3:2] and not bits & 15:
            given.update(range(first, last + 1))
    return len(given) == 64


def _is_grey_block(pixels: np.ndarray, y: int, x: int) -> bool:
    """Whether what is visible of the last block, in the corner y, x (each 0 or -1), is medium grey."""
    h, w = ((side - 1) % 8 + 1 for side in pixels.shape[1:])
    block = pixels[:, -h:] if y else pixels[:, :h]
    block = block[:, :, -w:] if x else block[:, :, :w]
    return all(map(_is_grey, block.reshape(3, -1).T.tolist()))


def _is_grey(pixel: list[int]) -> bool:
    """Whether a pixel is as light as medium grey, up to rounding: the block beside it may tint the first ones."""
    red, green, blue = pixel
    return 126_000 <= 299 * red + 587 * green + 114 * blue <= 130_000


def _check_png(content: memoryview) -> None:
    """Raise ValueError where a PNG is damaged or holds fewer pixels than its header says, which Pillow lets pass."""
    if content[:4] != b"\x89PNG":
        return
    at, kind, pixels = 8, b"", []
    while kind != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        kind, end = bytes(content[at + 4 : at + 8]), at + 8 + length  # a chunk: length, kind, content, checksum
        if zlib.crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big") or end > len(content):
            raise ValueError("a part of the PNG is damaged or missing")
        if kind == b"IDAT":
            pixels.append(content[at + 8 : end])
        at = end + 4
    W, H, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits *= {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]  # of a pixel
    grids = [(-(-(W - x) // dx), -(-(H - y) // dy)) for x, y, dx, dy in ADAM7] if interlaced else [(W, H)]
    promised = sum(h * (1 + (w * bits + 7) // 8) for w, h in grids if w > 0 and h > 0)  # a byte before each row
    if (held := _inflated(b"".join(pixels), promised)) < promised:
        raise ValueError(f"{held} bytes of pixels, not {promised}")


def _inflated(compressed: bytes, most: int) -> int:
    """How many bytes a zlib stream gives, up to `most`, without keeping them."""
    stream, held = zlib.decompressobj(), 0
    while held < most and not stream.eof:
        piece = stream.decompress(compressed, 2**20)
        held, compressed = held + len(piece), stream.unconsumed_tail
        if not piece and not compressed:
            break
    return held


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
