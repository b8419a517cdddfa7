"""python -m benchmarks: all of them, one after the other."""

from benchmarks import step

step.main()
