"""`dfs-edu course` and `doctor`: the notebooks, and whether this machine can run them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from dfs_edu.commands.kinds import AnyFolder, File, Flag, Folder
from dfs_edu.tables import printable


def course(
    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="PATH")] = (),
    only: Annotated[str | None, arg(metavar="03,04")] = None,
    scale: Literal["smoke", "lesson", "full", "paper"] | None = None,
    dataset: Literal["digits", "cifar100", "imagenet", "folder"] | None = None,
    seed: int | None = None,
    device: str | None = None,
    out: Folder = "build/course",
    timeout: int = 3600,
    jobs: int = 1,
    write_back: Flag = False,
    report: Flag = False,
    copy: AnyFolder = None,
    solutions: AnyFolder = None,
    slides: AnyFolder = None,
    csv: File = None,
    figure: File = None,
) -> int:
    """Execute the notebooks, report on executed ones, or make teaching material of them.

    The exit status is 0 if every notebook succeeded; with --report, if every notebook could be read.

    Args:
        paths: Notebooks, with --report also folders of them (default: the whole course).
        only: Only the notebooks with these numbers.
        scale: How much work; None: the notebook's own, lesson.
        dataset: None: the notebook's own, digits.
        seed: None: the notebook's own, 0.
        device: cpu, cuda, cuda:1, mps; None: the notebook's own.
        out: Folder for the executed notebooks and their pages.
        timeout: Seconds that a cell may run.
        jobs: Number of notebooks that run at once.
        write_back: Run the notebooks with their own parameters and replace them by their normalised execution, for a
            commit.
        report: Execute nothing: report on executed notebooks, those in --out or in the paths, one folder per person.
        copy: Execute nothing: copy the notebooks of the course into a folder, to work on.
        solutions: Execute nothing: write copies with the exercises solved into a folder.
        slides: Execute nothing: write reveal.js slides of executed notebooks, by default the committed ones, into a
            folder.
        csv: Write the report into this file as well, one line per person and notebook.
        figure: With --report and --only NN: pool the accuracies that students recorded with different seeds, and write
            the figure into this HTML file.
    """
    from dfs_edu.course import runner
    from dfs_edu.files import check_writable

    parameters = {"scale": scale, "dataset": dataset, "seed": seed, "device": device}
    parametrised = any(value is not None for value in parameters.values())
    numbers = runner.numbers(only) if only else []
    for name, file in (("csv", csv), ("figure", figure)):
        if file and not report:
            raise ValueError(f"--{name} belongs to --report")
        if file:
            check_writable(Path(file).parent)

    # What executes nothing
    if report:
        if parametrised or write_back:
            raise ValueError("--report executes nothing: leave out parameters and --write-back")
        return _report(paths or (out,), numbers, csv, figure)
    if copy:
        print(f"{len(runner.copy_to(copy))} notebooks in {copy}: open them in JupyterLab")
        return 0
    if solutions or slides:
        return _material(runner.chosen(paths, numbers), solutions, slides)

    if write_back and parametrised:  # a committed notebook must show what its own parameters give
        raise ValueError("--write-back runs the notebooks with their own parameters: leave out the others")
    if write_back:  # with one thread each, so that every execution rounds in the same way and a test can repeat it
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    results = runner.run(runner.chosen(paths, numbers), **parameters, out=out, timeout=timeout, jobs=jobs)
    failed = sum(bool(result.error) for result in results)
    print(f"\n{runner.table(results)}\n\n{len(results) - failed} of {len(results)} notebooks succeeded.")
    print(f"Executed notebooks and pages: {out}")
    if write_back:
        runner.write_back(results)
    return int(failed > 0)


def _report(paths: Sequence[str], numbers: Sequence[str], csv: str | None, figure: str | None) -> int:
    """Say what executed notebooks hold."""
    from dfs_edu.course import report, runner

    entries = report.collect(paths, numbers, runner.NOTEBOOKS)
    print(report.table(entries))
    if csv:
        report.write_csv(entries, csv)
        print(f"written to {csv}")
    if figure:
        from dfs_edu.course import pooling

        found = pooling.pooled(entries)
        pooling.write_figure(found, figure)
        for person, reason in found.left_out.items():
            print(f"not in the figure: {printable(person)}, {printable(reason)}")
        print(f"{len(found.persons)} seeds pooled, written to {figure}")
    return int(not all(entry.readable for entry in entries))


def _material(notebooks: Sequence[Path], solutions: str | None, slides: str | None) -> int:
    """Write solutions and slides."""
    if solutions:
        from dfs_edu.course.solutions import write_solutions

        print(f"{len(write_solutions(notebooks, solutions))} notebooks with solutions in {solutions}")
    if slides:
        from dfs_edu.course.slides import write_slides

        print(f"slides of {len(write_slides(notebooks, slides))} notebooks in {slides}: open them in a browser")
    return 0


def doctor() -> int:
    """Report what this machine has, and what to do about what it lacks.

    The exit status is 1 if something is missing without which the course cannot run.
    """
    from dfs_edu.course.doctor import MISSING, report, text

    checks = report()
    print(text(checks))
    return int(any(check.state == MISSING for check in checks))
