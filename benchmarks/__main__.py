"""python -m benchmarks: all of them, one after the other; what they print is kept in build/bench.txt as well."""

import contextlib
import sys
from pathlib import Path

from benchmarks import augment, conflict, early_exit, engine, imagenet, methods, step, thresholds
from dfs_edu.data import DataError
from dfs_edu.training import machine
from dfs_edu.training.trainer import pick_device

RECORD = Path("build/bench.txt")


class Both:
    """Standard output, and a file."""

    def __init__(self, file):
        self.streams = (sys.stdout, file)

    def write(self, text: str) -> None:
        for stream in self.streams:
            stream.write(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()


def main() -> None:
    RECORD.parent.mkdir(exist_ok=True)
    with RECORD.open("w") as file, contextlib.redirect_stdout(Both(file)):
        words = machine.environment(pick_device("auto"), "fp32 and bf16")
        print(", ".join(f"{name} {value}" for name, value in words.items()))
        for benchmark in (engine, step, augment, imagenet, conflict, methods, early_exit, thresholds):
            print(f"\n# {benchmark.__doc__.splitlines()[0]}")
            try:
                benchmark.main()
            except DataError as error:
                print(f"left out: {error}")
    print(f"\nkept in {RECORD}")


if __name__ == "__main__":  # workers that read pictures import this file
    main()
