"""No pickle runs anything, takes much memory or ends the process."""

import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
import torch
from warm import python

from dfs_edu.data import DataError, cifar100


def tuples(depth: int) -> bytes:
    return b"}(" + b"N" + b"\x85" * depth + b"Nu."  # a dictionary with deep tuples as a key, which Python hashes


def encodings(times: int, length: int) -> bytes:
    """A long text, encoded again and again."""
    text = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", length) + b"x" * length + b"q\x01X\x06\0\0\0latin1q\x02"
    return text + b"h\x00h\x01h\x02\x86R" * times + b"."


def shaped(*shape: bytes) -> bytes:
    """`data` is an array whose shape has these parts, each as a pickle writes it."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n)R(I1\n(" + b"".join(shape) + b"tcnumpy\ndtype\n(S'u1'\ntRI00\nS''\ntb"
    )
    return b"}(S'data'\n" + array + b"S'fine_labels'\n]u."


BOTTOMLESS = {
    f"{name} {length:#x}": code + struct.pack(form, length) + b"ab."
    for name, code, form, lengths in (
        ("BINBYTES", b"B", "<I", (2**31 - 1, 2**32 - 1)),
        ("BINBYTES8", b"\x8e", "<Q", (2**31 - 1, 2**40, 2**62, 2**64 - 1)),
        ("BYTEARRAY8", b"\x96", "<Q", (2**31 - 1, 2**62, 2**64 - 1)),
        ("BINUNICODE", b"X", "<I", (2**31 - 1, 2**32 - 1)),
        ("BINUNICODE8", b"\x8d", "<Q", (2**31 - 1, 2**40, 2**62, 2**64 - 1)),
        ("BINSTRING", b"T", "<i", (2**31 - 1, -1)),
        ("LONG4", b"\x8b", "<i", (2**31 - 1, -1)),
        ("FRAME", b"\x80\x04\x95", "<Q", (2**31 - 1, 2**62, 2**64 - 1)),
        ("LONG_BINPUT", b"Nr", "<I", (2**20, 2**31 - 1, 2**32 - 1)),
    )
    for length in lengths
} | {
    "PUT": b"Np4611686018427387904\n.",
    "PUT below 0": b"Np-1\n.",
    "long number": b"L" + b"9" * 100_000 + b"L\n.",
    "marks": b"(" * 900_000 + b".",
    "sets": b"\x8f" * 900_000 + b".",
    "more sets": b"\x8f" * 50_000_000 + b".",
    "deep lists": b"]" * 450_000 + b"a" * 449_999 + b".",
    "deep tuples": tuples(300_000),
    "nested tuples of marks": b"}" + b"(" * 300_000 + b"t" * 299_999 + b"Ns.",
    "text encoded": encodings(20_000, 2**20),
    "text as a side": shaped(b"I1073741824\n", b"I16\n", b"S'xx'\n"),
    "long shape": shaped(*[b"I2147483647\n"] * 50_000),
    "long name": b"c" + b"x" * 10**6 + b"\ny\n.",
}


def test_no_pickle_takes_memory_or_the_process_down(tmp_path):
    """In a process that may have a GiB more than it needs; each is refused in a line that names the file."""
    for n, (name, content) in enumerate(BOTTOMLESS.items()):
        (tmp_path / f"{n:02} {name.replace(' ', '-')}").write_bytes(content)
    script = """
import resource, sys
from pathlib import Path
from dfs_edu.data import DataError, cifar100
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        cifar100._images_and_labels(path, 10)
    except DataError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < len(str(path)) + 250, str(error)[:1000]
        print("refused", path, flush=True)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert used < 2**19, f"{used} KiB for {path}"
"""
    done = subprocess.run([*python(), "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.returncode, done.stdout[-200:], done.stderr)
    assert done.stdout.count("refused") == len(BOTTOMLESS)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_mutations_of_a_pickle_give_data_or_an_error_that_is_ours(tmp_path, protocol):
    content = {"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "fine_labels": [3, 99], "names": ["a.png"]}
    good, rng = pickle.dumps(content, protocol=protocol), np.random.default_rng(protocol)
    at = good.index(b"\x00" if protocol == 4 else b"fine_labels")
    structure = [*range(min(at, 400)), *range(len(good) - 150, len(good))]  # rather than pixels
    path, read = tmp_path / "train", 0
    path.write_bytes(good)
    assert torch.equal(cifar100._images_and_labels(path, 2)[1], torch.tensor([3, 99]))
    for _ in range(1_000):
        bad = bytearray(good)
        for place in rng.choice(structure, int(rng.integers(1, 4))):
            bad[place] = rng.integers(256)
        path.write_bytes(bad[: len(bad) if rng.random() < 0.9 else int(rng.integers(len(bad)))])
        try:
            images, labels = cifar100._images_and_labels(path, 2)
        except DataError:  # and nothing else
            continue
        read += 1
        assert images.shape == (2, 3, 32, 32)
        assert labels.min() >= 0
        assert labels.max() <= 99
    assert read < 500


def test_a_pipe_in_place_of_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "train")
    with pytest.raises(DataError, match=r"train: not a regular file"):
        cifar100._images_and_labels(tmp_path / "train", 2)
