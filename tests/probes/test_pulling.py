"""Who sees a channel and who pulls on it, for every junction by hand."""

import numpy as np
import pytest

import dfs_edu as dfs
from dfs_edu import probes

ALL, NONE, FIRST, LAST = [1] * 4, [0] * 4, [1, 1, 0, 0], [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("junction", "rows"),
    [
        (dfs.Joint(), [ALL, ALL, ALL, ALL]),
        (dfs.Detached(), [ALL, ALL, ALL, NONE]),
        (dfs.Equilibrium(4), [ALL, ALL, [0.75] * 4, [0.25] * 4]),
        (dfs.Surgery(), [ALL, ALL, FIRST, LAST]),
        (dfs.Surgery(reference=False), [FIRST, LAST, FIRST, LAST]),
        (dfs.Surgery(exit_gradient="all"), [ALL, ALL, FIRST, ALL]),
        (dfs.Surgery(0.25), [ALL, ALL, [1, 0, 0, 0], [0, 1, 1, 1]]),
        (dfs.Surgery(0.0), [ALL, ALL, NONE, ALL]),
    ],
    ids=str,
)
def test_by_hand(junction, rows):
    np.testing.assert_allclose(probes.pulls(junction, 4), rows)
