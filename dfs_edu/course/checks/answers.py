"""The learner's answer against the library's, and what to say about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dfs_edu.course.report import CHECK, NOT_YET, PASSED, WRONG

Mistakes = Sequence[tuple[Callable, str]]  # (what many write, what to say about it)
SIGNS = {PASSED: "✓", WRONG: "✗", NOT_YET: "…"}
SEED = 0


@contextmanager
def repeatable() -> Iterator[None]:
    """Draw the same random numbers every time, and leave torch's generator as it was.

    Decorates every check: a grade must not depend on chance, nor a check change what the next cell draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        yield


def compare(exercise: str, mine: Callable, right: Callable, cases: Sequence[tuple], mistakes: Mistakes) -> None:
    """Say what there is to say about `mine`.

    Args:
        exercise: What the sentence calls it.
        mine: The learner's function.
        right: The library's answer.
        cases: The arguments of each call. Those at an edge come first: a tie, a zero, a single element. They decide
            what random inputs would leave to chance.
        mistakes: What many write instead, and what to say about it. One that gives the learner's answer to the first
            case that is wrong, and to half of all cases, is named.
    """
    for case in cases:
        try:
            answer = mine(*map(_copy, case))
        except NotImplementedError:
            answer = None
        except Exception as error:  # whatever a learner's code may raise
            _say(exercise, WRONG, f"your function raised {type(error).__name__}: {error}{_given(case)}")
            return
        if untried(answer) and case is cases[0]:
            _say(exercise, NOT_YET, "not yet. Write the function, then run this cell again.")
            return
        expected = right(*map(_copy, case))
        if not _same(answer, expected):
            _say(exercise, WRONG, _mistake(mine, case, cases, mistakes) or _difference(answer, expected) + _given(case))
            return
    _say(exercise, PASSED, f"right, on {len(cases)} inputs.")


def _mistake(mine: Callable, case: tuple, cases: Sequence[tuple], mistakes: Mistakes) -> str | None:
    """What to say about a mistake that gives the learner's answer to this case, and to at least half of all cases."""
    agreeing = {
        why: sum(_agree(mine, wrong, other) for other in cases) for wrong, why in mistakes if _agree(mine, wrong, case)
    }
    why = max(agreeing, key=agreeing.get, default=None)
    return why if why and 2 * agreeing[why] >= len(cases) else None


def _agree(mine: Callable, wrong: Callable, case: tuple) -> bool:
    try:
        return _same(mine(*map(_copy, case)), wrong(*map(_copy, case)))
    except Exception:  # either of the two may fail at an edge
        return False


def _given(case: tuple) -> str:
    """The arguments of a call, if they are short: numbers, or lists of numbers."""
    return f" (given {', '.join(map(str, case))})" if all(map(_short, case)) else ""


def _short(value) -> bool:
    return all(map(_short, value)) if isinstance(value, list) else isinstance(value, int | float)


def _say(exercise: str, state: str, why: str) -> None:
    """One sentence; a notebook keeps the state beside it, in JSON, for `dfs-edu course --report`."""
    sentence = f"{SIGNS[state]} {exercise}: {why}"
    ipython = sys.modules.get("IPython")  # where it is not even loaded, nobody sits before a notebook
    if ipython is None or ipython.get_ipython() is None:
        print(sentence)
    else:
        from IPython.display import display

        display({CHECK: {"exercise": exercise, "state": state}, "text/plain": sentence}, raw=True)


def _copy(value):
    """A learner may write into what is given."""
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value.clone() if isinstance(value, Tensor) else value


def untried(answer) -> bool:
    return answer is None or answer is Ellipsis


def _same(answer, expected) -> bool:
    if isinstance(expected, list):
        if not isinstance(answer, list | tuple) or len(answer) != len(expected):
            return False
        return all(_same(a, e) for a, e in zip(answer, expected, strict=True))
    try:
        answer, expected = torch.as_tensor(answer).double(), torch.as_tensor(expected).double()
    except (TypeError, ValueError, RuntimeError):
        return False
    # a mistake may give NaN, the right answer never does
    return answer.shape == expected.shape and torch.allclose(answer, expected, rtol=1e-4, atol=1e-6, equal_nan=True)


def _difference(answer, expected) -> str:
    """In words, what was given and what it should be."""
    if untried(answer):
        return "nothing is returned"
    if isinstance(expected, list):
        if not isinstance(answer, list | tuple) or len(answer) != len(expected):
            given = f"{len(answer)} values" if isinstance(answer, list | tuple) else f"a {type(answer).__name__}"
            return f"{given} where a list of {len(expected)} is expected"
        place, a, e = next((i, a, e) for i, (a, e) in enumerate(zip(answer, expected, strict=True)) if not _same(a, e))
        return f"value {place + 1} of the list: {_difference(a, e)}"
    try:
        answer = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(answer).__name__} where a number or tensor is expected"
    expected = torch.as_tensor(expected)
    if answer.shape != expected.shape:
        return f"shape {tuple(answer.shape)} where {tuple(expected.shape)} is expected"
    wrong = (~torch.isclose(answer.double(), expected.double(), rtol=1e-4, atol=1e-6)).nonzero()[0].tolist()
    where = f" at {wrong}" if wrong else ""
    return f"{answer[tuple(wrong)].item():.6g}{where} where {expected[tuple(wrong)].item():.6g} is expected"
