"""Linear probes: how well a separate linear classifier reads the classes from a part (Alain and Bengio, 2016).

A probe shows what a part holds, not what the network's exit does with it; an ablation shows that.
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
    """The accuracies of linear probes at K exits.

    Attributes:
        accuracy: what is read -> float64 (K,), the fraction of the held-out images that the probe gets right; NaN if an
            exit's feature is not cut, or a part has no channels.
        channels: K numbers: how many channels "shared", "specific" and "mixed" read; 0 if nothing is cut.
        chance: the fraction that is right if the answer is always the most frequent class of training.
    """

    accuracy: dict[str, np.ndarray]
    channels: list[int]
    chance: float


@in_any_mode
def linear_probes(train: Features, held_out: Features, seed: int = 0) -> LinearProbes:
    """Fit probes of f+, f-, a mixture and the whole feature of every exit on ``train``, and test them on ``held_out``.

    More channels tell more, so "shared", "specific" and "mixed" read the same number, which is that of the smaller
    part: of the larger part that many are drawn at random, and "mixed" draws half from either part. "whole" reads all
    channels.

    Args:
        train: features to fit the probes on.
        held_out: features of other images.
        seed: of the draw.

    Raises:
        ValueError: if the two do not come from one network, cut at the same place.
    """
    widths, others = ([f.shape[1] for f in data.pooled] for data in (train, held_out))
    if widths != others or train.shared != held_out.shared:
        raise ValueError(f"features of {widths} and {others} channels, cut at {train.shared}, {held_out.shared}")
    random = np.random.default_rng(seed)
    accuracy, read = {part: np.full(len(widths), np.nan) for part in READ}, []
    for k, width in enumerate(widths):
        # Which channels each probe reads, then one probe per part.
        chosen = _channels(width, train.shared[k], random)
        read.append(len(chosen.get("mixed", [])))
        for part, channels in chosen.items():
            if len(channels):
                X, Z = (data.pooled[k][:, channels] for data in (train, held_out))
                accuracy[part][k] = linear_probe(X, train.label, Z, held_out.label)
    return LinearProbes(accuracy, read, chance(train.label, held_out.label))


@in_any_mode
def linear_probe(X: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor) -> float:
    """Return the fraction of held-out images that multinomial logistic regression, fitted on X, gets right.

    Every channel is scaled to mean 0 and deviation 1 over X; an L2 penalty of strength 1 keeps the weights small.

    Args:
        X: features (N, D) to fit on.
        labels: their classes (N,).
        held_out: features (M, D).
        held_out_labels: their classes (M,).

    Raises:
        ValueError: for shapes that do not fit.

    Source:
        scikit-learn's StandardScaler and LogisticRegression.
    """
    from sklearn.linear_model import LogisticRegression  # takes seconds to import, so only when a probe is fitted
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    shapes = [tuple(t.shape) for t in (X, labels, held_out, held_out_labels)]
    (N, *D), (M, *D_held_out) = X.shape, held_out.shape
    if len(D) != 1 or D_held_out != D or (len(labels), len(held_out_labels)) != (N, M):
        raise ValueError(f"shapes {shapes}: give features (N, D) with labels (N,), and (M, D) with (M,)")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(X.numpy(), labels.numpy())
    return float(probe.score(held_out.numpy(), held_out_labels.numpy()))


def chance(labels: Tensor, held_out_labels: Tensor) -> float:
    """Return the fraction of the held-out labels that equal the most frequent one of ``labels``."""
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
