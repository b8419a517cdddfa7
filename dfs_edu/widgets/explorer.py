"""The threshold explorer: sliders on the thresholds of a multi-exit network, and their effect on accuracy and cost.

It is a small custom widget (anywidget): Python computes, static/explorer.js draws. It keeps a few kilobytes of state
and its images, so it survives a reload of the page. It can be used from Python as well: set `thresholds` or `budget`,
and read `point`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import torch
import traitlets
from torch import Tensor

from dfs_edu import figures, inference
from dfs_edu.inference import Outputs
from dfs_edu.inference.checks import check_pair
from dfs_edu.widgets import page

GALLERY = 120  # images sent to the page, about 1 kB each
EACH = 6  # of these, shown at each exit
STEPS = 100  # of the budget slider, from the first exit's cost to the last one's
BINS = 40  # of the histograms of confidence


class ThresholdExplorer(page.Widget):
    """One slider for each exit but the last, where the rest leave, and one for the budget, which sets the others.

    Args:
        validation: Outputs on the validation split, on which the thresholds for a budget are fitted.
        test: Outputs on the test split, on which everything shown is measured.
        macs: K cumulative costs in MACs.
        images: uint8 (M, 3, H, W), the first M images of the test split; 120 of them are used.
        classes: Names of the classes.
        title: Heading, to distinguish several explorers.

    Attributes:
        setup: What the page needs and never changes.
        thresholds: K numbers in [0, 1], the last one 0. Setting them makes ``budget`` their cost on validation.
        budget: Average MACs per image on validation, from the first exit's cost to the last one's. Setting it finds the
            thresholds with the highest accuracy on validation (``inference.best_thresholds``).
        point: The measured result, an ``inference.Point``.
        result: What the page shows, as plain numbers: accuracy, macs, share, exit_accuracy; fitted: whether the
            thresholds are those of the budget; histogram: for each exit the confidences of the images that reach it, in
            40 bins from 0 to 1, as fractions of all images; gallery: for each exit a list of [image, predicted class].

    Raises:
        ValueError: The arguments do not fit together.
        traitlets.TraitError: A threshold or budget is not valid; it keeps its value.
    """

    _esm, _css = page.sources("explorer")

    setup = traitlets.Dict().tag(sync=True)
    thresholds = traitlets.List(traitlets.Float()).tag(sync=True)
    budget = traitlets.Float().tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        validation: Outputs,
        test: Outputs,
        macs: Sequence[float] | Tensor,
        images,
        classes: Sequence[str],
        title: str = "",
        **kwargs,
    ):
        check_pair(validation, test)
        images = np.asarray(images)
        N = len(test.label)
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not 0 < len(images) <= N:
            raise ValueError(
                f"images of shape {images.shape}, {images.dtype}: give uint8 (M, 3, H, W), the first M of the {N} "
                "images of the test split"
            )
        page.check_classes(classes, test)
        self._validation, self._test = validation, test
        self._macs = inference.checked_macs(macs, len(test.confidence))
        # The thresholds for every place of the slider are found beforehand, so that moving it needs no search
        self._places = torch.linspace(*self._macs[[0, -1]].tolist(), STEPS + 1, dtype=torch.float64)
        self._best = inference.best_thresholds(validation, self._macs, self._places)
        self.curve = inference.Curve.of(test, self._best, self._macs)
        self._bins = (test.confidence * BINS).long().clamp(max=BINS - 1)  # (K, N)
        self._fitting = False
        super().__init__(setup=self._setup(images[:GALLERY], list(classes), title), **kwargs)
        self.budget = self._macs[[0, -1]].mean().item()

    def _setup(self, images: np.ndarray, classes: list[str], title: str) -> dict:
        """What the page needs and never changes."""
        labels = self._test.label[: len(images)].tolist()
        return {
            "title": title,
            "steps": STEPS,
            "macs": self._macs.tolist(),
            "curve": [plain(self.curve.macs, 0), plain(self.curve.accuracy, 4)],
            "anytime": plain(self._test.accuracy, 4),
            "splits": [[o.split, len(o.label)] for o in (self._validation, self._test)],
            "sprite": figures.sprite(images),
            "size": list(images.shape[2:]),
            "labels": labels,
            "classes": classes,
        }

    @traitlets.validate("thresholds")
    def _check_thresholds(self, proposal):
        try:
            inference.checked_thresholds(proposal["value"], len(self._macs))
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error
        return proposal["value"]

    @traitlets.validate("budget")
    def _check_budget(self, proposal):
        low, high = self._macs[[0, -1]].tolist()
        if not low <= proposal["value"] <= high:
            raise traitlets.TraitError(f"budget={proposal['value']!r}: give average MACs from {low:.6g} to {high:.6g}")
        return proposal["value"]

    @traitlets.observe("budget")
    def _budget_changed(self, change):
        if not self._fitting:
            self._update(self._thresholds_of(change["new"]), change["new"], True)

    @traitlets.observe("thresholds")
    def _thresholds_changed(self, change):
        if not self._fitting:
            spent = inference.apply(self._validation, change["new"], self._macs).macs
            low, high = self._macs[[0, -1]].tolist()
            self._update(change["new"], min(max(spent, low), high), False)

    def _thresholds_of(self, budget: float) -> Tensor:
        place = (self._places - budget).abs().argmin()
        if abs(self._places[place] - budget) < 1e-9 * budget:
            return self._best[place]
        return inference.best_thresholds(self._validation, self._macs, [budget])[0]

    def _update(self, thresholds, budget: float, fitted: bool) -> None:
        """Change everything that follows from a move together, in one message to the page."""
        self._fitting = True
        try:
            with self.hold_sync():
                self.thresholds, self.budget = [float(t) for t in thresholds], budget
                self.point = inference.apply(self._test, self.thresholds, self._macs)
                self.result = {
                    "accuracy": self.point.accuracy,
                    "macs": self.point.macs,
                    "share": self.point.share.tolist(),
                    "exit_accuracy": plain(self.point.exit_accuracy, 6),
                    "fitted": fitted,
                    "histogram": self._histogram(),
                    "gallery": self._gallery(),
                }
        finally:
            self._fitting = False

    def _histogram(self) -> list[list[float]]:
        """For each exit, the confidences of the images that reach it, as fractions of all images."""
        N = len(self.point.exit)
        reaching = [bins[self.point.exit >= k] for k, bins in enumerate(self._bins)]
        return [plain(torch.bincount(bins, minlength=BINS) / N, 4) for bins in reaching]

    def _gallery(self) -> list[list[list[int]]]:
        """For each exit, the first images that leave there: [index, predicted class]."""
        exit = self.point.exit[: len(self.setup["labels"])]
        leaving = [(exit == k).nonzero()[:EACH, 0] for k in range(len(self._macs))]
        return [
            [list(pair) for pair in zip(index.tolist(), prediction[index].tolist(), strict=True)]
            for index, prediction in zip(leaving, self._test.prediction, strict=True)
        ]

    def static_figure(self) -> go.Figure:
        """Return the present point on the budget curve."""
        point, split = self.point, self._test.split
        return figures.accuracy_cost(
            {f"thresholds found on {self._validation.split}, measured on {split}": self.curve},
            {split: (self._macs, self._test.accuracy)},
            point,
            title=f"Early exit: {100 * point.accuracy:.2f} % at {point.macs / 1e6:.4g} MMACs per image ({split})",
        )


def side_by_side(explorers: Mapping[str, ThresholdExplorer]) -> ipywidgets.Box:
    """Place explorers side by side, and link their budgets.

    Moving one sets the others to the same fraction of their range, from the cost of the first exit (0) to that of the
    last (1), so that networks with different costs can be compared.

    Args:
        explorers: Title -> explorer, two or more.

    Raises:
        ValueError: There are fewer than two.
    """
    if len(explorers) < 2:
        raise ValueError(f"{len(explorers)} explorers: give at least two")
    for title, explorer in explorers.items():
        explorer.setup = {**explorer.setup, "title": title}
        explorer.layout = ipywidgets.Layout(flex="1 1 0", min_width="340px")
    linked = list(explorers.values())
    moving = []  # the explorer that leads; the others only follow

    def follow(change) -> None:
        if moving:
            return
        moving.append(change["owner"])
        low, high = change["owner"]._macs[[0, -1]].tolist()
        fraction = (change["new"] - low) / (high - low)
        try:
            for explorer in linked:
                if explorer is not change["owner"]:
                    low, high = explorer._macs[[0, -1]].tolist()
                    explorer.budget = min(max(low + fraction * (high - low), low), high)
        finally:
            moving.clear()

    for explorer in linked:
        explorer.observe(follow, "budget")
    return ipywidgets.Box(linked, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="24px"))


def plain(values: Tensor, digits: int) -> list:
    """Return rounded numbers for JSON, with None for NaN."""
    return [None if value != value else round(value, digits) for value in values.tolist()]
