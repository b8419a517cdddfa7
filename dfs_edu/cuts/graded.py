"""Surgery with a share that changes with depth."""

from __future__ import annotations

from dataclasses import dataclass

from dfs_edu.surgery import Joint, Junction, Surgery, check_fraction


@dataclass(frozen=True)
class Graded(Surgery):
    """Surgery whose beta goes evenly from `beta`, at exit 1, to `last`, at the last exit that is cut, K - 1."""

    last: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_fraction("last", self.last)

    def at(self, k: int, exits: int) -> Junction:
        if k == exits:
            return Joint()
        way = (k - 1) / max(exits - 2, 1)
        return Surgery(self.beta + way * (self.last - self.beta), self.reference, self.exit_gradient, self.scales)
