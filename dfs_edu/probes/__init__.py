"""Probes: (network, batch) -> arrays. They never plot or print, and leave the network as they found it."""

from dfs_edu.probes.conflict import Conflict, conflict
from dfs_edu.probes.cost import Cost, cost
from dfs_edu.probes.memory import Memory, peak_memory
from dfs_edu.probes.timing import seconds

__all__ = ["Conflict", "Cost", "Memory", "conflict", "cost", "peak_memory", "seconds"]
