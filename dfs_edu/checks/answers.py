"""The learner's answer against the library's, and what to say about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfs_edu.report import CHECK, NOT_YET, PASSED, WRONG

Mistakes = Sequence[tuple[Callable, str]]  # (what many write, what to say about it)
SIGNS = {PASSED: "✓", WRONG: "✗", NOT_YET: "…"}


def compare(exercise: str, mine: Callable, right: Callable, cases: Sequence[tuple], mistakes: Mistakes) -> None:
    """Say what there is to say about `mine`."""
    for case in cases:
        try:
            answer = mine(*map(_copy, case))
        except NotImplementedError:
            answer = None
        except Exception as error:  # whatever a learner's code may raise
            _say(exercise, WRONG, f"your function raised {type(error).__name__}: {error}")
            return
        if untried(answer):
            _say(exercise, NOT_YET, "not yet. Write the function, then run this cell again.")
            return
        expected = right(*map(_copy, case))
        if not _same(answer, expected):
            fitting = [why for wrong, why in mistakes if _same(answer, wrong(*map(_copy, case)))]
            _say(exercise, WRONG, fitting[0] if fitting else _difference(answer, expected))
            return
    _say(exercise, PASSED, f"right, on {len(cases)} inputs.")


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
