"""How similar two representations of the same images are, whatever their channels: linear CKA.

The channels of two networks have no common order or number, so they cannot be compared one by one. What can be compared
is which images each representation considers similar: the similarities X X^T and Y Y^T of all pairs of images. CKA
(Kornblith et al., ICML 2019) is the cosine between the two, for centred features::

    CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)),    HSIC(X, Y) ~ ||X^T Y||^2

It does not change with a rotation of the channels or a common scale, but it does with other linear maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dfs_edu.modes import in_any_mode


def cka(X: Tensor, Y: Tensor, unbiased: bool = True) -> float:
    """Return the linear CKA of two features of the same N images; NaN if one of the two is the same for all images.

    Args:
        X: (N, D1), one row per image.
        Y: (N, D2), the same images.
        unbiased: True: by the unbiased estimate of HSIC, in [-1, 1], around 0 for unrelated features. False: as first
            published, in [0, 1]. That is too high unless there are many more images than channels: for independent
            Gaussian features it is about sqrt(D1 D2 / (N + D1) (N + D2)), which approaches 1.

    Raises:
        ValueError: for other shapes, for fewer than 4 images (2 if biased), and for features that are not finite.

    Source:
        Song et al., JMLR 2012, equation 5; used for CKA by Nguyen et al., ICLR 2021.

    >>> X = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> turned = X @ torch.linalg.qr(X[:8])[0]  # the same features in other axes
    >>> round(cka(X, X), 3), round(cka(X, 5 * turned), 3), abs(cka(X, X.roll(1, 0))) < 0.05
    (1.0, 1.0, True)
    """
    return float(cka_matrix([X], [Y], unbiased)[0, 0])


@in_any_mode
def cka_matrix(rows: Sequence[Tensor], columns: Sequence[Tensor] | None = None, unbiased: bool = True) -> np.ndarray:
    """Return the linear CKA (R, S) of R features (N, D_r) with S others (N, D_s) of the same N images.

    Args:
        rows: R features.
        columns: S features; None: the rows themselves.
        unbiased: as for ``cka``.

    Raises:
        ValueError: as for ``cka``.
    """
    _check([*rows, *(columns or [])], least=4 if unbiased else 2)
    left = [_centred(X) for X in rows]
    right = left if columns is None else [_centred(Y) for Y in columns]
    own, other = ([_hsic(X, X, unbiased) for X in side] for side in (left, right))
    cross = np.array([[_hsic(X, Y, unbiased) for Y in right] for X in left])
    lengths = np.sqrt(np.maximum(np.outer(own, other), 0))
    return np.divide(cross, lengths, out=np.full(cross.shape, np.nan), where=lengths > 1e-12)  # zero, rounded


def _hsic(X: Tensor, Y: Tensor, unbiased: bool) -> float:
    """HSIC of centred features, up to a factor that depends on N alone.

    The unbiased estimate leaves each image's similarity with itself out of the sums. For centred features, the omitted
    terms depend on the squared lengths of the rows alone, so they need no N x N matrix either.
    """
    N = len(X)
    if X.shape[1] * Y.shape[1] <= N * (X.shape[1] + Y.shape[1]):  # multiplications of the two forms, over N
        whole = (X.T @ Y).square().sum()  # (D1, D2)
    else:
        whole = ((X @ X.T) * (Y @ Y.T)).sum()  # (N, N)
    if not unbiased:
        return whole.item()
    x, y = X.square().sum(1), Y.square().sum(1)  # (N,)
    return (whole - N / (N - 2) * (x @ y) + x.sum() * y.sum() / ((N - 1) * (N - 2))).item()


def _centred(X: Tensor) -> Tensor:
    """float64, of mean 0 and total length 1, so that nothing under- or overflows; zeros if nothing varies."""
    X = X.double()
    centred = X - X.mean(0)
    length = centred.norm()
    varies = length > 1e-12 * X.norm()  # not what rounding leaves of a constant
    return centred / length if varies else torch.zeros_like(X)


def _check(features: Sequence[Tensor], least: int) -> None:
    shapes = [tuple(X.shape) for X in features]
    if any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"features of shapes {shapes}: give (N, D) each, of the same N images")
    if shapes and shapes[0][0] < least:
        raise ValueError(f"{shapes[0][0]} images: this estimate of CKA needs at least {least}")
    if not all(X.isfinite().all() for X in features):
        raise ValueError("features hold NaN or infinite values")
