"""The network's diagram: from Python, and in a page without a kernel, opened as a file, against what probes measure."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
import traitlets

import dfs_edu as dfs
from dfs_edu import figures, probes
from dfs_edu.figures import diagram
from dfs_edu.widgets import page
from dfs_edu.widgets.diagram import JUNCTIONS, NetworkDiagram

BETAS = (0, 0.25, 0.5, 0.9, 1)
NETWORKS = ["vgg7-4", "resnet18-width4-depth1", "msdnet-cifar-blocks2-base2-step1-growth4-width4"]
SMALL = (3, 32, 32)


def made(name="vgg7-4", betas=BETAS, **options) -> NetworkDiagram:
    torch.manual_seed(0)
    net = dfs.build(name, classes=10)
    return NetworkDiagram(net, torch.randn(6, *SMALL), torch.arange(6), betas, **options)


@pytest.fixture(scope="module")
def small():
    return made(title="VGG7")


@pytest.fixture
def widget(small):
    small.junction, small.beta, small.exit = "joint", 0.5, 0
    return small


def test_it_shows_what_the_probe_measures(widget):
    torch.manual_seed(0)
    net = dfs.build("vgg7-4", classes=10)
    images, labels = torch.randn(6, *SMALL), torch.arange(6)
    junctions = {
        "joint": dfs.Joint(),
        "detached": dfs.Detached(),
        "equilibrium": dfs.Equilibrium(),
        "surgery": dfs.Surgery(0.25),
        "surgery, all": dfs.Surgery(0.25, exit_gradient="all"),
        "no reference": dfs.Surgery(0.25, reference=False),
    }
    assert list(junctions) == list(JUNCTIONS)
    widget.beta = 0.25
    for name, junction in junctions.items():
        widget.junction = name
        net.join(junction)
        expected = probes.wiring(net, images, labels)
        assert widget.wiring.opposed.tolist() == expected.opposed.tolist()
        assert (widget.wiring.reach == expected.reach).all()


def test_what_is_sent_is_small():
    widget = made("msdnet-cifar-blocks7-base1-step1-growth4-width4", betas=(0, 0.5, 1))
    per_state = len(widget.states) / len(widget._wirings)
    assert 66 * per_state < 200_000  # with all 21 betas
    json.dumps(widget.page_state(), allow_nan=False)
    assert "coarsest" in widget.setup["note"]


def test_the_network_is_left_as_it_is():
    net = dfs.build("vgg7-4", classes=10, junction=dfs.Surgery(0.5)).eval()
    before = list(net.junctions)
    NetworkDiagram(net, torch.randn(6, *SMALL), torch.arange(6), (0, 1))
    assert net.junctions == before
    assert not net.training


@pytest.mark.parametrize(
    ("trait", "value", "says"),
    [
        ("junction", "pcgrad", "junction='pcgrad': use one of 'joint'"),
        ("beta", 0.3, "beta=0.3: use one of 0.0, 0.25"),
        ("exit", 7, "exit=7: give a number from 1 to 6"),
        ("exit", -1, "exit=-1"),
    ],
)
def test_wrong_values_change_nothing(widget, trait, value, says):
    with pytest.raises(traitlets.TraitError, match=says):
        setattr(widget, trait, value)
    assert (widget.junction, widget.beta, widget.exit) == ("joint", 0.5, 0)


@pytest.mark.parametrize("betas", [(), (0.5,), (0.5, 0.5), (1, 0)])
def test_wrong_betas(betas):
    with pytest.raises(ValueError, match="betas="):
        made(betas=betas)


def test_a_beta_above_one():
    with pytest.raises(ValueError, match=r"beta=1\.5"):
        made(betas=(0, 1.5))


def test_readers_without_widgets_get_the_drawing(widget):
    widget.junction, widget.exit = "surgery", 2
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.plotly.v1+json" in data
    assert data[page.STATE] == [{"widget": "diagram", "state": widget.page_state()}]
    fig = widget.static_figure()
    conflict = int(widget.wiring.opposed.sum())
    assert fig.layout.title.text == f"VGG7, surgery, beta 0.5: {conflict:,} of 4,688 weights in conflict"
    assert fig.layout.images[0].source == figures.network_figure(widget.wiring, 2).layout.images[0].source


def test_the_page_makes_no_request():
    program = NetworkDiagram._esm.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not [outside for outside in ("import ", "fetch(", "http://", "https://") if outside in program]
    assert "lmSuppressShortcuts" in program


# In a browser


def choose(shown, junction: str, beta: float | None = None) -> None:
    shown.locator(f'input[type=radio][value="{junction}"]').check()
    if beta is not None:
        shown.locator(".dfs-beta").evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", BETAS.index(beta)
        )


def assert_agrees(shown, wiring: probes.Wiring, exit: int) -> None:
    """What the page shows is what Python measured, and is drawn as Python draws it."""
    assert shown.locator(".dfs-conflict").text_content() == f"{wiring.opposed.sum():,}"
    assert shown.locator(".dfs-several").text_content() == f"{wiring.several.sum():,}"
    nodes = shown.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("[data-part]")].map((node) =>
            [node.dataset.part, {...Object.fromEntries([...node.attributes].map((a) => [a.name, a.value])),
             text: node.textContent}]))"""
    )
    for part, attributes in diagram.states(wiring, exit or None).items():
        assert {name: nodes[part][name] for name in attributes} == attributes
    lit = sorted(part for part, attributes in nodes.items() if attributes.get("data-lit") == "yes")
    assert lit == (diagram.lit(wiring, exit) if exit else [])
    # The ways, from the probe's numbers alone
    K = len(wiring.views)
    if exit:
        k = exit - 1
        trained = [f"trains-{s + 1}" for s in range(K) if wiring.pulled[s, k]]
        assert [part for part in lit if part.startswith("trains")] == trained
        back = [f"up-{s + 1}" for s in range(k) if wiring.reach[s, k].any()]
        assert [part for part in lit if part.startswith("up")] == back
        assert [part for part in lit if part.startswith("made")] == [f"made-{s + 1}" for s in range(exit)]
        assert ("pull-" + str(exit) in lit) == wiring.reach[k, k].any()
    pressed = [node.get("aria-pressed") == "true" for part, node in nodes.items() if part.startswith("exit-")]
    assert pressed == [number == exit for number in range(1, K + 1)]


@pytest.mark.browser
@pytest.mark.parametrize("name", NETWORKS)
def test_the_page_shows_what_python_measures(opened, name):
    widget = made(name)
    shown = opened(widget)
    K = len(widget.wiring.views)
    choices = [(junction, beta) for junction, (_, _, cut) in JUNCTIONS.items() for beta in (BETAS if cut else (None,))]
    exits = itertools.cycle(range(1, K + 1))
    for junction, beta in choices:
        choose(shown, junction, beta)
        wiring = widget._wirings[junction, beta if beta is not None else 0.0]
        assert_agrees(shown, wiring, 0)
        assert shown.locator(".dfs-beta").is_disabled() == (beta is None)
        exit = next(exits)
        shown.locator(f'[data-exit="{exit}"]').click()
        assert_agrees(shown, wiring, exit)
        assert shown.locator(".dfs-status").text_content() == diagram.words(wiring, exit)
        shown.locator(f'[data-exit="{exit}"]').click()  # lets go


@pytest.mark.browser
def test_keys_move_everything(opened, widget):
    widget.junction, widget.beta = "equilibrium", 0.25
    shown = opened(widget)
    shown.keyboard.press("Tab")
    shown.keyboard.press("ArrowRight")
    assert shown.locator("input:checked").get_attribute("value") == "surgery"
    assert_agrees(shown, widget._wirings["surgery", 0.25], 0)
    shown.keyboard.press("Tab")
    shown.keyboard.press("ArrowRight")
    assert shown.locator(".dfs-beta-value").text_content() == "0.50"
    for _ in range(3):
        shown.keyboard.press("Tab")
    shown.keyboard.press("Enter")
    assert_agrees(shown, widget._wirings["surgery", 0.5], 3)
    shown.keyboard.press("Tab")
    shown.keyboard.press("Space")
    assert_agrees(shown, widget._wirings["surgery", 0.5], 4)
    shown.keyboard.press("Space")
    assert_agrees(shown, widget._wirings["surgery", 0.5], 0)


@pytest.mark.browser
def test_it_is_named_for_screen_readers(opened, widget):
    widget.junction, widget.exit = "surgery", 2
    shown = opened(widget)
    assert shown.get_by_role("group", name="network diagram, VGG7").count() == 1
    assert shown.get_by_role("radio").count() == len(JUNCTIONS)
    assert shown.get_by_role("slider", name="beta, the fraction of channels in f+").count() == 1
    for exit in range(1, 7):
        assert shown.get_by_role("button", name=diagram.words(widget.wiring, exit)).count() == 1
    assert shown.get_by_role("button", pressed=True).count() == 1


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 700, 3840])
def test_it_fits_any_width(opened, widget, width):
    shown = opened(widget, width=width)
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # No text of the drawing leaves it, or covers another one in its row
    boxes = shown.evaluate(
        """() => { const svg = document.querySelector(".dfs-network").getBoundingClientRect();
            return [...document.querySelectorAll(".dfs-network text")].filter((t) => t.textContent).map((t) => {
                const b = t.getBoundingClientRect();
                return [t.textContent, b.left - svg.left, b.right - svg.left, b.top, b.bottom, svg.width]; }); }"""
    )
    for text, left, right, _, _, wide in boxes:
        assert left >= 0, text
        assert right <= wide + 1, text
    for (a, left, right, top, bottom, _), (b, l2, r2, t2, b2, _) in itertools.combinations(boxes, 2):
        apart = right <= l2 or r2 <= left or bottom - 3 <= t2 or b2 - 3 <= top
        assert apart, f"{a} covers {b}"


@pytest.mark.browser
@pytest.mark.alone
def test_a_key_moves_the_page_within_two_frames(opened):
    """Seven exits: from the key's event until the frame after it is painted, median of 20."""
    widget = made("msdnet-cifar-blocks7-base1-step1-growth4-width4", betas=(0, 0.25, 0.5, 0.75, 1))
    widget.junction = "surgery"
    shown = opened(widget)
    shown.locator(".dfs-beta").focus()
    shown.evaluate(
        """() => { window.waited = []; document.querySelector(".dfs-beta").addEventListener("input", (event) => {
            const began = event.timeStamp;
            requestAnimationFrame(() => setTimeout(() => window.waited.push(performance.now() - began)));
        }); }"""
    )
    for i in range(20):
        shown.keyboard.press("ArrowLeft" if i % 2 else "ArrowRight")
        shown.wait_for_function(f"window.waited.length > {i}")
    waited = sorted(shown.evaluate("window.waited"))
    print(f"key to painted page: median {waited[10]:.1f} ms, longest {waited[-1]:.1f} ms")
    assert waited[10] < 34
