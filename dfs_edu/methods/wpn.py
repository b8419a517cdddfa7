"""WPN: a small network predicts, image by image, how much each exit's loss counts (Han et al., L2W-DEN, ECCV 2022).

With early exit, deep exits meet hard images only, but they train on all of them. So a weight-prediction network learns
weights such that a step of training is good for exits that share out the images as early exit will.

For an image with the losses l_1 ... l_K, detached, it predicts v = tanh(MLP(l)), with 500 hidden units, and exit k has
the weight ``1 + 0.8 (v_k - mean of v)``. A batch is divided into halves, which take turns. For a half A:

1. Look ahead: make the step of SGD that the weighted losses on A ask for, with the real learning rate, momentum and
   weight decay, on a copy of the weights, and keep its graph.
2. With these weights, compute the other half B, of n images, in training mode. Exit k takes the floor(n q_k) most
   confident of the images that are left, the last exit the rest; q_k is proportional to 0.75^k, with sum 1.
3. The loss of the predictor is the sum over exits of the mean cross-entropy of the images taken. Adam moves the
   predictor along its gradient, which goes through the step: a second derivative of the network.
4. Make the real step on A, weighted by the predictor as it is now.

So there are two updates per batch, each from half of it, with the same learning rate: the schedule advances once per
batch, and counts images. Looking ahead leaves BatchNorm's running averages alone, as in the authors' code; they move
twice per batch, in the real steps.

This is the authors' form for CIFAR, which looks ahead at every step. (For ImageNet they have 0.3 in place of 0.8, the
mean over the whole half, and look ahead at every hundredth step.) Two details differ. Adam's learning rate, 1e-4 with
weight decay 1e-4, falls as a half cosine over the run, here once per epoch, there at every step. And several processes
share out the images of the whole half, where theirs share out each process's part by itself.

A junction's cuts and factors hold for the gradients of the look ahead, too, of the step as well as of what it is worth.

It takes losses of single images, plain SGD without clipping, and modules that have a second derivative: distillation,
AdamW, clipping, gradient accumulation, torch.compile and several GPUs, whose BatchNorm has none, are refused.

Cost: an image goes through three forward passes, where the plain sum has one, three backward passes, and one backward
pass through a step. Together, convolutions and linear layers take 4.2 to 4.5 times the operations of the plain sum
(counted on vgg7-16 and on small networks of MSDNet's and ResNet's families). Memory: the graphs of two forward passes
and one backward pass of half a batch, at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from dfs_edu import distributed
from dfs_edu.methods.method import Method, Training, named
from dfs_edu.precision import at_least_float32

HIDDEN = 500
RATE = 1e-4  # of Adam, at first; its weight decay as well
RATIO = 0.75  # an exit's share of the images, by that of the exit before

Batch = tuple[Tensor, Tensor]


@named("wpn")
class WeightPrediction(Method):
    """Losses weighted image by image, by a network that looks a step ahead; see the top of this file.

    Args:
        exits: Number of exits, K.
        strength: How much a prediction, a number from -1 to 1, moves a weight away from 1.
    """

    by_exit = True  # gradients of several passes, averaged here
    by_image = True
    divides = 2
    refuses = ("optimizer", "loss", "clip", "compile")

    def __init__(self, exits: int, strength: float = 0.8):
        self.exits, self.strength = exits, strength
        self.predictor = nn.Sequential(nn.Linear(exits, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, exits), nn.Tanh())
        self.adam = torch.optim.Adam(self.predictor.parameters(), RATE, weight_decay=RATE)

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> WeightPrediction:
        return cls(exits)

    def begin(self, stages: Sequence[Sequence[nn.Parameter]]) -> None:
        self.predictor.to(next((p.device for stage in stages for p in stage), "cpu"))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        for group in self.adam.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2

    def step(self, training: Training, x: Tensor, y: Tensor) -> None:
        """Make two updates from a batch, one from each half; for each, the other half trains the predictor.

        Raises:
            ValueError: The network has a SyncBatchNorm, as on several GPUs.
        """
        if any(isinstance(module, nn.SyncBatchNorm) for module in training.forward.modules()):
            raise ValueError("wpn on several GPUs: SyncBatchNorm has no second derivative; train on one")
        first, second = zip(x.chunk(2), y.chunk(2), strict=True)
        for half, other in ((first, second), (second, first)):
            self.look_ahead(training, half, other)
            super().step(training, *half)

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Run one backward pass of the weighted sum of the losses."""
        with torch.no_grad():
            weights = self.weights(stacked(losses))
        (weights * stacked(losses)).sum(0).mean().backward()
        distributed.average(p.grad for p in (*trunk, *others) if p.grad is not None)

    def weights(self, losses: Tensor) -> Tensor:
        """Return the weights of losses (K, B), of the same shape; each image's add up to K."""
        predicted = self.predictor(losses.detach().T.to(next(self.predictor.parameters()).dtype)).T
        return 1 + self.strength * (predicted - predicted.mean(0))

    def look_ahead(self, training: Training, half: Batch, other: Batch) -> None:
        """Train the predictor on how well the other half fares after a step on a half that it has weighted."""
        parameters = {name: p for name, p in training.forward.named_parameters() if p.requires_grad}
        buffers = {name: buffer.clone() for name, buffer in training.forward.named_buffers()}
        losses = stacked(run(training, buffers, half)[0])
        loss = (self.weights(losses) * losses).sum(0).mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)

        # The step, as a function of the weights of the losses
        groups = {p: group for group in training.optimizer.param_groups for p in group["params"]}
        moved = {
            name: after_step(p, distributed.mean(g), groups[p], training.optimizer.state.get(p, {}))
            for (name, p), g in zip(parameters.items(), gradients, strict=True)
            if g is not None
        }

        # What it is worth: each image of the other half at the exit where it would leave
        losses, logits = run(training, moved | buffers, other)
        confidence = torch.stack([at_least_float32(logits_k).softmax(1).amax(1) for logits_k in logits])
        taken = share_out(distributed.whole(confidence))  # (K, N), of all processes' images
        kept = distributed.part(taken) * stacked(losses)  # (K, n), of this one's
        means = kept.mean(1) / taken.to(kept).mean(1).clamp(min=1 / taken.shape[1])  # 0 for an exit without images
        weights = list(self.predictor.parameters())
        found = torch.autograd.grad(means.sum(), weights)
        distributed.average(found)
        for p, g in zip(weights, found, strict=True):
            p.grad = g
        self.adam.step()

    def state_dict(self) -> dict:
        """Return the predictor and the state of its optimizer."""
        return {"predictor": self.predictor.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what ``state_dict`` returned."""
        self.predictor.load_state_dict(state["predictor"])
        self.adam.load_state_dict(state["adam"])


def run(training: Training, values: dict[str, Tensor], batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Compute losses K x (B,) and logits K x (B, classes) of a batch, with other values of parameters and buffers.

    Attention is computed in the one way that has a second derivative.
    """
    with training.autocast(), sdpa_kernel(SDPBackend.MATH):
        return functional_call(training.forward, values, batch, {"each": True})


def stacked(losses: Sequence[Tensor]) -> Tensor:
    """Return K losses (B,) as (K, B); of K losses (), B is 1."""
    return torch.stack(list(losses)).reshape(len(losses), -1)


def after_step(p: nn.Parameter, gradient: Tensor, group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    """Return what the next step of SGD makes of a parameter, differentiable with respect to its gradient."""
    direction = gradient + group["weight_decay"] * p.detach()
    if group["momentum"]:
        before = state.get("momentum_buffer")
        moving = direction if before is None else group["momentum"] * before + direction
        direction = direction + group["momentum"] * moving if group["nesterov"] else moving
    return p.detach() - group["lr"] * direction


def share_out(confidence: Tensor) -> Tensor:
    """Return which images are taken by which exit, bool (K, N), given their confidences (K, N).

    >>> share_out(torch.tensor([[0.2, 0.9, 0.3], [0.8, 0.5, 0.6]])).int().tolist()  # exit 1 takes floor(3 * 4/7)
    [[0, 1, 0], [1, 0, 1]]
    """
    K, N = confidence.shape
    left, taken = torch.ones_like(confidence[0], dtype=torch.bool), torch.zeros_like(confidence, dtype=torch.bool)
    for k in range(K - 1):
        share = RATIO**k / sum(RATIO**j for j in range(K))
        surest = confidence[k].where(left, -1).argsort(descending=True, stable=True)
        taken[k, surest[: math.floor(N * share)]] = True
        left &= ~taken[k]
    taken[-1] = left
    return taken
