"""Ceilings: how well each exit does when the network is trained for that exit alone.

The arm "alone" of a study stands for K arms, joint training with weight 1 for the loss of one exit and 0 for all
others. The k-th of them says what exit k reaches when it shares the trunk with nobody. What joint training falls short
of it is what sharing costs this exit, and all that a better way to share could win back. It may be negative: other
exits' losses can also help, as deep supervision does (Lee et al., AISTATS 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfs_edu.intervals import LEAST
from dfs_edu.tables import lines
from dfs_edu.training import arms
from dfs_edu.training.comparison import Records, by_arm, cells, percent

ALONE = "alone"


def expand(names: Sequence[str], exits: int) -> list[str]:
    """Return arms with "alone" replaced by the arms that it stands for, one for each exit.

    >>> expand(["joint", "alone"], exits=2)
    ['joint', 'joint+weighted-1-0', 'joint+weighted-0-1']
    """
    units = ["-".join("1" if j == k else "0" for j in range(exits)) for k in range(exits)]
    alone = [f"joint+{arms.ADDITIONS['weights'].words.format(unit)}" for unit in units]
    return [one for name in names for one in (alone if name == ALONE else [name])]


def reached(records: Records, split: str = "test") -> dict[str, np.ndarray]:
    """Return the accuracy of each exit in percent, (n, K), under "alone" and by arm, for the n seeds that all have.

    Row "alone" takes each exit from the network that was trained for it. Arms of another backbone than the first
    record's are left out.

    Raises:
        ValueError: There is no finished run for one of the exits alone, or no seed that all arms have.
    """
    backbone = records[0]["recipe"]["backbone"]
    runs_of = by_arm([record for record in records if record["recipe"]["backbone"] == backbone])
    exits = next((len(percent(run, split)) - 1 for runs in runs_of.values() for run in runs.values()), 0)
    names = [arms.label({**records[0]["recipe"], **arms.arm(text)}) for text in expand([ALONE], exits)]
    if not exits or (missing := [str(k) for k, name in enumerate(names, start=1) if not runs_of.get(name)]):
        raise ValueError(f"no finished run of exit {', '.join(missing) if exits else '1'} alone: see ceilings.expand")
    seeds = sorted(set.intersection(*(set(runs) for runs in runs_of.values() if runs)))
    if not seeds:
        raise ValueError("no seed that all arms have: finish the study first")
    found = {
        name: np.array([percent(runs[seed], split)[:-1] for seed in seeds]) for name, runs in runs_of.items() if runs
    }
    alone = np.stack([found.pop(name)[:, k] for k, name in enumerate(names)], axis=1)
    return {ALONE: alone, **found}


def table(records: Records, split: str = "test") -> str:
    """Return a table: alone, then each arm with the gap between the two, seed by seed; means and 95 % t-intervals."""
    found = reached(records, split)
    alone = found.pop(ALONE)
    rows = [[ALONE, *cells(alone)]]
    for name, values in found.items():
        rows += [[name, *cells(values)], [f"alone minus {name}", *cells(alone - values, "+")]]
    head = [f"{split}, %, n = {len(alone)}", *(f"exit {k + 1}" for k in range(alone.shape[1]))]
    note = [] if len(alone) >= LEAST else ["", f"below {LEAST} seeds: no intervals, and nothing is shown"]
    return "\n".join([lines(head, rows, align="<>"), *note])
