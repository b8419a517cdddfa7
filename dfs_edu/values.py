"""Plain values: Python's own numbers, strings, lists and dicts, which JSON can hold."""

from __future__ import annotations

import math


def plain(value, digits: int | None = None):
    """Convert arrays, tensors, and dicts and lists of them to plain values; a number that is not finite becomes None.

    Args:
        value: a number, string, None, array or tensor, or a dict, list or tuple of such values.
        digits: how many significant digits of a float to keep; None: all.

    Raises:
        TypeError: for anything else.

    >>> import numpy as np
    >>> plain({"accuracy": np.array([0.61803, np.nan]), "n": np.int64(2)}, digits=3)
    {'accuracy': [0.618, None], 'n': 2}
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"cannot record {value!r}: use numbers, strings, lists, dicts, arrays or tensors")
