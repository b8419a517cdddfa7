"""Image files that end early or are damaged are refused, healthy ones never."""

import re
import subprocess
import zlib

import pytest
from PIL import Image
from samples import cut, jpeg, png, sample, smooth
from warm import python

from dfs_edu.data import DataError
from dfs_edu.data.decoding import decode

ROWS = b"".join(bytes(1 + 3 * 8) for _ in range(8))  # of 8x8 black pixels


WHOLE = zlib.compress(ROWS)


BAD_PIXELS = {
    "too few rows": zlib.compress(ROWS[:75]),
    "cut": WHOLE[:-6],
    "foreign": b"not a zlib stream",
    "wrong sum": WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]),
    "empty": b"",
    "unknown filter": zlib.compress(bytes([9]) + ROWS[1:]),
}


def test_no_png_takes_the_process_down(tmp_path):
    """In a process of its own, which torchvision's decoder would end by a signal."""
    for name, data in BAD_PIXELS.items():
        (tmp_path / f"{name}.png").write_bytes(png(8, 8, data))
    (tmp_path / "promises more.png").write_bytes(png(800, 800, WHOLE))
    (tmp_path / "healthy.png").write_bytes(png(8, 8, WHOLE))
    script = """
import sys
from pathlib import Path
from dfs_edu.data import DataError
from dfs_edu.data.decoding import decode
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.stem, tuple(decode(path).shape))
    except DataError as error:
        assert str(error).startswith(f"{path}: not a readable image"), error
        print(path.stem, "refused")
"""
    done = subprocess.run([*python(), "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(BAD_PIXELS) + 2
    assert "healthy (3, 8, 8)" in lines
    for name in "too few rows", "cut", "foreign", "empty", "promises more":
        assert f"{name} refused" in lines


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(121, 113), (96, 80), (65, 129)])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}]
)
def test_a_cut_jpeg_with_an_end_marker_is_refused(tmp_path, mode, size, options):
    path, whole = tmp_path / "x.jpg", jpeg(size, mode, **options)
    path.write_bytes(whole)
    assert decode(path).shape == (3, size[1], size[0])
    for share in (0.05, 0.3, 0.5, 0.8):
        path.write_bytes(cut(whole, share))
        with pytest.raises(DataError, match=r"x\.jpg: not a readable image \(image file is truncated"):
            decode(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_cut_jpeg_that_is_turned_upright_is_refused(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x.jpg").write_bytes(cut(jpeg((90, 70), exif=exif), 0.5))
    with pytest.raises(DataError, match="truncated"):
        decode(tmp_path / "x.jpg")


def test_a_progressive_jpeg_is_refused_unless_it_reaches_its_last_scan(tmp_path):
    path = tmp_path / "x.jpg"
    for mode in ("RGB", "L", "CMYK"):
        whole = jpeg((120, 110), mode, progressive=True)
        path.write_bytes(whole)
        decode(path)
        _, *starts = (found.start() for found in re.finditer(b"\xff\xda", whole))
        assert len(starts) >= 5
        for start in starts:
            path.write_bytes(whole[:start] + b"\xff\xd9")
            with pytest.raises(DataError, match="the JPEG ends early: some of its scans are missing"):
                decode(path)
        for end in range(starts[0], starts[-1], 97):  # within scans and tables, where a decoder may notice first
            path.write_bytes(whole[:end] + b"\xff\xd9")
            with pytest.raises(DataError, match="not a readable image"):
                decode(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_healthy_jpegs_with_a_flat_bottom_are_never_refused(tmp_path, mode, options):
    """Medium grey, which a cut is filled with, white and black; below an image and alone; last blocks of many sizes."""
    path = tmp_path / "x.jpg"
    for n, level in enumerate((126, 127, 128, 129, 130, 255, 0)):
        for side in (1, 7, 8, 9, 16, 17, 40 + n):
            image = Image.fromarray(smooth(n, side + 40, side).permute(1, 2, 0).numpy())
            image.paste((level,) * 3, (0, 20 if n % 2 else 0, side, side + 40))
            image.convert(mode).save(path, "JPEG", **options)
            assert decode(path).shape == (3, side + 40, side)


def test_real_jpegs_are_distinguished_from_truncated_ones(tmp_path):
    paths = sorted(sample().glob("val/*/*"))[::25]
    assert len(paths) > 20
    for path in paths:
        decode(path)
        whole = path.read_bytes()
        (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
        with pytest.raises(DataError, match="truncated"):
            decode(tmp_path / "x.jpg")
