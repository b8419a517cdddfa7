"""Widgets in a page without a kernel, opened as a file: what the page computes is what Python computes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from written import fixed

from dfs_edu import inference
from dfs_edu.inference import Outputs
from dfs_edu.widgets.explorer import EACH, ThresholdExplorer, side_by_side
from dfs_edu.widgets.idle import BINS

pytestmark = pytest.mark.browser


def outputs(split: str, N: int, K: int, seed: int, levels: int | None = None) -> Outputs:
    """Random outputs of four classes; `levels` different confidences, so that many tie, with thresholds too."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(K, N, generator=generator)
    if levels:
        confidence = (confidence * levels).floor() / levels
    label = torch.randint(4, (N,), generator=generator)
    right = torch.rand(K, N, generator=generator) < 0.3 + 0.6 * confidence
    return Outputs(confidence, torch.where(right, label, (label + 1) % 4), label, split)


def explorer(K: int, N: int = 800, levels: int | None = None, seed: int = 0) -> ThresholdExplorer:
    macs = [1e6 * (k + 1) ** 1.3 for k in range(K)]
    images = np.random.default_rng(seed).integers(0, 256, (min(N, 120), 3, 8, 8), dtype=np.uint8)
    parts = outputs("validation", N // 2, K, seed, levels), outputs("test", N, K, seed + 1, levels)
    return ThresholdExplorer(*parts, macs, images, ["ant", "bee", "cat", "dog"])


def assert_agrees(shown, explorer: ThresholdExplorer, thresholds: list[float]) -> None:
    """Everything on the page is what `inference.apply` finds on the test split."""
    test, macs = explorer._test, explorer._macs
    point = inference.apply(test, thresholds, macs)
    text = shown.evaluate(
        """() => Object.fromEntries(["accuracy", "macs", "share-value", "exit-accuracy"].map((name) =>
            [name, [...document.querySelectorAll(".dfs-" + name)].map((node) => node.textContent)]))"""
    )
    assert text["accuracy"] == [fixed(100 * point.accuracy, 2) + " %"]
    assert text["macs"] == [f"{point.macs / 1e6:#.4g} MMACs"]
    assert text["share-value"] == [fixed(100 * share, 1) + " %" for share in point.share.tolist()]
    right = [fixed(100 * a, 1) + " %" if a == a else "–" for a in point.exit_accuracy.tolist()]
    assert text["exit-accuracy"] == right

    # Why some sliders change nothing now
    fitted = shown.locator(".dfs-source").text_content() == "fitted"
    explorer.set_state({"thresholds": thresholds, "fitted": fitted})  # as the page tells it: nothing follows
    assert shown.locator(".dfs-idle p").all_text_contents() == explorer.idle

    # The images that leave at each exit, and the histograms of those that reach it
    places = shown.locator(".dfs-leavers").evaluate_all(
        "columns => columns.map(c => [...c.querySelectorAll('[role=img]')].filter(i => i.offsetParent)"
        ".map(i => Number(i.getAttribute('aria-label').match(/\\d+/)[0])))"
    )
    shown_images = len(explorer.setup["labels"])
    for k, numbers in enumerate(places):
        assert numbers == [n for n in range(shown_images) if point.exit[n] == k][:EACH]
    bars = shown.locator(".dfs-histogram").evaluate_all(
        "all => all.map(h => [...h.querySelectorAll('.dfs-stay, .dfs-leave')]"
        ".map(p => p.getAttribute('d') ?? '').join(''))"
    )
    for k, path in enumerate(bars):
        reaching = test.confidence[k][point.exit >= k].numpy()
        counts = np.bincount(np.minimum((reaching * BINS).astype(int), BINS - 1), minlength=BINS)
        drawn = sorted(round(float(x) * BINS) for x in re.findall(r"M([\d.e-]+),1v", path))
        assert drawn == np.flatnonzero(counts).tolist()


def set_threshold(shown, k: int, value: float) -> None:
    shown.locator(".dfs-threshold").nth(k).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )


@pytest.mark.parametrize(("K", "levels"), [(3, None), (7, None), (3, 10), (4, 2), (2, 100)])
def test_the_page_computes_what_python_computes(opened, K, levels):
    """On random outputs, and on ties: with ten levels a slider's threshold is a confidence of many images."""
    widget = explorer(K, levels=levels)
    shown = opened(widget)
    assert_agrees(shown, widget, widget.thresholds)
    thresholds = list(widget.thresholds)
    said = set()
    for k, value in [(0, 0.5), (K - 2, 0.3), (0, 1.0), (K - 2, 1.0), (0, 0.0), (K - 2, 0.7)]:
        set_threshold(shown, k, value)
        thresholds[k] = value
        assert_agrees(shown, widget, thresholds)
        said |= set(widget.idle)
        spent = inference.apply(widget._validation, thresholds, widget._macs).macs
        assert shown.locator(".dfs-budget-value").text_content() == f"{spent / 1e6:#.4g} MMACs"
        assert shown.locator(".dfs-source").text_content() == "set by hand"
    for place in (0, 37, 100):
        shown.locator(".dfs-budget").evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", place
        )
        assert_agrees(shown, widget, widget._best[place].tolist())
        assert shown.locator(".dfs-source").text_content() == "fitted"
    assert said or K == 2  # at a threshold of 0 there is something to say about the exits behind it


def test_a_network_with_one_exit(opened):
    widget = explorer(1)
    shown = opened(widget)
    assert shown.locator(".dfs-threshold").count() == 0
    assert_agrees(shown, widget, [0.0])


def test_two_explorers_move_together_without_python(opened):
    first, second = explorer(3), explorer(3, seed=5)
    shown = opened(side_by_side({"joint": first, "surgery": second}))
    shown.wait_for_function("document.querySelectorAll('.dfs-explorer').length == 2")
    left, right = (shown.locator(".dfs-explorer").nth(i) for i in range(2))
    left.locator(".dfs-budget").evaluate("i => { i.value = 20; i.dispatchEvent(new Event('input')); }")
    shown.wait_for_function("[...document.querySelectorAll('.dfs-budget')].every(i => i.value == 20)")
    point = inference.apply(second._test, second._best[20], second._macs)
    assert right.locator(".dfs-accuracy").text_content() == fixed(100 * point.accuracy, 2) + " %"


@pytest.mark.alone
def test_a_key_moves_the_page_within_two_frames(opened):
    """10,000 images and 7 exits: from the key's event until the frame after it is painted, median of 30."""
    widget = explorer(7, N=10_000)
    shown = opened(widget)
    shown.locator(".dfs-threshold").first.focus()
    shown.evaluate(
        """() => { window.waited = []; document.querySelector(".dfs-threshold").addEventListener("input", (event) => {
            const began = event.timeStamp;
            requestAnimationFrame(() => setTimeout(() => window.waited.push(performance.now() - began)));
        }); }"""
    )
    for i in range(30):
        shown.keyboard.press("ArrowLeft" if i < 15 else "ArrowRight")
        shown.wait_for_function(f"window.waited.length > {i}")
    waited = sorted(shown.evaluate("window.waited"))
    print(f"key to painted page: median {waited[15]:.1f} ms, longest {waited[-1]:.1f} ms")
    assert waited[15] < 34  # two frames of a screen with 60 a second


@pytest.mark.parametrize("width", [320, 700, 3840])
def test_it_fits_any_width(opened, width):
    shown = opened(explorer(7), width=width)
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
