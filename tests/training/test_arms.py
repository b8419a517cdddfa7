"""Junctions in writing: what is written is read back, and what cannot be read is named."""

import json

import pytest

from dfs_edu.cuts import Damped, Graded, Interleaved, Projection
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery
from dfs_edu.training.arms import KINDS, junction_from, junction_to, spell
from dfs_edu.training.recipes import get

SPELLED = {
    "joint": Joint(),
    "detached": Detached(),
    "equilibrium": Equilibrium(),
    "surgery-own-0.5": Surgery(),
    "surgery-all-0.25": Surgery(0.25, exit_gradient="all"),
    "surgery-own-0.5-partition": Surgery(reference=False),
    "surgery-all-1-partition-scales": Surgery(1, False, "all", "all"),
    "projection": Projection(),
    "projection-exit": Projection("exit"),
    "interleaved-own-0.5": Interleaved(),
    "graded-own-0.9-0.25": Graded(0.9, last=0.25),
    "damped-all-0.5-0.1": Damped(damping=0.1),
    "surgery-own-0.00001": Surgery(1e-5),
}


@pytest.mark.parametrize(("words", "junction"), SPELLED.items())
def test_words_and_records_are_read_back(words, junction):
    assert spell(junction) == words
    assert junction_from(words) == junction
    record = junction_to(junction)
    assert record["name"] == words.split("-")[0]
    assert junction_from(json.loads(json.dumps(record))) == junction
    assert junction_from(junction) is junction
    recipe = get("digits/vgg7-4", junction=junction)
    assert recipe.name == f"digits-vgg7-4-lesson-{words}-seed0"
    assert type(recipe).from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_every_kind_goes_by_its_name(name, kind):
    assert junction_from(name) == junction_from(spell(kind())) == kind()


def test_omitted_options_have_their_defaults():
    assert junction_from("surgery") == Surgery()
    assert junction_from("surgery-0.25-all") == Surgery(0.25, exit_gradient="all")
    spec = {"name": "surgery", "beta": 0.25}
    assert junction_from(spec) == Surgery(0.25)
    assert spec == {"name": "surgery", "beta": 0.25}


@pytest.mark.parametrize("spec", ["surgry", "Surgery", "", {"name": "pcgrad"}, {"beta": 0.5}])
def test_an_unknown_junction_is_named_with_those_that_exist(spec):
    name = spec if isinstance(spec, str) else spec.get("name")
    with pytest.raises(ValueError, match=f"junction {name!r}: use one of joint, detached, equilibrium, surgery"):
        junction_from(spec)


def test_a_field_that_a_junction_has_not_is_named():
    with pytest.raises(ValueError, match="junction 'surgery' has no colour"):
        junction_from({"name": "surgery", "colour": "red"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("joint-0.5", "'0.5': joint takes no options"),
        ("equilibrium-3", "'3': equilibrium takes no options"),
        ("surgery-exit", "'exit': surgery takes own, all, partition, scales, a number"),
        ("surgery-0.5-0.5", "'0.5': surgery takes"),
        ("projection-own", "'own': projection takes exit"),
        ("surgery-2", "beta=2.0"),
        ("surgery-own-all", "'all': surgery takes own, all"),
    ],
)
def test_words_that_do_not_fit_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        junction_from(words)
