"""What a person sees of a run under way, and how they stop it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


def bar(title: str, steps: int, done: int, shown: bool) -> tqdm:
    """A progress bar of one epoch, of which some steps are done already."""
    return tqdm(total=steps, initial=done, desc=title, disable=not shown, mininterval=0.5)


@contextmanager
def stop_signals(active: bool) -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: the step under way ends, the run is saved. A second signal kills."""
    stop = threading.Event()
    if not active or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {}

    def handler(number, frame):
        stop.set()
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
