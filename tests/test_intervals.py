"""Means with intervals, and p-values, against SciPy's."""

import numpy as np
import pytest
from scipy import stats

from dfs_edu import intervals


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, half = intervals.interval(values)
    low, high = stats.t.interval(0.95, 4, loc=values.mean(0), scale=stats.sem(values))
    np.testing.assert_allclose([mean - half, mean + half], [low, high])
    np.testing.assert_allclose(intervals.half_width(values.std(0, ddof=1), 5), half)


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]])
def test_below_three_seeds_there_is_no_interval(values):
    mean, half = intervals.interval(values)
    assert mean.tolist() == [1, 2]
    assert np.isnan(half).all()
    with pytest.raises(ValueError, match=f"{len(values)} seeds: a p-value needs 3"):
        intervals.p_values(values)


def test_p_values_are_scipys():
    values = np.random.default_rng(0).normal(size=(4, 6)) + 1
    np.testing.assert_allclose(intervals.p_values(values), stats.ttest_1samp(values, 0).pvalue)
    mean, half = intervals.interval(values)
    assert ((intervals.p_values(values) < 0.05) == (abs(mean) > half)).all()
    assert intervals.p_values([[0, 1]] * 3).tolist() == [1, 0]  # all alike
