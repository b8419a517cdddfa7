"""The command dfs-edu: finds the command that is meant, and turns what goes wrong into one line and an exit status."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence

from dfs_edu.extras import MissingExtra
from dfs_edu.tables import printable
from dfs_edu.training import plugins

# Of each command where it is, and what it does. Only the module of the command that is asked for is imported.
COMMANDS = {
    "train": ("commands.training", "train a network and keep its record"),
    "evaluate": ("commands.trained", "accuracy of a trained network at each exit and under budgets"),
    "probe": ("commands.trained", "measure where the exits of a trained network disagree"),
    "export": ("commands.trained", "write a trained network as ONNX and torch.export files, stage by stage"),
    "costs": ("commands.networks", "parameters and MACs of every exit, beside the published ones"),
    "study": ("commands.training", "compare junctions and methods on an equal recipe, over seeds"),
    "runs": ("commands.folders", "list runs, name the best, compare some exit by exit"),
    "keep": ("commands.folders", "copy the parts of a run that are worth committing to data/recorded"),
    "course": ("commands.notebooks", "execute the notebooks, or report on executed ones"),
    "doctor": ("commands.notebooks", "report what this machine has, and what to do about what it lacks"),
    "download": ("commands.folders", "download CIFAR-100 from its home page"),
}
BY_RECIPE = ("train", "study")  # their options depend on the recipe, so they read them by themselves


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if it did its work, 1 if it could not and said why, 130 if it was stopped."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without "±" gets an escape instead of a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(sys.argv[1:] if argv is None else list(argv)) or 0
    except KeyboardInterrupt as stopped:
        print(f"\n{stopped or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError, MissingExtra) as error:
        print(f"dfs-edu: {printable(str(error))}", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int | None:
    """Import plugins, so that options know the names that they add, then the command; run it."""
    parser = _parser()
    options, words = parser.parse_known_args(words)
    plugins.load(options.plugin)
    if words in (["-h"], ["--help"]):
        parser.print_help()
        raise SystemExit(0)
    if not words or words[0] not in COMMANDS:
        parser.error(f"no command {words[0]!r}, see --help" if words else "name a command, see --help")
    if "" in words:
        raise ValueError("an empty value: give a value, or leave the option out")
    name, *words = words
    module, _ = COMMANDS[name]
    command, prog = getattr(importlib.import_module(f"dfs_edu.{module}"), name), f"dfs-edu {name}"
    if name in BY_RECIPE:
        return command(words, prog)
    import tyro  # not needed to list the commands

    return tyro.cli(command, args=words, prog=prog)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the options that every command takes."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="dfs-edu",
        usage="dfs-edu [--plugin MODULE] COMMAND ...",
        description="Multi-exit networks and their gradient conflict.",
        epilog="\n".join(["commands:", *(f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    what = "import a module first, which makes its networks, junctions and methods known; may be repeated"
    parser.add_argument("--plugin", metavar="MODULE", action="append", default=[], help=what)
    return parser
