"""A guess: the reader commits to an answer before the measurement is shown, and later sees both beside each other.

It is a small custom widget (anywidget). static/guess.js links the question with its comparison in the page, so that a
guess needs no kernel. It can be used from Python as well: read or set `value`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import traitlets

from dfs_edu.training.recipes import SCALES, SMOKE
from dfs_edu.widgets import page

SILENT = 'At scale "smoke" the result is not interpreted. Set SCALE = "lesson" and run all cells to compare.'


class Guess(page.Widget):
    """A question, with choices or with a slider and a field for a number; a committed guess is locked until changed.

    Args:
        question: As the reader sees it.
        choices: Two or more different answers. None: the answer is a number.
        low: Smallest number that can be guessed.
        high: Largest number that can be guessed.
        step: Between neighbouring numbers on the slider; numbers are shown to its digits.
        unit: Of the number, such as "points".
        scale: The notebook's ``SCALE``: at "smoke", `compare` says that the result is not interpreted.

    Attributes:
        setup: What the page needs and never changes.
        value: The committed guess: one of the choices, or a number from low to high; None before there is one.

    Raises:
        ValueError: The arguments do not fit together.
        TypeError: An argument has the wrong type.
        traitlets.TraitError: A guess is not a possible answer; the trait keeps its value.

    Example::

        guess = Guess("How much of the cost can be saved?", ["a tenth", "a third", "half"], scale=SCALE)
        guess                                       # the reader commits
        guess.compare("half", "Easy images leave early.")  # in a later cell, below the measurement
    """

    name, reads = "guess", ("setup", "value")

    value = traitlets.Any(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        question: str,
        choices: Sequence[str] | None = None,
        *,
        low: float | None = None,
        high: float | None = None,
        step: float = 1.0,
        unit: str = "",
        scale: str = "lesson",
        **kwargs: Any,
    ):
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question={question!r}: give the text of a question")
        if scale not in SCALES:
            raise ValueError(f"scale={scale!r}: use one of {', '.join(map(repr, SCALES))}")
        if choices is None:
            described = _number_setup(low, high, step, unit)
        elif low is not None or high is not None or unit:
            raise ValueError("choices and a number (low, high, unit) at once: give one of the two")
        else:
            described = _choices_setup(choices)
        self.scale = scale
        super().__init__(setup={"kind": "question", "question": question, "group": "", **described}, **kwargs)
        self.setup = {**self.setup, "group": self.model_id or question}  # links the page's comparisons

    @traitlets.validate("value")
    def _check_value(self, proposal):
        found, setup = proposal["value"], self.setup
        if found is None:
            return None
        if setup["choices"]:
            if found not in setup["choices"]:
                raise traitlets.TraitError(f"value={found!r}: use one of {', '.join(map(repr, setup['choices']))}")
            return found
        if not _is_number(found) or not setup["low"] <= found <= setup["high"]:
            raise traitlets.TraitError(f"value={found!r}: give a number from {setup['low']:g} to {setup['high']:g}")
        return float(found)

    def compare(self, answer: str | float, why: str = "", how: str = "Measured") -> Comparison:
        """Return a widget that shows the reader's guess beside the answer, once there is a guess.

        Args:
            answer: One of the choices, or a number, which may be outside the range of guesses.
            why: The reason, in a sentence: plain text, computed from the results.
            how: Where the answer comes from, in a word, such as "Estimated".

        Raises:
            ValueError: The answer is not one of the choices, or not a finite number.
        """
        choices = self.setup["choices"]
        if choices and answer not in choices:
            raise ValueError(f"answer={answer!r}: use one of {', '.join(map(repr, choices))}")
        if not choices and not _is_number(answer):
            raise ValueError(f"answer={answer!r}: give a finite number, because the guess is a number")
        if not isinstance(why, str):
            raise TypeError(f"why={why!r}: give a sentence")
        return Comparison(self, answer if choices else float(answer), why, how)

    def static_bundle(self) -> dict[str, Any]:
        """Return the question as text and HTML; a guess is not a figure."""
        setup = self.setup
        options = setup["choices"] or [
            f"a number from {written(setup['low'], setup)} to {written(setup['high'], setup)}"
        ]
        given = [] if self.value is None else [f"Your guess: {written(self.value, setup)}"]
        items = "".join(f"<li>{html.escape(option)}</li>" for option in options)
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in given)
        question = f"<p><strong>Your guess.</strong> {html.escape(setup['question'])}</p>"
        plain = "\n".join([setup["question"], *(f"- {option}" for option in options), *given])
        return {"text/html": f"<div>{question}<ul>{items}</ul>{lines}</div>", "text/plain": plain}


class Comparison(page.Widget):
    """The reader's guess beside the measured answer, which is hidden until there is a guess: see `Guess.compare`.

    Args:
        guess: The question.
        answer: The measured answer.
        why: The reason.
        how: "Measured", or another word for where the answer comes from.

    Attributes:
        setup: What the page needs and never changes.
        value: The committed guess, as in the question.
        revealed: Whether the reader wants to see the answer without a guess.
    """

    name, reads = "guess", ("setup", "value", "revealed")

    value = traitlets.Any(None, allow_none=True).tag(sync=True)
    revealed = traitlets.Bool().tag(sync=True)

    def __init__(self, guess: Guess, answer: str | float, why: str, how: str, **kwargs: Any):
        silent = guess.scale == SMOKE
        found = {"silent": SILENT} if silent else {"silent": "", "answer": answer, "why": why, "how": how}
        super().__init__(setup={**guess.setup, "kind": "comparison", **found}, value=guess.value, **kwargs)
        guess.observe(self._follow, "value")

    def _follow(self, change) -> None:
        self.value = change["new"]

    def static_bundle(self) -> dict[str, Any]:
        """Return the answer as text, and as HTML where it is folded away."""
        setup = self.setup
        given = "" if self.value is None else f"You guessed: {written(self.value, setup)}."
        if setup["silent"]:
            plain = " ".join(filter(None, [given, setup["silent"]]))
            return {"text/html": f"<p>{html.escape(plain)}</p>", "text/plain": plain}
        says = " ".join(filter(None, [given, f"{setup['how']}: {written(setup['answer'], setup)}.", setup["why"]]))
        summary = f"<summary>{html.escape(setup['question'])} Show the answer</summary>"
        return {"text/html": f"<details>{summary}<p>{html.escape(says)}</p></details>", "text/plain": says}


def written(value: str | float, setup: dict[str, Any]) -> str:
    """Return a guess or an answer as readers see it, as `written` in static/guess.js does."""
    if isinstance(value, str):
        return value
    digits = setup["digits"]
    if not digits and value != round(value):
        digits = 1  # a measurement between two whole guesses
    number = f"{abs(value):,.{digits}f}"
    zero = not number.strip("0.,")
    sign = "" if zero else "−" if value < 0 else "+" if setup["low"] < 0 else ""
    return " ".join(filter(None, [sign + number, setup["unit"]]))


def _choices_setup(choices: Sequence[str]) -> dict[str, Any]:
    """What the page needs for a question with choices."""
    found = [] if isinstance(choices, str) else list(choices)
    if len(found) < 2 or not all(isinstance(choice, str) and choice.strip() for choice in found):
        raise ValueError(f"choices={choices!r}: give two or more texts")
    if len(set(found)) < len(found):
        raise ValueError(f"choices={choices!r}: give different ones")
    return {"choices": found}


def _number_setup(low: Any, high: Any, step: Any, unit: Any) -> dict[str, Any]:
    """What the page needs for a question about a number."""
    for name, number in {"low": low, "high": high, "step": step}.items():
        if not _is_number(number):
            raise ValueError(f"{name}={number!r}: give choices, or low and high as finite numbers")
    if low >= high:
        raise ValueError(f"low={low:g}, high={high:g}: give a low that is smaller")
    if not 0 < step <= high - low:
        raise ValueError(f"step={step:g}: give one above 0 and up to high - low = {high - low:g}")
    if not isinstance(unit, str):
        raise TypeError(f"unit={unit!r}: give a text, such as 'points'")
    digits = next(digits for digits in range(20) if math.isclose(round(step, digits), step))
    numbers = {"low": float(low), "high": float(high), "step": float(step)}
    return {"choices": [], **numbers, "unit": unit, "digits": digits}


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
