"""The gallery in a page without a kernel, opened as a file: order, links, and what it shows without images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfs_edu.inference import Outputs
from dfs_edu.widgets import page
from dfs_edu.widgets.gallery import DISAGREEMENT, GIVEN, ExitGallery, side_by_side

pytestmark = pytest.mark.browser
CLASSES = ["ant", "bee", "cat", "dog"]


def gallery(K: int = 6, N: int = 30, seed: int = 0, images: bool = True, maps: bool = True) -> ExitGallery:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(4, (N,), generator=torch.Generator().manual_seed(100))  # the same for all networks
    prediction = torch.randint(4, (K, N), generator=generator)
    prediction[:, ::5] = prediction[:1, ::5]  # all exits agree, so that some images tie
    random = np.random.default_rng(seed)
    shown = random.integers(0, 256, (N, 3, 8, 8), dtype=np.uint8) if images else None
    found = {name: random.random((K, N, 8, 8)) for name in ("Grad-CAM", "integrated gradients")} if maps else None
    outputs = Outputs(torch.rand(K, N, generator=generator), prediction, label, "test")
    return ExitGallery(shown, found, outputs, CLASSES)


def order_of(shown, which: int = 0) -> list[int]:
    """The images' indices in the order of the page."""
    labels = (
        shown.locator(".dfs-thumbnails")
        .nth(which)
        .locator("button")
        .evaluate_all("all => all.map(b => b.getAttribute('aria-label'))")
    )
    return [int(text.split(":")[0].removeprefix("image ")) - 1 for text in labels]


def press(shown, name: str, which: int = 0) -> None:
    shown.get_by_role("button", name=name).nth(which).click()


def pressed(shown) -> list[str]:
    """The chosen images, one for each gallery."""
    return shown.locator(".dfs-thumbnail[aria-pressed=true]").evaluate_all(
        "all => all.map(b => b.getAttribute('aria-label').split(':')[0])"
    )


@pytest.mark.parametrize(("K", "seed"), [(1, 0), (2, 1), (6, 2), (7, 3)])
def test_the_page_sorts_as_python_does(opened, K, seed):
    widget = gallery(K, seed=seed)
    shown = opened(widget)
    assert order_of(shown) == widget.shown == list(range(30))
    press(shown, DISAGREEMENT)
    widget.order = DISAGREEMENT
    assert order_of(shown) == widget.shown
    counts = widget._outputs.disagreement
    for n in (0, 7, 29):
        press(shown, f"image {n + 1}:")
        says = f"{counts[n]} of {K * (K - 1) // 2} pairs of exits disagree" if K > 1 else ""
        assert shown.locator(".dfs-pairs").inner_text() == says
    press(shown, GIVEN)
    assert order_of(shown) == list(range(30))


def test_keys_follow_the_order_that_is_shown(opened):
    widget = gallery()
    widget.order = DISAGREEMENT
    shown = opened(widget)
    order = widget.shown
    press(shown, f"image {order[0] + 1}:")
    for key, at in [
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", 29),
        ("ArrowRight", 29),
        ("Home", 0),
    ]:
        shown.keyboard.press(key)
        assert pressed(shown) == [f"image {order[at] + 1}"]
        assert shown.evaluate("document.activeElement.getAttribute('aria-label')").startswith(f"image {order[at] + 1}:")


def test_what_the_exits_predict(opened):
    widget = gallery(3)
    shown = opened(widget)
    outputs = widget._outputs
    for n in (0, 11, 29):
        press(shown, f"image {n + 1}:")
        right = outputs.correct[:, n]
        answers = [("✓ " if r else "✗ ") + CLASSES[c] for r, c in zip(right, outputs.prediction[:, n], strict=True)]
        assert shown.locator(".dfs-prediction").all_inner_texts() == answers
        levels = [float(text.split()[0]) for text in shown.locator(".dfs-confidence").all_inner_texts()]
        assert levels == pytest.approx((100 * outputs.confidence[:, n]).tolist(), abs=0.06)
        assert shown.locator(".dfs-truth").inner_text() == CLASSES[outputs.label[n]]


def test_joint_beside_surgery_without_python(opened):
    joint, surgery = gallery(seed=1), gallery(4, seed=2)
    shown = opened(side_by_side({"joint": joint, "surgery": surgery}))
    assert shown.locator(".dfs-exit-gallery").count() == 2
    press(shown, "image 8:")
    assert pressed(shown) == ["image 8", "image 8"]
    press(shown, DISAGREEMENT, which=1)
    joint.order = DISAGREEMENT
    assert order_of(shown, 0) == order_of(shown, 1) == joint.shown == surgery.shown
    press(shown, "integrated gradients")
    methods = shown.locator(".dfs-methods button[aria-pressed=true]").all_inner_texts()
    assert methods == ["integrated gradients", "integrated gradients"]
    shown.locator(".dfs-thumbnails").nth(1).locator("button[aria-pressed=true]").focus()
    shown.keyboard.press("Home")
    assert pressed(shown) == [f"image {joint.shown[0] + 1}"] * 2


def test_without_images_and_maps_predictions_are_shown(opened):
    shown = opened(gallery(images=False, maps=False))
    assert "images are not shown" in shown.locator(".dfs-missing").inner_text()
    assert shown.locator(".dfs-large, .dfs-stack, .dfs-methods, .dfs-heat").locator("visible=true").count() == 0
    chip = shown.get_by_role("button", name="image 3:")
    chip.click()
    assert pressed(shown) == ["image 3"]
    assert chip.locator(".dfs-marks > *").count() == 6
    assert shown.locator(".dfs-prediction:visible").count() == 6


def test_a_chosen_image_is_in_sight_beside_as_well(opened):
    """Where the list of images scrolls."""
    row = side_by_side({name: gallery(N=80, images=False, maps=False, seed=i) for i, name in enumerate("ab")})
    shown = opened(row)
    press(shown, "image 1:")
    for key in ("End", "Home"):
        shown.keyboard.press(key)
        inside = shown.locator(".dfs-thumbnails").evaluate_all(
            """boxes => boxes.map(box => {
                const chosen = box.querySelector("[aria-pressed=true]");
                const [outer, inner] = [box, chosen].map(node => node.getBoundingClientRect());
                return outer.top <= inner.top && inner.bottom <= outer.bottom;
            })"""
        )
        assert inside == [True, True]


def test_what_was_chosen_outlives_a_reload(opened):
    shown = opened(gallery(), gallery(seed=3))
    press(shown, "image 9:", which=1)
    press(shown, DISAGREEMENT, which=1)
    shown.reload()
    shown.wait_for_selector(".dfs-widget > :last-child", state="attached")
    assert pressed(shown) == ["image 1", "image 9"]
    assert order_of(shown, 1) != list(range(30)) == order_of(shown, 0)


def luminance(shown, of: str) -> float:
    return shown.locator(".dfs-exit-gallery").evaluate(
        "(node, of) => { const probe = node.appendChild(document.createElement('i')); probe.style.color = `var(${of})`;"
        "const found = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(Number); probe.remove();"
        "return found[0] + found[1] + found[2]; }",
        of,
    )


@pytest.mark.parametrize(
    ("body", "scheme", "dark"),
    [
        ("", "light", False),
        ("", "dark", False),  # a page that knows no dark is light
        ('data-theme="auto"', "light", False),
        ('data-theme="auto"', "dark", True),
        ('data-theme="light"', "dark", False),
        ('data-theme="dark"', "light", True),
        ('data-jp-theme-light="false"', "light", True),
        ('data-jp-theme-light="true"', "dark", False),
        ('class="vscode-dark"', "light", True),
    ],
)
def test_light_and_dark(opened, body, scheme, dark):
    shown = opened(gallery(), body=body, color_scheme=scheme)
    assert (luminance(shown, "--dfs-ink") > luminance(shown, "--dfs-ground")) == dark


@pytest.mark.parametrize("width", [320, 700, 3840])
@pytest.mark.parametrize("images", [True, False])
def test_it_fits_any_width(opened, width, images):
    row = side_by_side({name: gallery(7, seed=i, images=images, maps=images) for i, name in enumerate("ab")})
    shown = opened(row, width=width)
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_each_program_is_a_module_as_notebooks_load_it(browser):
    """A name that two of its parts define would be an error only there."""
    shown = browser.new_page()
    for name in sorted(path.stem for path in page.STATIC.glob("*.css") if path.stem != "shared"):
        kind = shown.evaluate(
            "async (text) => typeof (await import(URL.createObjectURL(new Blob([text], {type: 'text/javascript'}))))"
            ".default.render",
            page.script(name),
        )
        assert kind == "function"
    shown.close()
