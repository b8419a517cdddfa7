"""Linear probes: how well a linear classifier of its own reads the classes out of a part (Alain and Bengio, 2016).

A probe says what a part holds, not what the network's exit does with it: that says an ablation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dfs_edu.modes import in_any_mode
from dfs_edu.probes.extraction import PARTS, Features

READ = (*PARTS, "mixed", "whole")


@dataclass(frozen=True)
class LinearProbes:
    """What `linear_probes` found at K exits.

    accuracy   what is read -> float64 (K,), fraction of the held-out pictures that the probe gets right; NaN where an
               exit's feature is not cut, or a part has no channels
    channels   K numbers: how many channels "shared", "specific" and "mixed" read; 0 where nothing is cut
    chance     the fraction that is right by always saying the class most frequent in training
    """

    accuracy: dict[str, np.ndarray]
    channels: list[int]
    chance: float


@in_any_mode
def linear_probes(train: Features, held_out: Features, seed: int = 0) -> LinearProbes:
    """Probes of f+, f-, a mixture and the whole feature of every exit: fitted on `train`, judged on `held_out`.

    What has more channels tells more, so "shared", "specific" and "mixed" read equally many, as many as the smaller
    part has: of the larger one so many are drawn at random, and "mixed" draws half of them from either part. "whole"
    reads all channels. `seed` decides the draw.

    Raises ValueError where the two do not come from one network, cut alike.
    """
    widths = [[f.shape[1] for f in of.pooled] for of in (train, held_out)]
    if widths[0] != widths[1] or train.shared != held_out.shared:
        raise ValueError(f"features of {widths[0]} and {widths[1]} channels, cut at {train.shared}, {held_out.shared}")
    random = np.random.default_rng(seed)
    accuracy = {what: np.full(len(widths[0]), np.nan) for what in READ}
    read = []
    for k in range(len(widths[0])):
        chosen = _channels(widths[0][k], train.shared[k], random)
        read.append(len(chosen.get("mixed", [])))
        for what, channels in chosen.items():
            if len(channels):
                parts = [of.pooled[k][:, channels] for of in (train, held_out)]
                accuracy[what][k] = linear_probe(parts[0], train.label, parts[1], held_out.label)
    return LinearProbes(accuracy, read, chance(train.label, held_out.label))


@in_any_mode
def linear_probe(X: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor) -> float:
    """Fraction of the held-out pictures (M, D) that multinomial logistic regression, fitted on X (N, D), gets right.

    Every channel is brought to mean 0 and deviation 1 over X; the weights are held small by an L2 penalty of strength 1
    (scikit-learn's StandardScaler and LogisticRegression). Raises ValueError for shapes that do not
    fit.
    """
    from sklearn.linear_model import LogisticRegression  # seconds to import: only where a probe is fitted
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if (
        X.ndim != 2
        or X.shape[1:] != held_out.shape[1:]
        or len(X) != len(labels)
        or len(held_out) != len(held_out_labels)
    ):
        shapes = [tuple(t.shape) for t in (X, labels, held_out, held_out_labels)]
        raise ValueError(f"shapes {shapes}: give features (N, D) with labels (N,), and (M, D) with (M,)")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(X.numpy(), labels.numpy())
    return float(probe.score(held_out.numpy(), held_out_labels.numpy()))


def chance(labels: Tensor, held_out_labels: Tensor) -> float:
    """The fraction of the held-out labels that is right by always saying the most frequent one of `labels`."""
    return (held_out_labels == labels.mode().values).double().mean().item()


def _channels(width: int, shared: int | None, random: np.random.Generator) -> dict[str, np.ndarray]:
    """What is read -> the channels that a probe reads."""
    if shared is None:
        return {"whole": np.arange(width)}
    n = min(shared, width - shared)
    first = random.permutation(shared)
    second = shared + random.permutation(width - shared)
    mixed = np.concatenate([first[: n // 2], second[: n - n // 2]])
    return {"shared": first[:n], "specific": second[:n], "mixed": mixed, "whole": np.arange(width)}
