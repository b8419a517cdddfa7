"""Pictures in a grid."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from dfs_edu.figures.look import (
    figure,
    literal,
)

JPEG_HEIGHT = 65_500  # pixels, at most


@literal
def pictures(
    images, titles: Sequence[str] | None = None, title: str = "", columns: int = 8, zoom: int = 3
) -> go.Figure:
    """uint8 pictures (N, 3, H, W) in a grid, each with its own short text below; `zoom` screen pixels a pixel.

    Raises ValueError for pictures of another kind, or a number of titles that is not N.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"images of shape {images.shape}, {images.dtype}: pictures are uint8 (N, 3, H, W), N at least 1"
        )
    N, _, H, W = images.shape
    if titles is not None and len(titles) != N:
        raise ValueError(f"{len(titles)} titles for {N} pictures: give one for each")
    columns = min(columns, N)
    rows = -(-N // columns)
    gap, text = 4, 0 if titles is None else -(-18 // zoom)  # pixels of the pictures; the text is 18 screen pixels high
    high, wide = H + gap + text, W + gap
    sheet = np.zeros((rows * high, columns * wide, 4), np.uint8)  # transparent between the pictures
    captions = []
    for n, image in enumerate(images):
        top, left = n // columns * high, n % columns * wide
        sheet[top : top + H, left : left + W] = np.dstack([*image, np.full((H, W), 255, np.uint8)])
        if titles is not None:
            where = {"x": left + W / 2 - 0.5, "y": top + H - 0.5, "xanchor": "center", "yanchor": "top"}
            captions.append({"text": str(titles[n]), "showarrow": False, "font": {"size": 11}, **where})
    margin = {"l": 8, "r": 8, "t": 44 if title else 8, "b": 4}
    fig = figure([], title, height=rows * high * zoom + margin["t"] + margin["b"], margin=margin, annotations=captions)
    fig.add_image(source=data_uri(sheet), hoverinfo="skip", zsmooth=False)
    fig.update_layout(width=columns * wide * zoom + margin["l"] + margin["r"])
    fig.update_xaxes(visible=False, range=[-0.5, columns * wide - 0.5])
    return fig.update_yaxes(visible=False, range=[rows * high - 0.5, -0.5])


def data_uri(pixels: np.ndarray, colours: int | None = None) -> str:
    """uint8 (H, W, 3 or 4) as a PNG inside an address, so that no page has to fetch it.

    colours   of a palette, 256 at most: a third of the size; None: every pixel keeps its own
    """
    image, file = Image.fromarray(pixels), io.BytesIO()
    if colours is not None:
        image = image.quantize(colours, Image.Quantize.FASTOCTREE)
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def sprite(images: np.ndarray) -> str:
    """uint8 (M, 3, H, W) -> one JPEG below each other, as a data URI; 8-pixel blocks keep 32-pixel pictures apart.

    Raises ValueError where they are together too high for a JPEG.
    """
    if len(images) * images.shape[2] > JPEG_HEIGHT:
        raise ValueError(f"{len(images)} pictures of {images.shape[2]} pixels: together too high for a JPEG")
    file = io.BytesIO()
    Image.fromarray(np.concatenate(images.transpose(0, 2, 3, 1))).save(file, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
