"""One loss per exit, from logits and labels. Their sum is the objective of joint training.

* "cross-entropy": of every exit with the labels (``exit_losses``).
* "distillation": the last exit teaches the others by probabilities and features (``Distillation``, BYOT);
  "distillation-logits" leaves the features out (``LogitDistillation``).
* "annealed-distillation": the same teacher at a rising temperature (``AnnealedDistillation``).
* "block-distillation": what block-dependent training adds to its losses (``BlockDistillation``, BDL).
* "ensemble-distillation": the mean of all exits teaches each of them (``EnsembleDistillation``).
* "boosted": cross-entropy, but of a network whose exit k answers its own logits plus half of the previous answer
  (answers.py). As published (Yu et al., BoostNet, AAAI 2023) it comes with the rescaling of gradient equilibrium:
  "equilibrium+boosted". "joint+boosted" leaves that out.

A loss in which exits teach exits is one file; importing it here, and its name in ``Loss``, make it known.
"""

from __future__ import annotations

from typing import Literal, get_args

from dfs_edu.losses.annealed import AnnealedDistillation
from dfs_edu.losses.blockwise import BlockDistillation
from dfs_edu.losses.crossentropy import exit_losses, image_losses, separate_losses
from dfs_edu.losses.distillation import Distillation, LogitDistillation
from dfs_edu.losses.ensemble import EnsembleDistillation
from dfs_edu.losses.objective import Objective
from dfs_edu.losses.teaching import NAMED, Teaching

__all__ = [
    "LOSSES",
    "AnnealedDistillation",
    "BlockDistillation",
    "Distillation",
    "EnsembleDistillation",
    "LogitDistillation",
    "Loss",
    "Objective",
    "Teaching",
    "answers_of",
    "exit_losses",
    "image_losses",
    "in_parts",
    "separate_losses",
]

Loss = Literal[
    "cross-entropy",
    "distillation",
    "distillation-logits",
    "annealed-distillation",
    "block-distillation",
    "ensemble-distillation",
    "boosted",
]
LOSSES = get_args(Loss)


def answers_of(loss: str) -> str:
    """Return what the exits of a network with this loss answer, a key of ``answers.RULES``."""
    return "boosted" if loss == "boosted" else "own"


def in_parts(loss: str) -> bool:
    """Tell whether the loss of a batch is the mean of those of its parts."""
    return loss not in NAMED or NAMED[loss].in_parts
