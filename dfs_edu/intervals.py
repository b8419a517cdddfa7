"""What a few seeds say: means with confidence intervals, and p-values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

LEAST = 3  # seeds, for an interval


def half_width(deviation: ArrayLike, n: int) -> np.ndarray:
    """Return half the width of the 95 % t-interval of a mean over n seeds with a given standard deviation.

    >>> half_width(0.5, 3).round(2), half_width(0.5, 10).round(2)
    (np.float64(1.24), np.float64(0.36))
    """
    return stdtrit(n - 1, 0.975) * np.asarray(deviation) / np.sqrt(n)


def interval(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over seeds, and half the width of its 95 % t-interval.

    Two seeds make no interval: two that happen to agree would have one of width zero.

    Args:
        values: (n, K), n seeds.

    Returns:
        Two arrays (K,); the second is NaN for n below 3.

    >>> mean, half = interval([[0.50, 0.71], [0.52, 0.72], [0.54, 0.73]])  # n = 3 seeds, K = 2 exits
    >>> mean.round(3), half.round(3)
    (array([0.52, 0.72]), array([0.05 , 0.025]))
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < LEAST:
        return x.mean(0), np.full(x.shape[1], np.nan)
    return x.mean(0), half_width(x.std(0, ddof=1), n)


def p_values(values: ArrayLike) -> np.ndarray:
    """Return two-sided p-values of the t-test that the mean over seeds is zero.

    A p-value is below 0.05 where the interval of ``interval`` excludes zero.

    Args:
        values: (n, K), n seeds.

    Returns:
        (K,); 1 where all values are zero.

    Raises:
        ValueError: n is below 3.
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < LEAST:
        raise ValueError(f"{n} seeds: a p-value needs {LEAST} or more")
    with np.errstate(divide="ignore", invalid="ignore"):  # seeds that all agree
        t = x.mean(0) / (x.std(0, ddof=1) / np.sqrt(n))
    return np.nan_to_num(2 * stdtr(n - 1, -np.abs(t)), nan=1.0)
