"""Probes: (network, batch) -> arrays. They never plot or print, and leave the network as they found it."""

from dfs_edu.probes.ablation import Ablation, ablation
from dfs_edu.probes.conflict import Conflict, conflict
from dfs_edu.probes.cost import Cost, cost
from dfs_edu.probes.features import Features, features
from dfs_edu.probes.linear import LinearProbes, linear_probe, linear_probes
from dfs_edu.probes.memory import Memory, peak_memory
from dfs_edu.probes.selectivity import class_selectivity
from dfs_edu.probes.similarity import cka, cka_matrix
from dfs_edu.probes.timing import seconds
from dfs_edu.probes.tracker import ConflictTracker, history

__all__ = [
    "Ablation",
    "Conflict",
    "ConflictTracker",
    "Cost",
    "Features",
    "LinearProbes",
    "Memory",
    "ablation",
    "cka",
    "cka_matrix",
    "class_selectivity",
    "conflict",
    "cost",
    "features",
    "history",
    "linear_probe",
    "linear_probes",
    "peak_memory",
    "seconds",
]
