"""Contestants take turns, get warm, and are timed: with a clock that the test turns."""

import pytest

from dfs_edu import probes
from dfs_edu.probes import timing


def test_variants_take_turns_and_the_warm_up_does_not_count(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def way(name, first, later):
        def call():
            now[0] += later if name in order else first
            order.append(name)

        return call

    found = probes.seconds({"slow": way("slow", 9.0, 2.0), "fast": way("fast", 5.0, 0.5)}, rounds=3, warm_up=1)
    assert order == ["slow", "fast", *["slow", "fast"] * 3]
    assert found == {"slow": [2.0] * 3, "fast": [0.5] * 3}


def test_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(timing.torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(timing.torch.accelerator, "synchronize", lambda: waited.append(len(called)))
    called = []
    probes.seconds({"way": lambda: called.append(1)}, rounds=2, warm_up=1)
    assert waited == [1, 2, 3]  # before the first measured call, and after each


def test_an_error_of_a_variant_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        probes.seconds({"way": lambda: 1 / 0})
