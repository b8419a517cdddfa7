"""A multi-exit network: a trunk cut into stages, a head at each exit, a junction between the two."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from torch import Tensor, nn

from dfs_edu.surgery import Joint, Junction


class MultiExit(nn.Module):
    """K stages, K heads and the junctions between them.

    stages      modules; stage k turns the state of the trunk into the feature of exit k. A stage may name, as
                `readers`, the `splitgrad.Conv2d`s that read its input and nothing else does
    heads       modules; head k turns what exit k sees into logits (B, classes)
    junctions   one Junction for all exits, or a list of K

    The state_dict holds stages and heads only: weights move freely between networks that differ in their junctions.
    """

    def __init__(
        self, stages: Sequence[nn.Module], heads: Sequence[nn.Module], junctions: Junction | Sequence = Joint()
    ):
        super().__init__()
        K = len(stages)
        junctions = [junctions] * K if isinstance(junctions, Junction) else list(junctions)
        if not K or not K == len(heads) == len(junctions):
            raise ValueError(f"{K} stages, {len(heads)} heads, {len(junctions)} junctions: one of each for every exit")
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.junctions = [junction.at(k, K) for k, junction in enumerate(junctions, start=1)]
        self._skip_unheard_gradients()

    def _skip_unheard_gradients(self) -> None:
        """Tell the convolutions behind each junction which of the channels that they read pass a gradient on."""
        for junction, stage, head in zip(self.junctions, [*self.stages[1:], None], self.heads, strict=True):
            for side, module in enumerate((stage, head)):
                for reader in getattr(module, "readers", ()):
                    reader.live = junction.live(reader.in_channels)[side]

    def exits(self, x: Tensor) -> Generator[Tensor, Tensor | None, None]:
        """Logits (B, classes) of each exit, shallow to deep, computed only when asked for.

        Early exit sends back, as indices into the batch, the pictures that go on; the others cost nothing further.
        """
        for stage, junction, head in zip(self.stages, self.junctions, self.heads, strict=True):
            onward, seen = junction(stage(x))
            going_on = yield head(seen)
            x = onward if going_on is None else select(onward, going_on)

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.exits(x))


def select(state: Tensor | list[Tensor], index: Tensor) -> Tensor | list[Tensor]:
    """The chosen pictures of a batch; the state of the trunk is a tensor or a list of them."""
    return state[index] if isinstance(state, Tensor) else [s[index] for s in state]
