"""A class's results in one figure: every student ran one seed, and together they have an interval.

A notebook that compares arms records ``accuracy={arm: [one number per exit]}``. Students who chose different seeds have
repeated the experiment; the figure shows, per exit, how each arm differs from the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfs_edu import figures, intervals
from dfs_edu.course.report import Entry
from dfs_edu.files import write_whole


@dataclass(frozen=True)
class Pooled:
    """What a class found with one notebook.

    Attributes:
        notebook: Its number and name, without a suffix.
        arms: Names; differences are to the first.
        accuracy: (n, arms, K), fractions: one row per seed.
        persons: n names.
        left_out: Person -> why nothing of theirs is in the figure.
    """

    notebook: str
    arms: tuple[str, ...]
    accuracy: np.ndarray
    persons: tuple[str, ...]
    left_out: dict[str, str]

    @property
    def differences(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Arm -> mean difference to the first arm (K,) and half of its 95 % interval (K,), fractions."""
        paired = self.accuracy[:, 1:] - self.accuracy[:, :1]
        return {arm: intervals.interval(paired[:, i]) for i, arm in enumerate(self.arms[1:])}


def pooled(entries: Sequence[Entry]) -> Pooled:
    """Pool what the hand-ins of one notebook recorded as ``accuracy``.

    Only equal recipes can be pooled: the scale and data set that most students used. The same seed twice is no second
    measurement, so only its first hand-in counts. Intervals are paired: each student's arms have one seed.

    Raises:
        ValueError: Not of one notebook, or fewer than three seeds are left.
    """
    notebooks = {entry.notebook.partition("_")[0] for entry in entries if entry.notebook}
    if len(notebooks) != 1:
        raise ValueError(f"hand-ins of {len(notebooks)} notebooks: choose one with --only")
    usable = {entry.person: entry for entry in entries if _arms(entry)}
    left_out = {entry.person: "no accuracy of several arms was recorded" for entry in entries if not _arms(entry)}

    # The recipe that most have, and each of its seeds once
    recipes = [_recipe(entry) for entry in usable.values()]
    most = max(recipes, key=recipes.count, default=None)
    kept: dict[str, Entry] = {}
    for person, entry in usable.items():
        seed = entry.parameters.get("SEED", "")
        if _recipe(entry) != most:
            left_out[person] = f"another recipe: {', '.join(map(str, _recipe(entry)[:2]))}"
        elif seed in kept:
            left_out[person] = f"seed {seed} is already in the figure, from {kept[seed].person}"
        else:
            kept[seed] = entry
    if len(kept) < intervals.LEAST:
        raise ValueError(f"{len(kept)} different seeds of one recipe: an interval needs {intervals.LEAST} or more")

    first = next(iter(kept.values()))
    arms = _arms(first)
    accuracy = np.array([[entry.values["accuracy"][arm] for arm in arms] for entry in kept.values()], dtype=float)
    return Pooled(first.notebook, arms, accuracy, tuple(entry.person for entry in kept.values()), left_out)


def _arms(entry: Entry) -> tuple[str, ...]:
    """The arms whose accuracy a hand-in recorded; none unless there are several, each a fraction for every exit."""
    accuracy = entry.values.get("accuracy")
    if not isinstance(accuracy, dict) or len(accuracy) < 2:
        return ()
    rows = list(accuracy.values())
    right = all(isinstance(row, list) and len(row) == len(rows[0]) and row and all(map(_fraction, row)) for row in rows)
    return tuple(accuracy) if right else ()


def _fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _recipe(entry: Entry) -> tuple:
    """What must be equal in all hand-ins that are pooled."""
    widths = len(next(iter(entry.values["accuracy"].values())))
    return entry.parameters.get("SCALE"), entry.parameters.get("DATASET"), _arms(entry), widths


def write_figure(found: Pooled, path: str | Path) -> None:
    """Write the figure as a page that needs no network."""
    K = found.accuracy.shape[2]
    title = f"Difference to {found.arms[0]}, test split: {found.notebook}, a class of n = {len(found.persons)} seeds"
    html = figures.gaps(found.differences, K, title).to_html(include_plotlyjs=True, full_html=True)
    write_whole(path, lambda file: file.write(html.encode()))
