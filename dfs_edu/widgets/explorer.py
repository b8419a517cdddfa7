"""The threshold explorer: sliders on the thresholds of a multi-exit network, and their effect on accuracy and cost.

It is a small custom widget (anywidget). The exits' outputs travel to the page once; static/explorer.js computes and
draws, so that a slider moves without a kernel and within a frame. It can be used from Python as well: set `thresholds`
or `budget`, and read `point`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
import traitlets
from torch import Tensor

from dfs_edu import figures, inference
from dfs_edu.figures.look import rounded
from dfs_edu.inference import Outputs
from dfs_edu.inference.checks import check_pair
from dfs_edu.widgets import idle, page

GALLERY = 120  # images sent to the page, about 1 kB each
EACH = 6  # images shown at each exit: as in static/explorer.js
STEPS = 100  # of the budget slider, from the first exit's cost to the last one's


class ThresholdExplorer(page.Widget):
    """One slider for each exit but the last, where the rest leave, and one for the budget, which sets the others.

    Confidences travel as float32, in which Python compares them, so that the page shows Python's numbers to the last
    digit: 10,000 images and 7 exits take a third of a megabyte.

    Args:
        validation: Outputs on the validation split, on which the thresholds for a budget are fitted.
        test: Outputs on the test split, on which everything shown is measured.
        macs: K cumulative costs in MACs.
        images: uint8 (M, 3, H, W), the first M images of the test split; 120 of them are used. None: the page shows no
            images.
        classes: Names of the classes, needed only with images.
        title: Heading, to distinguish several explorers.

    Attributes:
        setup: What the page needs and never changes.
        outputs: Confidences and correctness of both splits and the fitted thresholds, compressed (see ``page.packed``).
        thresholds: K numbers in [0, 1], the last one 0. Setting them makes ``budget`` their cost on validation.
        budget: Average MACs per image on validation, from the first exit's cost to the last one's. Setting it finds the
            thresholds with the highest accuracy on validation (``inference.best_thresholds``).
        fitted: Whether the thresholds are those of the budget.

    Raises:
        ValueError: The arguments do not fit together.
        traitlets.TraitError: A threshold or budget is not valid; it keeps its value.
    """

    name, reads = "explorer", ("setup", "outputs", "thresholds", "budget", "fitted")

    outputs = traitlets.Bytes().tag(sync=True)
    thresholds = traitlets.List(traitlets.Float()).tag(sync=True)
    budget = traitlets.Float().tag(sync=True)
    fitted = traitlets.Bool().tag(sync=True)

    def __init__(
        self,
        validation: Outputs,
        test: Outputs,
        macs: Sequence[float] | Tensor,
        images: Tensor | np.ndarray | None = None,
        classes: Sequence[str] = (),
        title: str = "",
        **kwargs: Any,
    ):
        check_pair(validation, test)
        shown = _gallery(images, classes, test)
        self._validation, self._test = validation, test
        self._macs = inference.checked_macs(macs, len(test.confidence))
        self.range = self._macs[0].item(), self._macs[-1].item()
        self._moving = False  # thresholds and budget follow each other, but not in a circle
        # The thresholds for every place of the slider are found beforehand, so that moving it needs no search
        self._places = torch.linspace(*self.range, STEPS + 1, dtype=torch.float64)
        self._best = inference.best_thresholds(validation, self._macs, self._places)  # (101, K)
        self.curve = inference.Curve.of(test, self._best, self._macs)
        setup, outputs = self._setup(title)
        super().__init__(setup={**setup, **shown}, outputs=outputs, **kwargs)
        self.budget = sum(self.range) / 2

    def _setup(self, title: str) -> tuple[dict[str, Any], bytes]:
        """What the page needs and never changes; what is large is in the bytes."""
        layout, outputs = page.packed(
            {
                "best": self._best.numpy(),
                "confidence": self._test.confidence.numpy(),
                "validation": self._validation.confidence.numpy(),
                "correct": self._test.correct.numpy().astype(np.uint8),
            }
        )
        curve = [rounded(self.curve.macs, 0), rounded(self.curve.accuracy, 4)]
        measured = {"curve": curve, "anytime": rounded(self._test.accuracy, 4)}
        splits = [[part.split, len(part.label)] for part in (self._validation, self._test)]
        fixed = {"title": title, "group": "", "steps": STEPS, "macs": self._macs.tolist(), "splits": splits}
        return {**fixed, **measured, "layout": layout}, outputs

    @property
    def point(self) -> inference.Point:
        """What the thresholds give on the test split."""
        return inference.apply(self._test, self.thresholds, self._macs)

    @property
    def idle(self) -> list[str]:
        """Sentences that say why moving a slider now changes nothing, or next to nothing; the page shows them.

        There are three reasons: a larger budget is not spent, no image gets as far as an exit, or hardly any image is
        as confident as a threshold.
        """
        first = int((self._best == self._best[-1]).all(1).int().argmax())  # place whose thresholds are the last one's
        largest = self.fitted and first < STEPS and self.thresholds == self._best[-1].tolist()
        budget = idle.budget(self._places[first].item(), self._validation.split) if largest else []
        exits = torch.arange(len(self._macs) - 1)
        reaching = self.point.exit >= exits[:, None]  # (K - 1, N), of the exits with sliders
        return [*budget, *idle.unreached(reaching), *idle.rarely_confident(self._test, reaching, self.thresholds)]

    @traitlets.validate("thresholds")
    def _check_thresholds(self, proposal):
        try:
            inference.checked_thresholds(proposal["value"], len(self._macs))
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error
        return proposal["value"]

    @traitlets.validate("budget")
    def _check_budget(self, proposal):
        low, high = self.range
        if not low <= proposal["value"] <= high:
            raise traitlets.TraitError(f"budget={proposal['value']!r}: give average MACs from {low:.6g} to {high:.6g}")
        return proposal["value"]

    @traitlets.observe("budget")
    def _follow_budget(self, change):
        self._move([float(t) for t in self._thresholds_of(change["new"])], change["new"], True)

    @traitlets.observe("thresholds")
    def _follow_thresholds(self, change):
        spent = inference.apply(self._validation, change["new"], self._macs).macs
        self._move(change["new"], min(max(spent, self.range[0]), self.range[1]), False)

    def _move(self, thresholds: list[float], budget: float, fitted: bool) -> None:
        """Change together, in one message to the page, what follows from a move that Python made."""
        if self._moving or self.moved_by_page:  # the page has computed all that follows
            return
        self._moving = True
        try:
            with self.hold_sync():
                self.thresholds, self.budget, self.fitted = thresholds, budget, fitted
        finally:
            self._moving = False

    def _thresholds_of(self, budget: float) -> Tensor:
        place = int((self._places - budget).abs().argmin())
        if abs(self._places[place].item() - budget) < 1e-9 * budget:
            return self._best[place]
        return inference.best_thresholds(self._validation, self._macs, [budget])[0]

    def static_figure(self) -> go.Figure:
        """Return the present point on the budget curve."""
        point, split = self.point, self._test.split
        return figures.accuracy_cost(
            {f"thresholds found on {self._validation.split}, measured on {split}": self.curve},
            {split: (self._macs, self._test.accuracy)},
            point,
            title=f"Early exit: {100 * point.accuracy:.2f} % at {point.macs / 1e6:.4g} MMACs per image ({split})",
        )


def side_by_side(explorers: Mapping[str, ThresholdExplorer]) -> page.Row:
    """Place explorers side by side, and link their budgets, in the page and in Python.

    Moving one sets the others to the same fraction of their range, from the cost of the first exit (0) to that of the
    last (1), so that networks with different costs can be compared.

    Args:
        explorers: Title -> explorer, two or more.

    Raises:
        ValueError: There are fewer than two.
    """

    def follow(leader: ThresholdExplorer, other: ThresholdExplorer) -> None:
        low, high = leader.range
        fraction = (leader.budget - low) / (high - low) if high > low else 0
        low, high = other.range
        other.budget = min(max(low + fraction * (high - low), low), high)

    return page.side_by_side(explorers, ["budget"], follow)


def _gallery(images: Tensor | np.ndarray | None, classes: Sequence[str], test: Outputs) -> dict[str, Any]:
    """What the page needs to show the images that leave at each exit. Raises ValueError if the arguments do not fit."""
    if images is None:
        return {"sprite": "", "size": [1, 1], "labels": [], "predictions": [[] for _ in test.prediction], "classes": []}
    images, N = np.asarray(images), len(test.label)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not 0 < len(images) <= N:
        raise ValueError(
            f"images of shape {images.shape}, {images.dtype}: give uint8 (M, 3, H, W), the first M of the {N} "
            "images of the test split"
        )
    page.check_classes(classes, test)
    images = images[:GALLERY]
    return {
        "sprite": figures.sprite(images),
        "size": list(images.shape[2:]),
        "labels": test.label[: len(images)].tolist(),
        "predictions": test.prediction[:, : len(images)].tolist(),
        "classes": list(classes),
    }
