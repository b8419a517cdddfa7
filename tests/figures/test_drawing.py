"""The drawing of a network: it shows what was given, for any number of exits and every kind of network."""

import base64
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from test_contract import batch, network
from test_figures import contrast

from dfs_edu import figures, probes
from dfs_edu.cuts import Interleaved
from dfs_edu.figures import diagram, look
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery


def wired(K=4, C=8, shared=4):
    """Surgery with all of its conflict where gradients meet; ``shared`` None: joint."""
    views = np.ones((4, C))
    mask, whole = np.arange(C) < (shared or 0), [None] * K
    if shared is not None:
        views[2], views[3] = mask, ~mask
    cut = whole if shared is None else [mask] * (K - 1) + [None]
    reach = np.zeros((K, K, 2), bool)
    for k in range(K):
        for j in range(k, K):
            reach[k, j] = True if cut[k] is None else [j > k, j == k]
    pulled = np.triu(np.full((K, K), 50))
    n = np.full(K, 100)
    last = np.ones((4, C))
    return SimpleNamespace(
        views=[views] * (K - 1) + [last],
        shared=cut,
        reach=reach,
        weights=n,
        pulled=pulled,
        several=n // 2,
        opposed=n // 4,
        scales=1,
    )


def parts(svg):
    """The named parts of a drawing: name -> (attributes, text)."""
    found = {}
    for node in ElementTree.fromstring(svg).iter():
        if name := node.attrib.get("data-part"):
            assert name not in found
            found[name] = (node.attrib, node.text or "")
    return found


def channels(path, C):
    """Numbers, from 0, of the channels that a line runs along."""
    width = (diagram.RIGHT - diagram.LEFT) / C
    runs = re.findall(r"M([\d.]+),[\d.]+H([\d.]+)", path)
    return [
        c
        for a, b in runs
        for c in range(round((float(a) - diagram.LEFT) / width), round((float(b) - diagram.LEFT) / width))
    ]


def test_each_side_sees_and_pulls_on_its_channels():
    found = parts(figures.network(wired()))
    every = list(range(8))
    expected = {
        "shared": every[:4],
        "specific": every[4:],
        "see": every,
        "onward": every,
        "pull": every[4:],
        "back": every[:4],
    }
    for part, numbers in expected.items():
        assert channels(found[f"{part}-2"][0]["d"], 8) == numbers
    assert (found["first-2"][1], found["second-2"][1]) == ("f+ ← exits 3–4", "f− ← exit 2")
    assert (found["first-4"][1], found["second-4"][1]) == ("← exit 4", "")
    assert found["count-1"][1] == "25 of 100 in conflict"
    assert found["on-shared-1"][1] == "f+ 4"
    assert "100 of 400 weights in conflict" in figures.network(wired())


def test_an_exit_highlights_its_paths_and_no_others():
    lit = set(diagram.lit(wired(), 2))
    ways = {"see-2", "to-exit-2", "pull-2", "from-exit-2", "onward-1", "down-1", "back-1", "up-1"}
    assert {
        part for part in lit if part.split("-")[0] in ("see", "to", "pull", "from", "onward", "down", "back", "up")
    } == ways
    assert {f"{part}-{k}" for k in (1, 2) for part in ("stage", "made", "trains", "shared", "specific")} <= lit
    assert not [part for part in lit if part.endswith(("-3", "-4"))]
    assert "exit-2" in lit
    assert "exit-1" not in lit


def test_a_gradient_that_does_not_arrive_is_not_drawn():
    detached = wired(3, shared=None)
    detached.reach[:, :2] = False
    detached.pulled[:, :2] = 0
    for views in detached.views[:2]:
        views[3] = 0
    found = parts(figures.network(detached))
    assert found["pull-1"][0]["d"] == found["from-exit-1"][0]["d"] == ""
    assert found["back-1"][0]["d"]
    assert found["first-1"][1] == "← exit 3"
    lit = diagram.lit(detached, 2)
    assert {"see-2", "onward-1"} <= set(lit)
    assert not [part for part in lit if part.startswith(("pull", "back", "up", "trains", "from"))]
    assert diagram.words(detached, 2) == "Exit 2 sees all 8 channels of its feature. Its gradient reaches no stage."


@pytest.mark.parametrize("exit", [None, 1])
@pytest.mark.parametrize(
    "junction",
    [
        Joint(),
        Detached(),
        Equilibrium(),
        Surgery(0.0),
        Surgery(0.3),
        Surgery(1.0),
        Surgery(0.5, reference=False),
        Interleaved(0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["vgg7", "resnet18", "msdnet-cifar", "vit-tiny"])
def test_every_kind_of_network(family, junction, exit):
    found = probes.wiring(network(family, junction), *batch(family))
    named = parts(figures.network(found, exit))
    for k, views in enumerate(found.views, start=1):
        see = named[f"see-{k}"][0]
        if exit is None:
            assert channels(see["d"], views.shape[1]) == np.flatnonzero(views[1] > 0).tolist()
        own = found.reach[k - 1, k - 1].any()
        assert bool(named[f"from-exit-{k}"][0]["d"]) == (own and (views[3] > 0).any())
    assert set(named) >= set(diagram.states(found, exit))


@pytest.mark.parametrize("K", range(2, 8))
def test_two_to_seven_exits_have_room(K):
    svg = figures.network(wired(K), exit=K)
    root = ElementTree.fromstring(svg)
    *_, width, height = map(float, root.attrib["viewBox"].split())
    for node in root.iter():
        bottom = float(node.attrib.get("y", 0)) + float(node.attrib.get("height", 0) if node is not root else 0)
        assert bottom <= height
        assert float(node.attrib.get("x", 0)) <= width
    assert len([node for node in root.iter() if "data-exit" in node.attrib]) == K


def test_equilibrium_names_the_shares():
    found = parts(figures.network(probes.wiring(network("vgg7", Equilibrium()), *batch("vgg7"))))
    assert (found["first-1"][1], found["second-1"][1]) == ("← 0.17 × exit 1", "← 0.83 × exits 2–6")
    widths = [float(found[f"{part}-1"][0]["style"].removeprefix("stroke-width:")) for part in ("pull", "back")]
    assert widths[0] < widths[1]


def test_all_states_of_a_network_have_the_same_parts():
    """The widget changes attributes by their place in a list."""
    names = []
    for wiring in (wired(), wired(shared=None), wired(shared=0), wired(shared=8)):
        for exit in (None, 1, 4):
            state = diagram.states(wiring, exit)
            names.append([(part, name) for part, attributes in state.items() for name in attributes])
    assert all(listed == names[0] for listed in names)


def test_the_colours_are_those_of_all_figures():
    svg = figures.network(wired())
    for meaning, colour in look.MEANINGS.items():
        assert f"var(--dfs-{meaning}, {colour})" in svg
    for colour in look.MEANINGS.values():  # lines and areas need 3
        assert min(contrast(colour, "#ffffff"), contrast(colour, "#111111")) > 2.9


def test_a_figure_holds_the_drawing():
    fig = figures.network_figure(wired(), 2, "A <b>network")
    (image,) = fig.layout.images
    kind, data = image.source.split(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data).decode() == figures.network(wired(), 2)
    assert fig.layout.title.text == "A &lt;b>network"
    assert '"A &lt;b&gt;network: ' in figures.network(wired(), title="A <b>network")


def test_names_of_exits():
    assert [diagram.names(n) for n in ([], [2], [2, 3], [1, 3, 4, 5])] == [
        "none",
        "exit 2",
        "exits 2–3",
        "exits 1, 3–5",
    ]


def test_an_exit_that_does_not_exist():
    with pytest.raises(ValueError, match="exit=5: give a number from 1 to 4"):
        figures.network(wired(), 5)
