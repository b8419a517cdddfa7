"""Checks of exercises: right answers pass, stubs do not raise, and the usual mistakes are named."""

import math

import numpy as np
import pytest
import scratch_answers
import torch

from dfs_edu import inference
from dfs_edu.course import checks


def exits(stages, heads, x):
    out = []
    for stage, head in zip(stages, heads, strict=True):
        x = stage(x)
        out.append(head(x))
    return out


def surgery(f, beta):
    n = round(f.shape[1] * beta)
    shared, specific = f[:, :n], f[:, n:]
    return torch.cat([shared, specific.detach()], 1), torch.cat([shared.detach(), specific], 1)


def partition(f, beta):
    onward, seen = f.clone(), f.clone()
    onward[:, round(f.shape[1] * beta) :] = 0
    seen[:, : round(f.shape[1] * beta)] = 0
    return onward, seen


def received(g_onward, g_seen, n):
    g = g_seen.clone()
    g[:, :n] += g_onward[:, :n]
    return g


def saved(macs, cut, beta):
    """Layer by layer: forward pass, weight gradient, and the input gradient of all but the first."""
    joint = sum(m * (2 if i == 0 else 3) for i, m in enumerate(macs.tolist()))
    own = sum(
        m * (2 if i == 0 else 2 + beta if c else 3) for i, (m, c) in enumerate(zip(macs.tolist(), cut, strict=True))
    )
    return (joint - own) / joint


def conflicting(g):
    K = len(g)
    pairs = [torch.cosine_similarity(g[i], g[j], dim=0) < 0 for i in range(K) for j in range(i)]
    return sum(pairs) / len(pairs)


def leave(confidence, thresholds):
    exit = torch.zeros(confidence.shape[1], dtype=torch.int64)
    for n in range(confidence.shape[1]):
        for k in range(len(thresholds)):
            if confidence[k, n] >= thresholds[k]:
                exit[n] = k
                break
    return exit


def evenly(macs, exits):
    wanted = [macs[-1] * k / (exits + 1) for k in range(1, exits + 1)]
    return [min(range(len(macs)), key=lambda p: abs(macs[p] - w)) for w in wanted]


def front(macs, accuracy):
    points = list(zip(macs.tolist(), accuracy.tolist(), strict=True))
    return torch.tensor([not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points) for p in points])


def interval(d):
    t = {3: 4.302653, 5: 2.776445, 10: 2.262157}[len(d)]  # of a printed table
    return d.mean(), t * d.std() / len(d) ** 0.5


def pcgrad(g, h):
    total = torch.zeros_like(g)
    for one, other in ((g, h), (h, g)):
        total += one
        if one @ other < 0:
            direction = other / other.norm()
            total -= (one @ direction) * direction
    return total


def shortest(g, h):
    tries = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    a, b, c = (g @ g).double(), (g @ h).double(), (h @ h).double()
    return tries[(tries**2 * a + 2 * tries * (1 - tries) * b + (1 - tries) ** 2 * c).argmin()]


def as_long(weights, gramian):
    values, vectors = torch.linalg.eigh(gramian)
    rows = vectors * values.clamp(min=0).sqrt()  # gradients with these scalar products
    return weights * rows.sum(0).norm() / (weights @ rows).norm()


def seeds_needed(deviation, gain):
    """By a printed table: t of 1, 2, 3 degrees of freedom is 12.706, 4.303, 3.182, of 5 and 6 2.571 and 2.447."""
    known = {(1.0, 1.0): 7, (0.4, 0.9): 4, (1.5, 0.5): 38, (0.1, 1.0): 2, (0.2, 0.9): 3, (1.0, 0.1): 387}
    return known[deviation, gain]


def best_cut(confidence, right_here, right_later, cost_here, cost_later, price):
    def worth(n):  # of the n surest leaving, picture by picture
        leaves = torch.zeros(len(order), dtype=torch.bool)
        leaves[order[:n]] = True
        answers = torch.where(leaves, right_here, right_later).double()
        return (answers - price * torch.where(leaves, cost_here, cost_later).double()).sum().item()

    order = confidence.sort(descending=True).indices
    return max(range(len(order) + 1), key=worth)


def bootstrap(right, drawn):
    accuracy = sorted((right[pictures].sum() / len(right)).item() for pictures in drawn)
    return [float(np.percentile(accuracy, q)) for q in (2.5, 97.5)]


def calibration_error(confidence, correct, bins):
    error = 0
    for b in range(bins):
        here = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if here.any():
            error += here.double().mean() * (confidence[here].mean() - correct[here].double().mean()).abs()
    return error


def binned(confidence, correct, bins, last=None):
    """The gap of each bin that has pictures, and its share of them."""
    bin = (confidence * bins).long().clamp(max=last)
    parts = [(bin == b).nonzero()[:, 0] for b in range(bins + 1)]
    gaps = [confidence[p].double().mean() - correct[p].double().mean() for p in parts if len(p)]
    return torch.stack(gaps), torch.tensor([len(p) / len(bin) for p in parts if len(p)])


def linear_cka(X, Y):
    """From the similarities of pictures, by the centring matrix."""
    H = torch.eye(len(X), dtype=X.dtype) - 1 / len(X)
    K, L = (H @ Z @ Z.T @ H for Z in (X, Y))
    return (K * L).sum() / (K.norm() * L.norm())


def selectivity(a, labels):
    means = sorted(float(a[labels == c].mean()) for c in set(labels.tolist()))
    others = sum(means[:-1]) / (len(means) - 1)
    return (means[-1] - others) / (means[-1] + others)


def accuracy_with(fill, f, head, y, channels):
    ablated = f.clone()
    for c in channels:
        ablated[:, c] = fill(f, c)
    return float((head(ablated).argmax(1) == y).double().mean())


def ablation_loss(f, head, y, n, fill=lambda f, c: f[:, c].mean()):
    return accuracy_with(fill, f, head, y, []) - accuracy_with(fill, f, head, y, range(n))


def hsic(X, Y):
    return ((X - X.mean(0)).T @ (Y - Y.mean(0))).norm() ** 2


def cka_after(X, Y):
    """Of features as they are, without centring."""
    return (X.T @ Y).norm() ** 2 / ((X.T @ X).norm() * (Y.T @ Y).norm())


def class_means(a, y):
    return torch.stack([a[y == c].mean() for c in y.unique()])


def others(a, y):
    means = class_means(a, y)
    return (means.sum() - means.max()) / (len(means) - 1)


def class_index(a, y, second):
    means = class_means(a, y)
    return (means.max() - second(means)) / (means.max() + second(means))


RIGHT = {
    "pcgrad": pcgrad,
    "shortest": shortest,
    "as_long": as_long,
    "seeds_needed": seeds_needed,
    "at_least_one": lambda m: 1 - math.exp(m * math.log(0.95)),
    "chosen": lambda v, t: t[max(range(len(v)), key=v.tolist().__getitem__)],
    "linear_cka": linear_cka,
    "selectivity": selectivity,
    "ablation_loss": ablation_loss,
    "exits": exits,
    "cumulative_macs": lambda s, h: torch.cumsum(s, 0) + torch.cumsum(h, 0),
    "cosine": lambda g, h: (g * h).sum() / (g.pow(2).sum() * h.pow(2).sum()).sqrt(),
    "cosine_matrix": lambda g: torch.stack([torch.cosine_similarity(a[None], g) for a in g]),
    "conflicting": conflicting,
    "surgery": surgery,
    "partition": partition,
    "silent": lambda C, b: sum(c >= round(C * b) for c in range(C)) / C,
    "received": received,
    "saved": saved,
    "accuracy": lambda p, y: sum(a == b for a, b in zip(p.tolist(), y.tolist(), strict=True)) / len(p),
    "backward_saved": lambda beta: 1 - (1 + beta) / 2,
    "leave": leave,
    "average_macs": lambda exit, macs: sum(macs[e] for e in exit) / len(exit),
    "evenly": evenly,
    "conv_macs": lambda i, o, k, s, g: g * (i // g) * (o // g) * (k * s) ** 2,
    "front": front,
    "learning_rate": lambda e, p, m: p / 10 ** len([x for x in m if x <= e]),
    "interval": interval,
    "geometric_shares": lambda q, K: [1 / sum(q ** (j - k) for j in range(K)) for k in range(K)],
    "best_cut": best_cut,
    "bootstrap": bootstrap,
    "softmax": lambda z, t: torch.stack([torch.softmax(row / t, 0) for row in z]),
    "calibration_error": calibration_error,
    "margin": lambda p: p.sort(1).values[:, -2:].diff(dim=1)[:, 0],
    "normalise": lambda x, m, s: torch.stack([(x[:, c] / 255 - m[c]) / s[c] for c in range(3)], 1),
    "going_on": lambda here, score, t: torch.tensor([h for h, s in zip(here.tolist(), score, strict=True) if s < t]),
    "break_even": lambda choosing, rest: choosing * rest**-1,
    "within": lambda s, q: min(t for t in s.tolist() if (s <= t).double().mean() >= q - 1e-9),
    "together": lambda exit, s: sum(max(s[e] for e in row) for row in exit.tolist()) / len(exit),
    "warm_up": lambda e, b, base, warm: base * b / 256 if e >= warm else base + (base * b / 256 - base) * e / warm,
    **scratch_answers.RIGHT,
}
WRONG = [  # check, a mistake, a word of what must be said
    (
        "conflicting",
        lambda g: (g @ g.T <= 0)[tuple(torch.triu_indices(len(g), len(g), 1))].double().mean(),
        "exactly 0",
    ),
    ("silent", lambda C, b: (C - math.floor(C * b)) / C, "rounded as Python does"),
    ("silent", lambda C, b: (C - math.floor(C * b + 0.5)) / C, r"round\(2.5\) is 2"),
    ("surgery", lambda f, beta: surgery(f, math.ceil(f.shape[1] * beta) / f.shape[1]), "rounded as Python does"),
    ("partition", lambda f, beta: partition(f, math.floor(f.shape[1] * beta) / f.shape[1]), "rounded as Python does"),
    ("leave", lambda c, t: ((c > t[:, None]) | (t[:, None] == 0)).byte().argmax(0), "reaches"),
    (
        "geometric_shares",
        lambda q, K: q ** torch.arange(K) * (torch.tensor(q) - 1) / (torch.tensor(q) ** K - 1),
        "0 / 0",
    ),
    (
        "softmax",
        lambda z, t: torch.exp((z - z.max()) / t) / torch.exp((z - z.max()) / t).sum(1, keepdim=True),
        "its own",
    ),
    ("margin", lambda p: torch.stack([r.max() - r[r < r.max()].max() for r in p]), "the margin is 0"),
    ("front", lambda m, a: ((m <= m[:, None]) & (a >= a[:, None])).sum(1) == 1, "two equal"),
    ("front", lambda m, a: ~((m < m[:, None]) & (a > a[:, None])).any(1), "is enough"),
    ("exits", lambda s, h, x: [b(a(x)) for a, b in zip(s, h, strict=True)], "was given the image"),
    ("exits", lambda s, h, x: exits(s, h, x)[-1:], "only the last exit"),
    ("exits", lambda s, h, x: exits(s, h, x)[0], "a Tensor where a list of 2"),
    ("cumulative_macs", lambda s, h: s.cumsum(0), "the heads cost something"),
    ("cumulative_macs", lambda s, h: s + h, "every stage before"),
    ("cumulative_macs", lambda s, h: s.sum(), r"a single number where shape \(3,\)"),
    ("cosine", lambda g, h: g @ h, "inner product"),
    ("pcgrad", lambda g, h: g + h, "plain sum"),
    ("pcgrad", lambda g, h: pcgrad(g, h) / 2, "the mean"),
    ("pcgrad", lambda g, h: pcgrad(g, h) + (g @ h).clamp(max=0) / (g @ g) * g, "yields as well"),
    ("pcgrad", lambda g, h: g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g, "nothing is subtracted"),
    ("shortest", lambda g, h: 1 - shortest(g, h), "weight of h"),
    ("shortest", lambda g, h: (h - g) @ h / (h - g).norm() ** 2, "beyond an end"),
    ("as_long", lambda w, G: w / w.norm(), "is expected"),
    ("as_long", lambda w, G: w / (w @ G @ w) ** 0.5, "length 1"),
    ("seeds_needed", lambda s, g: max(2, math.ceil((1.96 * s / g) ** 2)), "1.96 is for very many"),
    ("seeds_needed", lambda s, g: seeds_needed(s, g) - 1, "one too few"),
    ("seeds_needed", lambda s, g: 0, "is expected"),
    ("at_least_one", lambda m: m / 20, "never above 1"),
    ("chosen", lambda v, t: max(t), "looked at the test split"),
    ("cosine", lambda g, h: (g @ h).abs() / g.norm() / h.norm(), "keep the sign"),
    ("cosine", lambda g, h: "0.5?", "a str where a number"),
    ("cosine_matrix", lambda g: g @ g.T, "inner products"),
    ("cosine_matrix", lambda g: g @ g.T / g.norm(dim=1), "both lengths"),
    ("cosine_matrix", lambda g: (g / g.norm(dim=0)).T @ (g / g.norm(dim=0)), "exits are the rows"),
    ("cosine_matrix", lambda g: (g @ g.T) / (g * g).sum(), "its own length"),
    ("cosine_matrix", lambda g: torch.corrcoef(g).abs(), "is expected"),
    ("cosine_matrix", lambda g: torch.cosine_similarity(g[:, None], g[None], dim=2).abs(), "keep the sign"),
    ("cosine_matrix", lambda g: torch.cosine_similarity(g[:, None], g[None], dim=2).fill_diagonal_(0), "diagonal"),
    ("cosine_matrix", lambda g: torch.cosine_similarity(g[:, None], g[None], dim=2).triu(), "both halves"),
    ("cosine_matrix", lambda g: (g[:, None] - g[None]).norm(dim=2), "distances"),
    ("conflicting", lambda g: 1 - conflicting(g), "pairs that agree"),
    ("conflicting", lambda g: (g @ g.T < 0).double().mean(), "diagonal"),
    ("surgery", lambda f, beta: (f, f), "nothing is cut"),
    ("surgery", lambda f, beta: surgery(f, beta)[::-1], "swapped"),
    ("surgery", lambda f, beta: f, "return two tensors"),
    ("surgery", lambda f, beta: (f[:, :1], f), "onward has shape"),
    ("partition", lambda f, beta: (f, f), "nothing is cut"),
    ("partition", lambda f, beta: partition(f, beta)[::-1], "swapped"),
    ("partition", surgery, "that is referencing"),
    ("partition", lambda f, beta: partition(f, 1 - beta), "the first round"),
    ("partition", lambda f, beta: (f[:, : round(f.shape[1] * beta)], f[:, round(f.shape[1] * beta) :]), "keep all C"),
    ("partition", lambda f, beta: f, "return two tensors"),
    ("silent", lambda C, b: 1 - b, "channels are indivisible"),
    ("silent", lambda C, b: round(C * b) / C, "do learn"),
    ("silent", lambda C, b: C - round(C * b), "divide by C"),
    ("received", lambda a, b, n: torch.cat([a[:, :n], b[:, n:]], 1), 'that is "own"'),
    ("received", lambda a, b, n: a + b, "joint training"),
    ("received", lambda a, b, n: received(b, a, n), "swapped"),
    ("received", lambda a, b, n: torch.cat([a[:, :n], (a + b)[:, n:]], 1), "receives both"),
    ("saved", lambda m, c, b: (1 - b) * m[c].sum() / 3 / m.sum(), "costs 2, not 3"),
    ("saved", lambda m, c, b: (1 - b) * m[c].sum() / m.sum(), "of a whole step"),
    ("saved", lambda m, c, b: 1 - saved(m, c, b), "what is left"),
    ("saved", lambda m, c, b: (1 - b) * m.sum() / (3 * m.sum() - m[0]), "read a cut feature"),
    ("saved", lambda m, c, b: (1 - b) * m[c].sum(), "divide by"),
    ("accuracy", lambda p, y: (p == y).sum(), "their number"),
    ("accuracy", lambda p, y: (p != y).double().mean(), "are wrong"),
    ("accuracy", lambda p, y: 100 * (p == y).double().mean(), "not in percent"),
    ("accuracy", lambda p, y: p == y, "take the mean"),
    ("backward_saved", lambda beta: (1 - beta) / 3, "of the whole step"),
    ("backward_saved", lambda beta: 1 - beta, "of the input gradient"),
    ("backward_saved", lambda beta: beta / 2, "still passes a gradient on"),
    ("backward_saved", lambda beta: (1 + beta) / 2, "what is left"),
    ("leave", lambda c, t: c.argmax(0), "most confident exit"),
    ("leave", lambda c, t: leave(c, t) + 1, "from 0"),
    ("average_macs", lambda exit, macs: macs.mean(), "do not have the same number"),
    ("average_macs", lambda exit, macs: macs[exit].mean() * 2, "twice"),
    (
        "evenly",
        lambda macs, exits: (macs - macs[-1] * torch.arange(1, exits + 1)[:, None] / exits).abs().argmin(1),
        "end",
    ),
    ("evenly", lambda macs, exits: macs[evenly(macs, exits)], "not what they cost"),
    ("evenly", lambda macs, exits: evenly(macs, exits)[:1], "shape"),
    ("conv_macs", lambda i, o, k, s, g: i * o * k * k * s * s, "in/groups"),
    ("conv_macs", lambda i, o, k, s, g: 2 * (i // g) * o * k * k * s * s, "FLOPs"),
    ("front", lambda m, a: ~front(m, a), "the others"),
    ("learning_rate", lambda e, p, m: p * 0.1 ** len([x for x in m if x < e]), "lower rate"),
    ("interval", lambda d: (d.mean(), 2.0 * interval(d)[1]), "half the width"),
    ("interval", lambda d: (d.mean(), 1.959964 * d.std() / len(d) ** 0.5), "1.96"),
    ("interval", lambda d: (d.mean(), d.std(unbiased=False) * interval(d)[1] / d.std()), "n - 1"),
    ("interval", lambda d: d.mean(), "two numbers"),
    ("warm_up", lambda e, b, base, warm: base * b / 256, "begins at base"),
    ("warm_up", lambda e, b, base, warm: base * b / 256 * min(e / warm, 1), "not at 0"),
    ("warm_up", lambda e, b, base, warm: base + base * (b / 256 - 1) * e / warm, "stays"),
    ("warm_up", lambda e, b, base, warm: base + base * ((b / 256) ** 0.5 - 1) * min(e / warm, 1), "linear"),
    ("warm_up", lambda e, b, base, warm: base, "higher rate"),
    ("front", lambda m, a: a >= a.cummax(0).values, "any order"),
    ("softmax", lambda z, t: torch.softmax(z * t, 1), "divide by the temperature"),
    ("softmax", lambda z, t: torch.softmax(z, 1), "missing"),
    ("softmax", lambda z, t: torch.softmax(z, 1) / t, "not the probabilities"),
    ("softmax", lambda z, t: torch.softmax(z / t, 0), "dimension 1"),
    ("softmax", lambda z, t: torch.exp(z / t) / torch.exp(z / t).sum(1, keepdim=True), "subtract each row's maximum"),
    ("calibration_error", lambda s, r, b: (s.mean() - r.float().mean()).abs(), "must not cancel"),
    ("calibration_error", lambda s, r, b: s.mean() - r.float().mean(), "without its sign|must not cancel"),
    ("calibration_error", lambda s, r, b: binned(s, r, b, b - 1)[0].abs().mean(), "weight each bin"),
    ("calibration_error", lambda s, r, b: binned(s, r, b, b - 1)[0].abs().max(), "worst bin"),
    ("calibration_error", lambda s, r, b: (s - r.float()).abs().mean(), "right or wrong"),
    ("calibration_error", lambda s, r, b: (lambda g, w: (g.abs() * w).sum())(*binned(s, r, b)), "clamp"),
    ("calibration_error", lambda s, r, b: float("nan"), "leave it out"),
    ("margin", lambda p: p.max(1).values, "the confidence"),
    ("margin", lambda p: p.max(1).values - p.min(1).values, "the smallest"),
    ("margin", lambda p: p[:, 0] - p[:, 1], "classes 0 and 1"),
    ("margin", lambda p: p.max(1).values - (1 - p.max(1).values), "all other classes"),
    ("front", lambda m, a: front(m, a).nonzero()[:, 0], "a bool"),
    ("normalise", lambda x, m, s: (x - m[:, None, None]) / s[:, None, None], "divide by 255 first"),
    ("normalise", lambda x, m, s: x / 255 - m[:, None, None], "divide by std"),
    ("normalise", lambda x, m, s: (x / 255 - m) / s, "mean per column"),
    ("normalise", lambda x, m, s: x / 255, "subtract the mean"),
    ("going_on", lambda h, s, t: h[s >= t], "the images that leave"),
    ("break_even", lambda c, r: r / c, "the other way round"),
    ("break_even", lambda c, r: c / (c + r), "the choosing was paid"),
    ("break_even", lambda c, r: 1 - c / r, "may stay"),
    ("break_even", lambda c, r: r / (c + r), "leaving saves the rest"),
    ("within", lambda s, q: s[math.ceil(q * len(s) - 1e-9) - 1], "sort the times"),
    ("within", lambda s, q: s.sort(descending=True).values[math.ceil(q * len(s) - 1e-9) - 1], "slower"),
    ("within", lambda s, q: s.sort().values[min(int(q * len(s)), len(s) - 1)], "one place too far"),
    ("within", lambda s, q: s.quantile(q), "between two times"),
    ("within", lambda s, q: q * s.max(), "not of the longest"),
    ("within", lambda s, q: s.mean(), "the slow images"),
    ("together", lambda e, s: s[e].mean(), "its slowest image"),
    ("together", lambda e, s: s[e.max()], "its own slowest"),
    ("together", lambda e, s: s[e.amax(0)].mean(), "dimension 1"),
    ("together", lambda e, s: s[e.amin(1)].mean(), "max, not min"),
    ("together", lambda e, s: s[e.amax(1)].sum(), "not their sum"),
    ("together", lambda e, s: s[e].sum(1).mean(), "at the same time"),
    ("linear_cka", cka_after, "mean over the images"),
    ("linear_cka", lambda X, Y: 2 * linear_cka(X, Y), "twice"),
    ("linear_cka", lambda X, Y: cka_after(X - X.mean(), Y - Y.mean()), "one for all"),
    ("linear_cka", lambda X, Y: cka_after(X - X.mean(1, True), Y - Y.mean(1, True)), "not of each image"),
    ("linear_cka", lambda X, Y: (X - X.mean(0)).T.matmul(Y - Y.mean(0)).norm() ** 2, "divide by the root"),
    ("linear_cka", lambda X, Y: hsic(X, Y) / (hsic(X, X) * hsic(Y, Y)), "square root of the denominator is missing"),
    ("linear_cka", lambda X, Y: (hsic(X, Y) / (hsic(X, X) * hsic(Y, Y)) ** 0.5) ** 0.5, "take no root"),
    ("linear_cka", lambda X, Y: linear_cka(X / X.std(0), Y / Y.std(0)), "standardise"),
    ("linear_cka", lambda X, Y: linear_cka(X, Y)[None, None], r"shape \(1, 1\)"),
    ("selectivity", lambda a, y: class_index(a, y, lambda m: m.mean()), "leave out the highest"),
    ("selectivity", lambda a, y: class_index(a, y, lambda m: m.sort().values[-2]), "second highest"),
    ("selectivity", lambda a, y: class_index(a, y, lambda m: m.min()), "not the lowest"),
    ("selectivity", lambda a, y: selectivity(a, y) * (class_means(a, y).max() + others(a, y)), "stronger channel"),
    ("selectivity", lambda a, y: (a.max() - a.mean()) / (a.max() + a.mean()), "not activations of images"),
    ("ablation_loss", lambda *case: ablation_loss(*case, fill=lambda f, c: 0), "with zeros"),
    ("ablation_loss", lambda *case: ablation_loss(*case, fill=lambda f, c: f[:, : case[3]].mean(1)), "dimension 0"),
    ("ablation_loss", lambda *case: ablation_loss(*case, fill=lambda f, c: f[:, : case[3]].mean()), "one for all"),
    ("ablation_loss", lambda *case: -ablation_loss(*case), "before minus"),
    (
        "ablation_loss",
        lambda *case: (case[1](case[0]).argmax(1) == case[2]).double().mean() - ablation_loss(*case),
        "left",
    ),
    ("ablation_loss", lambda *case: ablation_loss(*case) * len(case[2]), "not their number"),
    ("going_on", lambda h, s, t: h[s <= t], "just reaches"),
    ("going_on", lambda h, s, t: (s < t).nonzero()[:, 0], "places among"),
    ("going_on", lambda h, s, t: s < t, "index `here`"),
    ("geometric_shares", lambda q, K: [q**k for k in range(K)], "sum is not 1"),
    ("geometric_shares", lambda q, K: inference.geometric_shares(torch.tensor([q]), K)[0].flip(0), "small q"),
    ("best_cut", lambda c, h, la, a, b, p: best_cut(c, h, la, a, b, 0), "price is missing"),
    ("best_cut", lambda c, h, la, a, b, p: best_cut(-c, h, la, a, b, p), "most confident leave first"),
    ("best_cut", lambda c, h, la, a, b, p: best_cut(c, h, torch.zeros_like(la), a, b, p), "subtract right_later"),
    ("best_cut", lambda c, h, la, a, b, p: best_cut(c, h, la, a, 0, p), "saves cost_later"),
    ("best_cut", lambda *case: best_cut(*case) - 1, "one too few"),
    ("best_cut", lambda *case: case[0].sort(descending=True).values[best_cut(*case) - 1], "how many leave"),
    ("bootstrap", lambda r, d: [x * len(r) for x in bootstrap(r, d)], "an accuracy is their mean"),
    ("bootstrap", lambda r, d: bootstrap(r, d)[::-1], "lower end first"),
    ("bootstrap", lambda r, d: r[d].double().mean(1).quantile(torch.tensor([0.05, 0.95]).double()).tolist(), "2.5 %"),
    ("bootstrap", lambda r, d: r[d].double().mean(1), r"shape \(41,\) where shape \(2,\)"),
    *[(name, mistake, word) for name, wrong in scratch_answers.SCRATCH.items() for mistake, word in wrong],
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_accepted(name, capsys):
    for seed in range(5):
        torch.manual_seed(seed)
        getattr(checks, name)(RIGHT[name])
        assert capsys.readouterr().out.startswith("✓")


def ellipsis(*_):
    return ...


def nothing(*_):
    pass


def unwritten(*_):
    raise NotImplementedError


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("stub", [nothing, ellipsis, unwritten])
def test_a_stub_is_not_yet(name, stub, capsys):
    getattr(checks, name)(stub)
    assert "not yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", RIGHT)
def test_an_error_of_the_learner_is_shown_not_raised(name, capsys):
    getattr(checks, name)(lambda *_: 1 / 0)
    assert "✗" in (said := capsys.readouterr().out)
    assert "ZeroDivisionError" in said


@pytest.mark.parametrize(("name", "mistake", "word"), WRONG)
def test_a_mistake_is_explained(name, mistake, word, capsys):
    import re

    torch.manual_seed(0)
    getattr(checks, name)(mistake)
    *_, said = capsys.readouterr().out.splitlines()  # what the answer itself prints comes first
    assert said.startswith("✗")
    assert re.search(word, said), said


def test_every_check_has_a_right_answer_here():
    assert set(checks.__all__) - {"use"} == set(RIGHT)


def test_an_answer_that_consumes_its_list_is_accepted(capsys):
    def mine(stages, heads, x):
        found = []
        while stages:
            x = stages.pop(0)(x)
            found.append(heads.pop(0)(x))
        return found

    checks.exits(mine)
    assert "right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mine", "which"),
    [
        (RIGHT["accuracy"], "your <lambda>."),
        (lambda p, y: ..., "the library's version: <lambda> is not written yet."),
        (lambda p, y: print((p == y).sum()), "the library's version: <lambda> is not right yet (its check says why)."),
    ],
)
def test_an_experiment_uses_what_is_right(mine, which, capsys):
    def library(prediction, label): ...

    assert checks.use(checks.accuracy, mine, library) is (mine if "your" in which else library)
    assert capsys.readouterr().out == f"The experiment below uses {which}\n"


def test_an_experiment_uses_a_class_of_ones_own(capsys):
    assert checks.use(checks.junction, RIGHT["junction"], None) is RIGHT["junction"]
    assert capsys.readouterr().out == "The experiment below uses your OwnSurgery.\n"
