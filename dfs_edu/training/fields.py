"""What a field of a dataclass accepts: read from its annotation, which nothing else repeats.

An annotation is a type (int, float, bool, str), a ``Literal`` of choices, a tuple of such, any of these ``| None``, or
``Annotated`` with an ``annotated_types.Interval``, the range of a number.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from annotated_types import Interval

INT64 = 2**63
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


@functools.cache
def field_types(owner: type) -> dict[str, Any]:
    """Return the annotation of each field, ranges included."""
    return get_type_hints(owner, include_extras=True)


def check(name: str, value: Any, annotation: Any) -> None:
    """Raise ValueError, naming the field, its value and what is accepted, unless the annotation accepts the value."""
    if not accepts(value, annotation):
        raise ValueError(f"{name}={reprlib.repr(value)}: {described(annotation)}")


def accepts(value: Any, annotation: Any, limits: bool = True) -> bool:
    """Tell whether an annotation accepts a value.

    Args:
        value: Any object: it may come from a stranger's file.
        annotation: See the top of this file.
        limits: False checks the type alone, neither choices nor ranges: an older version may have had others.
    """
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        ranges = [limit for limit in inside[1:] if isinstance(limit, Interval)] if limits else []
        return accepts(value, inside[0], limits) and all(_within(value, limit) for limit in ranges)
    if origin in (Union, UnionType):
        return any(accepts(value, one, limits) for one in inside)
    if origin is Literal:
        return isinstance(value, str) and (not limits or value in inside)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(accepts(one, inside[0], limits) for one in value)
    if annotation in (NoneType, None):
        return value is None
    if annotation is float:
        return is_number(value)
    return type(value) is annotation and (annotation is not int or -INT64 <= value < INT64)


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number that a float can hold, and no bool."""
    return type(value) in (int, float) and -1e300 < value < 1e300  # False for NaN


def described(annotation: Any) -> str:
    """Return what an annotation accepts, in words.

    >>> described(Annotated[float, Interval(gt=0, le=10)] | None)
    'a number above 0, at most 10, or None'
    """
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return described(inside[0]) + "".join(_limits(limit) for limit in inside[1:] if isinstance(limit, Interval))
    if origin in (Union, UnionType):
        return ", or ".join(described(one) for one in inside)
    if origin is Literal:
        return f"use one of {', '.join(inside)}"
    if origin is tuple:
        return f"a list, each element {described(inside[0])}"
    return KINDS.get(annotation, "None" if annotation is NoneType else getattr(annotation, "__name__", str(annotation)))


def _limits(limit: Interval) -> str:
    bounds = {"from": limit.ge, "above": limit.gt, "at most": limit.le, "below": limit.lt}
    given = {word: bound for word, bound in bounds.items() if bound is not None}
    return " " + ", ".join(f"{word} {b if isinstance(b, int) else f'{b:g}'}" for word, b in given.items())


def _within(value: Any, limit: Interval) -> bool:
    above = (limit.gt is None or value > limit.gt) and (limit.ge is None or value >= limit.ge)
    return above and (limit.lt is None or value < limit.lt) and (limit.le is None or value <= limit.le)


def make_plain(values: Any, names: Iterable[str]) -> None:
    """Replace numpy's numbers and lists in a frozen dataclass by Python's and tuples: a checkpoint holds no others."""
    for name in names:
        object.__setattr__(values, name, _hashable(getattr(values, name)))


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(map(_hashable, value))
    return value.item() if isinstance(value, np.generic) else value
