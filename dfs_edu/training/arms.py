"""Recipes in words: what a run's folder, an arm of a study, a legend and the command line call them.

An arm is a junction and what is added to it: "joint", "surgery-own-0.5", "joint+pcgrad+uncut-2". A junction's words are
its name and its options: "surgery-all-0.25-scales", "graded-own-0.9-0.5"; numbers stand in the order of its fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from dfs_edu import cuts, methods
from dfs_edu.data.mixing import MIXINGS
from dfs_edu.losses import LOSSES
from dfs_edu.surgery import Detached, Equilibrium, Joint, Junction, Surgery

if TYPE_CHECKING:
    from dfs_edu.training.recipes import Recipe

OTHERS = [kind for kind in vars(cuts).values() if isinstance(kind, type)]  # whatever cuts/__init__.py imports
KINDS = {kind.name: kind for kind in (Joint, Detached, Equilibrium, Surgery, *OTHERS)}


@dataclass(frozen=True)
class Addition:
    """How a field of a recipe is written where it differs from its default.

    Attributes:
        words: In the name of a run, and in an arm.
        label: In tables and legends.
        default: The value that is not written.
        in_arms: Whether an arm can set it.
    """

    words: str
    label: str
    default: Any
    in_arms: bool = True


# In the order in which they are written
ADDITIONS = {
    "uncut": Addition("uncut-{}", ", uncut for {}", 0),
    "initial": Addition("initial-{}", ", {}'s initial weights", "backbone"),
    "start": Addition("start-{}", ", from {}", None, in_arms=False),
    "frozen": Addition("frozen-{}", ", trunk frozen for {}", 0),
    "method": Addition("{}", " + {}", "sum"),
    "step_length": Addition("{}-step", ", {} step", "sum", in_arms=False),
    "weights": Addition("weighted-{}", ", weights {}", ()),
    "loss": Addition("{}", ", {}", "cross-entropy"),
    "mixing": Addition("{}", ", {}", "none"),
    "pixels": Addition("pixels{}", "", None, in_arms=False),
    "content": Addition("{}", "", None, in_arms=False),
}


def words(recipe: Recipe) -> list[str]:
    """Return the words of what studies compare, for the name of a run.

    >>> from dfs_edu.training import recipes
    >>> words(recipes.get("digits/vgg7-4", junction=Surgery(0.25), uncut=1, weights=(1, 0.5)))
    ['surgery-own-0.25', 'uncut-1', 'weighted-1-0.5']
    """
    written = [
        addition.words.format(_in_words(getattr(recipe, name), "-"))
        for name, addition in ADDITIONS.items()
        if getattr(recipe, name) != addition.default
    ]
    return [spell(recipe.junction), *written]


def label(recipe: Mapping) -> str:
    """Return what a record's recipe compares, for tables and legends: "surgery own 0.5 + pcgrad, own step".

    Older records lack fields; they have the defaults.
    """
    values = {name: recipe.get(name) or addition.default for name, addition in ADDITIONS.items()}
    values["weights"] = tuple(values["weights"])
    # the method stands beside the junction
    ordered = sorted(ADDITIONS.items(), key=lambda item: item[0] != "method")
    added = [
        addition.label.format(_in_words(values[name], " "))
        for name, addition in ordered
        if values[name] != addition.default
    ]
    return junction_label(recipe["junction"]) + "".join(added)


def junction_label(junction: Mapping | str) -> str:
    """Return a record's junction in words, for tables and legends.

    >>> junction_label({"name": "surgery", "beta": 0.5, "reference": False})
    'surgery own 0.5, no reference'
    """
    text = spell(junction_from(junction)).replace("-", " ")
    return text.replace(" partition", ", no reference").replace(" scales", ", all scales")


def arm(text: str) -> dict[str, Any]:
    """Return what an arm changes in a recipe.

    Besides a junction and what is added to it, an arm may name a backbone of its own behind an @, and "scratch" leaves
    out the weights that the other arms start from.

    Raises:
        ValueError: Not an arm; the message names the word and says which there are.

    >>> arm("joint+pcgrad+frozen-2@vgg7-24")
    {'junction': Joint(), 'backbone': 'vgg7-24', 'method': 'pcgrad', 'frozen': 2}
    """
    text, at, backbone = text.partition("@")
    junction, *added = text.split("+")
    try:
        changes = {"junction": junction_from(junction)} | ({"backbone": backbone} if at else {})
        for addition in added:
            changes |= _added(addition)
        return changes
    except ValueError as error:
        raise ValueError(f"arm {text!r}: {error}; write it as in joint, surgery-own-0.5, joint+pcgrad") from error


def _added(text: str) -> dict[str, Any]:
    """Read one addition of an arm."""
    choices = {"loss": LOSSES[1:], "initial": ("torch",), "mixing": MIXINGS[1:]}
    if text == "scratch":
        return {"start": None}
    for name, addition in ADDITIONS.items():
        if not addition.in_arms or not (match := re.fullmatch(addition.words.format("(.+)"), text)):
            continue
        value = match[1]
        if methods.find(value) if name == "method" else value in choices.get(name, ()):
            return {name: value}
        if name == "weights":
            return {name: tuple(map(float, value.split("-")))}
        if isinstance(addition.default, int) and value.isdecimal():
            return {name: int(value)}
    counted = [addition.words.format("N") for addition in ADDITIONS.values() if isinstance(addition.default, int)]
    known = [*methods.names(), *LOSSES[1:], *MIXINGS[1:], "initial-torch", "scratch", *counted, "weighted-W1-W2-..."]
    raise ValueError(f"{text!r}: add one of {', '.join(known)}")


def spell(junction: Junction) -> str:
    """Return the words of a junction; `junction_from` reads them.

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


def junction_from(spec: Junction | Mapping | str) -> Junction:
    """Return a junction from its words, or from what a record holds: {"name": "surgery", "beta": 0.25}.

    Raises:
        ValueError: Not a junction; the message names the value.

    >>> junction_from("graded-own-0.9-0.5").last
    0.5
    """
    if isinstance(spec, Junction):
        return spec
    name, *options = (
        spec.split("-") if isinstance(spec, str) else (spec.get("name") if isinstance(spec, dict) else spec,)
    )
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(
            f"junction {name!r}: use one of {', '.join(KINDS)} (one of your own: --plugin MODULE, which enters it into "
            "dfs_edu.training.arms.KINDS)"
        )
    if not isinstance(spec, dict):
        return KINDS[name](**_read(KINDS[name], options))
    values = {field: value for field, value in spec.items() if field != "name"}
    if unknown := set(values) - {field.name for field in fields(KINDS[name])}:
        raise ValueError(f"junction {name!r} has no {', '.join(sorted(unknown))}")
    try:
        return KINDS[name](**values)
    except (TypeError, OverflowError) as error:  # a record may hold a list in place of a number
        raise ValueError(f"junction {name!r} of {values}: {error}") from error


def junction_to(junction: Junction) -> dict[str, Any]:
    """Return a junction as plain values, for a record; `junction_from` reads it back."""
    return {"name": junction.name, **asdict(junction)}


def is_written(value: Any) -> bool:
    """Tell whether a record's value has the type of a written junction: words, or plain values with a name."""
    if not isinstance(value, dict):
        return isinstance(value, str)
    return isinstance(value.get("name"), str) and all(isinstance(one, str | int | float) for one in value.values())


def number(value: float) -> str:
    """Return a number with at most six decimals, and without an exponent, whose minus sign would separate words."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _in_words(value: Any, separator: str) -> str:
    if isinstance(value, tuple):
        return separator.join(number(w) if separator == "-" else f"{w:g}" for w in value)
    return str(value)


def _numbers(kind: type[Junction]) -> list[str]:
    """Return the fields of a junction that are numbers to choose. (Equilibrium's is filled in by the network.)"""
    return [field.name for field in fields(kind) if field.type in (float, "float")]


def _read(kind: type[Junction], options: list[str]) -> dict[str, Any]:
    """Read the options of a junction from words."""
    names, numbers, values = {field.name for field in fields(kind)}, _numbers(kind), {}
    for word in options:
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
