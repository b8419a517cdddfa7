"""What a field accepts follows from its annotation alone."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Interval

from dfs_edu.training.fields import accepts, check, described, make_plain

COUNT = Annotated[int, Interval(ge=1, le=10)]
RATE = Annotated[float, Interval(gt=0, lt=1)] | None
SIDE = Literal["own", "all"]
LIST = tuple[float, ...]


@pytest.mark.parametrize(
    ("annotation", "accepted", "refused"),
    [
        (COUNT, [1, 10], [0, 11, 1.0, True, "1", None, 2**64]),
        (RATE, [0.5, None], [0, 1, -0.5, float("nan"), float("inf"), True, "0.5", 10**400]),
        (SIDE, ["own", "all"], ["both", "", None, 1, ["own"]]),
        (LIST, [(), (1, 0.5), [2.0]], ["12", 3, None, (float("nan"),), ("1",), (True,)]),
        (bool, [True, False], [0, 1, "True", None]),
        (str | None, ["", "a", None], [1, b"a"]),
    ],
)
def test_values_are_accepted_by_type_choice_and_range(annotation, accepted, refused):
    assert all(accepts(value, annotation) for value in accepted)
    assert not any(accepts(value, annotation) for value in refused)


def test_without_limits_only_the_type_counts():
    assert accepts(-5, COUNT, limits=False)
    assert accepts("both", SIDE, limits=False)
    assert not accepts("5", COUNT, limits=False)
    assert not accepts(5, SIDE, limits=False)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (COUNT, "a whole number from 1, at most 10"),
        (RATE, "a number above 0, below 1, or None"),
        (SIDE, "use one of own, all"),
        (LIST, "a list, each element a number"),
        (bool, "True or False"),
    ],
)
def test_an_error_names_field_value_and_what_is_accepted(annotation, words):
    assert described(annotation) == words
    with pytest.raises(ValueError, match=f"^some_field='x': {words}$"):
        check("some_field", "x", annotation)


@dataclass(frozen=True)
class Values:
    rate: float
    counts: tuple
    name: str


def test_values_become_python_s_own_and_hashable():
    values = Values(np.float64(0.5), [np.int32(2), (np.bool_(True), None), np.arange(2)], "a")
    make_plain(values, ["rate", "counts", "name"])
    assert values == Values(0.5, (2, (True, None), (0, 1)), "a")
    assert [type(v) for v in (values.rate, *values.counts)] == [float, int, tuple, tuple]
    hash(values)
