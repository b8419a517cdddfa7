"""Checks of exercises: right answers pass however they are written, wrong ones are refused for their true reason."""

import numpy as np
import pytest
import torch
from right_answers import ALSO_RIGHT, RIGHT
from wrong_answers import WRONG

from dfs_edu.course import checks
from dfs_edu.course.checks.answers import verdict

FRACTIONS = (  # checks whose answer is from 0 to 1, or from -1 to 1
    *("ablation_loss", "accuracy", "at_least_one", "backward_saved", "bootstrap", "break_even", "calibration_error"),
    *("chosen", "conflicting", "geometric_shares", "linear_cka", "margin", "saved", "selectivity", "silent", "softmax"),
)
TRACED = ("early_exit", "junction", "train")  # what such an answer does counts, not only what it returns


def said(name, mine, capsys):
    """The sentence of a check; what the answer itself prints comes first."""
    getattr(checks, name)(mine)
    *_, last = capsys.readouterr().out.splitlines()
    return last


def ellipsis(*_):
    return ...


def nothing(*_):
    pass


def unwritten(*_):
    raise NotImplementedError


def to_be_written(*_):
    raise NotImplementedError("your code")


def test_every_check_has_right_and_wrong_answers_here():
    assert set(checks.__all__) - {"use"} == set(RIGHT) == set(WRONG)
    assert min(map(len, WRONG.values())) >= 8


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    for seed in range(2):
        torch.manual_seed(seed)
        assert said(name, RIGHT[name], capsys).startswith("✓")


@pytest.mark.parametrize(("name", "mine"), ALSO_RIGHT)
def test_how_a_right_answer_is_written_does_not_matter(name, mine, capsys):
    assert said(name, mine, capsys).startswith("✓")


@pytest.mark.parametrize("name", sorted(set(RIGHT) - {*TRACED, "exits", "partition", "surgery"}))
def test_a_right_answer_may_be_a_list_an_array_or_another_float(name, capsys):
    def tensor(answer):
        is_list = isinstance(answer, list | tuple) and len(answer)
        return torch.stack([torch.as_tensor(a) for a in answer]) if is_list else torch.as_tensor(answer)

    for form in (
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.Tensor.double,
        lambda t: list(t) if t.ndim else t.item(),
    ):
        assert said(name, lambda *case, form=form: form(tensor(RIGHT[name](*case))), capsys).startswith("✓"), form


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("stub", [nothing, ellipsis, unwritten, to_be_written])
def test_a_stub_is_not_yet(name, stub, capsys):
    assert "not yet" in said(name, stub, capsys)


def test_a_function_without_return_is_told_so(capsys):
    def mine(g, h):
        g @ h / (g.norm() * h.norm())

    assert said("cosine", mine, capsys) == (
        "… the cosine: not yet. It returns nothing so far: end it with return, then run this cell again."
    )


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_refused_and_its_reason_named(name, capsys):
    misleading = []
    for i, (mistake, words) in enumerate(WRONG[name]):
        sentence = said(name, mistake, capsys)
        if not sentence.startswith("✗") or words not in sentence:
            misleading.append(f"{i}: {sentence!r} lacks {words!r}")
    assert not misleading, "\n".join(misleading)


@pytest.mark.parametrize("name", RIGHT)
def test_an_error_of_the_learner_is_shown_not_raised(name, capsys):
    sentence = said(name, lambda *_: 1 / 0, capsys)
    assert sentence.startswith("✗")
    assert "your function raised ZeroDivisionError: division by zero" in sentence


@pytest.mark.parametrize("name", sorted(set(RIGHT) - {"junction", "train"}))
def test_print_is_no_return(name, capsys):
    def mine(*case):
        print("the answer is", RIGHT[name](*case))

    getattr(checks, name)(mine)
    said = capsys.readouterr().out
    assert said.startswith("the answer is")  # prints are how learners debug: they are shown
    assert "✗" in said
    assert said.endswith("your function prints something, but returns nothing: use return instead of print\n")


@pytest.mark.parametrize("name", sorted(set(RIGHT) - {"junction"}))
def test_the_wrong_number_of_arguments_is_named(name, capsys):
    sentence = said(name, lambda: None, capsys)
    assert "the check calls your function with" in sentence
    assert "takes 0 positional arguments" in sentence


@pytest.mark.parametrize("name", FRACTIONS)
def test_percent_is_no_fraction(name, capsys):
    def mine(*case):
        return 100 * torch.as_tensor(RIGHT[name](*case))

    assert "percent" in said(name, mine, capsys)


@pytest.mark.parametrize("name", sorted(set(RIGHT) - {*TRACED, "partition", "surgery"}))
def test_another_kind_of_value_is_named(name, capsys):
    assert "a str where" in said(name, lambda *case: "0.5?", capsys)
    assert "is expected" in said(name, lambda *case: [[RIGHT[name](*case)]], capsys)


@pytest.mark.parametrize("name", RIGHT)
def test_the_result_of_a_call_is_no_function(name, capsys):
    assert said(name, 0.28, capsys).endswith("your function itself, my_function, and not its result, my_function(...)")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (lambda: torch.tensor([True]).mean(), "turn True and False"),
        (lambda: torch.tensor([1]).std(), "turn True and False"),
        (lambda: torch.tensor([1, 2]).quantile(0.5), "turn True and False"),
        (lambda: torch.tensor([1, 2]).softmax(0), "turn True and False"),
        (lambda: 1 - torch.tensor([True]), "a mask is inverted by ~"),
        (lambda: torch.zeros(3) @ torch.zeros(3).double(), "floats of the same kind"),
        (lambda: torch.zeros(3)[torch.zeros(2)], "an index is a whole number"),
        (lambda: [1, 2][: len([1]) / 2], "an index is a whole number"),
        (lambda: torch.zeros(3, 2).max(1) + 1, "take .values or .indices"),
        (lambda: torch.zeros(3, requires_grad=True).add_(1), "write into a clone"),
        (lambda: torch.zeros(0).max(), "no images are left here"),
        (lambda: np.zeros(2) and 1, "for each value"),
    ],
)
def test_a_common_error_is_explained(error, hint, capsys):
    sentence = said("cosine", lambda g, h: error(), capsys)
    assert hint in sentence
    assert "our function raised" in sentence


def test_a_long_error_is_cut(capsys):
    def mine(g, h):
        raise ValueError("long " * 1000)

    assert len(said("cosine", mine, capsys)) < 300


def test_a_branch_that_returns_nothing_is_wrong_not_untried(capsys):
    assert "nothing is returned" in said("learning_rate", lambda e, p, m: p if e < m[0] else None, capsys)


def test_what_was_given_is_named(capsys):
    def mine(q, exits):
        return [q**k * (1 - q) / (1 - q**exits) for k in range(exits)]

    assert "ZeroDivisionError: float division by zero (given 1, 5)" in said("geometric_shares", mine, capsys)


def test_a_mistake_that_agrees_by_accident_is_not_named(capsys):
    def mine(g, h):
        return g @ h if g.tolist() == [3, 4] else g.sum()

    assert "14 where 0.28 is expected: it cannot be above 1 (given [3, 4], [-6, 8])" in said("cosine", mine, capsys)


def test_an_answer_that_changes_from_call_to_call_is_wrong(capsys):
    calls = []

    def mine(g, h):
        calls.append(1)
        return torch.cosine_similarity(g, h, dim=0) + (len(calls) == 1)

    assert "1.28 where 0.28 is expected: it cannot be above 1" in said("cosine", mine, capsys)


def test_a_value_that_cannot_be_is_named(capsys):
    assert "1.75 where 0.28 is expected: it cannot be above 1" in said("cosine", lambda g, h: 1.75, capsys)
    assert "438 where 1 is expected: it cannot be above 1" in said("linear_cka", lambda X, Y: 438, capsys)
    assert "-0.1 where 0.4 is expected" in (sentence := said("accuracy", lambda p, y: -0.1, capsys))
    assert "it cannot be below 0" in sentence


def test_a_list_used_up_is_right_and_noted(capsys):
    def mine(stages, heads, x):
        found = []
        while stages:
            x = stages.pop(0)(x)
            found.append(heads.pop(0)(x))
        return found

    assert "right, on 4 inputs. Your function overwrites what it is given" in said("exits", mine, capsys)


def test_what_is_overwritten_is_noted(capsys):
    def right(g, h):
        g /= g.norm()
        return g @ h / h.norm()

    def wrong(g, h):
        g /= g.norm()
        return g @ h

    assert "right, on 7 inputs. Your function overwrites what it is given" in said("cosine", right, capsys)
    assert "Your function also overwrites what it is given: work on a clone" in said("cosine", wrong, capsys)


@pytest.mark.parametrize(
    ("mine", "which"),
    [
        (RIGHT["accuracy"], "your <lambda>."),
        (lambda p, y: ..., "the library's version: <lambda> is not written yet."),
        (lambda p, y: print((p == y).sum()), "the library's version: <lambda> is not right yet (its check says why)."),
    ],
)
def test_an_experiment_uses_what_is_right(mine, which, capsys):
    def library(prediction, label): ...

    assert checks.use(checks.accuracy, mine, library) is (mine if "your" in which else library)
    assert capsys.readouterr().out == f"The experiment below uses {which}\n"


def test_an_experiment_uses_a_class_of_ones_own(capsys):
    assert checks.use(checks.junction, RIGHT["junction"], None) is RIGHT["junction"]
    assert capsys.readouterr().out == "The experiment below uses your OwnSurgery.\n"


def test_a_verdict_says_nothing(capsys):
    assert verdict(checks.accuracy, RIGHT["accuracy"]).state == "passed"
    assert capsys.readouterr().out == ""
