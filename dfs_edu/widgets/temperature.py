"""The temperature: a slider for each exit, with its reliability diagram and its calibration error.

It is a small custom widget (anywidget). The bins of the diagram at every place of the slider travel to the page once;
static/temperature.js adds up and draws, so that a slider moves without a kernel. It can be used from Python as well:
set `temperatures` and `revealed`, and read `error`.
"""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
import torch
import traitlets
from torch import Tensor

from dfs_edu import figures, inference
from dfs_edu.inference import Outputs
from dfs_edu.inference.calibration import BINS
from dfs_edu.inference.checks import check_pair
from dfs_edu.widgets import page

DOUBLING = 20  # places of the slider from T to 2 T
REACH = 2  # doublings on either side of 1, unless a fitted temperature lies beyond


class TemperatureExplorer(page.Widget):
    """One slider for each exit's temperature; the fitted temperatures are hidden until the reader asks for them.

    The page gets no logits, which for 100 classes are too many, but how many images are in each bin of confidence, how
    confident the exit is of them and how many it gets right, for each of 81 temperatures from 0.25 to 4. So all images
    count, the numbers are Python's, and seven exits take less than 150 kB, whatever the number of images and classes.

    Args:
        validation: Outputs on the validation split, on which the temperatures are fitted, with logits.
        test: Outputs on the test split, on which everything shown is measured, with logits.
        title: Heading, to distinguish several networks.

    Attributes:
        setup: What the page needs and never changes.
        bins: Count, confidence and right answers in each bin, compressed (see ``page.packed``).
        temperatures: K numbers. Each becomes the nearest one on the slider, or the fitted one if that is nearer.
        revealed: Whether the fitted temperatures are shown.

    Raises:
        ValueError: The outputs do not fit together or hold no logits.
        traitlets.TraitError: A temperature is not a positive number; all keep their values.
    """

    name, reads = "temperature", ("setup", "bins", "temperatures", "revealed")

    bins = traitlets.Bytes().tag(sync=True)
    temperatures = traitlets.List(traitlets.Float()).tag(sync=True)
    revealed = traitlets.Bool().tag(sync=True)

    def __init__(self, validation: Outputs, test: Outputs, title: str = "", **kwargs: Any):
        check_pair(validation, test)
        self._test = test
        self.fitted = inference.fit_temperatures(validation).tolist()
        self.scale = _scale(self.fitted)
        K = len(self.fitted)

        # The bins at every place of the slider, and at the fitted temperatures
        diagrams = [inference.reliability(self._at([T] * K), BINS) for T in self.scale]
        diagrams.append(inference.reliability(self._at(self.fitted), BINS))
        layout, bins = page.packed(
            {
                "count": torch.stack([d.count for d in diagrams]).float().numpy(),  # (places + 1, K, BINS) each
                "confidence": _filled(torch.stack([d.confidence for d in diagrams])),
                "accuracy": _filled(torch.stack([d.accuracy for d in diagrams])),
            }
        )
        fixed = {
            "title": title,
            "scale": self.scale,
            "fitted": self.fitted,
            "splits": [[part.split, len(part.label)] for part in (validation, test)],
            "layout": layout,
        }
        super().__init__(setup=fixed, bins=bins, temperatures=[1.0] * K, **kwargs)

    def _at(self, temperatures: list[float]) -> Outputs:
        """The test split's outputs at K temperatures, scored by the largest probability."""
        return self._test.again("confidence", temperatures)

    @property
    def error(self) -> Tensor:
        """The calibration error (K,) on the test split at the present temperatures."""
        return inference.calibration_error(self._at(self.temperatures), BINS)

    @traitlets.validate("temperatures")
    def _check_temperatures(self, proposal):
        found = proposal["value"]
        if len(found) != len(self.fitted) or not all(0 < T < math.inf for T in found):
            raise traitlets.TraitError(f"temperatures={found}: give {len(self.fitted)} positive numbers, one per exit")
        choices = ([fitted, *self.scale] for fitted in self.fitted)
        return [min(c, key=lambda other: abs(math.log(other / T))) for T, c in zip(found, choices, strict=True)]

    def static_figure(self) -> go.Figure:
        """Return the reliability diagram of each exit at the present temperatures."""
        diagrams = {"at these temperatures": inference.reliability(self._at(self.temperatures), BINS)}
        return figures.reliability(diagrams, title=f"Right as often as confident? {self._test.split} split")


def _scale(fitted: list[float]) -> list[float]:
    """The temperatures of the slider, 1 among them, in equal ratios; they include the fitted ones' range."""
    low, high = (math.log2(end) for end in (min(fitted), max(fitted)))
    first, last = min(-REACH, math.floor(low)), max(REACH, math.ceil(high))
    return [2 ** (i / DOUBLING) for i in range(first * DOUBLING, last * DOUBLING + 1)]


def _filled(values: Tensor):
    """As float32, with 0 in place of NaN: the mean of an empty bin."""
    return values.nan_to_num().float().numpy()
