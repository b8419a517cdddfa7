"""The network, drawn: choose a junction, beta and an exit, and see what the exit sees and where its gradient arrives.

It is a small custom widget (anywidget). Everything is measured beforehand, on a real network, for every junction and
every place of the slider, and sent once: static/diagram.js changes those attributes of a drawing (figures/diagram.py)
that differ, without a kernel. It can be used from Python as well: set `junction`, `beta` and `exit`, and read `wiring`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import traitlets
from torch import Tensor

from dfs_edu import figures, probes
from dfs_edu.figures import diagram
from dfs_edu.multiexit import MultiExit
from dfs_edu.surgery import Detached, Equilibrium, Joint, Junction, Surgery
from dfs_edu.widgets import page

Made = Callable[[float], Junction]
# Name -> what it does, in words; how beta makes it; whether beta changes anything
JUNCTIONS: dict[str, tuple[str, Made, bool]] = {
    "joint": ("Every exit trains every channel that it reads.", lambda beta: Joint(), False),
    "detached": ("Exits read the trunk, but only the last exit trains it.", lambda beta: Detached(), False),
    "equilibrium": (
        "Every exit trains every channel that it reads, each with a fixed share.",
        lambda beta: Equilibrium(),
        False,
    ),
    "surgery": ("Every exit sees all channels. This exit trains f−; deeper exits train f+.", Surgery, True),
    "surgery, all": (
        "Every exit sees all channels. This exit trains f+ and f−; deeper exits train f+.",
        lambda beta: Surgery(beta, exit_gradient="all"),
        True,
    ),
    "no reference": (
        "Each side sees and trains only its own part: this exit f−, deeper exits f+.",
        lambda beta: Surgery(beta, reference=False),
        True,
    ),
}
BETAS = tuple(i / 20 for i in range(21))


class NetworkDiagram(page.Widget):
    """The drawing of a network, with a choice of junctions, a slider for beta and exits to choose.

    What it shows is measured: ``probes.wiring`` of the given network and batch, once for each junction and beta. (These
    are the same weights for every junction, as the network has them now.)

    Args:
        net: A network; it is left as it is.
        images: As for ``probes.wiring``: (B, C, H, W). The measurement takes 66 passes with the default ``betas``, so a
            small batch is enough.
        labels: As for ``probes.wiring``: (B,).
        betas: Places of the slider, two or more from 0 to 1, in order.
        title: Heading, to distinguish several diagrams.

    Attributes:
        setup: What the page needs and never changes.
        states: The attributes of the drawing for every choice, compressed.
        junction: Name of the chosen junction, one of ``JUNCTIONS``.
        beta: One of ``betas``. Joint, detached and equilibrium do not depend on it.
        exit: Number of the exit whose paths are lit, from 1; 0: none.

    Raises:
        ValueError: ``betas`` are not valid, or as for ``probes.wiring``.
        traitlets.TraitError: A junction, beta or exit does not exist; the trait keeps its value.
    """

    name, reads = "diagram", ("setup", "states", "junction", "beta", "exit")

    states = traitlets.Bytes().tag(sync=True)
    junction = traitlets.Unicode("joint").tag(sync=True)
    beta = traitlets.Float().tag(sync=True)
    exit = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        net: MultiExit,
        images: Tensor,
        labels: Tensor,
        betas: Sequence[float] = BETAS,
        title: str = "",
        **kwargs: Any,
    ):
        self._betas = [float(beta) for beta in betas]
        if len(self._betas) < 2 or sorted(set(self._betas)) != self._betas:
            raise ValueError(f"betas={betas!r}: give two or more different numbers from 0 to 1, in order")
        self._title = title
        self._wirings = _measured(net, images, labels, self._betas)
        self._exits = len(net.stages)
        states, layout = self._states()
        setup = self._setup(len(images)) | {"title": title, "layout": layout}
        middle = min(self._betas, key=lambda beta: abs(beta - 0.5))
        super().__init__(setup=setup, states=states, **({"beta": middle} | kwargs))

    def _setup(self, images: int) -> dict[str, Any]:
        """What the page needs and never changes; the states are in the bytes."""
        first = next(iter(self._wirings.values()))
        scales = (
            f" The trunk's state has {first.scales} scales; only the coarsest, which the exits read, is drawn."
            if first.scales > 1
            else ""
        )
        junctions = [[name, words, cut] for name, (words, _, cut) in JUNCTIONS.items()]
        return {
            "svg": figures.network(first),
            "junctions": junctions,
            "betas": self._betas,
            "weights": int(first.weights.sum()),
            "note": f"Measured on {images} images, with the same weights for every junction.{scales}",
        }

    def _states(self) -> tuple[bytes, list]:
        """All that a choice changes: one row of numbers per junction, beta and exit, which point into a table."""
        rows = [
            _flat(diagram.states(wiring, exit or None)) | {"words": diagram.words(wiring, exit or None)}
            for wiring in self._wirings.values()
            for exit in range(self._exits + 1)
        ]
        table: dict[str, int] = {}
        pointing = [[table.setdefault(text, len(table)) for text in row.values()] for row in rows]
        counts = {
            name: [int(getattr(wiring, name).sum()) for wiring in self._wirings.values()]
            for name in ("opposed", "several")
        }
        places = [name.split(" ") for name in rows[0]]
        text = json.dumps({"places": places, "table": list(table), "rows": pointing} | counts, separators=(",", ":"))
        layout, packed = page.packed({"states": np.frombuffer(text.encode(), np.uint8)})
        return packed, layout

    @property
    def wiring(self) -> probes.Wiring:
        """What is shown now, as ``probes.wiring`` measured it."""
        return self._wirings[self.junction, self.beta if JUNCTIONS[self.junction][2] else self._betas[0]]

    @traitlets.validate("junction")
    def _check_junction(self, proposal):
        if proposal["value"] not in JUNCTIONS:
            raise traitlets.TraitError(f"junction={proposal['value']!r}: use one of {', '.join(map(repr, JUNCTIONS))}")
        return proposal["value"]

    @traitlets.validate("beta")
    def _check_beta(self, proposal):
        if proposal["value"] not in self._betas:
            raise traitlets.TraitError(f"beta={proposal['value']}: use one of {', '.join(map(str, self._betas))}")
        return proposal["value"]

    @traitlets.validate("exit")
    def _check_exit(self, proposal):
        if not 0 <= proposal["value"] <= self._exits:
            raise traitlets.TraitError(
                f"exit={proposal['value']}: give a number from 1 to {self._exits}, or 0 for none"
            )
        return proposal["value"]

    def static_figure(self) -> go.Figure:
        """Return the drawing as it is now."""
        junction = f"{self.junction}, beta {self.beta:g}" if JUNCTIONS[self.junction][2] else self.junction
        conflict, weights = (int(n.sum()) for n in (self.wiring.opposed, self.wiring.weights))
        title = f"{self._title or 'The network'}, {junction}: {conflict:,} of {weights:,} weights in conflict"
        return figures.network_figure(self.wiring, self.exit or None, title)


def _measured(
    net: MultiExit, images: Tensor, labels: Tensor, betas: list[float]
) -> dict[tuple[str, float], probes.Wiring]:
    """The wiring of a network for every junction, and for every beta where it matters."""
    net, found = copy.deepcopy(net), {}
    for name, (_, make, cut) in JUNCTIONS.items():
        for beta in betas if cut else betas[:1]:
            net.join(make(beta))
            found[name, beta] = probes.wiring(net, images, labels)
    return found


def _flat(states: diagram.State) -> dict[str, str]:
    """One entry for each attribute of each part."""
    return {f"{part} {name}": value for part, attributes in states.items() for name, value in attributes.items()}
