"""What an exit answers: its own logits, or what they make together with those of the exits before it.

A rule takes the logits of exit k and what was carried on from the exit before, and returns the answer and what to carry
on, one row per image. So it runs exit by exit, and goes on with a subset of the images by taking their rows. ::

    own      the exit's own logits
    mean     the mean of the probabilities of the exits so far, a mixture of experts
    product  the mean of their log-probabilities, renormalised: a product of experts. These are also the probabilities
             of the mean logits, which is why there is no rule for those
    boosted  F_k = f_k + 0.5 F_(k-1), whose second term passes no gradient on (Yu et al., AAAI 2023)

"mean" and "product" answer with log-probabilities, whose softmax are the probabilities. "boosted" is part of a network
that is trained with it (``MultiExit.answers``); the two ensembles are measured at the end of every run, beside the
network's answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfs_edu.precision import at_least_float32

Rule = Callable[[Tensor, Tensor | None, int], tuple[Tensor, Tensor | None]]
SHARE = 0.5  # of the previous answer in a boosted one


def own(logits: Tensor, carried: Tensor | None, k: int) -> tuple[Tensor, None]:
    """Return logits (B, classes) as they are; nothing is carried on."""
    return logits, None


def mean(logits: Tensor, carried: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the mean probability of k exits; carried on is that of the sum."""
    own = at_least_float32(logits).log_softmax(1)
    total = own if carried is None else torch.logaddexp(carried, own)
    return total - math.log(k), total


def product(logits: Tensor, carried: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Return the mean log-probability of k exits, renormalised; carried on is the sum."""
    own = at_least_float32(logits).log_softmax(1)
    total = own if carried is None else carried + own
    return (total / k).log_softmax(1), total


def boosted(logits: Tensor, carried: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Return the logits plus half of the previous answer, which is what was carried on."""
    answer = logits if carried is None else logits + SHARE * carried.detach()
    return answer, answer


RULES: dict[str, Rule] = {"own": own, "mean": mean, "product": product, "boosted": boosted}
ENSEMBLES = ("mean", "product")  # what is measured of every network, whatever it was trained to answer


def rule_of(name: str) -> Rule:
    """Return the rule of this name. Raises ValueError, naming it, if there is none."""
    if name not in RULES:
        raise ValueError(f"answers={name!r}: use one of {', '.join(RULES)}")
    return RULES[name]


def answered(name: str, logits: Sequence[Tensor]) -> list[Tensor]:
    """Return what K exits answer, K x (B, classes), by a rule, given all their logits.

    >>> sure, undecided = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    >>> [(100 * answer.exp()).round().int().tolist() for answer in answered("mean", [sure, undecided])]  # in percent
    [[[90, 10]], [[70, 30]]]
    """
    rule, carried, answers = rule_of(name), None, []
    for k, logits_k in enumerate(logits, start=1):
        answer, carried = rule(logits_k, carried, k)
        answers.append(answer)
    return answers
