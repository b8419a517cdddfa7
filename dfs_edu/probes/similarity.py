"""How alike two descriptions of the same pictures are, whatever their channels: linear CKA.

Channels of two networks have no common order, and no common number, so they cannot be compared one by one. What can be
compared is which pictures each description takes for alike: the similarities X X^T and Y Y^T of all pairs of pictures.
CKA (Kornblith et al., ICML 2019) is the cosine between the two, of centred features:

    CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)),    HSIC(X, Y) ~ ||X^T Y||^2

It is the same for every rotation of the channels and every common scale, not for every linear map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dfs_edu.modes import in_any_mode


def cka(X: Tensor, Y: Tensor, unbiased: bool = True) -> float:
    """Linear CKA of features X (N, D1) and Y (N, D2) of the same N pictures, row by row.

    unbiased   True: by the unbiased estimate of HSIC (Song et al., JMLR 2012, equation 5; used for CKA by Nguyen et
               al., ICLR 2021), in [-1, 1], around 0 for features that have nothing to do with each other. False: as
               first published, in [0, 1]; that is too high where the pictures are not many more than the channels: for
               independent Gaussian features about sqrt(D1 D2 / (N + D1) (N + D2)), which comes to 1

    NaN where one of the two is the same for all pictures. Raises ValueError for other shapes, for fewer than 4 pictures
    (2 where biased), and for features that are not finite.

    >>> X = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> turned = X @ torch.linalg.qr(X[:8])[0]  # the same features in other axes
    >>> round(cka(X, X), 3), round(cka(X, 5 * turned), 3), abs(cka(X, X.roll(1, 0))) < 0.05
    (1.0, 1.0, True)
    """
    return float(cka_matrix([X], [Y], unbiased)[0, 0])


@in_any_mode
def cka_matrix(rows: Sequence[Tensor], columns: Sequence[Tensor] | None = None, unbiased: bool = True) -> np.ndarray:
    """(R, S) linear CKA of R features (N, D_r) with S others (N, D_s), of the same N pictures; None: with themselves.

    See `cka`, also for what is raised.
    """
    _check([*rows, *(columns or [])], least=4 if unbiased else 2)
    left = [_centred(X) for X in rows]
    right = left if columns is None else [_centred(Y) for Y in columns]
    own = [[_hsic(X, X, unbiased) for X in side] for side in (left, right)]
    cross = np.array([[_hsic(X, Y, unbiased) for Y in right] for X in left])
    lengths = np.sqrt(np.maximum(np.outer(*own), 0))
    return np.divide(cross, lengths, out=np.full(cross.shape, np.nan), where=lengths > 1e-12)  # rounding of zeros


def _hsic(X: Tensor, Y: Tensor, unbiased: bool) -> float:
    """HSIC of centred features, up to a factor that depends on N alone.

    The unbiased estimate leaves each picture's similarity with itself out of the sums. For centred features, what is
    left out can be written by the squared lengths of the rows alone, so that it needs no N x N matrix either.
    """
    N = len(X)
    if X.shape[1] * Y.shape[1] <= N * (X.shape[1] + Y.shape[1]):  # multiplications of either side, over N
        whole = (X.T @ Y).square().sum()  # (D1, D2)
    else:
        whole = ((X @ X.T) * (Y @ Y.T)).sum()  # (N, N)
    if not unbiased:
        return whole.item()
    x, y = X.square().sum(1), Y.square().sum(1)  # (N,)
    return (whole - N / (N - 2) * (x @ y) + x.sum() * y.sum() / ((N - 1) * (N - 2))).item()


def _centred(X: Tensor) -> Tensor:
    """float64, of mean 0 and of length 1 in all, so that nothing under- or overflows; zeros where nothing varies."""
    X = X.double()
    centred = X - X.mean(0)
    length = centred.norm()
    varies = length > 1e-12 * X.norm()  # what rounding leaves of a constant is none
    return centred / length if varies else torch.zeros_like(X)


def _check(features: Sequence[Tensor], least: int) -> None:
    shapes = [tuple(X.shape) for X in features]
    if any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"features of shapes {shapes}: give (N, D) each, of the same N pictures")
    if shapes and shapes[0][0] < least:
        raise ValueError(f"{shapes[0][0]} pictures: this estimate of CKA needs {least} at least")
    if not all(X.isfinite().all() for X in features):
        raise ValueError("features hold NaN or infinite values")
