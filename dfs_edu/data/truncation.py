"""Image files that end early or are damaged, where decoders would notice nothing and show grey instead."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image
from torch import Tensor

# JPEG: markers, each after a byte FF
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
BARE = (0x00, 0x01, *range(0xD0, 0xD8), 0xFF)  # these begin no segment: within a scan, FF is written as FF 00
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames with Huffman codes
CORNERS = ((-1, -1), (0, 0), (0, -1), (-1, 0))  # where a JPEG ends, before and after it is turned upright
FILL = b"\xff\x00" * 8  # eight bytes of ones, which are no Huffman code; the decoder looks ahead no further

# PNG: channels of a colour type, and x, y, step in x, step in y of the passes of an interlaced image
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def check_jpeg(content: memoryview, image: Image.Image, decoded: Tensor) -> None:
    """Raise an error if a JPEG ends before its last pixel, although an end marker follows.

    A sequential JPEG in one scan (nearly all are) whose last block is as grey as decoders fill what is missing is
    decoded once more, without the marker and what follows: then Pillow asks for the missing data. A cut within the last
    8x8 to 16x16 pixels may go unnoticed.

    In a JPEG of several scans, the headers must promise every bit of every coefficient, so a progressive JPEG that was
    cut before its last scan is refused. Two cuts are not noticed: one within the last scan, which usually refines the
    finest detail, and one after the first scan of a sequential JPEG in several scans, which loses colour. Arithmetic
    codes, which may omit trailing zeros, are not checked.

    Args:
        content: The file.
        image: The same, opened by Pillow.
        decoded: Its pixels, uint8 (3, H, W).

    Raises:
        ValueError: Scans are missing.
        OSError: The only scan is cut.
    """
    if not _may_be_cut(image, decoded):
        return
    data = bytes(content)
    segments = _segments(data)  # an iterator: each search goes on behind the segment that the last one found
    kind, frame = next((marker, body) for marker, _, body in segments if marker in FRAMES)
    scan = next(body for marker, _, body in segments if marker == START_OF_SCAN)
    components = frame[6::3]
    if kind == PROGRESSIVE or (kind in SEQUENTIAL and scan[0] < len(components)):
        scans = [scan, *(body for marker, _, body in segments if marker == START_OF_SCAN)]
        if not all(_is_complete(component, scans, kind) for component in components):
            raise ValueError("the JPEG ends early: some of its scans are missing")
    elif kind in SEQUENTIAL:
        end = next((start for _, start, _ in segments), len(data))
        with Image.open(io.BytesIO(data[:end] + FILL)) as cut:
            cut.load()  # raises OSError: image file is truncated


def _may_be_cut(image: Image.Image, decoded: Tensor) -> bool:
    """Whether a JPEG needs a closer check: it is of a rare kind, or its last block is as grey as a cut is filled."""
    if "progressive" in image.info or image.mode == "CMYK":
        return True
    pixels = decoded.numpy()
    corners = CORNERS if "exif" in image.info else CORNERS[:1]  # it may have been turned upright
    return any(_is_grey(pixels[:, y, x].tolist()) and _is_grey_block(pixels, y, x) for y, x in corners)


def _segments(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, start and body of each segment of a JPEG, up to and including the end of the image."""
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
    complete = set()
    for scan in scans:  # a count, two bytes for each component, first and last coefficient, bits: high and low
        first, last, bits = scan[-3:] if kind == PROGRESSIVE else (0, 63, 0)
        if component in scan[1:-3:2] and not bits & 15:
            complete.update(range(first, last + 1))
    return len(complete) == 64


def _is_grey_block(pixels: np.ndarray, y: int, x: int) -> bool:
    """Whether the visible part of the last block, in the corner y, x (each 0 or -1), is medium grey."""
    h, w = ((side - 1) % 8 + 1 for side in pixels.shape[1:])
    block = pixels[:, -h:] if y else pixels[:, :h]
    block = block[:, :, -w:] if x else block[:, :, :w]
    return all(map(_is_grey, block.reshape(3, -1).T.tolist()))


def _is_grey(pixel: list[int]) -> bool:
    """Whether a pixel is as light as medium grey, up to rounding: the neighbouring block may tint the first ones."""
    red, green, blue = pixel
    return 126_000 <= 299 * red + 587 * green + 114 * blue <= 130_000


def check_png(content: memoryview) -> None:
    """Raise ValueError if a PNG is damaged or holds fewer pixels than its header promises, which Pillow lets pass.

    A file that is no PNG passes.
    """
    if content[:4] != b"\x89PNG":
        return

    # Every chunk (length, kind, body, checksum) is intact
    at, kind, pixels = 8, b"", []
    while kind != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        kind, end = bytes(content[at + 4 : at + 8]), at + 8 + length
        if zlib.crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big") or end > len(content):
            raise ValueError("a part of the PNG is damaged or missing")
        if kind == b"IDAT":
            pixels.append(content[at + 8 : end])
        at = end + 4

    # The pixel data inflate to as many bytes as the header promises, one byte before each row included
    W, H, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits *= CHANNELS[colour]  # per pixel
    grids = [(-(-(W - x) // dx), -(-(H - y) // dy)) for x, y, dx, dy in ADAM7] if interlaced else [(W, H)]
    promised = sum(h * (1 + (w * bits + 7) // 8) for w, h in grids if w > 0 and h > 0)
    if (size := _inflated_size(b"".join(pixels), promised)) < promised:
        raise ValueError(f"{size} bytes of pixels, not {promised}")


def _inflated_size(compressed: bytes, most: int) -> int:
    """How many bytes a zlib stream inflates to, up to ``most``, without keeping them."""
    stream, size = zlib.decompressobj(), 0
    while size < most and not stream.eof:
        piece = stream.decompress(compressed, 2**20)
        size, compressed = size + len(piece), stream.unconsumed_tail
        if not piece and not compressed:
            break
    return size
