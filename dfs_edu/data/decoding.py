"""Image files into tensors: decoded safely, set upright, converted to RGB, and centre-cropped."""

from __future__ import annotations

import io
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from dfs_edu.data.splits import DataError
from dfs_edu.data.truncation import check_jpeg, check_png

# MPO is what Pillow calls a JPEG with a preview behind it, as some cameras write
FORMATS = ("JPEG", "PNG", "WEBP", "MPO")
MOST_PIXELS = 2**26  # of one image: 192 MiB when decoded, and several are decoded at a time
MANY_PIXELS = 2**24  # Pillow needs 10 to 14 bytes for each while it decodes: larger images are decoded one at a time
_LARGE = threading.Lock()
_OPENING = threading.Lock()


def decode(path: str | Path) -> Tensor:
    """Read a JPEG, PNG or WEBP as an upright RGB image; grey, CMYK and palettes are converted, alpha is dropped.

    The content decides on the format, not the name. JPEGs are decoded by torchvision, which is faster; PNG and WEBP by
    Pillow, which raises an error where torchvision 0.29 ends the whole process (bad pixel data in a PNG) or leaves an
    image on its side (WEBP). A truncated JPEG is refused even if an end marker follows (limits: ``check_jpeg``).

    Returns:
        uint8 (3, H, W).

    Raises:
        DataError: The file, which is named, is missing, truncated, too large or not an image.
    """
    try:
        content = np.fromfile(path, np.uint8)
        with _open(content) as image:
            _check_header(image)
            if image.format in ("JPEG", "MPO"):
                decoded = decode_image(torch.from_numpy(content), ImageReadMode.RGB, apply_exif_orientation=True)
                check_jpeg(content.data, image, decoded)
                return decoded
            check_png(content.data)
            with _LARGE if image.width * image.height > MANY_PIXELS else nullcontext():
                return _by_pillow(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not a readable image ({len(content)} bytes of no known format)") from error
    except Exception as error:  # whatever a decoder raises: the file is to blame, and is named
        raise DataError(f"{path}: not a readable image ({_reason(error)})") from error


def _open(content: np.ndarray) -> Image.Image:
    """The image with only its header read, without Pillow's warning about large images: ``_check_header`` decides.

    The lock is there because all threads share the filters of warnings.
    """
    with _OPENING, warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(io.BytesIO(content.data))


def _check_header(image: Image.Image) -> None:
    """Raise ValueError for another format, an animation or too many pixels, before anything is decoded."""
    if image.format not in FORMATS:
        raise ValueError(f"{image.format}, not JPEG, PNG, WEBP")
    frames = getattr(image, "n_frames", 1)
    if image.format == "WEBP" and frames > 1:
        raise ValueError(f"an animation of {frames} frames, not one image")
    W, H = image.size
    if W * H > MOST_PIXELS:
        raise ValueError(f"{W}x{H} pixels, more than {MOST_PIXELS:,}")


def _by_pillow(image: Image.Image) -> Tensor:
    """uint8 (3, H, W), decoded with as few copies of the pixels as Pillow allows."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits per pixel, of which the upper 8 are kept
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode != "RGB":
        image = image.convert("RGB")
    return F.pil_to_tensor(image).contiguous()


def _reason(error: Exception) -> str:
    """The first line of an error, without the place in torchvision's source that noticed it."""
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    where, _, reason = text.rpartition(".cpp:")
    return reason.lstrip("0123456789, ") if where else reason


def centred(image: Tensor, pixels: int) -> Tensor:
    """Resize and centre-crop an image as is usual in evaluation: short side 256 for a crop of 224.

    Args:
        image: uint8 (3, H, W).
        pixels: Side of the crop.

    Returns:
        uint8 (3, pixels, pixels).
    """
    H, W = image.shape[1:]
    longest = 4 * min(H, W)  # a strip 1 pixel wide and 20,000 long would take gigabytes if it were resized whole
    image = F.center_crop(image, [min(H, longest), min(W, longest)])
    image = F.resize(image, [round(pixels * 256 / 224)], antialias=True)
    return F.center_crop(image, [pixels, pixels])
