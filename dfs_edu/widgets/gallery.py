"""The gallery: choose an image, and the page shows what each exit looks at, its prediction and its confidence.

It is a small custom widget (anywidget). Everything is computed beforehand and sent once. static/gallery.js sorts and
draws, so a click needs no kernel, and the page can be reloaded. It can be used from Python as well: set `image`,
`method` and `order`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
import traitlets
from torch import Tensor

from dfs_edu import figures
from dfs_edu.inference import Outputs
from dfs_edu.widgets import page

ORDERS = GIVEN, DISAGREEMENT = "as they come", "most disagreement first"  # as in static/gallery.js
ROWS = 4  # images in the static figure
LINES = 10  # the same where there are no maps: one line of text per image
MISSING = "The images are not shown: only the outputs of the exits are here."


class ExitGallery(page.Widget):
    """Images to choose from; for the chosen one, each exit's attribution map, prediction and confidence.

    About half a byte is sent per map and pixel: for 24 images of 32x32, six exits and two methods about 150 kB.

    Two exits disagree about an image if they predict different classes. The reader can sort the images by how many of
    the K (K - 1) / 2 pairs of exits disagree (``Outputs.disagreement``).

    Args:
        images: uint8 (N, 3, H, W). None: the images are named by their true classes, and there are no maps.
        maps: Method -> attributions (K, N, H, W) of each exit's own predictions for these images, such as
            ``{"Grad-CAM": probes.grad_cam(net, ...)}``; the page can switch between them. None: predictions and
            confidences alone.
        outputs: Outputs of K exits for these N images.
        classes: Names of the classes.
        title: Heading, to distinguish several galleries.
        missing: A sentence that says why there are no images.

    Attributes:
        setup: What the page needs and never changes.
        image: Index of the chosen image, from 0.
        method: Name of the maps that are shown; "" if there are none.
        order: Of the images: "as they come" or "most disagreement first".

    Raises:
        ValueError: The arguments do not fit together.
        traitlets.TraitError: An image, method or order does not exist; the trait keeps its value.
    """

    name, reads = "gallery", ("setup", "image", "method", "order")

    image = traitlets.Int().tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    order = traitlets.Unicode(GIVEN).tag(sync=True)

    def __init__(
        self,
        images: Tensor | np.ndarray | None,
        maps: Mapping[str, Any] | None,
        outputs: Outputs,
        classes: Sequence[str],
        title: str = "",
        missing: str = MISSING,
        **kwargs: Any,
    ):
        self._images = None if images is None else np.asarray(images)
        self._maps, self._outputs = dict(maps or {}), outputs
        self._beside: list[Outputs] = []  # of the other networks in a row
        self._check_arguments()
        page.check_classes(classes, outputs)
        self._classes = [str(name).replace("_", " ") for name in classes]
        method = next(iter(self._maps), "")
        super().__init__(setup=self._setup(title, missing), method=method, **kwargs)

    def _check_arguments(self) -> None:
        """Raise ValueError unless images and maps have the shapes of the outputs."""
        K, N = self._outputs.confidence.shape
        images = self._images
        if images is None:
            if self._maps:
                raise ValueError(f"maps of {', '.join(map(repr, self._maps))} without images: give the images as well")
            return
        if images.ndim != 4 or images.shape[:2] != (N, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"images of shape {images.shape}, {images.dtype}: give uint8 (N, 3, H, W), the {N} images of outputs"
            )
        expected = (K, N, *images.shape[2:])
        for name, attributions in self._maps.items():
            if np.shape(attributions) != expected:
                raise ValueError(
                    f"maps of {name!r} have the shape {np.shape(attributions)}: give (K, N, H, W), {expected}"
                )

    def _setup(self, title: str, missing: str) -> dict[str, Any]:
        """What the page needs and never changes."""
        outputs, images = self._outputs, self._images
        return {
            "title": title,
            "group": "",
            "images": "" if images is None else figures.sprite(images),
            "missing": missing if images is None else "",
            "size": [1, 1] if images is None else list(images.shape[2:]),
            "maps": {name: figures.overlay(np.swapaxes(maps, 0, 1)) for name, maps in self._maps.items()},
            "label": outputs.label.tolist(),
            "prediction": outputs.prediction.tolist(),
            "confidence": [[round(c, 3) for c in row] for row in outputs.confidence.tolist()],
            "beside": [],  # predictions of the other networks in a row
            "classes": self._classes,
        }

    @property
    def shown(self) -> list[int]:
        """The indices of the images in the order in which the page shows them; in a row, all networks count."""
        if self.order == GIVEN:
            return list(range(len(self._outputs.label)))
        counts = torch.stack([outputs.disagreement for outputs in (self._outputs, *self._beside)]).sum(0)
        return counts.argsort(descending=True, stable=True).tolist()

    @traitlets.validate("image")
    def _check_image(self, proposal):
        N = len(self._outputs.label)
        if not 0 <= proposal["value"] < N:
            raise traitlets.TraitError(f"image={proposal['value']}: give an index from 0 to {N - 1}")
        return proposal["value"]

    @traitlets.validate("method")
    def _check_method(self, proposal):
        if proposal["value"] not in (self._maps or [""]):
            raise traitlets.TraitError(f"method={proposal['value']!r}: use one of {', '.join(map(repr, self._maps))}")
        return proposal["value"]

    @traitlets.validate("order")
    def _check_order(self, proposal):
        if proposal["value"] not in ORDERS:
            raise traitlets.TraitError(f"order={proposal['value']!r}: use one of {', '.join(map(repr, ORDERS))}")
        return proposal["value"]

    def static_figure(self) -> go.Figure:
        """Return the chosen image and the ones after it, with their maps, or with the predictions alone."""
        outputs, order = self._outputs, self.shown
        count = min(ROWS if self._maps else LINES, len(order))
        shown = [order[(order.index(self.image) + i) % len(order)] for i in range(count)]
        labels = [self._classes[outputs.label[n]] for n in shown]
        right = [[bool(row[n] == outputs.label[n]) for n in shown] for row in outputs.prediction]
        predictions = [
            [f"{'✓' if r else '✗'} {self._classes[row[n]]}" for r, n in zip(rights, shown, strict=True)]
            for rights, row in zip(right, outputs.prediction, strict=True)
        ]
        if not self._maps:
            names = [f"{n + 1} {label}" for n, label in zip(shown, labels, strict=True)]
            title = ": ".join(filter(None, ["What each exit predicts", self.setup["title"]]))
            return figures.predictions(names, predictions, right, outputs.confidence[:, shown], title)
        assert self._images is not None
        maps = np.asarray(self._maps[self.method])[:, shown]
        return figures.looks(self._images[shown], maps, labels, predictions, f"Where each exit looks: {self.method}")


def side_by_side(galleries: Mapping[str, ExitGallery]) -> page.Row:
    """Place galleries of the same images side by side, one network each; an image chosen in one is chosen in all.

    Maps and order follow as well. "Most disagreement first" counts the pairs of exits of all networks, so that the
    images stand in the same order.

    Args:
        galleries: Title -> gallery, two or more, such as joint training and surgery.

    Raises:
        ValueError: There are fewer than two, or their images have different classes.
    """
    row = list(galleries.values())
    for gallery in row:
        if not torch.equal(gallery._outputs.label, row[0]._outputs.label):
            raise ValueError("the galleries show different images: give the outputs of the same images, in one order")
    for gallery in row:
        gallery._beside = [other._outputs for other in row if other is not gallery]
        beside = [outputs.prediction.tolist() for outputs in gallery._beside]
        gallery.setup = {**gallery.setup, "beside": beside}

    def follow(leader: ExitGallery, other: ExitGallery) -> None:
        other.image, other.order = leader.image, leader.order
        if leader.method in other._maps:
            other.method = leader.method

    return page.side_by_side(galleries, ["image", "method", "order"], follow)
