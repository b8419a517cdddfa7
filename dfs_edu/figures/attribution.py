"""Where exits look, drawn over the pictures, and what flows through the two parts of a feature."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from dfs_edu.figures.look import INK, SHARED, SPECIFIC, below, figure, literal, rounded
from dfs_edu.figures.photos import data_uri

# Red, green, blue and opacity at heat 0, 1/2 and 1. It grows lighter all the way, so that no hue has to be told apart.
HEAT = np.array([[0, 0, 0, 140], [213, 94, 0, 165], [255, 236, 110, 215]], float)
LEVELS = 16  # of the heat in a drawing: 4 bits a pixel


def heat(maps) -> np.ndarray:
    """(..., H, W) -> the same in [0, 1]: what speaks for the class, as a part of nearly the most in the map.

    What is negative is 0. "Nearly the most" is the 99th percentile: a single pixel cannot make all others dark.
    """
    maps = np.asarray(maps, dtype=float).clip(0)
    highest = np.percentile(maps, 99, (-2, -1), keepdims=True)
    highest = np.where(highest > 0, highest, maps.max((-2, -1), keepdims=True))
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0).clip(max=1)


def overlay(maps) -> str:
    """(N, K, H, W) -> one PNG to lay over pictures, as an address: N rows of K maps, dark and clear where nobody looks.

    Sixteen levels; a map of 32x32 pixels takes less than half a kilobyte.
    """
    N, K, H, W = np.shape(maps)
    level = np.rint(heat(maps) * (LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(level.transpose(0, 2, 1, 3).reshape(N * H, K * W)).convert("P")
    image.putpalette(_colours(np.arange(LEVELS) / (LEVELS - 1)).tobytes(), "RGBA")
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _colours(heat: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] -> (..., 4) uint8."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(heat, stops, channel) for channel in HEAT.T], -1).round().astype(np.uint8)


@literal
def looks(
    images, maps, names: Sequence[str] | None = None, said=None, title: str = "Where each exit looks", zoom: int = 3
) -> go.Figure:
    """uint8 pictures (N, 3, H, W) below each other; beside each, in grey, what each exit looks at: maps (K, N, H, W).

    names   N short texts below the pictures, such as their true classes
    said    K lists of N short texts below the maps, such as what the exits say
    zoom    screen pixels a pixel

    The lighter, the more speaks for the class there (see `heat`). Raises ValueError for shapes that do not fit.
    """
    images, maps = np.asarray(images), np.asarray(maps, dtype=float)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images of shape {images.shape}, {images.dtype}: pictures are uint8 (N, 3, H, W), N >= 1")
    N, _, H, W = images.shape
    K = len(maps)
    if maps.shape != (K, N, H, W):
        raise ValueError(f"maps of shape {maps.shape} for pictures {images.shape}: give (K, N, H, W)")
    texts = [names or [""] * N, *([[""] * N] * K if said is None else said)]
    if [len(row) for row in texts] != [N] * (K + 1):
        raise ValueError(f"texts for {[len(row) for row in texts]}: give {N} names, and {N} texts of each of {K} exits")
    gap, text = 3, -(-17 // zoom) if names or said is not None else 0  # in pixels of the pictures
    high, wide = H + gap + text, W + gap
    sheet = np.zeros((N * high, (K + 1) * wide, 4), np.uint8)
    captions = []
    for n, image in enumerate(images.transpose(0, 2, 3, 1)):
        for column, tile in enumerate([image, *map(_blended, [image] * K, heat(maps[:, n]))]):
            top, left = n * high, column * wide
            sheet[top : top + H, left : left + W] = np.dstack([tile, np.full((H, W), 255, np.uint8)])
            captions.append(_caption(str(texts[column][n]), left + W / 2, top + H, "top", 11))
    heads = ["picture", *(f"exit {k}" for k in range(1, K + 1))]
    captions += [_caption(head, column * wide + W / 2, 0, "bottom", 13) for column, head in enumerate(heads)]
    margin = {"l": 8, "r": 8, "t": 68 if title else 24, "b": 4}
    fig = figure([], title, height=N * high * zoom + margin["t"] + margin["b"], annotations=captions)
    fig.update_layout(margin=margin, width=(K + 1) * wide * zoom + margin["l"] + margin["r"], title_pad_b=30)
    fig.add_image(source=data_uri(sheet, colours=128), hoverinfo="skip", zsmooth=False)
    fig.update_xaxes(visible=False, range=[-0.5, (K + 1) * wide - 0.5])
    return fig.update_yaxes(visible=False, range=[N * high - 0.5, -0.5])


def _blended(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(H, W, 3), in grey, under the colours of (H, W)."""
    colours = _colours(heat).astype(float)
    opacity = colours[..., 3:] / 255
    grey = image.astype(float) @ [0.299, 0.587, 0.114]
    return (grey[..., None] * (1 - opacity) + colours[..., :3] * opacity).round().astype(np.uint8)


def _caption(text: str, x: float, y: float, anchor: str, size: int) -> dict:
    where = {"x": x - 0.5, "y": y - 0.5, "xanchor": "center", "yanchor": anchor}
    return {"text": text, "showarrow": False, "font": {"size": size}, **where}


@literal
def conductances(reports: Mapping, title: str = "What flows through f+ and f-") -> go.Figure:
    """Name -> probes.Conductance: bars for f+ and f- of exits 1 to K - 1, in logits, a row a network.

    On the left, what flows to the exit's own logit; on the right, to the last exit's. Where the feature
    is all that goes on, its two bars add up to what the logit gains from the baseline to the picture. Raises
    ValueError for no reports.
    """
    if not reports:
        raise ValueError("reports={}: bars of one network at least")
    columns = ["to the exit itself", "to the last exit"]
    fig = figure([], title, height=130 + 210 * len(reports), legend=below(), title_pad_b=30, margin={"t": 70, "b": 84})
    spacing = {"horizontal_spacing": 0.1, "vertical_spacing": 0.34 / len(reports)}
    titles = [f"{name}: {of}" if name else of for name in reports for of in columns]
    make_subplots(len(reports), 2, subplot_titles=titles, figure=fig, shared_yaxes="all", **spacing)
    fig.update_annotations(font_size=13)
    for row, report in enumerate(reports.values(), start=1):
        looks_of = (("f+ (shared)", SHARED), ("f- (specific)", SPECIFIC))
        for (part, look), values in zip(looks_of, report.parts(), strict=True):
            exits = list(range(1, len(values) + 1))
            for column, shown in enumerate((np.diagonal(values), values[:, -1]), start=1):
                fig.add_bar(
                    x=exits,
                    y=rounded(shown, 3),
                    name=part,
                    legendgroup=part,
                    showlegend=row == column == 1,
                    marker={"pattern": {"shape": ""}} | look,  # plotly's default, said: committed figures have it
                    hovertemplate="exit %{x}: %{y} logits<extra>" + part + "</extra>",
                    row=row,
                    col=column,
                )
    fig.add_hline(0, line={"color": INK, "width": 1})
    fig.update_xaxes(dtick=1, showgrid=False)
    fig.update_xaxes(title_text="feature of exit", row=len(reports))
    return fig.update_yaxes(title_text="logits, mean", col=1)
