"""A figure's frames in the page: the same values and colours, and nothing that moves by itself."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import traitlets

from dfs_edu import figures
from dfs_edu.widgets.frames import FramePlayer

STEP = np.arange(5) * 50.0
COSINE = np.random.default_rng(0).uniform(-1, 1, (5, 4, 6))
COSINE[:, -1] = np.nan
COSINE[2, 0, :3] = [0, 1e-4, -1e-4]
ANGLES = {
    str(a): {"<g>": [1, 0], "h": [math.cos(a), math.sin(a)], "sum": [1 + math.cos(a), math.sin(a)]} for a in (1, 2, 3)
}


def training() -> FramePlayer:
    return FramePlayer(figures.conflict_through_training(STEP, COSINE))


def colour_of(value: float) -> list[float]:
    """The colour of a cosine on the figures' scale, red, green, blue."""
    place = (value + 1) / 2
    stops, colours = zip(*figures.look.COSINES, strict=True)
    i = next((i for i, stop in enumerate(stops) if stop > place), len(stops) - 1)
    low, high = (np.array([int(colours[n][j : j + 2], 16) for j in (1, 3, 5)]) for n in (i - 1, i))
    return (low + (high - low) * (place - stops[i - 1]) / (stops[i] - stops[i - 1])).tolist()


# From Python


def test_it_starts_at_the_figures_own_frame_and_python_may_set_another():
    player = training()
    assert (player.frame, player.setup["labels"]) == (4, ["0", "50", "100", "150", "200"])
    player.frame = 2
    with pytest.raises(traitlets.TraitError, match="from 0 to 4"):
        player.frame = 5
    shown = player.static_figure()
    assert shown.layout.sliders[0].active == 2
    assert shown.layout.sliders[0].currentvalue.prefix == "step "
    assert list(shown.data[0].z[0][:3]) == [0, 1e-4, -1e-4]
    assert shown.data[0].colorscale is not None
    assert len(shown.frames) == 5


def test_texts_come_as_they_were_given():
    player = FramePlayer(figures.answers(ANGLES, "2", prefix="angle "))
    assert [arrow["name"] for arrow in player.setup["arrows"][0]] == ["<g>", "h", "sum"]
    assert player.frame == 1


def test_a_figure_without_frames():
    with pytest.raises(ValueError, match="0 frames"):
        FramePlayer(figures.figure([], "nothing"))


# In a page


@pytest.fixture
def opened(opened):
    return lambda player, **options: opened(player, ready=".dfs-player .dfs-number", **options)


def values(shown) -> list[list[str]]:
    return shown.locator(".dfs-map tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.querySelectorAll('td span')].map(s => s.textContent.replace('−', '-')))"
    )


def assert_shows(shown, player, frame: int):
    matrix = player.setup["values"][frame]
    found = values(shown)
    assert [[None if text == "none" else float(text) for text in row] for row in found] == matrix
    colours = shown.locator(".dfs-map tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.querySelectorAll('td')].map(d => getComputedStyle(d).backgroundColor))"
    )
    for row, line in zip(matrix, colours, strict=True):
        for value, colour in zip(row, line, strict=True):
            if value is None:
                assert colour == "rgba(0, 0, 0, 0)"
            else:
                assert list(map(int, re.findall(r"\d+", colour))) == pytest.approx(colour_of(value), abs=0.51)
    assert shown.locator(".dfs-player .dfs-number").text_content() == f"step {player.setup['labels'][frame]}"


@pytest.mark.browser
def test_every_frame_has_its_values_and_colours_and_every_column_its_label(opened):
    player = training()
    shown = opened(player)
    assert shown.locator(".dfs-column").all_text_contents() == ["1·2", "1·3", "1·4", "2·3", "2·4", "3·4"]
    for frame in range(5):
        move = "(i, value) => { i.value = value; i.dispatchEvent(new Event('input')); }"
        shown.locator(".dfs-frame").evaluate(move, frame)
        assert_shows(shown, player, frame)


@pytest.mark.browser
def test_it_plays_when_asked_and_stops_at_the_end_or_at_a_key(opened):
    player = training()
    player.frame = 0
    shown = opened(player)
    shown.wait_for_timeout(900)
    assert_shows(shown, player, 0)  # not by itself
    shown.locator(".dfs-play").focus()
    shown.keyboard.press("Enter")
    assert shown.locator(".dfs-play").get_attribute("aria-label") == "Pause"
    shown.wait_for_function("document.querySelector('.dfs-number').textContent == 'step 100'")
    shown.locator(".dfs-frame").focus()
    shown.keyboard.press("ArrowLeft")
    shown.wait_for_timeout(900)
    assert_shows(shown, player, 1)  # the key stopped it
    shown.get_by_role("button", name="On by one frame").click()
    assert_shows(shown, player, 2)
    shown.get_by_role("button", name="Back one frame").click()
    assert_shows(shown, player, 1)
    shown.get_by_role("button", name="Play").click()
    shown.wait_for_function("document.querySelector('.dfs-play').getAttribute('aria-label') == 'Play'")
    assert_shows(shown, player, 4)


@pytest.mark.browser
def test_there_is_no_play_for_a_reader_who_asked_for_less_motion(opened):
    player = training()
    shown = opened(player, reduced_motion="reduce")
    assert not shown.locator(".dfs-play").is_visible()
    shown.locator(".dfs-frame").focus()
    shown.keyboard.press("Home")
    assert_shows(shown, player, 0)
    shown.emulate_media(reduced_motion="no-preference")
    shown.locator(".dfs-play").click()
    shown.emulate_media(reduced_motion="reduce")  # in the middle of playing
    at = shown.locator(".dfs-number").text_content()
    shown.wait_for_timeout(900)
    assert shown.locator(".dfs-number").text_content() == at


@pytest.mark.browser
def test_arrows_end_where_the_vectors_do(opened):
    player = FramePlayer(figures.answers(ANGLES, "2", prefix="angle "))
    shown = opened(player)
    assert shown.locator(".dfs-legend > span").all_text_contents() == ["<g>", "h", "sum"]
    for frame, vectors in enumerate(ANGLES.values()):
        shown.locator(".dfs-frame").evaluate("(i, v) => { i.value = v; i.dispatchEvent(new Event('input')); }", frame)
        tips = shown.locator(".dfs-arrows-plane path:not(.dfs-axes)").evaluate_all(
            "heads => heads.map(h => h.getAttribute('d').slice(1).split('L')[0].split(',').map(Number))"
        )
        (left, right), (_, top) = player.setup["range"]
        unit = 520 / (right - left)
        for (x, y), (vx, vy) in zip(tips, vectors.values(), strict=True):
            assert [x / unit + left, top - y / unit] == pytest.approx([vx, vy], abs=0.02)


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 700, 3840])
def test_it_fits_any_width(opened, width):
    many = np.random.default_rng(0).uniform(-1, 1, (3, 7, 21))
    shown = opened(FramePlayer(figures.conflict_through_training(STEP[:3], many)), width=width)
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
