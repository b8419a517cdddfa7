"""torchjd's scalarizations: weights that follow from the losses alone, by torchjd's own names in small letters.

They are found in torchjd when one is used; no line here is about a single one, but for a required argument. ::

    dwa            more weight where the loss fell less between the last two epochs, T = 2 (Liu et al., CVPR 2019)
    famo           all losses are to fall at the same rate; learnt from how each step changed them (Liu et al., NeurIPS
                   2023)
    geometricmean  of the losses: weights in inverse proportion to them (Chennupati et al., CVPR workshop 2019)
    imtll          a learnt scale of each loss (IMTL-L, Liu et al., ICLR 2021)
    stch           smooth maximum of the losses, mu = 0.1, one of the values of the paper (Lin et al., ICML 2024)
    uw             a learnt uncertainty of each loss (Kendall, Gal and Cipolla, CVPR 2018)

What the network is trained on is sum_k w_k L_k, where w_k is the derivative of the scalarization with respect to L_k:
the gradient is the same, and the weights can be scaled. Unless ``step_length="own"``, they add up to K, as those of the
plain sum do, so that one learning rate is fair; the published scales differ (those of stch add up to 1/K). Heads are
weighted as well, as published.

Scales and uncertainties are learnt by an Adam of their own, lr 0.025, as FAMO has it; their authors give them to the
network's optimizer, which a method does not see here. All other settings are torchjd's defaults.

Cost: one backward pass, as for the sum, and waiting once per step for K numbers. FAMO compares the losses of a batch
before and after the step, one forward pass more per step, after which BatchNorm's averages are put back.

Not here: Constant, Mean and Sum, which are the weights of the sum; Random, whose name is that of the control that
weights gradients; COSMOS and PBI, which ask how much each exit is preferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from dfs_edu import distributed
from dfs_edu.extras import need
from dfs_edu.methods.method import Method, Training, named

NAMES = ("dwa", "famo", "geometricmean", "imtll", "stch", "uw")  # torchjd itself is imported only when needed
REQUIRED: dict[str, dict[str, Any]] = {"stch": {"mu": 0.1}}  # arguments without a default, but for the number of exits
RATE = 0.025  # of learnt scales


@named(*NAMES)
class Scalarized(Method):
    """A scalarization of torchjd, by name.

    Args:
        name: One of ``NAMES``.
        exits: Number of exits, K.
        length: "sum": the weights of the losses add up to K. "own": they are the scalarization's.
    """

    takes = ("step_length",)

    def __init__(self, name: str, exits: int, length: str = "sum"):
        self.length = length
        self.scalarizer = made(name, exits).double()
        learnt = [] if hasattr(self.scalarizer, "update") else list(self.scalarizer.parameters())
        self.optimizer = Adam(learnt, RATE) if learnt else None
        self.epoch = -1

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Scalarized:
        return cls(name, exits, length)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """End the epoch before, for a scalarization that compares epochs; resuming within one ends nothing."""
        if epoch != self.epoch and hasattr(self.scalarizer, "step"):
            self.scalarizer.step()
        self.epoch = epoch

    def step(self, training: Training, x: Tensor, y: Tensor) -> None:
        """Make one update, and let a scalarization that asks for it see what the update did to the losses."""
        super().step(training, x, y)
        if hasattr(self.scalarizer, "update"):
            self.scalarizer.update(together(training.losses(x, y)))

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Run one backward pass of the weighted sum, for the trunk and the others alike."""
        stacked = torch.stack(list(losses))
        (self.weights(together(losses)).to(stacked) * stacked).sum().backward()

    def weights(self, losses: Tensor) -> Tensor:
        """Return the weights (K,) of these losses (K,), both float64, and learn from them what is learnt."""
        values = losses.detach().requires_grad_()
        learnt = self.optimizer.param_groups[0]["params"] if self.optimizer else []
        weights, *gradients = torch.autograd.grad(self.scalarizer(values), [values, *learnt])
        if self.optimizer:
            for p, gradient in zip(learnt, gradients, strict=True):
                p.grad = gradient
            self.optimizer.step()
        return weights if self.length == "own" else weights * (len(weights) / weights.sum())

    def state_dict(self) -> dict:
        """Return what is learnt and remembered; optimizers by their own states."""
        plain = {name: value for name, value in _private(self.scalarizer).items() if not isinstance(value, Optimizer)}
        adams = {name: value.state_dict() for name, value in _private(self.scalarizer).items() if name not in plain}
        own = self.optimizer.state_dict() if self.optimizer else None
        learnt = {name: value.clone() for name, value in self.scalarizer.state_dict().items()}
        return {"epoch": self.epoch, "learnt": learnt, "remembered": plain, "adams": adams, "optimizer": own}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what ``state_dict`` returned."""
        self.epoch = state["epoch"]
        self.scalarizer.load_state_dict(state["learnt"])
        for name, value in state["remembered"].items():
            setattr(self.scalarizer, name, value)
        for name, adam in state["adams"].items():  # FAMO makes its own at its first update, with all of its parameters
            setattr(self.scalarizer, name, Adam(self.scalarizer.parameters()))
            getattr(self.scalarizer, name).load_state_dict(adam)
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])


def made(name: str, exits: int) -> Any:
    """Return torchjd's scalarization of this name, made for a number of exits if it asks for one."""
    library = need("torchjd.scalarization")
    (found,) = (key for key in library.__all__ if key.lower() == name)
    options = REQUIRED.get(name, {})
    try:
        return getattr(library, found)(**options)
    except TypeError:  # it has a parameter for each loss
        return getattr(library, found)(exits, **options)


def together(losses: Sequence[Tensor]) -> Tensor:
    """Return K losses () as float64 (K,) on the CPU, averaged over all processes, so that all find the same weights."""
    values = torch.stack(list(losses)).detach().clone()
    distributed.average([values])
    return values.cpu().double()


def _private(scalarizer: nn.Module) -> dict[str, Any]:
    """What a scalarization keeps besides parameters and buffers."""
    of_any = vars(nn.Module())
    return {name: value for name, value in vars(scalarizer).items() if name[0] == "_" and name not in of_any}
