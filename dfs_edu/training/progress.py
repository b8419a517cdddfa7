"""What you see of a run under way, and how you stop it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm import tqdm


def bar(title: str, steps: int, done: int, shown: bool) -> tqdm:
    """Return the progress bar of an epoch, some steps of which may be done already."""
    return tqdm(total=steps, initial=done, desc=title, disable=not shown, mininterval=0.5)


@contextmanager
def stop_signals(active: bool) -> Generator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set: the current step ends, the run is saved. A second signal kills.

    Args:
        active: False leaves the signals alone, as in any thread but the main one.
    """
    stop = threading.Event()
    if not active or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous: dict[int, Any] = {}  # handlers

    def handler(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
