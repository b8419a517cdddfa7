"""A guess and its comparison, from Python, in a page without a kernel, and in JupyterLab."""

from __future__ import annotations

import nbformat
import pytest
import traitlets
from lab import PATIENCE, complaints, errors
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dfs_edu.course import publish
from dfs_edu.course.browser import chromium
from dfs_edu.widgets import page
from dfs_edu.widgets.guess import Guess, written

CHOICES = ["a tenth", "a third", "half <b>", "more than half"]
WHY = "Easy images leave early, at <b> exit 1."


def chosen(**options) -> Guess:
    return Guess("How much can be saved?", CHOICES, **options)


def number(**options) -> Guess:
    return Guess(**{"question": "How many points?", "low": -10, "high": 10, "step": 0.5, "unit": "points", **options})


# From Python


def test_a_guess_is_one_of_the_choices():
    guess = chosen()
    assert guess.value is None
    guess.value = "a third"
    for wrong in ("two thirds", 1, True):
        with pytest.raises(traitlets.TraitError, match="use one of 'a tenth', 'a third'"):
            guess.value = wrong
    assert guess.value == "a third"
    guess.value = None


def test_a_guess_is_a_number_in_its_range():
    guess = number()
    guess.value = 3
    assert guess.value == 3.0
    for wrong in (10.5, -11, float("nan"), "3", True):
        with pytest.raises(traitlets.TraitError, match="a number from -10 to 10"):
            guess.value = wrong
    assert guess.value == 3.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": " "}, "the text of a question"),
        ({"question": None}, "the text of a question"),
        ({"choices": ["a"]}, "two or more texts"),
        ({"choices": "ab"}, "two or more texts"),
        ({"choices": ["a", 1]}, "two or more texts"),
        ({"choices": ["a", "a"]}, "different ones"),
        ({"choices": ["a", "b"], "low": 0}, "at once"),
        ({}, "give choices, or low and high"),
        ({"low": 0}, "high=None"),
        ({"low": 0, "high": float("inf")}, "high=inf"),
        ({"low": True, "high": 3}, "low=True"),
        ({"low": 3, "high": 3}, "a low that is smaller"),
        ({"low": 0, "high": 3, "step": 0}, "step=0"),
        ({"low": 0, "high": 3, "step": 4}, "step=4"),
        ({"low": 0, "high": 3, "scale": "small"}, "scale='small': use one of 'smoke'"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Guess(**{"question": "Which?", **options})


def test_an_answer_that_does_not_fit():
    with pytest.raises(ValueError, match="use one of 'a tenth'"):
        chosen().compare("all of it")
    for wrong in ("3", float("nan"), None):
        with pytest.raises(ValueError, match="give a finite number"):
            number().compare(wrong)
    with pytest.raises(TypeError, match="why=3"):
        chosen().compare("a tenth", 3)
    with pytest.raises(TypeError, match="unit=3"):
        number(unit=3)
    assert number().compare(25).setup["answer"] == 25  # a measurement may be outside the range of guesses


def test_the_comparison_follows_the_guess():
    guess = chosen()
    guess.value = "a tenth"
    comparison = guess.compare("a third", WHY)
    assert comparison.value == "a tenth"
    guess.value = "a third"
    assert comparison.value == "a third"
    assert comparison.setup["group"] == guess.setup["group"] != chosen().setup["group"]


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (3, {}, "+3.0 points"),
        (-2.25, {}, "−2.2 points"),
        (-0.01, {}, "0.0 points"),
        (12.5, {"low": 0, "high": 100, "unit": "%", "step": 5}, "12.5 %"),
        (1200, {"low": 0, "high": 5000, "unit": "", "step": 100}, "1,200"),
        (0.125, {"low": 0, "high": 1, "unit": "", "step": 0.05}, "0.12"),
    ],
)
def test_how_numbers_are_written(value, options, text):
    assert written(value, number(**options).setup) == text


def static(widget) -> tuple[str, str]:
    data, _ = widget._repr_mimebundle_()
    assert publish.PLOTLY not in data
    assert publish.WIDGET in data
    assert [state["widget"] for state in data[page.STATE]] == ["guess"]
    return data["text/plain"], data["text/html"]


def test_readers_without_javascript_get_the_question_and_a_folded_answer():
    guess = chosen()
    plain, html = static(guess)
    assert plain == "How much can be saved?\n- a tenth\n- a third\n- half <b>\n- more than half"
    assert "<li>half &lt;b&gt;</li>" in html
    assert "a number from −10.0 points to +10.0 points" in static(number())[0]
    plain, html = static(guess.compare("half <b>", WHY))
    assert plain == f"Measured: half <b>. {WHY}"
    assert html.startswith("<details><summary>How much can be saved? Show the answer</summary>")
    assert "<b>" not in html
    guess.value = "a tenth"
    assert "Your guess: a tenth" in static(guess)[0]
    assert static(guess.compare("half <b>"))[0] == "You guessed: a tenth. Measured: half <b>."


def test_at_smoke_nothing_is_compared():
    guess = chosen(scale="smoke")
    comparison = guess.compare("a third", WHY)
    guess.value = "a tenth"
    assert "a third" not in str(comparison.setup | {"choices": []})
    plain, _ = static(comparison)
    assert plain.startswith('You guessed: a tenth. At scale "smoke" the result is not interpreted.')
    with pytest.raises(ValueError, match="use one of"):
        guess.compare("all of it")


# In a page


@pytest.fixture
def opened(opened):
    return lambda *widgets, **options: opened(*widgets, ready=".dfs-guess .dfs-buttons", **options)


def verdict(shown, which: int = 0) -> str:
    return shown.locator(".dfs-verdict").nth(which).inner_text()


def press(shown, name: str) -> None:
    shown.get_by_role("button", name=name).first.click()


GUESS_FIRST = "Guess first: go back to the question"


def loaded_again(shown) -> None:
    shown.reload()
    shown.locator(".dfs-comparison .dfs-verdict").last.wait_for()


@pytest.mark.browser
@pytest.mark.parametrize("backwards", [False, True])
def test_guess_reveal_and_reload(opened, backwards):
    guess = chosen()
    widgets = [guess, guess.compare("half <b>", WHY), number().compare(3)]  # the last one's question is not here
    shown = opened(*(widgets[::-1] if backwards else widgets))
    here, other = (1, 0) if backwards else (0, 1)
    assert [verdict(shown, i)[: len(GUESS_FIRST)] for i in range(2)] == [GUESS_FIRST] * 2
    assert not shown.get_by_text(WHY).is_visible()
    assert shown.get_by_role("button", name="Commit my guess").is_disabled()

    # By keyboard
    shown.get_by_role("radio", name="a tenth").focus()
    shown.keyboard.press("ArrowDown")
    assert verdict(shown, here).startswith(GUESS_FIRST)  # until it is committed
    shown.keyboard.press("Tab")
    shown.keyboard.press("Enter")
    says = "You guessed: a third. Measured: half <b>."
    assert verdict(shown, here) == says
    assert shown.get_by_text(WHY).is_visible()
    assert shown.locator(".dfs-options li").nth(1).inner_text().split("\n") == ["a third", "your guess"]
    assert shown.locator(".dfs-options li").nth(2).inner_text().split("\n") == ["half <b>", "measured"]
    assert verdict(shown, other).startswith(GUESS_FIRST)
    assert shown.get_by_role("radio", name="half <b>", exact=True).is_disabled()
    assert shown.evaluate("document.activeElement.textContent") == "Change my guess"

    loaded_again(shown)
    assert verdict(shown, here) == says
    assert shown.get_by_role("radio", name="a third").is_checked()
    assert shown.get_by_role("radio", name="a third").is_disabled()
    press(shown, "Change my guess")
    assert verdict(shown, here).startswith(GUESS_FIRST)
    shown.get_by_role("radio", name="half <b>", exact=True).check()
    press(shown, "Commit my guess")
    assert verdict(shown, here) == "Your guess was right: half <b>."
    assert {node.get_attribute("role") for node in shown.locator(".dfs-verdict, .dfs-says").all()} == {"status"}


@pytest.mark.browser
def test_the_answer_anyway(opened):
    guess = number()
    shown = opened(guess, guess.compare(5.74, WHY))
    press(shown, "Show the answer anyway")
    assert verdict(shown) == "Measured: +5.7 points."
    assert not shown.locator(".dfs-above").is_visible()
    loaded_again(shown)
    assert verdict(shown) == "Measured: +5.7 points."
    press(shown, "Hide the answer")
    assert verdict(shown).startswith(GUESS_FIRST)
    press(shown, "Go to the question")
    assert shown.evaluate("document.activeElement.type") == "range"


@pytest.mark.browser
@pytest.mark.parametrize(
    ("typed", "answer", "says"),
    [
        ("3.5", 5.74, "You guessed: +3.5 points. Measured: +5.7 points. Your guess was 2.2 points too low."),
        ("-4", -6.0, "You guessed: −4.0 points. Measured: −6.0 points. Your guess was 2.0 points too high."),
        ("2", 2.0, "Your guess was right: +2.0 points."),
        ("2", 2.01, "You guessed: +2.0 points. Measured: +2.0 points. That is right to the digits shown."),
        ("10", 25, "You guessed: +10.0 points. Measured: +25.0 points. Your guess was 15.0 points too low."),
    ],
)
def test_how_far_off(opened, typed, answer, says):
    guess = number()
    comparison = guess.compare(answer, WHY)
    shown = opened(guess, comparison)
    field, slider = shown.get_by_role("spinbutton"), shown.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == "no guess yet"
    field.fill("11")
    assert shown.get_by_role("button", name="Commit my guess").is_disabled()
    field.fill("")
    field.type(typed)
    assert slider.input_value() == str(float(typed)).removesuffix(".0")
    field.press("Enter")
    assert verdict(shown) == says
    comparison.value = float(typed)
    plain, _ = static(comparison)  # Python writes the same numbers
    if says.startswith("You guessed"):
        assert plain.startswith(". ".join(says.split(". ")[:2]))
    assert shown.locator(".dfs-above, .dfs-below").locator("visible=true").count() == 2


@pytest.mark.browser
def test_the_slider_by_keys(opened):
    guess = number()
    shown = opened(guess, guess.compare(1))
    slider = shown.get_by_role("slider")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "+0.5 points"
    assert shown.get_by_role("spinbutton").input_value() == "0.5"
    press(shown, "Commit my guess")
    assert slider.is_disabled()


@pytest.mark.browser
def test_smoke_is_not_interpreted_in_the_page(opened):
    guess = chosen(scale="smoke")
    shown = opened(guess, guess.compare("a third", WHY))
    shown.get_by_role("radio", name="a tenth").check()
    press(shown, "Commit my guess")
    assert verdict(shown).startswith('You guessed: a tenth. At scale "smoke" the result is not interpreted.')
    assert shown.get_by_role("button").locator("visible=true").all_inner_texts() == ["Change my guess"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 700, 3840])
def test_it_fits_any_width(opened, width):
    guesses = chosen(), number()
    guesses[0].value, guesses[1].value = "a tenth", 10
    shown = opened(*guesses, guesses[0].compare("half <b>", WHY), guesses[1].compare(-25, WHY), width=width)
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="no Chrome or Chromium: install chromium or set BROWSER_PATH")
def test_in_an_exported_page_of_a_committed_notebook(browser, tmp_path):
    guess = chosen()
    shown_by = [guess, guess.compare("half <b>", WHY), number().compare(2)]
    outputs = [new_output("display_data", widget._repr_mimebundle_()[0]) for widget in shown_by]
    cells = [new_code_cell("guess", outputs=[output]) for output in outputs]
    cells.insert(1, new_markdown_cell("Between them"))
    notebook = publish.normalise(new_notebook(cells=cells))
    assert publish.normalise(notebook) == notebook
    states = [data[page.STATE][0]["state"]["setup"]["group"] for data in publish._bundles(notebook)]
    assert states == ["group 1", "group 1", "group 2"]
    html = publish.page(notebook, "exported")
    assert "<li>a tenth</li>" in html  # without JavaScript
    (tmp_path / "exported.html").write_text(html, "utf-8")
    shown = browser.new_page()
    try:
        shown.goto((tmp_path / "exported.html").as_uri())
        shown.get_by_role("radio", name="a tenth").check()
        press(shown, "Commit my guess")
        for _ in range(2):
            assert verdict(shown) == "You guessed: a tenth. Measured: half <b>."
            assert verdict(shown, 1).startswith(GUESS_FIRST)
            loaded_again(shown)
    finally:
        shown.close()


CODE = (
    """
import ipywidgets
from dfs_edu.widgets.guess import Guess

guess = Guess("How many points?", low=-10, high=10, step=0.5, unit="points")
seen = ipywidgets.Label("nothing").add_class("dfs-seen")
guess
""",
    """
comparison = guess.compare(5.74, "The reason.")
guess.observe(lambda change: setattr(seen, "value", f"{guess.value} {comparison.value}"), "value")
comparison
""",
    "seen",
)


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="no Chrome or Chromium: install chromium or set BROWSER_PATH")
def test_keys_in_jupyterlab_and_python_hears_of_it(run_all):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}  # without it, JupyterLab asks
    notebook = new_notebook(cells=list(map(new_code_cell, CODE)), metadata={"kernelspec": kernel})
    page = run_all(nbformat.from_dict(notebook), "guess.ipynb", ready=".dfs-seen")
    found = complaints(page)

    def heard(text: str) -> None:
        condition = "text => document.querySelector('.dfs-seen').textContent.includes(text)"
        page.wait_for_function(condition, arg=text, timeout=1000 * PATIENCE)

    # In command mode, JupyterLab would take digits, arrows and Enter
    page.get_by_role("spinbutton", name="Your guess").focus()
    page.keyboard.type("3")
    page.keyboard.press("ArrowUp")
    page.get_by_role("button", name="Commit my guess").focus()
    page.keyboard.press("Enter")
    heard("3.5 3.5")
    assert verdict(page) == "You guessed: +3.5 points. Measured: +5.7 points. Your guess was 2.2 points too low."
    page.get_by_role("button", name="Change my guess").click()
    heard("None None")
    assert verdict(page).startswith(GUESS_FIRST)
    assert errors(page) == []
    assert found == []
