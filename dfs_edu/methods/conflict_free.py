"""ConFIG: the direction that has the same cosine with every exit's gradient (Liu, Chu and Thuerey, ICLR 2025).

With the gradients, each divided by its length, as the rows of U, the published direction is ``pinv(U) @ 1``, and its
length is the sum of the projections of all gradients on it. Since ``pinv(U) = U.T @ pinv(U @ U.T)``, scalar products
are all that it needs, here in float64. torchjd's ConFIG takes the pseudoinverse of U itself, whose default tolerance
grows with the number of columns: in float32, with a million parameters, it drops singular values below a tenth of the
largest. In float64 the two agree.

Cost: K backward passes, each as deep as its exit, and K gradients in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dfs_edu.methods.aggregated import Aggregated
from dfs_edu.methods.method import named


@named("config")
class ConflictFree(Aggregated):
    """ConFIG, with its step length; see ``methods.make``."""

    def weighting(self, exits: int) -> Callable[[Tensor], Tensor]:
        """Return ``same_cosines``, whatever the number of exits."""
        return same_cosines


def same_cosines(gramian: Tensor) -> Tensor:
    """Return the weights (n,) of n gradients, given their Gramian (n, n) in float64, with a diagonal above 0.

    >>> same_cosines(torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double()).tolist()  # (1, 0) and (0, 2) give (1.5, 1.5)
    [1.5, 0.75]
    """
    lengths = gramian.diagonal().sqrt()
    cosines = gramian / torch.outer(lengths, lengths)
    weights = torch.linalg.pinv(cosines, hermitian=True).sum(1) / lengths

    # As long as the projections of all gradients together; gradients that only oppose each other leave nothing
    square = weights @ gramian @ weights
    return weights * (gramian @ weights).sum() / square if square > 0 else torch.zeros_like(weights)
