"""What a few seeds say: means with intervals, and p-values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

LEAST = 3  # seeds, for an interval


def interval(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (K,) of (n, K) values, n seeds, and half the width of its 95 % t-interval (K,), NaN for n below 3.

    Two seeds make no interval: that of two which happen to agree would be of width zero.

    >>> mean, half = interval([[0.50, 0.71], [0.52, 0.72], [0.54, 0.73]])  # n = 3 seeds, K = 2 exits
    >>> mean.round(3), half.round(3)
    (array([0.52, 0.72]), array([0.05 , 0.025]))
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < LEAST:
        return values.mean(0), np.full(values.shape[1], np.nan)
    return values.mean(0), stdtrit(n - 1, 0.975) * values.std(0, ddof=1) / np.sqrt(n)


def p_values(values: Sequence[Sequence[float]]) -> np.ndarray:
    """Two-sided p-values (K,) of the t-test that the mean of (n, K) values is zero; 1 where all values are.

    Below 0.05 where the interval of `interval` leaves zero out. Raises ValueError for n below 3.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < LEAST:
        raise ValueError(f"{n} seeds: a p-value needs {LEAST} at least")
    with np.errstate(divide="ignore", invalid="ignore"):  # seeds that all agree
        t = values.mean(0) / (values.std(0, ddof=1) / np.sqrt(n))
    return np.nan_to_num(2 * stdtr(n - 1, -np.abs(t)), nan=1.0)
