"""Memory that stays: new pages are counted by the kernel, in a process of its own."""

import ctypes
import subprocess
import sys

import pytest

MEGABYTES = 40  # above what glibc keeps by itself
CODE = """
import resource, sys, numpy as np
from dfs_edu.training import heap
if {keep}:
    assert heap.keep_freed()
def step():
    np.empty({bytes}, np.uint8)[::4096] = 1  # touches every page, and frees them
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(keep: bool) -> int:
    code = CODE.format(keep=keep, bytes=MEGABYTES << 20)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_freed_memory_is_used_again():
    assert new_pages(keep=False) > 20  # huge pages count as one
    assert new_pages(keep=True) <= 2


def test_another_c_library_is_left_alone(monkeypatch):
    from dfs_edu.training import heap

    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert heap.keep_freed() is False
