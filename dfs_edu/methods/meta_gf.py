"""Meta-GF: train each exit by itself, then learn how to fuse what came out (Sun et al., ECCV 2022).

A round trains the network K times from the same weights, once for each exit, and then fuses. All is counted in passes
over the training images, an epoch each, so that equal epochs are equal passes; a run has a multiple of K + 1 epochs.

* The pass of exit k has the loss ``L_k + 0.1 * sum over j != k of w_j L_j``, and leaves the weights theta_k.
* The fusion pass puts into every tensor t the mean of the theta_k,t over the exits whose loss reaches t, weighted with
  sigmoid(m[k, t]). The loss ``L_K + sum over k < K of tau_k L_k`` trains the numbers m, by Adam with learning rate 0.1,
  and nothing else. The fusion for the last batch is where the next round starts.
* From each fusion pass to the next, m becomes 0.1 m + 0.9 times what it was a pass before; it starts at 1.

For 7 exits, w = (1, 1, 0.6, 0.6, 0.75, 0.9, 1), and tau_k grows with the fraction f of the rounds that are over:
min(c_k, 0.01 + f c_k) with c = (0.15, 0.3, ..., 0.9). For another K, w and c are read at the exit's relative depth
(k - 1)/(K - 1): w is interpolated linearly, and c = 0.15 + 0.9 depth is a line already.

* "meta-gf" is this procedure, as intended.
* "meta-gf-published" does what the authors' script for MSDNet does: it replaces the tensors that Adam holds when it
  averages m, so that m is no longer learnt from the second fusion pass onwards.

As in that script, the optimizer's momentum carries over from one exit's pass to the next, although the weights go back;
so do the running averages of BatchNorm, which only the fusion pass, the last one, brings to the fused weights. Three
details differ. The learning rate follows the recipe's schedule, where theirs is constant in a round: every pass of a
round has the rates of the same stretch of the schedule, which is rewound. Theirs has 7 exits only. And they choose the
best epoch, where here the run ends with a fusion.

Between two fusions, what is validated and recorded after an epoch is the network of one exit's pass, good at that exit
at most. A record's final numbers are those of a fusion.

Cost: a forward and a backward pass per batch, as for the plain sum, so as many per epoch; only a (K + 1)-th of the
epochs trains any one exit. Memory: up to K copies of the weights besides the network, in checkpoints as well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dfs_edu import distributed
from dfs_edu.methods.method import Method, Training, named

AUXILIARY = (1, 1, 0.6, 0.6, 0.75, 0.9, 1)  # w, for 7 exits


class Fusion:
    """Weighted means of tensors, and the numbers m that weigh them.

    Args:
        reach: bool (K, T), whether exit k's loss reaches tensor t.
        like: A tensor of the dtype and on the device that m gets.
    """

    def __init__(self, reach: Tensor, like: Tensor):
        self.reach = reach.to(like.device)
        self.m = nn.Parameter(torch.ones(reach.shape, dtype=like.dtype, device=like.device))
        self.before = self.m.detach().clone()  # m when the last fusion pass began
        self.adam = torch.optim.Adam([self.m], lr=0.1)

    def shares(self) -> Tensor:
        """Return each exit's weight in each tensor (K, T); a column adds up to 1, or is 0 where no exit reaches."""
        weights = self.m.sigmoid() * self.reach
        return weights / weights.sum(0).clamp(min=torch.finfo(weights.dtype).tiny)

    @torch.no_grad()
    def begin(self) -> None:
        """Average m with what it was when the last fusion pass began."""
        self.m.lerp_(self.before, 0.9)
        self.before = self.m.detach().clone()

    @torch.no_grad()
    def fuse(self, parameters: Sequence[nn.Parameter], kept: Sequence[Sequence[Tensor]]) -> None:
        """Put the weighted means into T parameters, given what the exits that reach each have made of it."""
        shares = self.shares()
        for t, (p, thetas) in enumerate(zip(parameters, kept, strict=True)):
            if thetas:
                p.copy_(torch.tensordot(shares[self.reach[:, t], t], torch.stack(list(thetas)), 1))

    def learn(self, parameters: Sequence[nn.Parameter], kept: Sequence[Sequence[Tensor]]) -> None:
        """Step m along the gradient that follows, by the chain rule, from those of the fused parameters."""
        slopes = torch.zeros_like(self.m)  # of the loss by the shares, up to a number per column, which has no effect
        for t, (p, thetas) in enumerate(zip(parameters, kept, strict=True)):
            if thetas and p.grad is not None:
                away = (torch.stack(list(thetas)) - p.detach()).reshape(len(thetas), -1)
                slopes[self.reach[:, t], t] = away @ p.grad.flatten()
        self.adam.zero_grad()
        self.shares().backward(slopes)
        self.adam.step()

    def state_dict(self) -> dict:
        """Return m, what it was, and the state of Adam."""
        m, adam = self.m.detach().clone(), copy.deepcopy(self.adam.state_dict())
        return {"m": m, "before": self.before, "adam": adam}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Continue from what ``state_dict`` returned."""
        self.m.copy_(state["m"])
        self.before = state["before"].to(self.m)
        self.adam.load_state_dict(state["adam"])


@named("meta-gf", "meta-gf-published")
class MetaFusion(Method):
    """A pass for each exit, then one that fuses; see the top of this file.

    Args:
        exits: Number of exits, K.
        published: Whether m stops learning after the first fusion pass.
    """

    by_exit = True  # it averages gradients itself, since the first batch of a pass looks which tensors its exit reaches
    in_parts = True
    refuses = ("uncut", "frozen", "ema")  # what changes within a round, or would mix the weights of several passes

    def __init__(self, exits: int, published: bool = False):
        self.exits, self.published = exits, published
        depths = np.linspace(0, 1, exits)
        self.auxiliary = 0.1 * np.interp(depths, np.linspace(0, 1, len(AUXILIARY)), AUXILIARY)
        self.limits = 0.15 + 0.9 * depths  # c
        self.epoch, self.epochs, self.begun = 0, exits + 1, -1
        self.device = torch.device("cpu")
        self.start: list[Tensor] = []  # where the passes of a round begin
        self.kept: list[list[Tensor]] = []  # for each tensor, what the exits that reach it have made of it
        self.reach: list[list[bool]] = []  # exit by exit, found in the first round
        self.fusion: Fusion | None = None
        self.rewound: list = []  # the schedule at the beginning of a round, and its rates

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> MetaFusion:
        return cls(exits, published=name == "meta-gf-published")

    @classmethod
    def check(cls, name: str, epochs: int, exits: int | None = None) -> None:
        if exits is not None and epochs % (exits + 1):
            raise ValueError(
                f"epochs={epochs}: {name} takes {exits + 1} for a round, one for each exit and one to fuse them; use a "
                f"multiple of {exits + 1}"
            )

    def begin(self, stages: Sequence[Sequence[nn.Parameter]]) -> None:
        self.device = next((p.device for stage in stages for p in stage), self.device)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.epoch, self.epochs = epoch, epochs

    @property
    def turn(self) -> int:
        """The exit whose pass this epoch is, from 0; K in a fusion pass."""
        return self.epoch % (self.exits + 1)

    def step(self, training: Training, x: Tensor, y: Tensor) -> None:
        """Make one update from a batch, of the weights in an exit's pass, of m in a fusion pass."""
        parameters = [p for part in training.parameters for p in part]
        if self.begun < self.epoch:
            self._begin_pass(training, parameters)
            self.begun = self.epoch
        if self.fusion is None or self.turn < self.exits:
            super().step(training, x, y)
        else:
            self.fusion.fuse(parameters, self.kept)
            training.gradients(x, y)
            if not self.published or self.epoch == self.exits:
                self.fusion.learn(parameters, self.kept)
            training.optimizer.zero_grad()
        for _ in range(self.exits):  # the schedule is rewound as often in a round
            training.schedule.step()

    def _begin_pass(self, training: Training, parameters: Sequence[nn.Parameter]) -> None:
        """Keep what the last pass has made of the weights, then set weights and learning rate for the next one."""
        made = [p.detach().clone() for p in parameters]
        if self.turn == 0:
            self.start, self.kept = made, [[] for _ in made]
            state = copy.deepcopy(training.schedule.state_dict())
            state.pop("_step_count", None)  # not a part of the schedule: torch warns of a step before the optimizer's
            self.rewound = [state, training.schedule.get_last_lr()]
            return
        for kept, theta, reached in zip(self.kept, made, self.reach[self.turn - 1], strict=True):
            if reached:
                kept.append(theta)

        # Every pass has the rates of the same stretch of the schedule
        state, rates = self.rewound
        training.schedule.load_state_dict(copy.deepcopy(state))
        for group, rate in zip(training.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

        if self.turn < self.exits:
            with torch.no_grad():
                for p, value in zip(parameters, self.start, strict=True):
                    p.copy_(value)
        else:
            self.fusion = self.fusion or Fusion(torch.tensor(self.reach), made[0])
            self.fusion.begin()
        if self.turn >= self.exits - 1:
            self.start = []  # no further pass begins there

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Run one backward pass of this epoch's losses, and once per exit another to see which tensors it reaches."""
        if self.turn < self.exits and self.turn == len(self.reach):
            found = torch.autograd.grad(losses[self.turn], [*trunk, *others], retain_graph=True, allow_unused=True)
            self.reach.append([g is not None for g in found])
        weights = torch.from_numpy(self.loss_weights()).to(losses[0])
        (weights * torch.stack(list(losses))).sum().backward()
        distributed.average(p.grad for p in (*trunk, *others) if p.grad is not None)

    def loss_weights(self) -> np.ndarray:
        """Return the weights of the losses (K,) in this epoch's pass."""
        if self.turn < self.exits:
            return np.where(np.arange(self.exits) == self.turn, 1, self.auxiliary)
        tau = np.minimum(self.limits, 0.01 + self.limits * (self.epoch - self.exits) / self.epochs)
        return np.append(tau[:-1], 1)

    def state_dict(self) -> dict:
        """Return where the round is: the passes' weights, the start, m with Adam's state, and the schedule."""
        names = ("begun", "start", "kept", "reach", "rewound")
        return {name: getattr(self, name) for name in names} | {"fusion": self.fusion and self.fusion.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what ``state_dict`` returned."""
        self.begun, self.reach, self.rewound = state["begun"], state["reach"], state["rewound"]
        self.start = [t.to(self.device) for t in state["start"]]
        self.kept = [[t.to(self.device) for t in thetas] for thetas in state["kept"]]
        if fusion := state["fusion"]:
            self.fusion = Fusion(torch.tensor(self.reach), fusion["m"].to(self.device))
            self.fusion.load_state_dict(fusion)
