"""The two arrows from Python, and in a page without a kernel against Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import traitlets
from written import fixed

from dfs_edu.methods.pair import PAIRED, weights_of_two
from dfs_edu.probes import Steps
from dfs_edu.widgets import page
from dfs_edu.widgets.arrows import HESSIANS, LARGEST, LONGEST, TwoArrows, TwoExits, outcome

CASES = [
    *np.random.default_rng(0).uniform(-2, 2, (6, 2, 2)).tolist(),
    [[1.4, 0.5], [-0.7, 0.9]],  # conflict
    [[1.0, 0.0], [0.0, 2.0]],  # a right angle
    [[1.2, 0.4], [-1.2, -0.4]],  # opposed
    [[0.0, 0.0], [0.5, -1.0]],  # one zero gradient
    [[0.0, 0.0], [0.0, 0.0]],
]


def report(dot=-0.6, exits=(0, 5)) -> Steps:
    """Steps on two parabolas that bend a little more with every step."""
    G = np.array([[2.0, dot], [dot, 1.0]])
    weights = np.stack([w.numpy() for w in weights_of_two(torch.tensor(G)).values()])
    lengths, loss, slope = np.linspace(0, 1, 9), np.array([1.8, 1.1]), -weights @ G
    measured = loss + slope[:, None] * lengths[:, None] + 1.1 * lengths[:, None] ** 2
    measured[0, -1] = float("nan")
    return Steps(exits, PAIRED, G, weights, lengths, loss, slope, np.full((3, 2), 2.0), measured)


# From Python


@pytest.mark.parametrize("length", ["sum", "own"])
@pytest.mark.parametrize("arrows", CASES)
def test_losses_on_the_landscape_are_those_of_the_quadratics(arrows, length):
    found = outcome(arrows, 0.7, length)
    weights = weights_of_two(torch.from_numpy(np.array(arrows) @ np.array(arrows).T), length)
    for m, name in enumerate(PAIRED):
        end = 0.7 * weights[name].numpy() @ np.array(arrows)
        np.testing.assert_allclose(found.steps[m], end, atol=1e-6)
        for k in (0, 1):
            minimum = np.linalg.inv(HESSIANS[k]) @ arrows[k]
            loss = (end - minimum) @ HESSIANS[k] @ (end - minimum) / 2
            assert found.after[m, k] == pytest.approx(loss, abs=1e-6)
            assert found.predicted[m, k] == pytest.approx(found.before[k] - end @ arrows[k], abs=1e-6)


def test_a_short_step_along_pcgrad_raises_no_loss():
    found = TwoArrows(((1.9, 0.5), (-0.5, 0.2)), step=0.02).outcome
    assert (found.after[1:] < found.before).all()
    assert found.after[0, 1] > found.before[1]  # along the sum, the shorter gradient's loss rises


def test_what_python_may_set():
    widget = TwoArrows()
    widget.arrows, widget.step, widget.length = [[1.0, 1.0], [-1.0, 1.0]], 0.25, "own"
    assert widget.outcome.cosine == 0
    with pytest.raises(traitlets.TraitError, match=f"from -{LARGEST:g} to {LARGEST:g}"):
        widget.arrows = [[3.0, 0.0], [1.0, 1.0]]
    with pytest.raises(traitlets.TraitError, match="give two"):
        widget.arrows = [[1.0, 0.0]]
    with pytest.raises(traitlets.TraitError, match=f"from 0 to {LONGEST:g}"):
        widget.step = 2.0
    with pytest.raises(traitlets.TraitError):
        widget.length = "half"
    assert (widget.arrows, widget.step, widget.length) == ([[1.0, 1.0], [-1.0, 1.0]], 0.25, "own")
    assert "cosine 0.00" in widget.static_figure().layout.title.text


def test_two_exits_are_numbered_from_one_and_begin_before_the_step():
    widget = TwoExits(report())
    assert (widget.setup["exits"], widget.method, widget.place, widget.taken) == ([1, 6], "sum", 2, False)
    assert widget.setup["measured"][0][-1] == [None, None]  # JSON has no NaN
    widget.method, widget.place = "upgrad", 8
    with pytest.raises(traitlets.TraitError, match="from 0 to 8"):
        widget.place = 9
    with pytest.raises(traitlets.TraitError):
        widget.method = "mgda"
    assert [trace.name for trace in widget.static_figure().data[:3]][-1] == "measured"


# In a page


@pytest.fixture
def opened(opened):
    def open_(*widgets, **options):
        return opened(*widgets, ready=".dfs-losses tbody tr", **options)

    return open_


def text_of(number: float) -> str:
    return fixed(number, 3).replace("-0.000", "0.000").replace("-", "−")


def table(shown) -> list[list[str]]:
    return shown.locator(".dfs-losses tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.querySelectorAll('.dfs-value, .dfs-detail')].map(d => d.textContent))"
    )


def assert_agrees(shown, arrows, step, length):
    found = outcome(arrows, step, length)
    now, *rows = table(shown)
    assert now == [text_of(value) for value in found.before]
    for row, predicted, after in zip(rows, found.predicted, found.after, strict=True):
        expected = []
        for k in (0, 1):
            expected += [text_of(after[k]), text_of(abs(after[k] - found.before[k])), text_of(predicted[k])]
        assert [part.split(" ")[-1] for part in row] == expected
    verdict = shown.locator(".dfs-verdict").text_content()
    if found.cosine == found.cosine:
        assert f": {fixed(found.cosine, 2).replace('-0.00', '0.00').replace('-', '−')} (" in verdict
    else:
        assert "not defined" in verdict


@pytest.mark.browser
@pytest.mark.parametrize("length", ["sum", "own"])
def test_the_page_computes_what_python_computes(opened, length):
    widgets = [TwoArrows(arrows, 0.37 if i % 2 else 1.1, length) for i, arrows in enumerate(CASES)]
    for widget in widgets:
        shown = opened(widget)
        assert_agrees(shown, widget.arrows, widget.step, length)


@pytest.mark.browser
def test_keys_mouse_and_touch_move_the_arrows(opened):
    shown = opened(TwoArrows(((1.0, 0.5), (-0.7, 0.9))))
    shown.locator(".dfs-tip").first.focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowLeft"):
        shown.keyboard.press(key)
    assert_agrees(shown, [[0.8, 0.55], [-0.7, 0.9]], 0.3, "sum")
    assert shown.locator(".dfs-tip").first.get_attribute("aria-valuetext") == "0.80 right, 0.55 up"

    # Drag the second tip by 0.5 to the right and down, and far beyond its range
    box = shown.locator(".dfs-tip .dfs-knob").nth(1).bounding_box()
    unit = shown.locator(".dfs-plane").bounding_box()["width"] / 5.2
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.mouse.move(x, y)
    shown.mouse.down()
    shown.mouse.move(x + 0.5 * unit, y + 0.5 * unit)
    tip = shown.locator(".dfs-tip").nth(1).get_attribute("aria-valuetext")
    assert tip in ("0.20 left, 0.40 up", "0.19 left, 0.40 up", "0.20 left, 0.39 up", "0.21 left, 0.40 up")
    shown.mouse.move(x + 9 * unit, y)
    shown.mouse.up()
    assert shown.locator(".dfs-tip").nth(1).get_attribute("aria-valuetext").startswith("2.00 right")
    shown.mouse.move(x, y)  # it has let go
    assert shown.locator(".dfs-tip").nth(1).get_attribute("aria-valuetext").startswith("2.00 right")
    assert shown.locator(".dfs-tip").first.evaluate("tip => getComputedStyle(tip).touchAction") == "none"

    shown.get_by_role("button", name="opposed").click()
    shown.get_by_label("as long as its method makes it").check()
    shown.locator(".dfs-length").evaluate("i => { i.value = 0.9; i.dispatchEvent(new Event('input')); }")
    assert_agrees(shown, [[1.2, 0.4], [-1.2, -0.4]], 0.9, "own")


@pytest.mark.browser
def test_the_step_of_a_real_network_is_predicted_and_then_measured(opened):
    steps = report()
    shown = opened(TwoExits(steps))
    assert f"{steps.cosine:.2f}".replace("-", "−") in shown.locator(".dfs-verdict").text_content()
    line, bent = steps.predicted(1), steps.predicted(2)

    def values():
        return [[cell for cell in row if cell[0] not in "▲▼="] for row in table(shown)]

    expected = [[text_of(value) for value in row] for row in (steps.loss, line[0, 2], bent[0, 2])]
    assert values() == [*expected, ["?", "?"]]  # the reader predicts first
    assert shown.locator(".dfs-measured").last.get_attribute("d") in (None, "")
    for m, label in enumerate(("sum", "PCGrad", "UPGrad")):
        shown.get_by_label(label, exact=True).check()
        for place in (0, 3, 7):
            move = "(i, value) => { i.value = value; i.dispatchEvent(new Event('input')); }"
            shown.locator(".dfs-length").evaluate(move, place)
            if shown.locator(".dfs-take").text_content() == "Take the step":
                shown.locator(".dfs-take").click()
            rows = (steps.loss, line[m, place], bent[m, place], steps.measured[m, place])
            assert values() == [[text_of(value) for value in row] for row in rows]
    shown.get_by_label("sum", exact=True).check()
    shown.locator(".dfs-length").evaluate(move, 8)
    assert values()[-1] == ["–", "not finite", "–", "not finite"]
    shown.get_by_role("button", name="Take the step back").click()
    assert values()[-1] == ["?", "?"]


@pytest.mark.browser
def test_without_conflict_it_says_that_all_directions_are_one(opened):
    assert "the three directions are one" in opened(TwoExits(report(0.6))).locator(".dfs-note").text_content()


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 700, 3840])
def test_it_fits_any_width(opened, width):
    shown = opened(TwoArrows(), TwoExits(report()), width=width)
    shown.wait_for_selector(".dfs-chart")
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_state_is_small():
    assert len(page.place([{"widget": "arrows", "state": TwoExits(report()).page_state()}])) < 6000
