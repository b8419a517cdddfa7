"""The gallery: a picture is clicked, and the page shows where each exit looks, what it says and how sure it is.

An own small widget (anywidget). All is computed beforehand and sent once; static/gallery.js only draws, so a click asks
nobody, and the page may be reloaded. It works from Python as well: set `picture` and `way`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anywidget
import numpy as np
import plotly.graph_objects as go
import traitlets

from dfs_edu import figures
from dfs_edu.inference import Outputs
from dfs_edu.widgets import page

ROWS = 4  # pictures of the static figure


class ExitGallery(anywidget.AnyWidget):
    """Thumbnails as buttons; of the chosen picture, a map, the answer and the confidence of each exit.

    images    uint8 (N, 3, H, W)
    maps      name -> attributions (K, N, H, W) of what each exit itself predicts for these pictures, such as
              {"Grad-CAM": probes.grad_cam(net, ...)}; one or more, between which the page switches
    outputs   Outputs of K exits for these N pictures
    classes   the names of the classes
    title     shown above, where there are several

    picture   index of the chosen picture, from 0
    way       the name of the maps that are shown

    What is sent: half a byte a map and pixel at most, 24 pictures of 32x32 with six exits and two ways about 150 kB.

    Raises ValueError for arguments that do not fit together, traitlets.TraitError for a wrong picture or way.
    """

    _esm, _css = page.sources("gallery")

    setup = traitlets.Dict().tag(sync=True)
    picture = traitlets.Int().tag(sync=True)
    way = traitlets.Unicode().tag(sync=True)

    def __init__(self, images, maps: Mapping, outputs: Outputs, classes: Sequence[str], title: str = "", **kwargs):
        images = np.asarray(images)
        N = len(outputs.label)
        if images.ndim != 4 or images.shape[:2] != (N, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"images of shape {images.shape}, {images.dtype}: give uint8 (N, 3, H, W), the {N} pictures of outputs"
            )
        if not maps:
            raise ValueError("maps={}: the gallery shows one way at least")
        for name, found in maps.items():
            wanted = (len(outputs.confidence), N, *images.shape[2:])
            if np.shape(found) != wanted:
                raise ValueError(f"maps of {name!r} have the shape {np.shape(found)}: give (K, N, H, W), {wanted}")
        if (least := int(max(outputs.label.max(), outputs.prediction.max())) + 1) > len(classes):
            raise ValueError(f"{len(classes)} names of classes: the outputs need {least}")
        self._images, self._maps, self._outputs = images, dict(maps), outputs
        self._names = [str(name).replace("_", " ") for name in classes]
        super().__init__(setup=self._setup(title), way=next(iter(maps)), **kwargs)

    def _setup(self, title: str) -> dict:
        outputs = self._outputs
        return {
            "title": title,
            "photos": figures.sprite(self._images),
            "size": list(self._images.shape[2:]),
            "ways": {name: figures.overlay(np.swapaxes(found, 0, 1)) for name, found in self._maps.items()},
            "label": outputs.label.tolist(),
            "prediction": outputs.prediction.tolist(),
            "confidence": [[round(c, 3) for c in row] for row in outputs.confidence.tolist()],
            "classes": self._names,
        }

    @traitlets.validate("picture")
    def _check_picture(self, proposal):
        if not 0 <= proposal["value"] < len(self._images):
            raise traitlets.TraitError(f"picture={proposal['value']}: give an index from 0 to {len(self._images) - 1}")
        return proposal["value"]

    @traitlets.validate("way")
    def _check_way(self, proposal):
        if proposal["value"] not in self._maps:
            raise traitlets.TraitError(f"way={proposal['value']!r}: use one of {', '.join(map(repr, self._maps))}")
        return proposal["value"]

    def static_figure(self) -> go.Figure:
        """The chosen picture and the ones after it, for readers without a running notebook."""
        outputs, N = self._outputs, len(self._images)
        shown = [(self.picture + i) % N for i in range(min(ROWS, N))]
        names = [self._names[outputs.label[n]] for n in shown]
        said = [
            [f"{'✓' if k_says[n] == outputs.label[n] else '✗'} {self._names[k_says[n]]}" for n in shown]
            for k_says in outputs.prediction
        ]
        maps = np.asarray(self._maps[self.way])[:, shown]
        return figures.looks(self._images[shown], maps, names, said, f"Where each exit looks: {self.way}")

    def _repr_mimebundle_(self, **kwargs):
        """The widget and, for readers that cannot show it, the static figure as plotly's renderer gives it."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**self.static_figure()._repr_mimebundle_(), **data}, metadata
