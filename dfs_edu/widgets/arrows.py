"""Two gradients as arrows: what a step along their sum, PCGrad's and UPGrad's direction does to both losses.

``TwoArrows`` is a landscape of two quadratic losses, on which the reader drags the gradients. ``TwoExits`` shows steps
that a real network took (``probes.steps``). Both are small custom widgets (anywidget): static/arrows.js computes and
draws, so nothing needs a kernel. Both can be used from Python as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
import traitlets

from dfs_edu import figures
from dfs_edu.methods.pair import PAIRED, weights_of_two
from dfs_edu.probes.stepping import Steps
from dfs_edu.widgets import page

LARGEST, LONGEST = 2.0, 1.2  # of an arrow's coordinates, and of the step's length
HESSIANS = np.array([[[1.6, 0.5], [0.5, 1.1]], [[1.1, -0.4], [-0.4, 1.7]]])  # of the two losses
NAMES = {"sum": "sum", "pcgrad": "PCGrad", "upgrad": "UPGrad"}


@dataclass(frozen=True)
class Outcome:
    """What steps along three directions do to two quadratic losses; methods in the order of ``NAMES``.

    Attributes:
        cosine: Between the two gradients; NaN if one is zero.
        steps: (3, 2), where each step ends, from the origin.
        before: (2,), both losses before the step.
        predicted: (3, 2), after it, if they fell along straight lines.
        after: (3, 2), after it.
    """

    cosine: float
    steps: np.ndarray
    before: np.ndarray
    predicted: np.ndarray
    after: np.ndarray


def outcome(arrows: Sequence[Sequence[float]], step: float, length: str = "sum") -> Outcome:
    """Take a step on the landscape.

    The gradient of loss k at the origin is minus arrow k, and its Hessian is fixed. So the loss is 0 at its minimum,
    the inverse Hessian times the arrow.

    Args:
        arrows: Two arrows (x, y), minus the gradients.
        step: By how much each method's direction is multiplied.
        length: "sum" or "own", as for ``methods.make``.
    """
    a = np.asarray(arrows, dtype=float)
    gramian = a @ a.T
    weights = weights_of_two(torch.from_numpy(gramian), length)
    ends = step * np.stack([weights[name].numpy() for name in NAMES]) @ a  # (3, 2)
    before = np.array([a[k] @ np.linalg.solve(HESSIANS[k], a[k]) / 2 for k in (0, 1)])
    predicted = before - ends @ a.T
    after = predicted + np.einsum("mi,kij,mj->mk", ends, HESSIANS, ends) / 2
    squares = gramian[0, 0] * gramian[1, 1]
    cosine = float(np.clip(gramian[0, 1] / np.sqrt(squares), -1, 1)) if squares > 0 else float("nan")
    return Outcome(cosine, ends, before, predicted, after)


class TwoArrows(page.Widget):
    """Two arrows to drag, the way in which each of two losses falls fastest, and where three methods step.

    Args:
        arrows: Two arrows (x, y), minus the gradients, each coordinate from -2 to 2.
        step: Length of the step, from 0 to 1.2.
        length: "sum": all steps as long as the sum's; "own": each method's own length.

    Raises:
        traitlets.TraitError: An argument is not valid.
    """

    name, reads = "arrows", ("setup", "arrows", "step", "length")

    arrows = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    step = traitlets.Float().tag(sync=True)
    length = traitlets.Enum(["sum", "own"]).tag(sync=True)

    def __init__(
        self,
        arrows: Sequence[Sequence[float]] = ((1.4, 0.5), (-0.7, 0.9)),
        step: float = 0.3,
        length: str = "sum",
        title: str = "",
        **kwargs: Any,
    ):
        fixed = {"hessians": HESSIANS.tolist(), "largest": LARGEST, "longest": LONGEST}
        moved = {"arrows": [list(map(float, arrow)) for arrow in arrows], "step": float(step), "length": length}
        super().__init__(setup={"title": title, **fixed}, **moved, **kwargs)

    @property
    def outcome(self) -> Outcome:
        """What the steps do to both losses."""
        return outcome(self.arrows, self.step, self.length)

    @traitlets.validate("arrows")
    def _check_arrows(self, proposal):
        arrows = proposal["value"]
        if [len(arrow) for arrow in arrows] != [2, 2] or not all(abs(x) <= LARGEST for arrow in arrows for x in arrow):
            raise traitlets.TraitError(f"arrows={arrows}: give two (x, y) of numbers from -{LARGEST:g} to {LARGEST:g}")
        return arrows

    @traitlets.validate("step")
    def _check_step(self, proposal):
        if not 0 <= proposal["value"] <= LONGEST:
            raise traitlets.TraitError(f"step={proposal['value']}: give a number from 0 to {LONGEST:g}")
        return proposal["value"]

    def static_figure(self) -> go.Figure:
        """Return the two arrows and the three steps."""
        vectors = {f"exit {k + 1}": arrow for k, arrow in enumerate(self.arrows)}
        steps = {f"step along {name}": step for name, step in zip(NAMES.values(), self.outcome.steps, strict=True)}
        title = f"Two gradients, and where a step ends: cosine {self.outcome.cosine:.2f}"
        return figures.arrows(vectors | steps, title)


class TwoExits(page.Widget):
    """Two exits of a real network: choose a direction and a length, take the step, and compare with the prediction.

    Args:
        report: As ``probes.steps`` returns it.
        title: Heading, to distinguish several networks.

    Attributes:
        method: Name of the direction, one of ``report.methods``.
        place: Index of the step length, from 0.
        taken: Whether the step is taken, so that the measured losses are shown.

    Raises:
        traitlets.TraitError: A method or place does not exist; the trait keeps its value.
    """

    name, reads = "arrows", ("setup", "method", "place", "taken")

    method = traitlets.Enum(PAIRED).tag(sync=True)
    place = traitlets.Int().tag(sync=True)
    taken = traitlets.Bool().tag(sync=True)

    def __init__(self, report: Steps, title: str = "", **kwargs: Any):
        self.report = report
        fixed = {
            "title": title,
            "exits": [k + 1 for k in report.exits],
            "gramian": report.gramian.tolist(),
            "weights": report.weights.tolist(),
            "lengths": report.lengths.tolist(),
            "loss": report.loss.tolist(),
            "slope": report.slope.tolist(),
            "curvature": report.curvature.tolist(),
            "measured": [[list(map(_number, row)) for row in rows] for rows in report.measured.tolist()],
        }
        super().__init__(setup=fixed, method="sum", place=len(report.lengths) // 4, **kwargs)

    @traitlets.validate("place")
    def _check_place(self, proposal):
        if not 0 <= proposal["value"] < len(self.report.lengths):
            most = len(self.report.lengths) - 1
            raise traitlets.TraitError(
                f"place={proposal['value']}: give an index of the step lengths, from 0 to {most}"
            )
        return proposal["value"]

    def static_figure(self) -> go.Figure:
        """Return both losses along the direction, predicted and measured."""
        return figures.steps(self.report, self.report.methods.index(self.method))


def _number(value: float) -> float | None:
    """A number for JSON, with None for NaN."""
    return None if value != value else value
