"""Compare a learner's answer with the library's, and put the verdict into one sentence.

A check is a function with the ``exercise`` decorator that calls ``compare``: the library's answer, the inputs to try,
and the usual mistakes as data. What every check has in common is here: hints on errors (``HINTS``), and mistakes that
any answer can have (``_common_mistakes``).
"""

from __future__ import annotations

import copy
import dis
import inspect
import io
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dfs_edu.course.report import CHECK, NOT_YET, PASSED, WRONG

Mistakes = Sequence[tuple[Callable, str]]  # (what many write, what to say about it)
Bounds = tuple[float, float]  # the least and the largest value that an answer can have
FRACTION: Bounds = (0, 1)
SIGNS = {PASSED: "✓", WRONG: "✗", NOT_YET: "…"}
SEED = 0
EXPLAINED = 0.75  # a mistake is named if it gives at least this fraction of a learner's answers, and of the wrong ones
LONGEST = 160  # characters of an error that are shown

_CLONE = "a tensor that backward() still needs was overwritten: write into a clone, and call step() after backward()"
_NUMBERS = "turn True and False, or whole numbers, into floats first: .float() or .double()"
_INDEX = "an index is a whole number: .long(), or int() of a number"
HINTS = (  # what an error's message contains, and what to say about it
    (r"could not infer output dtype|only support floating|Expected a floating point|must be either float", _NUMBERS),
    (r"not implemented for '(Long|Bool)'", _NUMBERS),
    (r"with (a|two) bool tensor|on a bool tensor", "a mask is inverted by ~; to calculate with it, use .float()"),
    (
        r"Boolean value of Tensor|truth value of an array",
        "if, and, or take a single True or False: to decide for each value, use & | ~ or torch.where",
    ),
    (r"modified by an inplace|[Ll]eaf Variable that requires grad is being used in an in-place", _CLONE),
    (r"backward through the graph a second time", "call backward() once, on the sum of the losses"),
    (
        r"element 0 of tensors does not require grad",
        "the loss has no gradient: remove detach() or no_grad() on its way",
    ),
    (
        r"argument 'input' \(position 1\) must be Tensor, not list",
        "the network returns a list of logits, one for each exit",
    ),
    (
        r"shape of the mask",
        "a mask needs one entry for each image that it indexes: keep the numbers of the images still here",
    ),
    (
        r"numel\(\) == 0|non-zero size|cannot reshape tensor of 0 elements",
        "no images are left here: stop the loop before that",
    ),
    (r"must be long, int, byte or bool|only integers, slices|indices must be integers", _INDEX),
    (
        r"must match the size of tensor",
        "the shapes do not fit: add a dimension by [:, None], or keep one by keepdim=True",
    ),
    (r"shapes cannot be multiplied", "the inner dimensions differ: transpose one of the two, .T"),
    (r"matmul need to be at least 1D", "@ is for vectors and matrices: numbers are multiplied by *"),
    (
        r"same dtype|expected scalar type|must be same dtype",
        "turn both into floats of the same kind: .double() or .float()",
    ),
    (
        r"can't be cast to the desired output type",
        "floats do not fit into a tensor of whole numbers: turn that into floats first, .float()",
    ),
    (r"return_types\.|concatenate tuple", "this gives two things, values and indices: take .values or .indices"),
    (r"'float' object has no attribute 'backward'", "item() makes a plain number of the loss: keep the tensor"),
    (r"Dimension out of range", "there are fewer dimensions than that: a vector has only dim=0"),
    (r"unexpected keyword argument '(axis|out)'", "NumPy's functions are for arrays: use torch's, or .numpy() first"),
    (r"too many values to unpack", "there may be more than these: use a loop"),
)


class Verdict(NamedTuple):
    """The outcome of a check.

    Attributes:
        state: "passed", "wrong" or "not yet".
        why: The sentence for the learner.
    """

    state: str
    why: str


class Wrong(Exception):
    """Raised within a check: what is wrong with an answer, in words."""


def exercise(name: str) -> Callable[[Callable[[Callable], Verdict]], Callable[[Callable], None]]:
    """Decorate a function that judges an attempt, so that it prints its verdict and never raises.

    Args:
        name: The exercise's name in the sentence.
    """

    def decorate(judge: Callable[[Callable], Verdict]) -> Callable[[Callable], None]:
        @wraps(judge)
        def check(attempt: Callable) -> None:
            _say(name, verdict(judge, attempt))

        return check

    return decorate


def verdict(check: Callable, attempt: Callable) -> Verdict:
    """Return what a check says about the attempt, without printing it.

    It draws the same random numbers every time, and restores torch's generator afterwards: a grade must not depend on
    chance, and a check must not change what the next cell draws.
    """
    if not callable(attempt):
        return Verdict(WRONG, "give the check your function itself, my_function, and not its result, my_function(...)")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        return inspect.unwrap(check)(attempt)


def use(check: Callable, mine: Callable, otherwise: Callable) -> Callable:
    """Return your function if its check passes, and the library's if not; print which of the two it is.

    Args:
        check: The exercise's check, such as ``checks.train``.
        mine: Your function or class.
        otherwise: What takes its place until it is right.

    >>> from dfs_edu import checks
    >>> def my_accuracy(prediction, label): ...
    >>> accuracy = checks.use(checks.accuracy, my_accuracy, lambda p, y: (p == y).double().mean())
    The experiment below uses the library's version: my_accuracy is not written yet.
    """
    with redirect_stdout(io.StringIO()):
        state = verdict(check, mine).state
    name = getattr(mine, "__name__", "your answer")
    if state == PASSED:
        print(f"The experiment below uses your {name}.")
        return mine
    lacking = "is not written yet" if state == NOT_YET else "is not right yet (its check says why)"
    print(f"The experiment below uses the library's version: {name} {lacking}.")
    return otherwise


def tensors(*cases: tuple, dtype: torch.dtype = torch.float32) -> list[tuple]:
    """Turn the lists of each case into tensors; anything else stays as it is.

    Args:
        *cases: The arguments of one call each.
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


def compare(
    attempt: Callable, right: Callable, cases: Sequence[tuple], mistakes: Mistakes, bounds: Bounds | None = None
) -> Verdict:
    """Call the learner's function on every case, and compare its answers with the right ones.

    Args:
        attempt: The learner's function.
        right: The library's answer: a number, a tensor, a list of them, or a dict of named parts.
        cases: The arguments of each call. Edge cases come first (a tie, a zero, a single element): they decide what
            random inputs would leave to chance.
        mistakes: What many write instead, and what to say about it. A mistake is named if it gives the learner's
            answer to the first case that is wrong, to three quarters of those that are wrong, and of all.
        bounds: The least and the largest value that the answer can have.
    """
    overwritten, begun = False, _is_begun(attempt)
    for case in cases:
        given, printed = _copy(case), _Tee()
        try:
            with redirect_stdout(printed):
                answer = attempt(*given)
        except Exception as error:  # whatever a learner's code may raise
            if not _is_stub(error) or case is not cases[0]:
                return Verdict(WRONG, _raised(attempt, error, case))
            answer, begun = None, False
        overwritten |= _changed(case, given)
        if untried(answer) and printed.getvalue():
            return Verdict(WRONG, "your function prints something, but returns nothing: use return instead of print")
        if untried(answer) and case is cases[0]:
            ends = "It returns nothing so far: end it with return" if begun else "Write the function"
            return Verdict(NOT_YET, f"not yet. {ends}, then run this cell again.")
        if difference := _difference(answer, right(*_copy(case)), bounds):
            named = _mistake(attempt, right, case, cases, mistakes, bounds)
            beside = ". Your function also overwrites what it is given: work on a clone" if overwritten else ""
            return Verdict(WRONG, (named or difference + _given(case)) + beside)
    beside = " Your function overwrites what it is given, though: better work on a clone." if overwritten else ""
    return Verdict(PASSED, f"right, on {len(cases)} inputs.{beside}")


class _Tee(io.StringIO):
    """Remembers what is printed, and prints it all the same: prints are how learners debug."""

    def __init__(self) -> None:
        super().__init__()
        self.stdout = sys.stdout

    def write(self, text: str) -> int:
        self.stdout.write(text)
        return super().write(text)


def _mistake(attempt, right, case: tuple, cases: Sequence[tuple], mistakes: Mistakes, bounds) -> str | None:
    """What to say about the mistake that agrees best with the learner's wrong answers; None if none agrees well."""
    answers = [_outcome(attempt, other) for other in cases]
    is_wrong = [not _agree(answer, _outcome(right, other)) for answer, other in zip(answers, cases, strict=True)]
    first = next(place for place, other in enumerate(cases) if other is case)
    for candidates, least in ((mistakes, EXPLAINED), (_common_mistakes(right, bounds), 1)):
        best, why = (0.0, 0.0), None
        for wrong, words in candidates:
            if _agree(answers[first], _outcome(wrong, case)):
                agrees = [_agree(a, _outcome(wrong, other)) for a, other in zip(answers, cases, strict=True)]
                of_wrong = sum(a for a, w in zip(agrees, is_wrong, strict=True) if w) / max(sum(is_wrong), 1)
                of_all = sum(agrees) / len(cases)
                if min(of_wrong, of_all) >= least and (of_wrong, of_all) > best:
                    best, why = (of_wrong, of_all), words
        if why:
            return why
    return None


def _common_mistakes(right: Callable, bounds: Bounds | None) -> Mistakes:
    """The mistakes that any answer can have."""

    def changed(change: Callable) -> Callable:
        def wrong(*case):
            answer = right(*case)
            if isinstance(answer, list | tuple | dict):
                raise TypeError("these are mistakes of a number or a tensor")
            return change(torch.as_tensor(answer).double())

        return wrong

    def whole(answer: Tensor) -> Tensor:
        if (answer != answer.round()).any():
            raise ValueError("places and numbers are whole")
        return answer

    mistakes = [
        (changed(lambda r: -r), "the sign is wrong: this is minus the right answer"),
        (changed(lambda r: whole(r) + 1), "that is one too many"),
        (changed(lambda r: whole(r) - 1), "that is one too few"),
        (changed(lambda r: 2 * r), "that is twice the right answer"),
        (changed(lambda r: r / 2), "that is half of the right answer"),
        (changed(lambda r: r**2), "that is the square of the right answer"),
        (changed(lambda r: r**0.5), "that is the square root of the right answer"),
        (changed(lambda r: r.T if r.ndim == 2 else 1 / 0), "rows and columns are swapped"),
        (changed(lambda r: r.flip(0)), "the order is reversed"),
        (changed(lambda r: r.trunc()), "that is cut to a whole number: // and int() drop the rest"),
        *[(changed(lambda r, d=d: r.round(decimals=d)), "that is rounded: return all digits") for d in range(4)],
    ]
    if bounds == FRACTION:
        mistakes.append((changed(lambda r: 1 - r), "that is one minus the right answer"))
    if not bounds:
        mistakes.append(
            (changed(lambda r: 100 * r), "that is 100 times the right answer: keep its unit, rather than percent")
        )
    else:
        percent = "that is in percent (points): return a fraction, from 0 to 1"
        mistakes += [(changed(lambda r: 100 * r), percent), (changed(lambda r: (100 * r).round()), percent)]
    return mistakes


def _outcome(function: Callable, case: tuple):
    """What a function returns or, as a mistake may fail on an edge case, raises."""
    try:
        with redirect_stdout(io.StringIO()):
            return function(*_copy(case))
    except Exception as error:
        return error


def _agree(answer, other) -> bool:
    """Whether two answers to a case, or the errors instead, are the same."""
    if isinstance(answer, Exception) or isinstance(other, Exception):
        return type(answer) is type(other)
    try:
        return _difference(answer, other) is None
    except Exception:  # they are of different kinds
        return False


def _is_stub(error: Exception) -> bool:
    """Whether the error is that of a function that nobody has written yet; torch raises this kind of error, too."""
    return isinstance(error, NotImplementedError) and not re.search(r"not supported|not implemented for", str(error))


def _is_begun(attempt: Callable) -> bool:
    """Whether a function reads any of its arguments, which a stub does not."""
    code = getattr(inspect.unwrap(attempt), "__code__", None)
    return code is not None and any(step.opname.startswith("LOAD_FAST") for step in dis.get_instructions(code))


def _raised(attempt: Callable, error: Exception, case: tuple) -> str:
    """In words, what a learner's function raised, and what usually helps."""
    if isinstance(error, Wrong):
        return str(error)
    if isinstance(error, TypeError):
        try:
            inspect.signature(attempt).bind(*case)
        except TypeError:
            return f"the check calls your function with {len(case)} argument{'s' * (len(case) > 1)}: {error}"
        except ValueError:  # a function without a signature
            pass
    message = str(error).split("\n")[0]
    message = f"{type(error).__name__}: {message if len(message) <= LONGEST else message[: LONGEST - 4] + ' ...'}"
    hint = next((f"{words}. Y" for pattern, words in HINTS if re.search(pattern, str(error))), "y")
    return f"{hint}our function raised {message}{_given(case)}"


def _given(case: tuple) -> str:
    """The arguments of a call, if they are short: numbers, or a few numbers in a list or tensor."""
    return f" (given {', '.join(map(_shown, case))})" if all(map(_short, case)) else ""


def _short(value) -> bool:
    if isinstance(value, Tensor):
        return value.ndim <= 1 and len(value.reshape(-1)) <= 8
    return all(map(_short, value)) if isinstance(value, list) else isinstance(value, int | float)


def _shown(value) -> str:
    """A value as people write it: 0.3, not 0.30000001192092896."""
    value = value.tolist() if isinstance(value, Tensor) else value
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _say(name: str, verdict: Verdict) -> None:
    """Print the sentence; a notebook also keeps the state beside it, as JSON, for `dfs-edu course --report`."""
    sentence = f"{SIGNS[verdict.state]} {name}: {verdict.why}"
    ipython = sys.modules.get("IPython")  # if it is not even loaded, this is not a notebook
    if ipython is None or ipython.get_ipython() is None:
        print(sentence)
    else:
        from IPython.display import display

        display({CHECK: {"exercise": name, "state": verdict.state}, "text/plain": sentence}, raw=True)


def _copy(value):
    """A copy for the learner's function, which may write into it."""
    if isinstance(value, list | tuple):
        return type(value)(map(_copy, value))
    if isinstance(value, nn.Module):
        return copy.deepcopy(value)
    return value.clone() if isinstance(value, Tensor) else value


def _changed(before, after) -> bool:
    """Return whether tensors or lists among the arguments were written into."""
    if isinstance(before, list | tuple):
        return not isinstance(after, list | tuple) or len(before) != len(after) or any(map(_changed, before, after))
    return isinstance(before, Tensor) and not (isinstance(after, Tensor) and torch.equal(before, after))


def untried(answer) -> bool:
    """Return whether the answer is that of a function that nobody has written yet."""
    return answer is None or answer is Ellipsis


def _difference(answer, expected, bounds: Bounds | None = None) -> str | None:
    """In words, what was returned and what is expected; None if they agree to four digits."""
    if untried(answer):
        return "nothing is returned"
    if isinstance(expected, dict):  # of a check that traces what the learner's function does
        parts = ((name, _difference(answer[name], expected[name])) for name in expected)
        return next((f"{name}: {difference}" for name, difference in parts if difference), None)
    if isinstance(expected, list):
        if not isinstance(answer, list | tuple) or len(answer) != len(expected):
            returned = _counted(len(answer)) if isinstance(answer, list | tuple) else f"a {type(answer).__name__}"
            return f"{returned} where a list of {len(expected)} is expected"
        for place, (a, e) in enumerate(zip(answer, expected, strict=True), start=1):
            if difference := _difference(a, e):
                return f"value {place} of the list: {difference}"
        return None
    if callable(answer):
        return "a function is returned: call it, with brackets after its name"
    try:
        returned = _tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(answer).__name__} where a number or tensor is expected"
    return _difference_of_tensors(returned, torch.as_tensor(expected), bounds)


def _difference_of_tensors(returned: Tensor, expected: Tensor, bounds: Bounds | None) -> str | None:
    """In words, the shape or the first value that differs."""
    if returned.shape != expected.shape:
        right = returned.numel() == expected.numel() and _close(returned.reshape(expected.shape), expected).all()
        beside = ": the values are right, only the shape is not" if right else ""
        return f"{_form(returned.shape)} where {_form(expected.shape)} is expected{beside}"
    close = _close(returned, expected)
    if close.all():
        return None
    place = (~close).nonzero()[0].tolist()
    value, where = returned[tuple(place)].item(), f" at {place}" if place else ""
    beside = ""
    if bounds and not bounds[0] - 1e-6 <= value <= bounds[1] + 1e-6 and value == value:
        beside = f": it cannot be {f'above {bounds[1]}' if value > bounds[1] else f'below {bounds[0]}'}"
    elif value != value:
        beside = ": nan is what 0 / 0 gives"
    return f"{_shown(value)}{where} where {_shown(expected[tuple(place)].item())} is expected{beside}"


def _close(returned: Tensor, expected: Tensor) -> Tensor:
    """Where two tensors agree. A mistake may give NaN as well; the right answer never does."""
    return torch.isclose(returned.double(), expected.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


def _tensor(answer) -> Tensor:
    """A number, an array, or lists of numbers, arrays or tensors, as one tensor."""
    if isinstance(answer, list | tuple) and any(isinstance(value, list | tuple | Tensor) for value in answer):
        return torch.stack(list(map(_tensor, answer)))
    return torch.as_tensor(answer).detach()


def _counted(n: int) -> str:
    return f"{n} value{'s' * (n != 1)}"


def _form(shape: Sequence[int]) -> str:
    """In words, the shape of a tensor."""
    return f"shape {tuple(shape)}" if shape else "a single number"
