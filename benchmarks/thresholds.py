"""Thresholds for 40 budgets on 10,000 images and seven exits: all at once, and image by image.

The loop is what published code does: sort, cut, and send each image through the exits, one after the other, reading
numbers out of tensors; the same loop over Python lists is shown, too. Both are timed on one budget and multiplied by
their number. The search has no loop to be compared with; only its time is shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from dfs_edu.inference import Curve, Outputs, apply, best_thresholds, fit_thresholds, geometric_shares
from dfs_edu.inference.thresholds import fit_shares

IMAGES, EXITS, BUDGETS = 10_000, 7, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    validation, test = drawn("validation", 0), drawn("test", 1)
    macs = torch.arange(1, EXITS + 1, dtype=torch.float64)
    shares = geometric_shares(torch.logspace(-1, 1, BUDGETS), EXITS)
    budgets = torch.linspace(1, EXITS, BUDGETS, dtype=torch.float64)
    check(validation, test, macs, shares[BUDGETS // 2])
    ways = {
        "loop over tensors": partial(loop, validation, test, macs, shares[BUDGETS // 2]),
        "loop over lists": partial(loop, validation, test, macs, shares[BUDGETS // 2], lists=True),
        "all at once": lambda: Curve.of(test, fit_shares(validation, shares)[0], macs),
        "search": partial(best_thresholds, validation, macs, budgets),
    }
    seconds = {name: [] for name in ways}
    for _ in tqdm(range(args.rounds)):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{BUDGETS} budgets, {IMAGES:,} images, {EXITS} exits, median of {args.rounds} rounds")
    print(f"geometric shares, all at once     {median['all at once']:8.3f} s")
    for name in ("loop over tensors", "loop over lists"):
        whole = BUDGETS * median[name]
        print(f"geometric shares, {name:17} {whole:7.3f} s   {whole / median['all at once']:,.0f} times as slow")
    print(f"search for the highest accuracy   {median['search']:8.3f} s")


def drawn(split: str, seed: int) -> Outputs:
    """Random outputs: deeper exits are right more often, and right answers are more confident."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(10, (IMAGES,), generator=generator)
    right = torch.rand(EXITS, IMAGES, generator=generator) < torch.linspace(0.4, 0.9, EXITS)[:, None]
    confidence = (torch.rand(EXITS, IMAGES, generator=generator) + 0.5 * right) / 1.5
    return Outputs(confidence, torch.where(right, label, (label + 1) % 10), label, split)


def loop(validation: Outputs, test: Outputs, macs: Tensor, share: Tensor, lists: bool = False) -> tuple[float, float]:
    """Accuracy and cost of one set of shares, image by image."""
    K, N = validation.confidence.shape
    read = torch.Tensor.tolist if lists else lambda tensor: tensor
    confidence, active, thresholds = read(validation.confidence), set(range(N)), []
    for k in range(K - 1):
        ranked = sorted(active, key=lambda n: -float(confidence[k][n]))
        leave = min(round(N * share[: k + 1].sum().item()) - (N - len(active)), len(ranked))
        thresholds.append(float(confidence[k][ranked[leave - 1]]) if leave > 0 else 1.0)
        active -= set(ranked[: max(leave, 0)])
    confidence, prediction, label, costs = map(read, (test.confidence, test.prediction, test.label, macs))
    right = cost = 0
    for n in range(N):
        k = next((k for k in range(K - 1) if float(confidence[k][n]) >= thresholds[k]), K - 1)
        right += int(prediction[k][n] == label[n])
        cost += float(costs[k])
    return right / N, cost / N


def check(validation: Outputs, test: Outputs, macs: Tensor, share: Tensor) -> None:
    """Raise RuntimeError unless the loop and the package agree."""
    point = apply(test, fit_thresholds(validation, share), macs)
    accuracy, cost = loop(validation, test, macs, share, lists=True)
    if abs(point.accuracy - accuracy) > 1e-3 or abs(point.macs - cost) > 1e-2:
        raise RuntimeError(f"the loop gets {accuracy}, {cost}, all at once {point.accuracy}, {point.macs}")


if __name__ == "__main__":
    main()
