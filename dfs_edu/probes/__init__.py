"""Probes: (network, batch) -> arrays. They never plot or print, and they leave the network as they found it."""

from dfs_edu.probes.attribution import Conductance, conductance, grad_cam, integrated_gradients
from dfs_edu.probes.cosines import Conflict, conflict
from dfs_edu.probes.costs import Cost, cost
from dfs_edu.probes.extraction import Features, features
from dfs_edu.probes.knockout import Ablation, ablation
from dfs_edu.probes.leaks import Leakage, leakage
from dfs_edu.probes.linear import LinearProbes, linear_probe, linear_probes
from dfs_edu.probes.memory import Memory, peak_memory
from dfs_edu.probes.paths import Channels, channels
from dfs_edu.probes.pulling import pulls
from dfs_edu.probes.selectivity import class_selectivity
from dfs_edu.probes.similarity import cka, cka_matrix
from dfs_edu.probes.stepping import Steps, steps
from dfs_edu.probes.timing import seconds
from dfs_edu.probes.tracker import ConflictTracker, history, share_by_stage
from dfs_edu.probes.wires import Wiring, wiring

__all__ = [
    "Ablation",
    "Channels",
    "Conductance",
    "Conflict",
    "ConflictTracker",
    "Cost",
    "Features",
    "Leakage",
    "LinearProbes",
    "Memory",
    "Steps",
    "Wiring",
    "ablation",
    "channels",
    "cka",
    "cka_matrix",
    "class_selectivity",
    "conductance",
    "conflict",
    "cost",
    "features",
    "grad_cam",
    "history",
    "integrated_gradients",
    "leakage",
    "linear_probe",
    "linear_probes",
    "peak_memory",
    "pulls",
    "seconds",
    "share_by_stage",
    "steps",
    "wiring",
]
