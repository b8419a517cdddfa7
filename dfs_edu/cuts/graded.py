"""Surgery with a beta that changes with depth."""

from __future__ import annotations

from dataclasses import dataclass

from dfs_edu.surgery import Joint, Junction, Surgery, check_fraction


@dataclass(frozen=True)
class Graded(Surgery):
    """Surgery whose beta changes in equal steps from ``beta``, at exit 1, to ``last``, at the last cut, exit K - 1."""

    last: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_fraction("last", self.last)

    def at(self, k: int, exits: int) -> Junction:
        if k == exits:
            return Joint()
        progress = (k - 1) / max(exits - 2, 1)
        return Surgery(self.beta + progress * (self.last - self.beta), self.reference, self.exit_gradient, self.scales)
