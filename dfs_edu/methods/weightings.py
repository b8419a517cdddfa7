"""The other weightings of torchjd that need the Gramian alone, by torchjd's own names in small letters.

They are found in torchjd when one is used; no line here is about a single one, but for a required argument. ::

    dualproj   the mean, projected onto what harms no exit (Lopez-Paz and Ranzato, NeurIPS 2017)
    fairgrad   alpha-fair gains for all exits, alpha = 1: there Nash-MTL has the same optimum (Ban and Ji, ICML 2024)
    gradvac    pairs are pulled to a running average of their cosine, beta = 0.5 (Wang et al., ICLR 2021)
    mean       all weights alike: scaled to the sum's length it is the sum, in K passes. A control
    pcd        the last exit's gradient, changed so that each other exit gains a fraction of what its own would
               give it, tau = 0.02 (Priority-Constrained Descent, TMLR 2026)
    random     softmax of standard normal numbers, drawn at every step (Lin et al., TMLR 2022). A control

Unlike in "random" as published, heads are not weighted. GradVac's authors keep averages for groups of layers, too;
here there is one for the whole trunk. All other settings are torchjd's defaults.

Not here: Krum, which keeps a single exit and asks how many lie; CR-MOGM, which smooths the weights of another method;
MoDo and SDMGrad, which compare two batches; ExcessMTL, which reads squared gradients number by number.

Cost, as for all of ``Aggregated``: K backward passes, each as deep as its exit, and K gradients in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dfs_edu.extras import need
from dfs_edu.methods.aggregated import Aggregated, Stateful, torchjds
from dfs_edu.methods.method import named

NAMES = ("dualproj", "fairgrad", "gradvac", "mean", "pcd", "random")  # torchjd itself is imported only when needed
REQUIRED: dict[str, dict[str, Any]] = {"fairgrad": {"alpha": 1.0}}  # arguments without a default


@named(*NAMES)
class FromTorchjd(Aggregated):
    """A weighting of torchjd, by name, with its step length; see ``methods.make``."""

    def weighting(self, exits: int) -> Stateful:
        """Return torchjd's weighting, for a number of exits."""
        (found,) = (key for key in dir(need("torchjd.aggregation")) if key.lower() == f"{self.name}weighting")
        return LastFirst(torchjds(found, **REQUIRED.get(self.name, {})), exits)


class LastFirst(Stateful):
    """A weighting that is given the last exit first.

    The first gradient is the primary one to PCD; to the others their order means nothing.
    """

    def __init__(self, weighting: nn.Module, exits: int):
        self.inner, self.exits = weighting, exits

    def __call__(self, gramian: Tensor) -> Tensor:
        """Return the weights (n,) for a Gramian (n, n)."""
        return self.inner(gramian.flip(0, 1)).flip(0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return torchjd's buffers; nothing for a weighting that remembers nothing."""
        return {name: value.clone() for name, value in self.inner.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from what ``state_dict`` returned."""
        if not state:
            return
        with torch.random.fork_rng([]):  # the buffers exist from the first call onwards, which may draw numbers
            self.inner(torch.eye(self.exits, dtype=torch.float64))
        self.inner.load_state_dict(state)
