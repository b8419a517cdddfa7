"""A course and a laboratory for multi-exit networks and the gradient conflict between their exits.

>>> import dfs_edu as dfs
>>> recipe = dfs.recipes.get("digits/vgg7-16", junction=dfs.Surgery(beta=0.5), scale="smoke", train_images=64)
>>> run = dfs.train(recipe, out=None, progress=False)
>>> cost = dfs.probes.cost(run.network)
>>> thresholds = dfs.inference.best_thresholds(run.validation, cost.macs, [cost.macs[-1] / 2])[0]
>>> point = dfs.inference.apply(run.test, thresholds, cost.macs)  # .accuracy, .macs, .share of each exit
>>> len(point.share)
6
"""

from dfs_edu import data, inference, probes, recipes
from dfs_edu.backbones import attach, build
from dfs_edu.multiexit import MultiExit
from dfs_edu.surgery import Detached, Equilibrium, Joint, Junction, Surgery
from dfs_edu.train import train

__version__ = "0.1.0"
__all__ = [
    "Detached",
    "Equilibrium",
    "Joint",
    "Junction",
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
