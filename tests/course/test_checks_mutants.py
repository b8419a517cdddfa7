"""No grade depends on chance: what is wrong is found wrong, and what is right passes, every time."""

import random
import sys

import numpy as np
import pytest
import torch
from right_answers import RIGHT
from wrong_answers import WRONG

from dfs_edu.course import checks
from dfs_edu.course.checks import answers

# Only the values are random here, and a wrong answer is right on none; channels, betas and numbers of exits are fixed
RANDOM_VALUES = {"early_exit", "exits", "junction", "partition", "received", "surgery", "train"}


def state_of_chance():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def said(name, mine, capsys, seed=0):
    """What a check prints when all of Python's generators begin with this seed; it leaves them alone."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    before = state_of_chance()
    getattr(checks, name)(mine)
    assert state_of_chance() == before
    return capsys.readouterr().out


@pytest.mark.parametrize("name", WRONG)
def test_the_same_answer_gets_the_same_verdict(name, capsys):
    for mine in (RIGHT[name], WRONG[name][0][0]):
        assert said(name, mine, capsys, seed=0) == said(name, mine, capsys, seed=1)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("seed", [1, 2])
def test_other_random_inputs_make_no_difference(name, seed, monkeypatch):
    monkeypatch.setattr(answers, "SEED", seed)
    monkeypatch.setattr(answers, "_mistake", lambda *case: None)  # here, what is said does not matter
    assert answers.verdict(getattr(checks, name), RIGHT[name]).state == "passed"
    for i, (mistake, _) in enumerate(WRONG[name]):
        assert answers.verdict(getattr(checks, name), mistake).state == "wrong", i


def inputs(name, seed, monkeypatch):
    """The right answer and the cases of a check that draws with this seed."""
    seen = []
    monkeypatch.setattr(answers, "SEED", seed)
    monkeypatch.setattr(
        sys.modules[getattr(checks, name).__module__],
        "compare",
        lambda attempt, right, cases, *options, **more: seen.extend([right, cases]) or answers.Verdict("passed", ""),
    )
    getattr(checks, name)(RIGHT[name])
    return seen


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(map(equal, a, b)) if isinstance(a, list | tuple) else a == b


@pytest.mark.parametrize("name", sorted(set(WRONG) - RANDOM_VALUES))
def test_the_fixed_inputs_alone_find_what_is_wrong_and_come_first(name, monkeypatch):
    (right, cases), (_, others) = (inputs(name, seed, monkeypatch) for seed in (0, 1))
    is_fixed = [equal(case, other) for case, other in zip(cases, others, strict=True)]
    fixed = [case for case, same in zip(cases, is_fixed, strict=True) if same]
    assert is_fixed == sorted(is_fixed, reverse=True)
    for i, (mistake, _) in enumerate(WRONG[name]):
        assert answers.compare(mistake, right, fixed, []).state == "wrong", i
