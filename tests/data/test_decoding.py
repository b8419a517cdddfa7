"""Image files are decoded as torchvision does it, upright and in RGB; broken, foreign and huge ones are refused."""

import io
import struct
import subprocess
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch
from PIL import Image, ImageOps
from samples import pil, png, smooth, write
from torchvision.transforms import v2
from warm import python

from dfs_edu.data import DataError
from dfs_edu.data.decoding import centred, decode


@pytest.mark.parametrize("suffix", [".JPEG", ".png"])
def test_a_image_is_decoded_as_it_was_encoded(tmp_path, suffix):
    write(tmp_path / f"x{suffix}", smooth(1))
    found = decode(tmp_path / f"x{suffix}")
    assert found.shape == (3, 40, 48)
    assert found.dtype == torch.uint8
    assert (found.int() - smooth(1).int()).abs().float().mean() < (0.01 if suffix == ".png" else 4)


@pytest.mark.parametrize(
    "kind", ["L JPEG", "CMYK JPEG", "RGBA PNG", "P PNG", "L PNG", "LA PNG", "1 PNG", "RGB WEBP", "RGBA WEBP"]
)
def test_every_kind_of_image_becomes_three_colours(tmp_path, kind):
    (tmp_path / "x.jpg").write_bytes(pil(kind, smooth(2)))
    found = decode(tmp_path / "x.jpg")
    expected = np.array(Image.open(tmp_path / "x.jpg").convert("RGB"))
    assert found.shape == (3, 40, 48)
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 4


def test_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.full((4, 5), 0xAB12, np.uint16)).save(tmp_path / "x.png")
    assert torch.equal(decode(tmp_path / "x.png"), torch.full((3, 4, 5), 0xAB, dtype=torch.uint8))


def test_a_turned_image_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.fromarray(smooth(3).permute(1, 2, 0).numpy()).save(tmp_path / "x.jpg", exif=exif)
    assert decode(tmp_path / "x.jpg").shape == (3, 48, 40)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format_comes_out_upright(tmp_path, suffix, orientation):
    path, exif = tmp_path / f"x{suffix}", Image.Exif()
    exif[0x0112] = orientation
    lossless = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(smooth(3, 48, 64).permute(1, 2, 0).numpy()).save(path, exif=exif, **lossless)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = decode(path)
    assert tuple(found.shape) == ((3, 64, 48) if orientation > 4 else (3, 48, 64))
    difference = np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= (2 if suffix == ".jpg" else 0)


BROKEN = {
    "truncated": lambda good: good[: len(good) // 2],
    "text": lambda good: b"this is no image\n" * 20,
    "empty": lambda good: b"",
    "end": lambda good: good[:-6],
    "header": lambda good: bytes(255 - byte for byte in good[:20]) + good[20:],
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_broken_image_is_named(tmp_path, how, suffix):
    path = tmp_path / f"x{suffix}"
    write(path, smooth(4))
    path.write_bytes(BROKEN[how](path.read_bytes()))
    with pytest.raises(DataError, match=rf"x\{suffix}: not a readable image \(.+\)"):
        decode(path)


def test_a_missing_image_and_an_animation_are_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.jpg: not a readable image \(.*No such file"):
        decode(tmp_path / "x.jpg")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.jpg", "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"x\.jpg: .*\(GIF, not JPEG, PNG, WEBP\)"):
        decode(tmp_path / "x.jpg")
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"x\.webp: .*\(an animation of 2 frames, not one image\)"):
        decode(tmp_path / "x.webp")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_bytes_give_an_image_or_an_error_that_is_ours(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write(path, smooth(5))
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            found = decode(path)
        except DataError:
            continue
        assert found.dtype == torch.uint8
        assert found.shape[0] == 3


def test_sizes_are_checked_before_anything_is_decoded(tmp_path):
    small = io.BytesIO()
    Image.new("RGB", (64, 64)).save(small, "JPEG")
    bomb = bytearray(small.getvalue())
    at = bomb.index(b"\xff\xc0") + 5  # of the frame's header: height and width
    bomb[at : at + 4] = struct.pack(">HH", 65000, 65000)
    (tmp_path / "x.jpg").write_bytes(bomb)
    (tmp_path / "x.png").write_bytes(png(20_000, 20_000, zlib.compress(bytes(100))))
    before = psutil.Process().memory_info().rss
    with pytest.raises(DataError, match=r"x\.jpg: .*65000x65000 pixels|x\.jpg: .*decompression bomb"):
        decode(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"x\.png: .*(20000x20000 pixels|400000000 pixels)"):
        decode(tmp_path / "x.png")
    assert psutil.Process().memory_info().rss - before < 2**28


def test_a_large_image_is_refused_without_a_warning_of_pillows(tmp_path):
    """Between 89 and 179 Mpx Pillow warns, and we refuse; its filter is restored, whatever other threads do."""
    (tmp_path / "x.png").write_bytes(png(12_000, 8_000, zlib.compress(bytes(100))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            errors = [task.exception() for task in [pool.submit(decode, tmp_path / "x.png") for _ in range(40)]]
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(tmp_path / "x.png")
    assert {str(error) for error in errors} == {
        f"{tmp_path / 'x.png'}: not a readable image (12000x8000 pixels, more than 67,108,864)"
    }


def test_decoding_makes_few_copies_of_the_pixels(tmp_path):
    """In a process of its own: at most 12 bytes per pixel at any time."""
    side = 4_000
    Image.new("RGB", (side, side)).save(tmp_path / "x.png")
    script = """
import resource, sys
from dfs_edu.data.decoding import decode
decode(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(sys.argv[2])
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""
    write(tmp_path / "small.png", smooth(1))
    words = [*python(), "-c", script, str(tmp_path / "small.png"), str(tmp_path / "x.png")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 12 * side**2


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (256, 256), (20, 31), (1, 50), (50, 1), (1, 1)])
def test_the_middle_is_cut_as_torchvision_does(height, width):
    expected = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(smooth(6, height, width))
    found = centred(smooth(6, height, width), 224)
    assert found.shape == (3, 224, 224)
    if max(height, width) <= 4 * min(height, width):
        assert torch.equal(found, expected)
    else:  # cut before it is resized
        assert (found.int() - expected.int()).abs().float().mean() < 2


def test_a_long_strip_takes_little_memory():
    assert centred(smooth(7, 1, 20_000), 224).shape == (3, 224, 224)
