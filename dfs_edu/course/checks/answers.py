"""Compare a learner's answer with the library's, and put the verdict into one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dfs_edu.course.report import CHECK, NOT_YET, PASSED, WRONG

Mistakes = Sequence[tuple[Callable, str]]  # (what many write, what to say about it)
SIGNS = {PASSED: "✓", WRONG: "✗", NOT_YET: "…"}
SEED = 0


@contextmanager
def repeatable() -> Generator[None]:
    """Draw the same random numbers every time, and restore torch's generator afterwards.

    It decorates every check: a grade must not depend on chance, and a check must not change what the next cell draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        yield


def tensors(*cases: tuple, dtype: torch.dtype = torch.float32) -> list[tuple]:
    """Turn the lists of each case into tensors; anything else stays as it is.

    Args:
        *cases: The arguments of a call each.
        dtype: Of the lists of floats; those of ints become int64, those of bools bool.

    >>> tensors(([1.5, 2.0], [0, 1], 3))
    [(tensor([1.5000, 2.0000]), tensor([0, 1]), 3)]
    """

    def converted(value):
        if not isinstance(value, list):
            return value
        tensor = torch.tensor(value)
        return torch.tensor(value, dtype=dtype) if tensor.is_floating_point() else tensor

    return [tuple(map(converted, case)) for case in cases]


def compare(exercise: str, attempt: Callable, right: Callable, cases: Sequence[tuple], mistakes: Mistakes) -> None:
    """Call the learner's function on every case, and print the verdict.

    Args:
        exercise: Its name in the sentence.
        attempt: The learner's function.
        right: The library's answer.
        cases: The arguments of each call. Edge cases come first (a tie, a zero, a single element): they decide what
            random inputs would leave to chance.
        mistakes: What many write instead, and what to say about it. A mistake is named if it gives the learner's
            answer to the first case that is wrong, and to at least half of all cases.
    """
    for case in cases:
        try:
            answer = attempt(*map(_copy, case))
        except NotImplementedError:
            answer = None
        except Exception as error:  # whatever a learner's code may raise
            _say(exercise, WRONG, f"your function raised {type(error).__name__}: {error}{_given(case)}")
            return
        if untried(answer) and case is cases[0]:
            _say(exercise, NOT_YET, "not yet. Write the function, then run this cell again.")
            return
        if difference := _difference(answer, right(*map(_copy, case))):
            _say(exercise, WRONG, _mistake(attempt, case, cases, mistakes) or difference + _given(case))
            return
    _say(exercise, PASSED, f"right, on {len(cases)} inputs.")


def _mistake(attempt: Callable, case: tuple, cases: Sequence[tuple], mistakes: Mistakes) -> str | None:
    """What to say about the mistake that agrees with the learner most often; None if it is less than half the time."""
    agreeing = {
        why: sum(_agree(attempt, wrong, other) for other in cases)
        for wrong, why in mistakes
        if _agree(attempt, wrong, case)
    }
    why = max(agreeing, key=agreeing.__getitem__, default=None)
    return why if why and 2 * agreeing[why] >= len(cases) else None


def _agree(attempt: Callable, wrong: Callable, case: tuple) -> bool:
    try:
        return _difference(attempt(*map(_copy, case)), wrong(*map(_copy, case))) is None
    except Exception:  # either of the two may fail on an edge case
        return False


def _given(case: tuple) -> str:
    """The arguments of a call, if they are short: numbers, or lists of numbers."""
    return f" (given {', '.join(map(str, case))})" if all(map(_short, case)) else ""


def _short(value) -> bool:
    return all(map(_short, value)) if isinstance(value, list) else isinstance(value, int | float)


def _say(exercise: str, state: str, why: str) -> None:
    """Print the sentence; a notebook also keeps the state beside it, as JSON, for `dfs-edu course --report`."""
    sentence = f"{SIGNS[state]} {exercise}: {why}"
    ipython = sys.modules.get("IPython")  # if it is not even loaded, this is not a notebook
    if ipython is None or ipython.get_ipython() is None:
        print(sentence)
    else:
        from IPython.display import display

        display({CHECK: {"exercise": exercise, "state": state}, "text/plain": sentence}, raw=True)


def _copy(value):
    """A copy for the learner's function, which may write into it."""
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value.clone() if isinstance(value, Tensor) else value


def untried(answer) -> bool:
    """Return whether the answer is that of a function that nobody has written yet."""
    return answer is None or answer is Ellipsis


def _difference(answer, expected) -> str | None:
    """In words, what was returned and what is expected; None if they agree to four digits."""
    if untried(answer):
        return "nothing is returned"
    if isinstance(expected, list):
        if not isinstance(answer, list | tuple) or len(answer) != len(expected):
            returned = f"{len(answer)} values" if isinstance(answer, list | tuple) else f"a {type(answer).__name__}"
            return f"{returned} where a list of {len(expected)} is expected"
        for place, (a, e) in enumerate(zip(answer, expected, strict=True), start=1):
            if difference := _difference(a, e):
                return f"value {place} of the list: {difference}"
        return None
    try:
        returned = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(answer).__name__} where a number or tensor is expected"
    expected = torch.as_tensor(expected)
    if returned.shape != expected.shape:
        return f"shape {tuple(returned.shape)} where {tuple(expected.shape)} is expected"
    # A mistake may give NaN as well; the right answer never does
    close = torch.isclose(returned.double(), expected.double(), rtol=1e-4, atol=1e-6, equal_nan=True)
    if close.all():
        return None
    place = (~close).nonzero()[0].tolist()
    where = f" at {place}" if place else ""
    return f"{returned[tuple(place)].item():.6g}{where} where {expected[tuple(place)].item():.6g} is expected"
