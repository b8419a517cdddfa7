"""The gallery: choose an image, and the page shows what each exit looks at, its prediction and its confidence.

It is a small custom widget (anywidget). Everything is computed beforehand and sent once. static/gallery.js only draws,
so a click needs no kernel, and the page can be reloaded. It can be used from Python as well: set `image` and `method`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import traitlets

from dfs_edu import figures
from dfs_edu.inference import Outputs
from dfs_edu.widgets import page

ROWS = 4  # images in the static figure


class ExitGallery(page.Widget):
    """Thumbnails to choose from; for the chosen image, each exit's attribution map, prediction and confidence.

    About half a byte is sent per map and pixel: for 24 images of 32x32, six exits and two methods about 150 kB.

    Args:
        images: uint8 (N, 3, H, W).
        maps: Method -> attributions (K, N, H, W) of each exit's own predictions for these images, such as
            ``{"Grad-CAM": probes.grad_cam(net, ...)}``; one or more, which the page can switch between.
        outputs: Outputs of K exits for these N images.
        classes: Names of the classes.
        title: Heading, to distinguish several galleries.

    Attributes:
        setup: What the page needs and never changes.
        image: Index of the chosen image, from 0.
        method: Name of the maps that are shown.

    Raises:
        ValueError: The arguments do not fit together.
        traitlets.TraitError: An image or method does not exist; the trait keeps its value.
    """

    name, reads = "gallery", ("setup", "image", "method")

    setup = traitlets.Dict().tag(sync=True)
    image = traitlets.Int().tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)

    def __init__(self, images, maps: Mapping, outputs: Outputs, classes: Sequence[str], title: str = "", **kwargs):
        images = np.asarray(images)
        N = len(outputs.label)
        if images.ndim != 4 or images.shape[:2] != (N, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"images of shape {images.shape}, {images.dtype}: give uint8 (N, 3, H, W), the {N} images of outputs"
            )
        if not maps:
            raise ValueError("maps={}: give the maps of at least one method")
        expected = (len(outputs.confidence), N, *images.shape[2:])
        for name, attributions in maps.items():
            if np.shape(attributions) != expected:
                raise ValueError(
                    f"maps of {name!r} have the shape {np.shape(attributions)}: give (K, N, H, W), {expected}"
                )
        page.check_classes(classes, outputs)
        self._images, self._maps, self._outputs = images, dict(maps), outputs
        self._classes = [str(name).replace("_", " ") for name in classes]
        super().__init__(setup=self._setup(title), method=next(iter(maps)), **kwargs)

    def _setup(self, title: str) -> dict:
        """What the page needs and never changes."""
        outputs = self._outputs
        return {
            "title": title,
            "images": figures.sprite(self._images),
            "size": list(self._images.shape[2:]),
            "maps": {name: figures.overlay(np.swapaxes(maps, 0, 1)) for name, maps in self._maps.items()},
            "label": outputs.label.tolist(),
            "prediction": outputs.prediction.tolist(),
            "confidence": [[round(c, 3) for c in row] for row in outputs.confidence.tolist()],
            "classes": self._classes,
        }

    @traitlets.validate("image")
    def _check_image(self, proposal):
        if not 0 <= proposal["value"] < len(self._images):
            raise traitlets.TraitError(f"image={proposal['value']}: give an index from 0 to {len(self._images) - 1}")
        return proposal["value"]

    @traitlets.validate("method")
    def _check_method(self, proposal):
        if proposal["value"] not in self._maps:
            raise traitlets.TraitError(f"method={proposal['value']!r}: use one of {', '.join(map(repr, self._maps))}")
        return proposal["value"]

    def static_figure(self) -> go.Figure:
        """Return the chosen image and the ones after it, with their maps."""
        outputs, N = self._outputs, len(self._images)
        shown = [(self.image + i) % N for i in range(min(ROWS, N))]
        labels = [self._classes[outputs.label[n]] for n in shown]
        predictions = [
            [f"{'✓' if row[n] == outputs.label[n] else '✗'} {self._classes[row[n]]}" for n in shown]
            for row in outputs.prediction
        ]
        maps = np.asarray(self._maps[self.method])[:, shown]
        return figures.looks(self._images[shown], maps, labels, predictions, f"Where each exit looks: {self.method}")
