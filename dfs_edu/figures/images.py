"""Images: in a grid, beside the maps of where exits look, and as the data that widgets put into a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from dfs_edu.figures.look import COLOURS, colour_bar, figure, literal

JPEG_HEIGHT = 65_500  # pixels, at most
# Red, green, blue and opacity at heat 0, 1/2 and 1. It grows lighter all the way, so nobody needs to distinguish hues.
HEAT = np.array([[0, 0, 0, 140], [213, 94, 0, 165], [255, 236, 110, 215]], float)
LEVELS = 16  # of the heat in a drawing: 4 bits per pixel


@literal
def pictures(
    images, titles: Sequence[str] | None = None, title: str = "", columns: int = 8, zoom: int = 3
) -> go.Figure:
    """Draw images in a grid, each with its own short text below.

    Args:
        images: uint8 (N, 3, H, W).
        titles: N texts; None: no texts.
        columns: at most this many images stand side by side.
        zoom: screen pixels per image pixel.

    Raises:
        ValueError: for images of another kind, and if there is not one title per image.
    """
    images = _checked(images)
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images: give one for each")
    text = 0 if titles is None else -(-18 // zoom)  # 18 screen pixels
    sheet = Sheet(*images.shape[2:], columns=min(columns, len(images)), gap=4, text=text)
    return sheet.figure(list(images.transpose(0, 2, 3, 1)), titles or [], title, 44 if title else 8, zoom)


@literal
def looks(
    images,
    maps,
    names: Sequence[str] | None = None,
    answers: Sequence[Sequence[str]] | None = None,
    title: str = "Where each exit looks",
    zoom: int = 3,
) -> go.Figure:
    """Draw images below each other and, beside each, in grey, what each exit looks at: the lighter, the more.

    Args:
        images: uint8 (N, 3, H, W).
        maps: (K, N, H, W), large where something speaks for the class (see ``heat``).
        names: N short texts below the images, such as their true classes.
        answers: K lists of N short texts below the maps, such as the exits' predictions.
        zoom: screen pixels per image pixel.

    Raises:
        ValueError: for shapes that do not fit.
    """
    images, maps = _checked(images), np.asarray(maps, dtype=float)
    N, _, H, W = images.shape
    K = len(maps)
    if maps.shape != (K, N, H, W):
        raise ValueError(f"maps of shape {maps.shape} for images {images.shape}: give (K, N, H, W)")
    texts = [names or [""] * N, *([[""] * N] * K if answers is None else answers)]
    if [len(row) for row in texts] != [N] * (K + 1):
        raise ValueError(f"texts for {[len(row) for row in texts]}: give {N} names, and {N} texts of each of {K} exits")

    pixels, heats = images.transpose(0, 2, 3, 1), heat(maps)
    tiles = [tile for n in range(N) for tile in (pixels[n], *(_blended(pixels[n], heats[k, n]) for k in range(K)))]
    captions = [texts[column][n] for n in range(N) for column in range(K + 1)]
    text = 0 if names is None and answers is None else -(-17 // zoom)  # 17 screen pixels
    sheet = Sheet(H, W, columns=K + 1, gap=3, text=text)
    headings = ["image", *(f"exit {k}" for k in range(1, K + 1))]
    fig = sheet.figure(tiles, captions, title, 68 if title else 24, zoom, headings, colours=128)
    return fig.update_layout(title_pad_b=30)


@literal
def predictions(
    names: Sequence[str], answers: Sequence[Sequence[str]], right, confidence, title: str = ""
) -> go.Figure:
    """Draw a table of what each exit predicts: one row per image, one column per exit; right is blue, wrong vermilion.

    Args:
        names: N short texts, such as the images' true classes.
        answers: K lists of N short texts, the exits' predictions.
        right: (K, N), whether each prediction is right.
        confidence: (K, N), in [0, 1]: the stronger the colour, the more confident the exit.
        title: title of the figure.

    Raises:
        ValueError: for shapes that do not fit.
    """
    right, confidence = np.asarray(right, bool), np.asarray(confidence, float)
    K, N = np.shape(answers)[:2]
    if not right.shape == confidence.shape == (K, N) or len(names) != N:
        raise ValueError(
            f"{len(names)} names, answers {(K, N)}, right {right.shape}, confidence {confidence.shape}: "
            "give N names and one of each for K exits and N images"
        )
    signed = np.where(right, 1, -1) * confidence
    exits = [f"exit {k}" for k in range(1, K + 1)]
    fig = figure([], title or "What each exit predicts", height=110 + max(24 * N, 120))
    bar = colour_bar("confidence") | {"tickvals": [-1, 0, 1], "ticktext": ["wrong, 100 %", "0 %", "right, 100 %"]}
    cells = {"z": signed.T.round(3).tolist(), "text": np.array(answers).T.tolist(), "x": exits, "y": list(names)}
    wrong_to_right = [[0, COLOURS[1]], [0.5, "#dddddd"], [1, COLOURS[0]]]
    look = {"colorscale": wrong_to_right, "zmin": -1, "zmax": 1, "colorbar": bar, "xgap": 1, "ygap": 1}
    fig.add_heatmap(**cells, **look, texttemplate="%{text}", hovertemplate="%{y}, %{x}: %{text}<extra></extra>")
    fig.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return fig.update_xaxes(side="top", type="category", showgrid=False).update_layout(title_pad_b=30, margin_t=70)


def _blended(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image (H, W, 3), in grey, under the colours of its heat (H, W)."""
    colours = _colours(heat).astype(float)
    opacity = colours[..., 3:] / 255
    grey = image.astype(float) @ [0.299, 0.587, 0.114]
    return (grey[..., None] * (1 - opacity) + colours[..., :3] * opacity).round().astype(np.uint8)


def _checked(images) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images of shape {images.shape}, {images.dtype}: give uint8 (N, 3, H, W), N at least 1")
    return images


@dataclass(frozen=True)
class Sheet:
    """Tiles of one size in a grid, row by row, with a gap between them and room for a text below each.

    Attributes:
        height: of a tile, in image pixels, as all lengths here.
        width: of a tile.
        columns: how many tiles stand side by side.
        gap: between two tiles.
        text: height of the text below a tile.
    """

    height: int
    width: int
    columns: int
    gap: int
    text: int

    def corner(self, n: int) -> tuple[int, int]:
        """Top and left of tile n."""
        row, column = divmod(n, self.columns)
        return row * (self.height + self.gap + self.text), column * (self.width + self.gap)

    def figure(
        self,
        tiles: Sequence[np.ndarray],
        captions: Sequence[str],
        title: str,
        top: int,
        zoom: int,
        headings: Sequence[str] = (),
        colours: int | None = None,
    ) -> go.Figure:
        """Draw tiles, uint8 (H, W, 3), captions below them, headings above the columns, and a title at the ``top``."""
        down, _ = self.corner(self.columns * -(-len(tiles) // self.columns))
        across = self.columns * (self.width + self.gap)
        canvas = np.zeros((down, across, 4), np.uint8)  # transparent between the tiles
        for n, tile in enumerate(tiles):
            y, x = self.corner(n)
            opaque = np.full(tile.shape[:2], 255, np.uint8)
            canvas[y : y + self.height, x : x + self.width] = np.dstack([tile, opaque])
        texts = [self._text(str(caption), n, self.height, "top", 11) for n, caption in enumerate(captions)]
        texts += [self._text(heading, n, 0, "bottom", 13) for n, heading in enumerate(headings)]

        margin = {"l": 8, "r": 8, "t": top, "b": 4}
        width, height = across * zoom + margin["l"] + margin["r"], down * zoom + margin["t"] + margin["b"]
        fig = figure([], title, height=height, width=width, margin=margin, annotations=texts)
        fig.add_image(source=data_uri(canvas, colours), hoverinfo="skip", zsmooth=False)
        fig.update_xaxes(visible=False, range=[-0.5, across - 0.5])
        return fig.update_yaxes(visible=False, range=[down - 0.5, -0.5])

    def _text(self, text: str, n: int, y: int, anchor: str, size: int) -> dict:
        """A text in the middle of tile n, ``y`` below its top."""
        top, left = self.corner(n)
        place = {"x": left + self.width / 2 - 0.5, "y": top + y - 0.5, "xanchor": "center", "yanchor": anchor}
        return {"text": text, "showarrow": False, "font": {"size": size}, **place}


# What widgets put into a page


def heat(maps) -> np.ndarray:
    """Scale maps (..., H, W) to [0, 1]: what speaks for the class, as a fraction of nearly the most in the map.

    Negative values become 0. "Nearly the most" is the 99th percentile, so that a single pixel cannot darken all others.
    """
    maps = np.asarray(maps, dtype=float).clip(0)
    highest = np.percentile(maps, 99, (-2, -1), keepdims=True)
    highest = np.where(highest > 0, highest, maps.max((-2, -1), keepdims=True))
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0).clip(max=1)


def overlay(maps) -> str:
    """Draw maps (N, K, H, W) as one PNG to lay over images, as a data URI: N rows of K maps, dark where cold.

    With sixteen levels, a map of 32x32 pixels takes less than half a kilobyte.
    """
    N, K, H, W = np.shape(maps)
    level = np.rint(heat(maps) * (LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(level.transpose(0, 2, 1, 3).reshape(N * H, K * W)).convert("P")
    image.putpalette(_colours(np.arange(LEVELS) / (LEVELS - 1)).tobytes(), "RGBA")
    return _encoded(image, "PNG", optimize=True)


def _colours(heat: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] -> (..., 4) uint8."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(heat, stops, channel) for channel in HEAT.T], -1).round().astype(np.uint8)


def data_uri(pixels: np.ndarray, colours: int | None = None) -> str:
    """Encode uint8 (H, W, 3 or 4) as a PNG in a data URI, so that no page has to fetch it.

    Args:
        pixels: the image.
        colours: size of a palette, 256 at most, which saves two thirds; None: every pixel keeps its own colour.
    """
    image = Image.fromarray(pixels)
    image = image if colours is None else image.quantize(colours, Image.Quantize.FASTOCTREE)
    return _encoded(image, "PNG", optimize=True)


def sprite(images: np.ndarray) -> str:
    """Encode uint8 (M, 3, H, W), below each other, as one JPEG in a data URI.

    JPEG's blocks of 8 pixels keep 32-pixel images apart.

    Raises:
        ValueError: if the images are together too high for a JPEG.
    """
    if len(images) * images.shape[2] > JPEG_HEIGHT:
        raise ValueError(f"{len(images)} images of {images.shape[2]} pixels: together too high for a JPEG")
    column = Image.fromarray(np.concatenate(images.transpose(0, 2, 3, 1)))
    return _encoded(column, "JPEG", quality=90, subsampling=0)


def _encoded(image: Image.Image, kind: str, **options) -> str:
    """The image as a data URI."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()
