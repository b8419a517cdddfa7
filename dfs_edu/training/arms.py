"""Junctions in writing: words for names of runs, arms of a study and the shell, plain values for records.

The words are a junction's name and what differs: "joint", "surgery-own-0.5", "surgery-all-0.25-scales",
"graded-own-0.9-0.5". Numbers stand in the order of the junction's fields.
"""

from __future__ import annotations

from dataclasses import asdict, fields

from dfs_edu import cuts
from dfs_edu.surgery import Detached, Equilibrium, Joint, Junction, Surgery

OTHERS = [kind for kind in vars(cuts).values() if isinstance(kind, type)]  # whatever cuts/__init__.py imports
KINDS = {kind.name: kind for kind in (Joint, Detached, Equilibrium, Surgery, *OTHERS)}


def spell(junction: Junction) -> str:
    """The words of a junction; `junction_from` reads them.

    >>> spell(Surgery(beta=0.25, exit_gradient="all", scales="all"))
    'surgery-all-0.25-scales'
    """
    values, words = asdict(junction), junction.words
    defaults = {field.name: field.default for field in fields(junction)}
    # A field whose default has a word is always spelled out, before the numbers
    spelled_out = {field for field, value in words.values() if value == defaults[field]}
    chosen = {word: field for word, (field, value) in words.items() if values[field] == value}
    first = [word for word, field in chosen.items() if field in spelled_out]
    numbers = [number(values[field]) for field in _numbers(type(junction))]
    return "-".join([junction.name, *first, *numbers, *(word for word in chosen if word not in first)])


def junction_from(spec: Junction | dict | str) -> Junction:
    """A junction from its words, or from what a record says: {"name": "surgery", "beta": 0.25}.

    Raises ValueError, naming the value, for what is none.

    >>> junction_from("graded-own-0.9-0.5").last
    0.5
    """
    if isinstance(spec, Junction):
        return spec
    name, *words = spec.split("-") if isinstance(spec, str) else (spec.get("name") if isinstance(spec, dict) else spec,)
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(
            f"junction {name!r}: use one of {', '.join(KINDS)} (one of your own: --plugin MODULE, `KINDS`)"
        )
    if isinstance(spec, dict):
        options = {field: value for field, value in spec.items() if field != "name"}
        if unknown := set(options) - {field.name for field in fields(KINDS[name])}:
            raise ValueError(f"junction {name!r} has no {', '.join(sorted(unknown))}")
        try:
            return KINDS[name](**options)
        except (TypeError, OverflowError) as error:  # a record may hold a list where a number belongs
            raise ValueError(f"junction {name!r} of {options}: {error}") from error
    return KINDS[name](**_read(KINDS[name], words))


def junction_to(junction: Junction) -> dict:
    """The junction as plain values, for a record; `junction_from` reads it back."""
    return {"name": junction.name, **asdict(junction)}


def number(value: float) -> str:
    """At most six decimals, and no exponent, whose sign would part the words."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _numbers(kind: type[Junction]) -> list[str]:
    """The fields of a kind that are numbers to choose. (Equilibrium's is filled in by the network.)"""
    return [field.name for field in fields(kind) if field.type in (float, "float")]


def _read(kind: type[Junction], words: list[str]) -> dict:
    names, numbers, values = {field.name for field in fields(kind)}, _numbers(kind), {}
    for word in words:
        field, value = kind.words.get(word, (None, None))
        if field is None and numbers:
            field, value = numbers.pop(0), _number(word)
        if field not in names or field in values or value is None:
            known = [*kind.words] + ["a number"] * bool(_numbers(kind))
            raise ValueError(f"{word!r}: {kind.name} takes {', '.join(known) or 'no options'}")
        values[field] = value
    return values


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
