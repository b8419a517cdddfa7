"""Block-dependent losses: an exit trains only the blocks just before it (Han et al., BDL, TNNLS 2023).

Block i is trained by the losses of exits i to i + m - 1: exit k's gradient stops in front of block k - m + 1. The
authors have m = 3 for 7 exits and m = 2 for 5; m = max(1, round(3 K / 7)) has these values, and some for other K. With
"bdl-final", the last exit trains all blocks besides. Junctions cannot do this, because the gradient that a stage sends
back is the sum over all exits behind it.

Cost: exits whose gradients stop at the same block share a backward pass. The K - m + 1 passes of "bdl" go through m
blocks each, 15 blocks for 7 exits, where the plain sum goes through 7. Those of "bdl-final" are one less; the first
goes through all blocks, the others through m: 16 blocks for 7 exits. There is one forward pass, so BatchNorm's averages
move once; in the authors' code, where a block runs several times per step, they move several times.

Their self-distillation, a term besides these losses, is a loss here: "joint+bdl+block-distillation" has both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dfs_edu import distributed
from dfs_edu.methods.method import Method, named


@named("bdl", "bdl-final")
class BlockDependent(Method):
    """Each exit's loss trains its own head and the blocks, here stages, in its reach.

    Args:
        exits: Number of exits, K.
        final: Whether the last exit trains all blocks.
        reach: Number of blocks, m; None: as described above.
    """

    by_exit = True

    def __init__(self, exits: int, final: bool = False, reach: int | None = None):
        m = reach or max(1, round(3 * exits / 7))
        self.first = [max(0, k - m + 1) for k in range(exits)]  # stage, from 0, at which each exit's gradient stops
        if final:
            self.first[-1] = 0
        self.stages: list[set[nn.Parameter]] = []

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> BlockDependent:
        return cls(exits, final=name == "bdl-final")

    def begin(self, stages: Sequence[Sequence[nn.Parameter]]) -> None:
        self.stages = [set(stage) for stage in stages]

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Run one backward pass for all exits that stop at the same block, no deeper than that block.

        Raises:
            RuntimeError: ``begin`` has not been called.
        """
        if len(self.stages) != len(losses):
            raise RuntimeError(f"{len(self.stages)} stages for {len(losses)} losses: call begin(stages) first")
        for first in sorted(set(self.first)):
            exits = [k for k in range(len(losses)) if self.first[k] == first]
            heard = set().union(*self.stages[first : exits[-1] + 1])
            total = torch.stack([losses[k] for k in exits]).sum()
            more = first < max(self.first)
            total.backward(inputs=[*(p for p in trunk if p in heard), *others], retain_graph=more)
        distributed.average(p.grad for p in (*trunk, *others) if p.grad is not None)
