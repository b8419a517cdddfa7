"""No grade depends on chance: what is plausible and wrong is found wrong, and what is right passes, every time."""

import math
import random
import sys
from functools import cache

import numpy as np
import pytest
import scratch_answers
import torch
from scipy import stats
from test_checks import RIGHT, leave, partition, surgery

from dfs_edu.course import checks
from dfs_edu.course.checks import answers


def cut(f, n, detach=True):
    """DFS with n channels of f+."""
    shared, specific = f[:, :n], f[:, n:]
    return torch.cat([shared, specific.detach()], 1), torch.cat([shared.detach(), specific], 1)


def zeroed(f, n):
    onward, seen = f.clone(), f.clone()
    onward[:, n:] = 0
    seen[:, :n] = 0
    return onward, seen


def half_up(x):
    return math.floor(x + 0.5)


def channels(split, rounded):
    """`split` with another rounding of how many channels are f+."""
    return lambda f, beta: split(f, rounded(f.shape[1] * beta))


def cosines(g):
    unit = g / g.norm(dim=1, keepdim=True)
    return unit @ unit.T


def pairs(g):
    first, second = torch.triu_indices(len(g), len(g), offset=1)
    return cosines(g)[first, second]


def leave_above(confidence, thresholds):
    beyond = confidence > thresholds[:, None]
    beyond[-1] = True
    return beyond.byte().argmax(0)


def below(g, h):
    return (g @ h).clamp(max=0)


def unlimited(g, h):
    return (h - g) @ h / ((g - h) @ (g - h))


def gains(confidence, here, later, cost_here, cost_later, price):
    order = confidence.argsort(descending=True)
    return (here.double() - later.double())[order] + price * (cost_later - cost_here)


def sums(*case):
    """What it is worth that 0, 1, ... n leave."""
    return torch.cat([torch.zeros(1), gains(*case).cumsum(0)])


def until_the_first_loss(*case):
    gain = gains(*case)
    return next((i for i, g in enumerate(gain) if g < 0), len(gain))


def front_strict(macs, accuracy):
    return ~((macs < macs[:, None]) & (accuracy > accuracy[:, None])).any(1)


def front_without_twins(macs, accuracy):
    return ((macs <= macs[:, None]) & (accuracy >= accuracy[:, None])).sum(1) == 1


def front_by_records(macs, accuracy):
    """Sorted by cost, each point that is more accurate than all before: of twins only the first."""
    best, keep = -1.0, torch.zeros(len(macs), dtype=torch.bool)
    for i in macs.argsort(stable=True):
        keep[i] = accuracy[i] > best
        best = max(best, accuracy[i].item())
    return keep


def front_level(macs, accuracy):
    """A point of the same accuracy as a cheaper one stays."""
    best, keep = -1.0, torch.zeros(len(macs), dtype=torch.bool)
    for i in macs.argsort(stable=True):
        keep[i] = accuracy[i] >= best
        best = max(best, accuracy[i].item())
    return keep


def nearest(macs, exits, whole):
    return (macs - whole * torch.arange(1, exits + 1)[:, None] / (exits + 1)).abs().argmin(1)


def wanted(macs, exits):
    return macs[-1] * torch.arange(1, exits + 1) / (exits + 1)


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


def accuracies(f, head, labels, n, fill):
    ablated = f.clone()
    ablated[:, :n] = fill(f[:, :n])
    return [(head(x).argmax(1) == labels).double().mean() for x in (f, ablated)]


def lost(f, head, labels, n, fill):
    before, after = accuracies(f, head, labels, n, fill)
    return before - after


def column(p):
    return p.mean(0, keepdim=True)


def loop(stages, heads, x, start=0):
    out = []
    for stage, head in zip(stages[start:], heads[start:], strict=True):
        x = stage(x)
        out.append(head(x))
    return out


def relu_between(stages, heads, x):
    out = []
    for stage, head in zip(stages, heads, strict=True):
        x = stage(x).relu()
        out.append(head(x))
    return out


def heads_in_the_trunk(stages, heads, x):
    return [head(stages[0](x)) for head in heads]


def normalised(x, m, s, largest=255):
    return (x / largest - m[:, None, None]) / s[:, None, None]


MUTANTS = {
    "ablation_loss": [
        lambda *case: lost(*case, fill=torch.zeros_like),
        lambda *case: lost(*case, fill=lambda p: p.median(0, keepdim=True).values),
        lambda *case: lost(*case, fill=lambda p: p.mean()),
        lambda f, head, y, n: lost(f, head, y, n - 1, column),
        lambda f, head, y, n: lost(f, head, y, n + 1, column),
        lambda *case: abs(lost(*case, fill=column)),
        lambda *case: lost(*case, fill=column).clamp(min=0),
        lambda f, head, y, n: (head(f).argmax(1) == y).double().mean() - 1 / len(y),
    ],
    "accuracy": [
        lambda p, y: (p == y).sum() // len(p),
        lambda p, y: (p == y).double().sum() / (len(p) - 1) if len(p) > 1 else (p == y).double().sum(),
        lambda p, y: ((p == y) & (y > 0)).double().mean(),
        lambda p, y: ((p == y).double().mean() * 100).round(),
        lambda p, y: (p == y).double().mean().round(decimals=1),
    ],
    "as_long": [
        lambda w, G: w * (G.sum() / (w @ G @ w)),
        lambda w, G: w * (G.trace() / (w @ G @ w)).sqrt(),
        lambda w, G: w * (G.sum() / (w**2 @ G.diagonal())).sqrt(),
        lambda w, G: w / w.sum() * len(w),
        lambda w, G: w * ((w @ G @ w) / G.sum()).sqrt(),
    ],
    "at_least_one": [
        lambda m: 0.05 * m,
        lambda m: min(1.0, 0.05 * m),
        lambda m: m * 0.05 * 0.95 ** (m - 1),
        lambda m: 1 - 0.95 ** (m - 1),
        lambda m: 1 - 0.95 ** (m + 1),
    ],
    "average_macs": [
        lambda exit, macs: macs[round(exit.double().mean().item())],
        lambda exit, macs: macs[exit].median(),
        lambda exit, macs: macs[exit.unique()].mean(),
        lambda exit, macs: macs[exit].sum() / len(macs),
        lambda exit, macs: macs[(exit + 1).clamp(max=len(macs) - 1)].mean(),
    ],
    "backward_saved": [
        lambda beta: (1 - beta) / 3,
        lambda beta: (1 - beta) * 2 / 3,
        lambda beta: beta / 2,
        lambda beta: 0.25,
        lambda beta: (1 - beta**2) / 2,
    ],
    "best_cut": [
        lambda *case: gains(*case).cumsum(0).argmax(),
        lambda *case: gains(*case).cumsum(0).argmax() + 1,
        lambda *case: (gains(*case) > 0).sum(),
        until_the_first_loss,
        lambda *case: sums(-case[0], *case[1:]).argmax(),
        lambda *case: sums(*case[:5], 0).argmax(),
        lambda *case: sums(*case[:5], -case[5]).argmax(),
        lambda c, *rest: sums(-torch.arange(len(c)).float(), *rest).argmax(),
        lambda c, here, later, *rest: sums(c, here, torch.zeros_like(later), *rest).argmax(),
        lambda c, here, later, a, b, price: sums(c, here, later, 0, b, price).argmax(),
    ],
    "bootstrap": [
        lambda r, d: ends(r[d].double().mean(1), 0.05, 0.95),
        lambda r, d: ends(r[d].double().mean(1), 0.0, 1.0),
        lambda r, d: ends(r[d].double().mean(1), 0.005, 0.995),
        lambda r, d: ends(r[d].double().mean(0)),
        lambda r, d: (r.double().mean(), r.double().mean()),
        lambda r, d: [(m := r[d].double().mean(1)).mean() - 2 * m.std(), m.mean() + 2 * m.std()],
    ],
    "break_even": [
        lambda c, r: r / c if c else 0,
        lambda c, r: c / (c + r),
        lambda c, r: 1 - c / r,
        lambda c, r: c // r,
        lambda c, r: c / max(r, 1),
        lambda c, r: round(c / r, 1),
    ],
    "calibration_error": [
        lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * b).long()),
        lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * b).round()),
        lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * b).ceil()) if b > 1 else 0,
        lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * (b + 1)).long().clamp(max=b)),
        lambda s, r, b: ece(s, r, b, weigh=lambda here: 1 / b),
        lambda s, r, b: ece(s, r, b, weigh=lambda here: here.sum()),
        lambda s, r, b: ece(s, r, b, measure=torch.square).sqrt(),
        lambda s, r, b: ece(s, r, b, measure=lambda gap: gap).abs(),
        lambda s, r, b: ece(s, r, b, measure=lambda gap: gap.clamp(min=0)),
        lambda s, r, b: (s - r.float()).abs().mean(),
    ],
    "chosen": [
        lambda v, t: t.max(),
        lambda v, t: t[-1],
        lambda v, t: t[0],
        lambda v, t: t.min(),
        lambda v, t: t.median(),
        lambda v, t: t[v.argmin()],
        lambda v, t: (v.max() + t[v.argmax()]) / 2,
        lambda v, t: t[(v + t).argmax()],
    ],
    "conflicting": [
        lambda g: (pairs(g) <= 0).double().mean(),
        lambda g: (cosines(g) < 0).double().mean(),
        lambda g: (cosines(g) < 0).sum() / (len(g) - 1) ** 2,
        lambda g: (pairs(g) < 0).sum(),
        lambda g: (pairs(g) < 0).sum() / len(g),
        lambda g: (cosines(g)[0, 1:] < 0).double().mean(),
        lambda g: -pairs(g).clamp(max=0).mean(),
        lambda g: (
            (cosines(g - g.mean(1, keepdim=True))[tuple(torch.triu_indices(len(g), len(g), 1))] < 0).double().mean()
        ),
    ],
    "conv_macs": [
        lambda i, o, k, s, g: i * o * k**2 * s**2,
        lambda i, o, k, s, g: (i // g) * (o // g) * k**2 * s**2,
        lambda i, o, k, s, g: i // g * o * k**2 * (s - k + 1) ** 2,
        lambda i, o, k, s, g: i // g * o * k**2 * s,
        lambda i, o, k, s, g: (i // g * k**2 + 1) * o * s**2,
        lambda i, o, k, s, g: (2 * i // g * k**2 - 1) * o * s**2,
    ],
    "cosine": [
        lambda g, h: g @ h / (g.norm() + h.norm()),
        lambda g, h: (g @ h / (g.norm() * h.norm())).clamp(min=0),
        lambda g, h: g @ h / (g.abs().sum() * h.abs().sum()),
        lambda g, h: torch.acos((g @ h / (g.norm() * h.norm())).clamp(-1, 1)),
        lambda g, h: (g @ h / (g.norm() * h.norm())) ** 2,
        lambda g, h: torch.cosine_similarity(g - g.mean(), h - h.mean(), dim=0),
        lambda g, h: torch.sign(g @ h),
    ],
    "cosine_matrix": [
        lambda g: cosines(g).clamp(min=0),
        lambda g: cosines(g).tril(),
        lambda g: cosines(g).fill_diagonal_(0),
        lambda g: g @ g.T / g.norm() ** 2,
        lambda g: g @ g.T / g.norm(dim=1, keepdim=True),
        lambda g: torch.cosine_similarity(g, g, dim=1),
        lambda g: cosines(g - g.mean(1, keepdim=True)),
    ],
    "cumulative_macs": [
        lambda s, h: s.cumsum(0),
        lambda s, h: s.cumsum(0) + h,
        lambda s, h: s + h.cumsum(0),
        lambda s, h: (s + h).cumsum(0) - h,
        lambda s, h: (s + h).flip(0).cumsum(0).flip(0),
        lambda s, h: torch.cat([torch.zeros(1), (s + h).cumsum(0)[:-1]]),
    ],
    "evenly": [
        lambda m, n: nearest(m, n, m.sum()),
        lambda m, n: nearest(m, n, m[-1] - m[0]),
        lambda m, n: nearest(m, n, m[-2] if len(m) > 1 else m[-1]),
        lambda m, n: (m - m[-1] * torch.arange(1, n + 1)[:, None] / n).abs().argmin(1),
        lambda m, n: (m - m[-1] * torch.arange(n)[:, None] / (n + 1)).abs().argmin(1),
        lambda m, n: nearest(m, n, m[-1]) + 1,
        lambda m, n: torch.searchsorted(m, wanted(m, n)),
        lambda m, n: torch.searchsorted(m, wanted(m, n), right=True),
        lambda m, n: torch.searchsorted(m, wanted(m, n)) - 1,
        lambda m, n: (torch.arange(1, n + 1) * len(m) / (n + 1)).long(),
        lambda m, n: torch.linspace(0, len(m) - 1, n + 2)[1:-1].round().long(),
    ],
    "exits": [
        heads_in_the_trunk,
        relu_between,
        lambda s, h, x: loop(s, h, x)[::-1],
        lambda s, h, x: loop(s, [h[0]] * len(h), x),
        lambda s, h, x: loop(s, h, x)[:-1],
        lambda s, h, x: loop(s, h, x, start=len(s) - 1),
        lambda s, h, x: [y.softmax(1) for y in loop(s, h, x)],
        lambda s, h, x: [y.argmax(1) for y in loop(s, h, x)],
    ],
    "front": [
        front_strict,
        front_without_twins,
        front_by_records,
        front_level,
        lambda m, a: a >= a.cummax(0).values,
        lambda m, a: a == a.max(),
        lambda m, a: m == m.min(),
    ],
    "geometric_shares": [
        lambda q, K: [q**k * (1 - q) / (1 - q**K) for k in range(K)] if q != 1 else [0.0] * K,
        lambda q, K: [q**k / sum(q**j for j in range(1, K + 1)) for k in range(K)],
        lambda q, K: [q * k / sum(q * j for j in range(1, K + 1)) for k in range(1, K + 1)],
        lambda q, K: [(1 - q) * q**k for k in range(K)],
        lambda q, K: torch.tensor([float(q**k) for k in range(K)]).softmax(0),
        lambda q, K: [1 / K] * K,
    ],
    "going_on": [
        lambda h, s, t: h[s <= t],
        lambda h, s, t: h[s > t],
        lambda h, s, t: h[s < t].sort().values,
        lambda h, s, t: h[s < t].flip(0),
        lambda h, s, t: h[s.argsort()][: int((s < t).sum())],
        lambda h, s, t: torch.where(s < t)[0],
        lambda h, s, t: h[s < t] if (s < t).any() else h,
        lambda h, s, t: (s < t).sum(),
    ],
    "interval": [
        lambda d: (d.mean(), t_quantile(len(d)) * d.std(correction=0) / len(d) ** 0.5),
        lambda d: (d.mean(), t_quantile(len(d) + 1) * d.std() / len(d) ** 0.5),
        lambda d: (d.mean(), t_quantile(len(d)) * d.std()),
        lambda d: (d.mean(), t_quantile(len(d)) * d.std() / len(d)),
        lambda d: (d.mean(), t_quantile(len(d)) * d.std() / (len(d) - 1) ** 0.5),
        lambda d: (d.mean(), stats.t.ppf(0.95, len(d) - 1) * d.std() / len(d) ** 0.5),
        lambda d: (d.abs().mean(), t_quantile(len(d)) * d.std() / len(d) ** 0.5),
        lambda d: (d.median(), t_quantile(len(d)) * d.std() / len(d) ** 0.5),
        lambda d: (d.mean(), t_quantile(len(d)) * d.var() / len(d) ** 0.5),
        lambda d: (d.mean() - (w := t_quantile(len(d)) * d.std() / len(d) ** 0.5), d.mean() + w),
    ],
    "learning_rate": [
        lambda e, p, m: p * 0.1 ** sum(e > step for step in m),
        lambda e, p, m: p * 0.1 ** sum(e >= step - 1 for step in m),
        lambda e, p, m: p * 0.1 ** (e >= m[0]),
        lambda e, p, m: p * 0.1 ** ((e >= m[0]) + sum(e > step for step in m[1:])),
        lambda e, p, m: p * 0.1 ** sum(e >= step for step in (250, 280, 295)),
        lambda e, p, m: 0.1 ** (1 + sum(e >= step for step in m)),
        lambda e, p, m: p / (1 + 10 * sum(e >= step for step in m)),
        lambda e, p, m: p * 0.5 ** sum(e >= step for step in m),
    ],
    "leave": [
        leave_above,
        lambda c, t: (c >= t[:, None]).byte().argmax(0) * (c > 0).all(0),
        lambda c, t: (c >= t[:, None]).sum(0) - 1,
        lambda c, t: len(t) - (c >= t[:, None]).sum(0),
        lambda c, t: len(t) - 1 - (c >= t[:, None]).flip(0).byte().argmax(0),
        lambda c, t: leave(c, t).clamp(max=max(len(t) - 2, 0)),
        lambda c, t: (c[:, :1] >= t[:, None]).byte().argmax(0).expand(c.shape[1]),
        lambda c, t: (c - t[:, None]).argmax(0),
    ],
    "linear_cka": [
        cka,
        lambda X, Y: cka(X - X.mean(), Y - Y.mean()),
        lambda X, Y: cka(centred(X), Y - Y.mean()),
        lambda X, Y: cka(centred(X), centred(Y)) ** 0.5,
        lambda X, Y: cka(centred(X), centred(Y)) ** 2,
        lambda X, Y: (centred(X).T @ centred(Y)).sum() / (centred(X).norm() * centred(Y).norm()),
        lambda X, Y: (centred(X).T @ centred(Y)).norm() ** 2 / (centred(X).norm() ** 2 * centred(Y).norm() ** 2),
        lambda X, Y: cka(centred(X) / X.std(0), centred(Y) / Y.std(0)),
    ],
    "margin": [
        lambda p: p.amax(1) - p.masked_fill(p == p.amax(1, keepdim=True), 0).amax(1),
        lambda p: p.amax(1) - p.median(1).values,
        lambda p: p.amax(1) - p.mean(1),
        lambda p: p.sort(1).values.diff(dim=1)[:, 0],
        lambda p: p.sort(1).values.diff(dim=1).amax(1),
        lambda p: 2 * p.amax(1) - 1,
        lambda p: p.amax(1) - p.amin(1),
        lambda p: p[:, -1] - p[:, -2],
        lambda p: (p[:, 0] - p[:, 1]).abs(),
    ],
    "normalise": [
        lambda x, m, s: normalised(x, m, s, largest=256),
        lambda x, m, s: normalised(x, m, s, largest=x.max()),
        lambda x, m, s: normalised(x, m, s**2),
        lambda x, m, s: (x / 255) / s[:, None, None] - m[:, None, None],
        lambda x, m, s: (x / 255 - m.mean()) / s.mean(),
        lambda x, m, s: (x / 255 - m[0]) / s[0],
        lambda x, m, s: (x // 255 - m[:, None, None]) / s[:, None, None],
        lambda x, m, s: normalised(x, m, s).clamp(min=0),
        lambda x, m, s: (x / 255 - x.double().mean((0, 2, 3), keepdim=True) / 255) / s[:, None, None],
    ],
    "partition": [
        channels(zeroed, math.floor),
        channels(zeroed, math.ceil),
        channels(zeroed, half_up),
        channels(cut, round),
        lambda f, beta: partition(f.detach(), beta),
        lambda f, beta: [v.flip(1) for v in partition(f.flip(1), beta)],
        lambda f, beta: (partition(f, beta)[0], f),
        lambda f, beta: (partition(f, beta)[0], partition(f, beta)[0]),
        lambda f, beta: zeroed(f, round(f.shape[1] * beta) + 1),
    ],
    "pcgrad": [
        lambda g, h: g - below(g, h) / (h @ h) * h + h,
        lambda g, h: (g - below(g, h) / (h @ h) * h + h - below(g, h) / (g @ g) * g) / 2,
        lambda g, h: g + below(g, h) / (h @ h) * h + h + below(g, h) / (g @ g) * g,
        lambda g, h: g - below(g, h) / h.norm() * h + h - below(g, h) / g.norm() * g,
        lambda g, h: g - below(g, h) / (g @ g) * h + h - below(g, h) / (h @ h) * g,
        lambda g, h: (n := g - below(g, h) / (h @ h) * h) + h - below(n, h) / (n @ n + 1e-12) * n,
        lambda g, h: g - below(g, h) / (h @ h) * h,
        lambda g, h: g + h if g @ h > 0 else torch.zeros_like(g),
    ],
    "received": [
        lambda a, b, n: torch.cat([a[:, :n], b[:, n:]], 1),
        lambda a, b, n: torch.cat([(a + b)[:, : n + 1], b[:, n + 1 :]], 1),
        lambda a, b, n: torch.cat([(a + b)[:, :n] / 2, b[:, n:]], 1),
        lambda a, b, n: torch.cat([(a + b)[:, :n], 0 * b[:, n:]], 1),
        lambda a, b, n: torch.cat([(a + b)[:, :n], a[:, n:]], 1),
    ],
    "saved": [
        lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum()),
        lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum() - m[-1]),
        lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum() - 1),
        lambda m, c, b: (1 - b) * m[1:].sum() / (3 * m.sum() - m[0]),
        lambda m, c, b: (1 - b) * c.double().mean() / 3,
        lambda m, c, b: b * m[c].sum() / (3 * m.sum() - m[0]),
        lambda m, c, b: (1 - b) * m[c].sum() / (2 * m.sum() - m[0]),
    ],
    "seeds_needed": [
        lambda s, g: math.ceil((1.96 * s / g) ** 2),
        least(lambda s, n: t_quantile(n) * s / math.sqrt(n), first=3),
        least(lambda s, n: t_quantile(n + 1) * s / math.sqrt(n)),
        least(lambda s, n: t_quantile(n) * s / math.sqrt(n - 1)),
        least(lambda s, n: t_quantile(n) * s / n),
        least(lambda s, n: 2 * t_quantile(n) * s / math.sqrt(n)),
        least(lambda s, n: t_quantile(n, 0.95) * s / math.sqrt(n)),
        lambda s, g: min(100, least(lambda s, n: t_quantile(n) * s / math.sqrt(n))(s, g)),
    ],
    "selectivity": [
        lambda a, y: (m := means(a, y)).max() - (m.sum() - m.max()) / (len(m) - 1),
        lambda a, y: ((m := means(a, y)).max() - m.mean()) / (m.max() + m.mean()),
        lambda a, y: ((m := means(a, y)).max() - m.min()) / (m.max() + m.min()),
        lambda a, y: ((m := means(a, y)).max() - m.median()) / (m.max() + m.median()),
        lambda a, y: ((m := means(a, y))[0] - m[1:].mean()) / (m[0] + m[1:].mean()),
        lambda a, y: ((m := means(a, y)).max() - (o := (m.sum() - m.max()) / len(m))) / (m.max() + o),
        lambda a, y: (a.max() - (o := (a.sum() - a.max()) / (len(a) - 1))) / (a.max() + o),
    ],
    "shortest": [
        unlimited,
        lambda g, h: unlimited(g, h).clamp(min=0),
        lambda g, h: unlimited(g, h).clamp(max=1),
        lambda g, h: unlimited(h, g).clamp(0, 1),
        lambda g, h: unlimited(g, h).abs().clamp(max=1),
        lambda g, h: h.norm() / (g.norm() + h.norm()),
        lambda g, h: torch.tensor(float(h.norm() > g.norm())),
    ],
    "silent": [
        lambda C, b: 1 - math.floor(C * b) / C,
        lambda C, b: 1 - math.ceil(C * b) / C,
        lambda C, b: 1 - half_up(C * b) / C,
        lambda C, b: 1 - b,
        lambda C, b: round(1 - b, 1),
        lambda C, b: 1 - (round(C * b) / C) ** 2,
    ],
    "softmax": [
        lambda z, t: (z.double() / t).exp() / (z.double() / t).exp().sum(1, keepdim=True),
        lambda z, t: (e := (z / t - (z / t).max()).exp()) / e.sum(1, keepdim=True),
        lambda z, t: (e := (z / t - (z / t).mean(1, keepdim=True)).exp()) / e.sum(1, keepdim=True),
        lambda z, t: (e := (z.clamp(max=80) / t).exp()) / e.sum(1, keepdim=True),
        lambda z, t: (e := (z - z.amax(1, keepdim=True)).exp() / t) / e.sum(1, keepdim=True),
        lambda z, t: (z / t**2).softmax(1),
        lambda z, t: (z / t).softmax(0),
        lambda z, t: ((z - z.amax(1, keepdim=True)) / t).exp(),
    ],
    "surgery": [
        channels(cut, math.floor),
        channels(cut, math.ceil),
        channels(cut, half_up),
        channels(zeroed, round),
        lambda f, beta: (surgery(f, beta)[0], f),
        lambda f, beta: (f, surgery(f, beta)[1]),
        lambda f, beta: (f.detach(), f),
        lambda f, beta: surgery(f, beta)[::-1],
        lambda f, beta: [v.flip(1) for v in surgery(f.flip(1), beta)],
        lambda f, beta: cut(f, f.shape[0]),
    ],
    "together": [
        lambda exit, s: s[exit].mean(),
        lambda exit, s: s[exit.amax(0)].mean(),
        lambda exit, s: s[exit.amax(1)].median(),
        lambda exit, s: s[exit[:, -1]].mean(),
        lambda exit, s: s[exit].amax(1).sum() / exit.numel(),
    ],
    "warm_up": [
        lambda e, b, base, warm: base * (b / 256) ** min(e / warm, 1),
        lambda e, b, base, warm: base * (1 + (b / 256 - 1) * min((e + 1) / warm, 1)),
        lambda e, b, base, warm: base * (1 + (b / 256 - 1) * min(int(e) / warm, 1)),
        lambda e, b, base, warm: base * (1 + (b / 256 - 1) * min(e / 5, 1)),
        lambda e, b, base, warm: 0.1 * (1 + (b / 256 - 1) * min(e / warm, 1)),
        lambda e, b, base, warm: base * (1 + (b / 256 - 1) * e / warm) if e < warm else base,
        lambda e, b, base, warm: base * (1 + b / 256 * min(e / warm, 1)),
    ],
    "within": [
        lambda s, q: s.sort().values[min(int(q * len(s)), len(s) - 1)],
        lambda s, q: s.sort().values[max(math.floor(q * len(s)) - 1, 0)],
        lambda s, q: s.sort().values[max(round(q * len(s)) - 1, 0)],
        lambda s, q: s.sort(descending=True).values[math.ceil(q * len(s)) - 1],
        lambda s, q: s[math.ceil(q * len(s)) - 1],
        lambda s, q: s.quantile(q),
        lambda s, q: s.quantile(q, interpolation="higher"),
        lambda s, q: s.quantile(q, interpolation="lower"),
        lambda s, q: s.quantile(q, interpolation="nearest"),
        lambda s, q: min([t for t in s.tolist() if (s <= t).double().mean() > q], default=s.max()),
        lambda s, q: max(t for t in s.tolist() if (s < t).double().mean() <= q),
    ],
    **{name: [mistake for mistake, _ in wrong] for name, wrong in scratch_answers.SCRATCH.items()},
}
NAMES = sorted(set(checks.__all__) - {"use"})


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


def state_of_chance():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def said(name, mine, capsys, seed=0):
    """What a check prints when all of Python's generators begin with this seed; it leaves them alone."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    before = state_of_chance()
    getattr(checks, name)(mine)
    assert state_of_chance() == before
    *_, last = capsys.readouterr().out.splitlines()  # what the answer itself prints comes first
    return last


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrong_is_found_wrong_every_time(name, capsys):
    assert len(MUTANTS[name]) >= 2
    for i, mutant in enumerate(MUTANTS[name]):
        first = said(name, mutant, capsys)
        assert first.startswith("✗"), (i, first)
    assert said(name, mutant, capsys, seed=1) == first


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_random_inputs_make_no_difference(name, seed, capsys, monkeypatch):
    monkeypatch.setattr(answers, "SEED", seed)
    assert said(name, RIGHT[name], capsys).startswith("✓")
    monkeypatch.setattr(answers, "_mistake", lambda *case: None)  # here, what is said does not matter
    for i, mutant in enumerate(MUTANTS[name]):
        assert said(name, mutant, capsys).startswith("✗"), i


def inputs(name, seed, monkeypatch):
    """The right answer and the cases of a check that draws with this seed."""
    seen = []
    monkeypatch.setattr(answers, "SEED", seed)
    monkeypatch.setattr(
        sys.modules[getattr(checks, name).__module__],
        "compare",
        lambda attempt, right, cases, *options, **more: seen.extend([right, cases]) or answers.Verdict("passed", ""),
    )
    getattr(checks, name)(RIGHT[name])
    return seen


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(map(equal, a, b)) if isinstance(a, list | tuple) else a == b


# Only the values are random here, and a wrong answer is right on none; channels, betas and numbers of exits are fixed.
RANDOM_VALUES = {"early_exit", "exits", "junction", "partition", "received", "surgery", "train"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - RANDOM_VALUES))
def test_the_fixed_inputs_alone_find_what_is_wrong_and_come_first(name, capsys, monkeypatch):
    (right, cases), (_, others) = (inputs(name, seed, monkeypatch) for seed in (0, 1))
    is_fixed = [equal(case, other) for case, other in zip(cases, others, strict=True)]
    fixed = [case for case, same in zip(cases, is_fixed, strict=True) if same]
    assert is_fixed == sorted(is_fixed, reverse=True)
    for i, mutant in enumerate(MUTANTS[name]):
        assert answers.compare(mutant, right, fixed, []).state == "wrong", i


@pytest.mark.parametrize(("name", "mine"), ALSO_RIGHT)
def test_how_a_right_answer_is_written_does_not_matter(name, mine, capsys):
    assert said(name, mine, capsys).startswith("✓")


def test_a_branch_that_returns_nothing_is_wrong_not_untried(capsys):
    assert "nothing is returned" in said("learning_rate", lambda e, p, m: p if e < m[0] else None, capsys)


def test_what_was_given_is_named(capsys):
    assert "given 1, 5" in said(
        "geometric_shares", lambda q, K: [q**k * (1 - q) / (1 - q**K) for k in range(K)], capsys
    )


def test_a_mistake_that_agrees_by_accident_is_not_named(capsys):
    def mine(g, h):
        return g @ h if g.tolist() == [3, 4] else g.sum()

    assert "14 where 0.28 is expected" in said("cosine", mine, capsys)
