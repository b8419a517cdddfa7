"""The temperature sliders from Python, and in a page without a kernel against Python."""

from __future__ import annotations

import pytest
import torch
import traitlets
from written import fixed

from dfs_edu import inference
from dfs_edu.inference import Outputs
from dfs_edu.widgets.temperature import TemperatureExplorer


def outputs(split: str, K=3, N=500, classes=10, seed=0, sure=2.5) -> Outputs:
    """Exits whose logits are too large, the deeper the more, and right more often than by chance."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (N,), generator=generator)
    logits = torch.randn(K, N, classes, generator=generator)
    logits[:, torch.arange(N), label] += 1.5
    return Outputs.of(sure * logits * torch.arange(1, K + 1)[:, None, None] ** 0.5, label, split)


@pytest.fixture
def explorer():
    return TemperatureExplorer(outputs("validation"), outputs("test", seed=1))


# From Python


def test_it_starts_at_one_with_a_scale_that_holds_it(explorer):
    assert explorer.temperatures == [1.0] * 3
    assert 1.0 in explorer.scale
    assert (explorer.scale[0], explorer.scale[-1]) == (0.25, max(4, explorer.scale[-1]))
    assert not explorer.revealed
    torch.testing.assert_close(explorer.error, inference.calibration_error(outputs("test", seed=1)))


def test_the_scale_reaches_the_fitted_temperatures():
    certain = TemperatureExplorer(outputs("validation", sure=100), outputs("test", seed=1, sure=100))
    assert certain.scale[0] == 0.25
    assert max(certain.fitted) <= certain.scale[-1]


def test_a_temperature_becomes_the_nearest_one_on_the_slider_or_the_fitted_one(explorer):
    explorer.temperatures = [1.51, explorer.fitted[1] + 1e-4, 1e9]
    first, second, third = explorer.temperatures
    assert first in explorer.scale
    assert abs(first - 1.51) < 0.03
    assert second == explorer.fitted[1]
    assert third == explorer.scale[-1]
    expected = inference.calibration_error(outputs("test", seed=1).again(temperatures=explorer.temperatures))
    torch.testing.assert_close(explorer.error, expected)
    for wrong in ([1.0, 1.0], [1.0, 0.0, 1.0], [1.0, -1.0, 1.0]):
        with pytest.raises(traitlets.TraitError, match="give 3 positive numbers"):
            explorer.temperatures = wrong
    assert explorer.temperatures == [first, second, third]
    assert explorer.static_figure().layout.title.text


def test_it_needs_logits_of_both_splits():
    test = outputs("test")
    bare = Outputs(test.confidence, test.prediction, test.label, "test")
    with pytest.raises(ValueError, match="no logits"):
        TemperatureExplorer(outputs("validation"), bare)
    with pytest.raises(ValueError, match="test"):
        TemperatureExplorer(test, test)


def test_a_hundred_classes_take_as_little_as_ten():
    many = [outputs(split, K=7, N=2000, classes=100) for split in ("validation", "test")]
    assert len(TemperatureExplorer(*many).bins) < 150_000


# In a page


@pytest.fixture
def opened(opened):
    return lambda widget, **options: opened(widget, ready=".dfs-exit .dfs-circles circle", **options)


def texts(shown, name: str) -> list[str]:
    return shown.locator(f".dfs-{name}").all_text_contents()


def percent(value: float, digits: int) -> str:
    return fixed(100 * value, digits) + " %"


def assert_agrees(shown, explorer, temperatures):
    """Errors, means and circles are those of the test split at these temperatures, to the last digit shown."""
    now = explorer._test.again(temperatures=temperatures)
    assert texts(shown, "t") == [f"T = {fixed(T, 2)}" for T in temperatures]
    assert texts(shown, "error") == [f"error {percent(e, 2)}" for e in inference.calibration_error(now).tolist()]
    means = zip(now.confidence.double().mean(1).tolist(), now.accuracy.tolist(), strict=True)
    assert texts(shown, "sure") == [f"{percent(c, 1)} confident on average, {percent(a, 1)} right" for c, a in means]
    diagram = inference.reliability(now)
    circles = shown.locator(".dfs-circles").evaluate_all(
        "all => all.map(g => [...g.querySelectorAll('title')].map(t => t.textContent))"
    )
    for k, found in enumerate(circles):
        filled = [b for b in range(10) if diagram.count[k, b]]
        assert found == [
            f"{percent(diagram.confidence[k, b].item(), 1)} confident, {percent(diagram.accuracy[k, b].item(), 1)} "
            f"right, {diagram.count[k, b].item():,} images"
            for b in filled
        ]


@pytest.mark.browser
@pytest.mark.parametrize(("K", "N", "classes"), [(3, 1500, 10), (7, 900, 100), (1, 40, 2)])
def test_the_page_computes_what_python_computes(opened, K, N, classes):
    parts = outputs("validation", K, N, classes), outputs("test", K, N, classes, seed=1)
    explorer = TemperatureExplorer(*parts)
    shown = opened(explorer)
    temperatures = [1.0] * K
    assert_agrees(shown, explorer, temperatures)
    for k, place in [(0, 0), (K - 1, 63), (K // 2, 41), (0, len(explorer.scale) - 1)]:
        move = "(i, value) => { i.value = value; i.dispatchEvent(new Event('input')); }"
        shown.locator(".dfs-temperature").nth(k).evaluate(move, place)
        temperatures[k] = explorer.scale[place]
        assert_agrees(shown, explorer, temperatures)
        spoken = shown.locator(".dfs-temperature").nth(k).get_attribute("aria-valuetext")
        assert spoken == f"T = {fixed(temperatures[k], 2)}"


@pytest.mark.browser
def test_the_fitted_temperatures_are_shown_when_asked_for(opened, explorer):
    shown = opened(explorer)
    assert not shown.locator(".dfs-answer").first.is_visible()
    assert not shown.get_by_role("button", name="Set all to the fitted ones").is_visible()
    shown.get_by_role("button", name="Show the fitted temperatures").focus()
    shown.keyboard.press("Enter")
    errors = inference.calibration_error(explorer._at(explorer.fitted)).tolist()
    expected = [
        f"fitted: T = {fixed(T, 2)}, error {percent(e, 2)}" for T, e in zip(explorer.fitted, errors, strict=True)
    ]
    assert texts(shown, "answer") == expected
    assert shown.locator(".dfs-mark").first.is_visible()
    assert_agrees(shown, explorer, [1.0] * 3)  # the reader's own stay
    shown.get_by_role("button", name="Set all to the fitted ones").click()
    assert_agrees(shown, explorer, explorer.fitted)
    shown.locator(".dfs-temperature").first.focus()
    shown.keyboard.press("ArrowRight")
    moved = float(texts(shown, "t")[0].removeprefix("T = "))
    assert explorer.fitted[0] < moved < 1.08 * explorer.fitted[0]
    shown.get_by_role("button", name="Set all to 1").click()
    shown.get_by_role("button", name="Hide the fitted temperatures").click()
    assert not shown.locator(".dfs-answer").first.is_visible()
    assert_agrees(shown, explorer, [1.0] * 3)


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 700, 3840])
def test_it_fits_any_width(opened, explorer, width):
    explorer.revealed = True
    shown = opened(explorer, width=width)
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
