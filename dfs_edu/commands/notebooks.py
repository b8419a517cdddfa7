"""`dfs-edu course` and `doctor`: the notebooks, and whether this machine can run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from dfs_edu.commands.kinds import AnyFolder, File, Flag, Folder


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
    csv: File = None,
) -> int:
    """Execute the notebooks, or report on executed ones.

    The exit status is 0 if every notebook succeeded; of a report, if each could be read.

    Args:
        paths: Notebooks, with --report also folders of them (default: the whole course).
        only: Only the notebooks with these numbers.
        scale: How much work; None: as the notebook says, lesson.
        dataset: None: as the notebook says, digits.
        seed: None: as the notebook says, 0.
        device: cpu, cuda, cuda:1, mps; None: as the notebook says.
        out: Folder of what was executed.
        timeout: Seconds that a cell may take.
        jobs: Number of notebooks that run at once.
        write_back: Replace the notebooks by their normalised execution, to be committed; they run with their own
            parameters.
        report: Execute nothing: say what executed notebooks hold, those of --out or of the paths, one folder per
            person.
        copy: Execute nothing: copy the notebooks of the course into a folder, to work on.
        csv: Write the report into this file as well, one line per person and notebook.
    """
    from dfs_edu.course import runner
    from dfs_edu.course.report import collect, write_csv
    from dfs_edu.course.report import table as report_table
    from dfs_edu.files import check_writable

    parameters = {"scale": scale, "dataset": dataset, "seed": seed, "device": device}
    parametrised = any(value is not None for value in parameters.values())
    numbers = runner.numbers(only) if only else []
    if csv and not report:
        raise ValueError("--csv belongs to --report")
    if csv:
        check_writable(Path(csv).parent)

    # What executes nothing
    if report:
        if parametrised or write_back:
            raise ValueError("--report executes nothing: leave out parameters and --write-back")
        entries = collect(paths or [out], numbers, runner.NOTEBOOKS)
        print(report_table(entries))
        if csv:
            write_csv(entries, csv)
            print(f"written to {csv}")
        return int(not all(entry.readable for entry in entries))
    if copy:
        print(f"{len(runner.copy_to(copy))} notebooks in {copy}: open them in JupyterLab")
        return 0

    if write_back and parametrised:  # a committed notebook must show what its own parameters give
        raise ValueError("--write-back runs the notebooks with their own parameters: leave out the others")
    results = runner.run(runner.chosen(paths, numbers), **parameters, out=out, timeout=timeout, jobs=jobs)
    failed = sum(bool(result.error) for result in results)
    print(f"\n{runner.table(results)}\n\n{len(results) - failed} of {len(results)} notebooks succeeded.")
    print(f"Executed notebooks and pages: {out}")
    if write_back:
        runner.write_back(results)
    return int(failed > 0)


def doctor() -> int:
    """Say what this machine has, and what to do about the rest.

    The exit status is 1 if something is missing without which the course cannot run.
    """
    from dfs_edu.course.doctor import MISSING, report, text

    checks = report()
    print(text(checks))
    return int(any(check.state == MISSING for check in checks))
