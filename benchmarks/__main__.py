"""python -m benchmarks: run all of them, one after the other; what they print is also kept in build/bench.txt."""

import contextlib
import io
import sys
from pathlib import Path
from typing import TextIO

from benchmarks import augment, conflict, early_exit, engine, imagenet, methods, step, thresholds
from dfs_edu.data import DataError
from dfs_edu.training import machine
from dfs_edu.training.trainer import pick_device

RECORD = Path("build/bench.txt")


class Both(io.TextIOBase):
    """Standard output and a file, as one stream."""

    def __init__(self, file: TextIO):
        self.streams = (sys.stdout, file)

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()


def main() -> None:
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("w") as file, contextlib.redirect_stdout(Both(file)):
        facts = machine.environment(pick_device("auto"), "fp32 and bf16")
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
        for benchmark in (engine, step, augment, imagenet, conflict, methods, early_exit, thresholds):
            print(f"\n# {(benchmark.__doc__ or '').splitlines()[0]}")
            try:
                benchmark.main()
            except DataError as error:
                print(f"skipped: {error}")
    print(f"\nkept in {RECORD}")


if __name__ == "__main__":  # worker processes that read images import this file
    main()
