"""GradDrop: for each weight, draw a sign and drop the exits' gradients of the other (Chen et al., NeurIPS 2020).

Let g_k be the exits' gradients for one weight. The sign is positive with probability
``(1 + sum(g) / sum(abs(g))) / 2``, and those g_k that have it are added up. Where all agree, this is the sum. Exits
that do not reach a weight count as zero.

Two differences from the paper. It drops in the gradients of a shared layer's activations, image by image; torchjd, and
so this file, in those of the parameters. And its step is scaled to the length of the plain sum's unless
``step_length="own"``.

Cost: K backward passes, each as deep as its exit, and K gradients in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dfs_edu import distributed
from dfs_edu.methods.aggregated import Aggregated, torchjds, weighted_sum
from dfs_edu.methods.method import named


@named("graddrop")
class SignDropout(Aggregated):
    """GradDrop without leak, with its step length; see ``methods.make``."""

    def weights(self, gramian: Tensor) -> Tensor:
        """Raise ValueError: it chooses number by number, and no weights of the exits' gradients describe that."""
        raise ValueError("graddrop chooses number by number: it has no weights")

    def combine(self, rows: Sequence[Sequence[Tensor | None]], gramian: Tensor) -> list[Tensor | None]:
        """Return the trunk's gradient, one tensor per parameter, given K rows of a Jacobian and their Gramian."""
        if (gramian.diagonal() > 0).sum() < 2:  # no other sign to drop
            return weighted_sum(rows, [1.0] * len(rows))

        # All processes draw the same numbers, from a seed that the first of them draws
        seed = distributed.broadcast(torch.randint(2**62, ()).item())
        devices = {g.device for row in rows for g in row if g is not None and g.is_cuda}
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            combined = [kept(column) for column in zip(*rows, strict=True)]
        if self.length == "own":
            return combined

        # Rescale the step to the length that the plain sum would have
        square = torch.stack([g.double().square().sum().cpu() for g in combined if g is not None]).sum()
        scale = (gramian.sum().clamp(min=0) / square).sqrt().item() if square > 0 else 1.0
        return [None if g is None else scale * g for g in combined]


def kept(column: Sequence[Tensor | None]) -> Tensor | None:
    """Return what is kept of the exits' gradients of one parameter; None if no exit reaches it."""
    reaching = [g for g in column if g is not None]
    if not reaching:
        return None
    flat = torch.stack([g.flatten() for g in reaching])  # (k, n); zeros of exits that do not reach would change nothing
    combined = torch.empty_like(reaching[0])  # lies in memory as the parameter does, for the fused optimizer
    return combined.copy_(torchjds("GradDrop")(flat).view_as(combined))
