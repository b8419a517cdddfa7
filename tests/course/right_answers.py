"""Right answers to the exercises, each in several styles: loops, lists, NumPy, one line of tensors, another formula."""

import math
from functools import cache

import numpy as np
import scratch_answers
import torch
from scipy import stats


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
    bin = (confidence * bins).long()
    bin = bin if last is None else bin.clamp(max=last)
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


def cosines(g):
    unit = g / g.norm(dim=1, keepdim=True)
    return unit @ unit.T


def pairs(g):
    first, second = torch.triu_indices(len(g), len(g), offset=1)
    return cosines(g)[first, second]


def unlimited(g, h):
    return (h - g) @ h / ((g - h) @ (g - h))


def gains(confidence, here, later, cost_here, cost_later, price):
    order = confidence.argsort(descending=True)
    return (here.double() - later.double())[order] + price * (cost_later - cost_here)


def sums(*case):
    """What it is worth that 0, 1, ... n leave."""
    return torch.cat([torch.zeros(1), gains(*case).cumsum(0)])


def nearest(macs, exits, whole):
    return (macs - whole * torch.arange(1, exits + 1)[:, None] / (exits + 1)).abs().argmin(1)


def means(a, labels):
    return torch.stack([a[labels == c].mean() for c in labels.unique()])


def centred(X):
    return X - X.mean(0)


def cka(X, Y):
    return (X.T @ Y).norm() ** 2 / ((X.T @ X).norm() * (Y.T @ Y).norm())


@cache
def t_quantile(n, level=0.975):
    return float(stats.t.ppf(level, n - 1))


def least(width, first=2):
    """The least number of seeds, by another half width of the interval of n seeds."""
    return lambda s, g: next((n for n in range(first, 1000) if width(s, n) <= g), 1000)


def ends(values, low=0.025, high=0.975, **options):
    return values.double().quantile(torch.tensor([low, high]).double(), **options)


def ece(confidence, correct, bins, number=None, weigh=None, measure=torch.abs):
    """By another number of a bin, another weight, another distance."""
    number = (confidence * bins).long().clamp(max=bins - 1) if number is None else number(confidence, bins)
    error = torch.tensor(0.0)
    for b in number.unique():
        here = number == b
        gap = confidence[here].mean() - correct[here].float().mean()
        error = error + (here.float().mean() if weigh is None else weigh(here)) * measure(gap)
    return error


def loop(stages, heads, x, start=0):
    out = []
    for stage, head in zip(stages[start:], heads[start:], strict=True):
        x = stage(x)
        out.append(head(x))
    return out


def in_place(f, beta):
    """Writes into what was given."""
    n, seen = round(f.shape[1] * beta), f.clone()
    f[:, n:] = 0
    seen[:, :n] = 0
    return f, seen


def by_mask(f, beta):
    shared = (torch.arange(f.shape[1]) < round(f.shape[1] * beta)).float()[None, :, None, None]
    return f * shared, f * (1 - shared)


def values_and_gradients_apart(f, beta):
    onward, seen = by_mask(f, beta)
    return [onward + seen.detach(), seen + onward.detach()]


RIGHT = {
    "pcgrad": pcgrad,
    "shortest": shortest,
    "as_long": as_long,
    "seeds_needed": seeds_needed,
    "at_least_one": lambda m: 1 - math.exp(m * math.log(0.95)),
    "shared_cost": lambda a, j: torch.stack([(a[:, k, k] - j[:, k]).mean() for k in range(j.shape[1])]),
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

ALSO_RIGHT = [  # the same in other words: other types, a loop, one line of tensors, another formula
    ("accuracy", lambda p, y: float(np.mean(p.numpy() == y.numpy()))),
    ("accuracy", lambda p, y: (p == y).float().mean()),
    ("as_long", lambda w, G: (w * G.sum() ** 0.5 / (w @ G @ w) ** 0.5).float()),
    ("average_macs", lambda exit, macs: (torch.bincount(exit, minlength=len(macs)) / len(exit)).double() @ macs),
    ("average_macs", lambda exit, macs: macs.numpy()[exit.numpy()].mean()),
    ("best_cut", lambda *case: int(sums(*case).argmax())),
    ("best_cut", lambda *case: np.argmax(np.concatenate([[0], np.cumsum(gains(*case).float().numpy())]))),
    ("bootstrap", lambda r, d: ends(r[d].float().mean(1))),
    ("bootstrap", lambda r, d: np.percentile(r.numpy()[d.numpy()].mean(1), [2.5, 97.5])),
    ("bootstrap", lambda r, d: tuple(r[d].float().mean(1).quantile(q) for q in (0.025, 0.975))),
    ("bootstrap", lambda r, d: ends(r[d].float().mean(1), interpolation="nearest")),
    (
        "bootstrap",
        lambda r, d: [(m := sorted(r[d].float().mean(1).tolist()))[int(0.025 * len(m))], m[int(0.975 * len(m))]],
    ),
    ("calibration_error", ece),
    ("calibration_error", lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * b).ceil()).item()),
    ("shared_cost", lambda a, j: torch.einsum("nkk->nk", a).mean(0) - j.mean(0)),
    ("chosen", lambda v, t: t[v.argmax()].item()),
    ("chosen", lambda v, t: t[v == v.max()][-1]),
    ("conflicting", lambda g: (pairs(g) < 0).float().mean()),
    ("conflicting", lambda g: ((cosines(g) < 0).sum() / (len(g) * (len(g) - 1))).item()),
    ("cosine", lambda g, h: float(g.numpy() @ h.numpy() / np.linalg.norm(g) / np.linalg.norm(h))),
    ("cosine_matrix", lambda g: g @ g.T / g.norm(dim=1) / g.norm(dim=1, keepdim=True)),
    ("cosine_matrix", lambda g: torch.cosine_similarity(g[:, None].double(), g[None].double(), dim=2)),
    ("cumulative_macs", lambda s, h: [int((s + h)[: k + 1].sum()) for k in range(len(s))]),
    ("evenly", lambda m, n: nearest(m, n, m[-1])),
    ("evenly", lambda m, n: [(m - m[-1] * k / (n + 1)).abs().argmin() for k in range(1, n + 1)]),
    ("exits", lambda s, h, x: tuple(loop(s, h, x))),
    (
        "front",
        lambda m, a: [
            not any((n <= m[i]) & (b >= a[i]) & ((n < m[i]) | (b > a[i])) for n, b in zip(m, a, strict=True))
            for i in range(len(m))
        ],
    ),
    ("geometric_shares", lambda q, K: (p := q ** torch.arange(K)) / p.sum()),
    ("geometric_shares", lambda q, K: np.array([q**k for k in range(K)]) / sum(q**k for k in range(K))),
    ("going_on", lambda h, s, t: [int(h[i]) for i in range(len(h)) if s[i].item() < t]),
    ("going_on", lambda h, s, t: h[~(s >= t)]),
    ("interval", lambda d: (d.mean().item(), stats.t.ppf(0.975, len(d) - 1) * d.std().item() / len(d) ** 0.5)),
    ("interval", lambda d: torch.stack([d.mean(), t_quantile(len(d)) * d.std() / len(d) ** 0.5])),
    ("interval", lambda d: np.array([d.mean(), t_quantile(len(d)) * stats.sem(d.numpy())])),
    (
        "interval",
        lambda d: (d.float().mean(), stats.t.ppf(0.975, len(d) - 1) * d.numpy().std(ddof=1) / np.sqrt(len(d))),
    ),
    ("leave", lambda c, t: (c >= t[:, None]).byte().argmax(0)),
    ("leave", lambda c, t: ((c >= t[:, None]).cumsum(0) == 0).sum(0)),
    ("linear_cka", lambda X, Y: cka(centred(X), centred(Y)).item()),
    ("margin", lambda p: -p.topk(2, dim=1).values.diff(dim=1).squeeze(1)),
    ("margin", lambda p: [(s := sorted(row.tolist()))[-1] - s[-2] for row in p]),
    ("normalise", lambda x, m, s: (x.double() / 255 - m.view(1, 3, 1, 1)).div_(s.view(1, 3, 1, 1))),
    ("partition", by_mask),
    ("partition", in_place),
    ("pcgrad", lambda g, h: g + h if g @ h >= 0 else g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g),
    ("seeds_needed", least(lambda s, n: t_quantile(n) * s / math.sqrt(n))),
    (
        "selectivity",
        lambda a, y: float(((m := means(a, y).sort().values)[-1] - m[:-1].mean()) / (m[-1] + m[:-1].mean())),
    ),
    ("shortest", lambda g, h: float(np.clip(unlimited(g, h).item(), 0, 1))),
    ("silent", lambda C, b: (C - round(C * b)) / C),
    ("softmax", lambda z, t: (e := (z / t - z.amax(1, keepdim=True) / t).exp()) / e.sum(1, keepdim=True)),
    ("softmax", lambda z, t: (z.double() / t - torch.logsumexp(z.double() / t, 1, keepdim=True)).exp()),
    ("surgery", values_and_gradients_apart),
    ("within", lambda s, q: s.sort().values[math.ceil(q * len(s)) - 1].item()),
    ("within", lambda s, q: np.quantile(s.numpy(), q, method="inverted_cdf")),
    *scratch_answers.ALSO_RIGHT,
]
