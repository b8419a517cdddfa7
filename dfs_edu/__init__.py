"""A course and a laboratory for multi-exit networks and the gradient conflict between their exits.

import dfs_edu as dfs

net = dfs.build("vgg7-16", classes=10, junction=dfs.Surgery(beta=0.5))
run = dfs.train(dfs.recipes.get("digits/vgg7-16", junction=dfs.Surgery(beta=0.5)))
report = dfs.probes.conflict(net, images, labels)
"""

from dfs_edu import data, inference, probes, recipes
from dfs_edu.backbones import attach, build
from dfs_edu.multiexit import MultiExit
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery
from dfs_edu.train import train

__version__ = "0.1.0"
__all__ = [
    "Detached",
    "Equilibrium",
    "Joint",
    "MultiExit",
    "Surgery",
    "attach",
    "build",
    "data",
    "inference",
    "probes",
    "recipes",
    "train",
]
