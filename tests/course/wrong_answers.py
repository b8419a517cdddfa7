"""What students write instead of the right answer, and a word of what they have to be told."""

import math

import numpy as np
import scratch_answers
import torch
from right_answers import (
    ablation_loss,
    as_long,
    best_cut,
    binned,
    bootstrap,
    centred,
    cka,
    cka_after,
    class_index,
    class_means,
    conflicting,
    cosines,
    ece,
    ends,
    evenly,
    exits,
    front,
    gains,
    hsic,
    interval,
    least,
    leave,
    linear_cka,
    loop,
    means,
    nearest,
    others,
    pairs,
    partition,
    pcgrad,
    received,
    saved,
    seeds_needed,
    selectivity,
    shortest,
    sums,
    surgery,
    t_quantile,
    unlimited,
)
from scipy import stats

from dfs_edu import inference


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


def leave_above(confidence, thresholds):
    beyond = confidence > thresholds[:, None]
    beyond[-1] = True
    return beyond.byte().argmax(0)


def below(g, h):
    return (g @ h).clamp(max=0)


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


def wanted(macs, exits):
    return macs[-1] * torch.arange(1, exits + 1) / (exits + 1)


def accuracies(f, head, labels, n, fill):
    ablated = f.clone()
    ablated[:, :n] = fill(f[:, :n])
    return [(head(x).argmax(1) == labels).double().mean() for x in (f, ablated)]


def lost(f, head, labels, n, fill):
    before, after = accuracies(f, head, labels, n, fill)
    return before - after


def column(p):
    return p.mean(0, keepdim=True)


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


def accuracy_in_place(f, head, labels, n):
    """Both accuracies are taken after the features have changed."""
    ablated = f
    ablated[:, :n] = column(f[:, :n])
    before, after = head(f).argmax(1) == labels, head(ablated).argmax(1) == labels
    return before.double().mean() - after.double().mean()


def features(stages, x):
    found = []
    for stage in stages:
        x = stage(x)
        found.append(x)
    return found


def geometric(q, exits):
    return (powers := torch.tensor([float(q**k) for k in range(exits)])) / powers.sum()


def right_margin(p):
    return (top := p.topk(2, dim=1).values)[:, 0] - top[:, 1]


def both_in_one(f, n):
    """Without a clone, both views are f itself."""
    onward, seen = f, f
    onward[:, n:] = 0
    seen[:, :n] = 0
    return onward, seen


def zeroed_too_early(f, n):
    onward = f
    onward[:, n:] = 0
    seen = f.clone()
    seen[:, :n] = 0
    return onward, seen


def written_in_one(f, n):
    onward, seen = f, f
    onward[:, n:] = f[:, n:].detach()
    seen[:, :n] = f[:, :n].detach()
    return onward, seen


def written_too_early(f, n):
    onward = f
    onward[:, n:] = f[:, n:].detach().clone()
    seen = f.clone()
    seen[:, :n] = f[:, :n].detach()
    return onward, seen


WRONG = {
    "ablation_loss": [
        (lambda *case: lost(*case, fill=torch.zeros_like), "that is with zeros: fill in each channel's mean"),
        (
            lambda *case: lost(*case, fill=lambda p: p.median(0, keepdim=True).values),
            "fill in each channel's mean, not its median",
        ),
        (lambda *case: lost(*case, fill=lambda p: p.mean()), "take one mean for each channel, not one for all"),
        (lambda f, head, y, n: lost(f, head, y, n - 1, column), "one channel too few: the first n are [:, :n]"),
        (lambda f, head, y, n: lost(f, head, y, n + 1, column), "one channel too many: the first n are [:, :n]"),
        (lambda *case: abs(lost(*case, fill=column)), "keep the sign: accuracy may also be gained"),
        (lambda *case: lost(*case, fill=column).clamp(min=0), "keep the sign: accuracy may also be gained"),
        (lambda f, head, y, n: (head(f).argmax(1) == y).double().mean() - 1 / len(y), "0.75 where 0.25 is expected"),
        (lambda *case: ablation_loss(*case, fill=lambda f, c: f[:, : case[3]].mean(1)), "dimension 0"),
        (lambda *case: -ablation_loss(*case), "before minus"),
        (lambda *case: (case[1](case[0]).argmax(1) == case[2]).double().mean() - ablation_loss(*case), "left"),
        (lambda *case: ablation_loss(*case) * len(case[2]), "not their number"),
        (lambda f, head, y, n: accuracy_in_place(f, head, y, n), "that is always 0: was f overwritten before? Write"),
        (lambda *case: 100 * lost(*case, fill=column), "that is in percent (points): return a fraction,"),
        (lambda f, head, y, n: (head(f).argmax(1) == y).mean(), "turn True and False"),
        (lambda *case: print(lost(*case, fill=column)), "use return instead of print"),
        (lambda f, *rest: lost(f.flip(1), *rest, fill=column), "is expected"),
    ],
    "accuracy": [
        (lambda p, y: (p == y).sum() // len(p), "return the fraction itself, without rounding"),
        (
            lambda p, y: (p == y).double().sum() / (len(p) - 1) if len(p) > 1 else (p == y).double().sum(),
            "divide by the number of images, len(label)",
        ),
        (lambda p, y: ((p == y) & (y > 0)).double().mean(), "class 0 counts as well"),
        (lambda p, y: ((p == y).double().mean() * 100).round(), "return a fraction, from 0 to 1, not in percent"),
        (lambda p, y: (p == y).double().mean().round(decimals=1), "that is rounded: return all digits"),
        (lambda p, y: (p == y).sum(), "their number"),
        (lambda p, y: (p != y).double().mean(), "are wrong"),
        (lambda p, y: p == y, "take the mean"),
        (lambda p, y: (p == y).mean(), "turn True and False, or whole numbers, into floats first"),
        (lambda p, y: print((p == y).double().mean()), "use return instead of print"),
        (lambda p, y: [(p == y).double().mean()], "shape (1,) where a single number is expected: the values are right"),
        (lambda p, y: f"{(p == y).double().mean():.2f}", "a str where a number or tensor"),
        (lambda p, y: (p - y).abs().double().mean(), "a prediction is right or wrong"),
        (lambda p, y: (p == y).double().mean() * 100, "not in percent"),
        (lambda p, y: 1 if p == y else 0, "if, and, or take a single True or False: to"),
        (lambda p, y: np.mean(p == y), "NumPy's functions are for arrays"),
    ],
    "as_long": [
        (lambda w, G: w * (G.sum() / (w @ G @ w)), "w @ G @ w is the *square* of a length"),
        (lambda w, G: w * (G.trace() / (w @ G @ w)).sqrt(), "G.sum() is the squared length of the sum,"),
        (lambda w, G: w * (G.sum() / (w**2 @ G.diagonal())).sqrt(), "w @ G @ w: the gradients are not perpendicular"),
        (lambda w, G: w / w.sum() * len(w), "weights with the same sum do not make steps of"),
        (lambda w, G: w * ((w @ G @ w) / G.sum()).sqrt(), "the other way round: multiply by the length of"),
        (lambda w, G: w / w.norm(), "the length of the step counts, not that of the"),
        (lambda w, G: w / (w @ G @ w) ** 0.5, "length 1"),
        (lambda w, G: (G.sum() / (w @ G @ w)) ** 0.5, "return the scaled weights"),
        (lambda w, G: w * G.sum().sqrt(), "divide by the length of the weighted sum"),
        (lambda w, G: w / w.norm() * math.sqrt(len(w)), "the length of the step counts"),
        (lambda w, G: 2 * as_long(w, G), "twice the right answer"),
        (lambda w, G: print(as_long(w, G)), "use return instead of print"),
    ],
    "at_least_one": [
        (lambda m: 0.05 * m, "that is the expected number; a chance is never"),
        (lambda m: min(1.0, 0.05 * m), "chances do not add up: take 1 minus the chance"),
        (lambda m: m * 0.05 * 0.95 ** (m - 1), "that is the chance of exactly one: at least one"),
        (lambda m: 1 - 0.95 ** (m - 1), "that is for m - 1 intervals"),
        (lambda m: 1 - 0.95 ** (m + 1), "that is for m + 1 intervals"),
        (lambda m: 100 * (1 - 0.95**m), "in percent"),
        (lambda m: 0.95**m, "that all of them contain 0"),
        (lambda m: 1 - 0.975**m, "on both sides together"),
        (lambda m: 0.05, "the chance of one interval"),
        (lambda m: 0.05**m, "that all of them exclude 0"),
        (lambda m: round(1 - 0.95**m, 2), "that is rounded"),
        (lambda m: print(1 - 0.95**m), "use return instead of print"),
    ],
    "average_macs": [
        (lambda exit, macs: macs[round(exit.double().mean().item())], "average the costs, not the exits"),
        (lambda exit, macs: macs[exit].median(), "the mean, not the median"),
        (lambda exit, macs: macs[exit.unique()].mean(), "an exit where many images leave counts more:"),
        (lambda exit, macs: macs[exit].sum() / len(macs), "divide by the number of images, not by that of"),
        (lambda exit, macs: macs[(exit + 1).clamp(max=len(macs) - 1)].mean(), "exits count from 0: macs[exit]"),
        (lambda exit, macs: macs.mean(), "do not have the same number"),
        (lambda exit, macs: macs[exit].mean() * 2, "twice"),
        (lambda exit, macs: macs[exit].sum() / len(macs), "not by that of exits"),
        (lambda exit, macs: macs[exit], "take the mean"),
        (lambda exit, macs: macs[exit - 1].mean(), "is expected"),
        (lambda exit, macs: macs[exit].mean() / macs[-1], "not a fraction of the last"),
        (lambda exit, macs: macs[exit.float()].mean(), "an index is a whole number"),
        (lambda exit, macs: macs.cumsum(0)[exit].mean(), "already counts everything"),
    ],
    "backward_saved": [
        (lambda beta: (1 - beta) / 3, "that is of the whole step: the backward pass is"),
        (lambda beta: (1 - beta) * 2 / 3, "the backward pass is two products, and 1 - beta"),
        (lambda beta: beta / 2, "beta is the fraction that still passes a gradient"),
        (lambda beta: 0.25, "0.25 where 0.5 is expected"),
        (lambda beta: (1 - beta**2) / 2, "the cost is proportional to the channels: do not"),
        (lambda beta: 1 - beta, "of the input gradient"),
        (lambda beta: (1 + beta) / 2, "what is left"),
        (lambda beta: beta, "the backward pass is two products, and 1 - beta"),
        (lambda beta: 0.5, "at beta = 1 nothing is saved"),
        (lambda beta: 50 * (1 - beta), "in percent"),
        (lambda beta: (1 - beta) ** 2 / 2, "the cost is proportional to the channels: do not"),
        (lambda beta: (beta - 1) / 2, "the sign is wrong"),
    ],
    "best_cut": [
        (lambda *case: gains(*case).cumsum(0).argmax(), "one too few: place 0 of the sums is the value"),
        (lambda *case: gains(*case).cumsum(0).argmax() + 1, "none may leave, too: 0 is a choice"),
        (lambda *case: (gains(*case) > 0).sum(), "the most confident leave, whatever their gain:"),
        (until_the_first_loss, "do not stop at the first loss: a gain may follow"),
        (lambda *case: sums(-case[0], *case[1:]).argmax(), "the most confident leave first: sort in"),
        (lambda *case: sums(*case[:5], 0).argmax(), "the price is missing: leaving saves price *"),
        (lambda *case: sums(*case[:5], -case[5]).argmax(), "the price has the wrong sign: a lower cost is"),
        (
            lambda c, *rest: sums(-torch.arange(len(c)).float(), *rest).argmax(),
            "sort right_here and right_later by confidence",
        ),
        (
            lambda c, here, later, *rest: sums(c, here, torch.zeros_like(later), *rest).argmax(),
            "later exits may be right: subtract right_later",
        ),
        (
            lambda c, here, later, a, b, price: sums(c, here, later, 0, b, price).argmax(),
            "leaving costs cost_here and saves cost_later:",
        ),
        (lambda *case: case[0].sort(descending=True).values[best_cut(*case) - 1], "how many leave"),
        (lambda *case: sums(*case), "those are the values: return the number of images"),
        (lambda *case: sums(*case).argmin(), "is expected"),
        (lambda *case: print(sums(*case).argmax()), "use return instead of print"),
        (lambda c, *rest: c.argsort(descending=True)[sums(c, *rest).argmax() - 1], "is expected"),
        (lambda *case: (case[1] & ~case[2]).sum(), "is expected"),
        (lambda *case: sums(*case).argmax() - len(case[0]), "is expected"),
    ],
    "bootstrap": [
        (lambda r, d: ends(r[d].double().mean(1), 0.05, 0.95), "95 % are in between: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(1), 0.0, 1.0), "that is the range: leave out 2.5 % at either end"),
        (lambda r, d: ends(r[d].double().mean(1), 0.005, 0.995), "95 % are in between, not 99 %"),
        (lambda r, d: ends(r[d].double().mean(0)), "average over the images of a resample, dimension 1"),
        (lambda r, d: (r.double().mean(), r.double().mean()), "that is the accuracy itself: take the quantiles"),
        (
            lambda r, d: [(m := r[d].double().mean(1)).mean() - 2 * m.std(), m.mean() + 2 * m.std()],
            "-0.0791659 at [0] where 0.02 is expected: it",
        ),
        (lambda r, d: [x * len(r) for x in bootstrap(r, d)], "an accuracy is their mean"),
        (lambda r, d: bootstrap(r, d)[::-1], "lower end first"),
        (lambda r, d: r[d].double().mean(1), "those are the accuracies of all resamples: return"),
        (lambda r, d: [100 * x for x in bootstrap(r, d)], "in percent"),
        (lambda r, d: ends(r[d].double().mean(1)).diff(), "return the two ends"),
        (lambda r, d: r[d].mean(1), "turn True and False"),
        (lambda r, d: ends(r[d].double().mean(1), 0, 0.95), "not 5 % at one"),
        (lambda r, d: ends(r.double()), "quantiles of the images"),
        (lambda r, d: bootstrap(r, d)[0], "a single number where shape (2,)"),
    ],
    "break_even": [
        (lambda c, r: r / c if c else 0, "the other way round: the price, divided by what"),
        (lambda c, r: c / (c + r), "an image that leaves saves only the rest: the"),
        (lambda c, r: 1 - c / r, "that is the fraction that may stay"),
        (lambda c, r: c // r, "// drops the remainder: divide by /"),
        (lambda c, r: c / max(r, 1), "0.3 where 0.428571 is expected"),
        (lambda c, r: round(c / r, 1), "that is rounded: return all digits"),
        (lambda c, r: r / (c + r), "leaving saves the rest"),
        (lambda c, r: 100 * c / r, "in percent"),
        (lambda c, r: c * r, "divide: choosing"),
        (lambda c, r: r - c, "a fraction: choosing"),
        (lambda c, r: c / (r - c), "the rest is saved in full"),
        (lambda c, r: print(c / r), "use return instead of print"),
    ],
    "calibration_error": [
        (
            lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * b).long()),
            "a confidence of 1 belongs to the last bin: clamp",
        ),
        (
            lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * b).round()),
            "a bin begins at k / bins: cut confidence * bins",
        ),
        (lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * b).ceil()) if b > 1 else 0, "0 where 0.25 is expected"),
        (
            lambda s, r, b: ece(s, r, b, number=lambda s, b: (s * (b + 1)).long().clamp(max=b)),
            "one bin too many: there are `bins` of them",
        ),
        (lambda s, r, b: ece(s, r, b, weigh=lambda here: 1 / b), "weight each bin by its share of the images"),
        (lambda s, r, b: ece(s, r, b, weigh=lambda here: here.sum()), "divide by the number of images"),
        (lambda s, r, b: ece(s, r, b, measure=torch.square).sqrt(), "the size of a gap, abs(), not its square"),
        (lambda s, r, b: ece(s, r, b, measure=lambda gap: gap).abs(), "opposite gaps must not cancel: add their sizes"),
        (
            lambda s, r, b: ece(s, r, b, measure=lambda gap: gap.clamp(min=0)),
            "an exit may also be underconfident: take abs() of",
        ),
        (lambda s, r, b: (s - r.float()).abs().mean(), "compare the means of a bin: one image is right or"),
        (lambda s, r, b: s.mean() - r.float().mean(), "take the gap of each bin without its sign"),
        (lambda s, r, b: binned(s, r, b, b - 1)[0].abs().max(), "worst bin"),
        (lambda s, r, b: (lambda g, w: (g.abs() * w).sum())(*binned(s, r, b)), "clamp"),
        (lambda s, r, b: float("nan"), "leave it out"),
        (lambda s, r, b: 100 * ece(s, r, b), "in percent"),
        (lambda s, r, b: (s - r).abs().mean(), "a mask is inverted by ~; to calculate"),
        (lambda s, r, b: ece(s, r, b + 1), "one bin too many"),
        (lambda s, r, b: r[(s * b).long() == b - 1].mean(), "turn True and False"),
        (lambda s, r, b: ece(s, r, b).repeat(b), "where a single number is expected"),
    ],
    "shared_cost": [
        (lambda a, j: (j - torch.einsum("nkk->nk", a)).mean(0), "the other way round: alone minus joint"),
        (lambda a, j: (torch.einsum("nkk->nk", a) - j).mean(0).relu(), "better off in company"),
        (lambda a, j: (a.max(1).values - j).mean(0), "whichever network does best"),
        (lambda a, j: (a.mean(1) - j).mean(0), "the other networks did not train it"),
        (lambda a, j: (a.mean(-1) - j).mean(0), "not the mean of its exits"),
        (lambda a, j: (a[:, -1] - j).mean(0), "the network of the last exit"),
        (lambda a, j: (a[:, 0] - j).mean(0), "the network of the first exit"),
        (lambda a, j: torch.einsum("nkk->nk", a) - j, "one number per exit: take the mean over the seeds"),
        (lambda a, j: (torch.einsum("nkk->nk", a) - j).mean(1), "not over the exits"),
        (lambda a, j: (torch.einsum("nkk->nk", a) - j).mean(), "one number per exit, not one for all"),
        (lambda a, j: (torch.einsum("nkk->nk", a) - j).sum(0), "not the sum"),
        (lambda a, j: torch.einsum("nkk->nk", a).mean(0), "subtract what joint training reaches"),
        (lambda a, j: (torch.einsum("nkk->nk", a) / j).mean(0), "a difference, not a ratio"),
        (lambda a, j: 100 * (torch.einsum("nkk->nk", a) - j).mean(0), "in percent"),
    ],
    "chosen": [
        (lambda v, t: t.max(), "the choice has looked at the test split: the"),
        (lambda v, t: t[-1], "the chosen arm may be any of them: v.argmax() is"),
        (lambda v, t: t[0], "the chosen arm may be any of them: v.argmax() is"),
        (lambda v, t: t.min(), "report the arm that was best on validation"),
        (lambda v, t: t.median(), "one arm was chosen: report its accuracy"),
        (lambda v, t: t[v.argmin()], "that is the worst arm on validation"),
        (lambda v, t: (v.max() + t[v.argmax()]) / 2, "report the accuracy on test alone"),
        (lambda v, t: t[(v + t).argmax()], "the choice has looked at the test split, too:"),
        (lambda v, t: v[t.argmax()], "choose on validation, report on test"),
        (lambda v, t: v.argmax(), "the place of the arm"),
        (lambda v, t: 100 * t[v.argmax()], "in percent"),
        (lambda v, t: v.max(), "lucky there"),
        (lambda v, t: t[v.max()], "an index is a whole number"),
        (lambda v, t: t[v == v.max()], "shape (1,) where a single number is expected: the values are right"),
        (lambda v, t: print(t[v.argmax()]), "use return instead of print"),
    ],
    "conflicting": [
        (lambda g: (pairs(g) <= 0).double().mean(), "a cosine of exactly 0 is not negative: that is no"),
        (lambda g: (cosines(g) < 0).double().mean(), "an exit does not conflict with itself: leave out"),
        (lambda g: (cosines(g) < 0).sum() / (len(g) - 1) ** 2, "0.5 where 0.333333 is expected"),
        (lambda g: (pairs(g) < 0).sum(), "that is their number: divide by the number of"),
        (lambda g: (pairs(g) < 0).sum() / len(g), "divide by the number of pairs, K (K - 1) / 2, not"),
        (lambda g: (cosines(g)[0, 1:] < 0).double().mean(), "0.5 where 0.333333 is expected"),
        (lambda g: -pairs(g).clamp(max=0).mean(), "0.235702 where 0.333333 is expected"),
        (
            lambda g: (
                (cosines(g - g.mean(1, keepdim=True))[tuple(torch.triu_indices(len(g), len(g), 1))] < 0).double().mean()
            ),
            "0.666667 where 0.333333 is expected",
        ),
        (lambda g: 1 - conflicting(g), "pairs that agree"),
        (lambda g: (pairs(g) < 0).sum() / (len(g) * (len(g) - 1)), "unless (i, j) and (j, i) both count"),
        (lambda g: 2 * (pairs(g) < 0).double().mean(), "each pair was counted twice"),
        (lambda g: (cosines(g) < 0).sum(), "each pair twice"),
        (lambda g: (cosines(g) < 0).any(1).double().mean(), "not exits that do"),
        (lambda g: 100 * conflicting(g), "in percent"),
        (lambda g: (pairs(g) < 0).mean(), "turn True and False"),
        (lambda g: (pairs(g) > 0).double().mean(), "pairs that agree"),
        (lambda g: (pairs(g) < 0).double(), "where a single number is expected"),
        (lambda g: (pairs(g) < 0).double().sum() / (len(g) * (len(g) + 1) / 2), "leave out the diagonal"),
    ],
    "conv_macs": [
        (lambda i, o, k, s, g: i * o * k**2 * s**2, "with groups, an output channel reads only"),
        (lambda i, o, k, s, g: (i // g) * (o // g) * k**2 * s**2, "each of the g groups costs that much: multiply by"),
        (lambda i, o, k, s, g: i // g * o * k**2 * (s - k + 1) ** 2, "padding keeps the size: there are side * side"),
        (lambda i, o, k, s, g: i // g * o * k**2 * s, "a feature map has two sides"),
        (lambda i, o, k, s, g: (i // g * k**2 + 1) * o * s**2, "a bias is added, not multiplied: it costs no MAC"),
        (lambda i, o, k, s, g: (2 * i // g * k**2 - 1) * o * s**2, "those are FLOPs: a MAC is both of them"),
        (lambda i, o, k, s, g: 2 * (i // g) * o * k * k * s * s, "FLOPs"),
        (lambda i, o, k, s, g: i // g * o * k**2, "those are the parameters"),
        (lambda i, o, k, s, g: i // g * o * k * s**2, "a kernel has two sides"),
        (lambda i, o, k, s, g: i // g * k**2 * s**2, "one output channel"),
        (lambda i, o, k, s, g: o * k**2 * s**2, "reads in/groups channels"),
        (lambda i, o, k, s, g: i // g * o * k**2 * (s // 2) ** 2, "is expected"),
        (lambda i, o, k, s: i * o * k**2 * s**2, "with 5 arguments"),
    ],
    "cosine": [
        (lambda g, h: g @ h / (g.norm() + h.norm()), "multiply the two lengths, do not add them"),
        (lambda g, h: (g @ h / (g.norm() * h.norm())).clamp(min=0), "keep the sign: it distinguishes conflict from"),
        (lambda g, h: g @ h / (g.abs().sum() * h.abs().sum()), "a length is the root of the sum of *squares*"),
        (lambda g, h: torch.acos((g @ h / (g.norm() * h.norm())).clamp(-1, 1)), "that is the angle: return its cosine"),
        (lambda g, h: (g @ h / (g.norm() * h.norm())) ** 2, "that is the square of the right answer"),
        (
            lambda g, h: torch.cosine_similarity(g - g.mean(), h - h.mean(), dim=0),
            "that is the correlation: do not subtract the means",
        ),
        (lambda g, h: torch.sign(g @ h), "that is only the sign: divide g @ h by both"),
        (lambda g, h: g @ h, "inner product"),
        (lambda g, h: "0.5?", "a str where a number"),
        (lambda g, h: g * h / (g.norm() * h.norm()), "add up the products"),
        (lambda g, h: (g @ h) / h.norm(), "the length of g as well"),
        (lambda g, h: torch.cosine_similarity(g, h, dim=0)[None], "the values are right, only the shape"),
        (lambda g, h: -torch.cosine_similarity(g, h, dim=0), "the sign is wrong"),
        (lambda g, h: 1 - torch.cosine_similarity(g, h, dim=0), "that is a distance"),
        (lambda g, h: 1.75, "it cannot be above 1"),
        (lambda g, h: print(g @ h / (g.norm() * h.norm())), "use return instead of print"),
        (lambda g, h: (g @ h) / (g.norm() @ h.norm()), "numbers are multiplied by *"),
        (lambda g, h: g @ h / g.norm() * h.norm(), "is expected"),
        (lambda g, h: (g @ h / (g.norm() * h.norm())).item, "call it, with brackets"),
        (lambda g, h: torch.cosine_similarity(g, h), "a vector has only dim=0"),
        (lambda g, h: float("nan"), "nan is what 0 / 0 gives"),
    ],
    "cosine_matrix": [
        (lambda g: cosines(g).clamp(min=0), "keep the sign: it distinguishes conflict from"),
        (lambda g: cosines(g).tril(), "fill both halves: the cosine of i and j is that"),
        (lambda g: cosines(g).fill_diagonal_(0), "the diagonal is 1: an exit agrees with itself"),
        (lambda g: g @ g.T / g.norm() ** 2, "every row has its own length: norm(dim=1,"),
        (lambda g: g @ g.T / g.norm(dim=1, keepdim=True), "divide by both lengths: that of row i and that of"),
        (lambda g: torch.cosine_similarity(g, g, dim=1), "that compares each exit with itself: compare"),
        (lambda g: cosines(g - g.mean(1, keepdim=True)), "that is the correlation: do not subtract the means"),
        (lambda g: g @ g.T, "inner products"),
        (lambda g: (g / g.norm(dim=0)).T @ (g / g.norm(dim=0)), "exits are the rows"),
        (lambda g: torch.corrcoef(g).abs(), "is expected"),
        (lambda g: (g[:, None] - g[None]).norm(dim=2), "distances"),
        (lambda g: pairs(g), "not a list of pairs"),
        (lambda g: -cosines(g), "the sign is wrong"),
        (lambda g: g @ g.T / (g * g).sum(1, keepdim=True), "both lengths"),
        (lambda g: cosines(g).mean(), "a single number where shape (3, 3)"),
        (lambda g: g @ g, "transpose one of the two"),
        (lambda g: cosines(g) + torch.eye(len(g)), "it cannot be above 1"),
    ],
    "cumulative_macs": [
        (lambda s, h: s.cumsum(0), "the heads cost something too"),
        (lambda s, h: s.cumsum(0) + h, "an image that reaches exit 3 has been through"),
        (lambda s, h: s + h.cumsum(0), "to reach exit k, an image goes through every"),
        (lambda s, h: (s + h).cumsum(0) - h, "the head of the exit itself counts as well"),
        (lambda s, h: (s + h).flip(0).cumsum(0).flip(0), "the other way round: add up from the first stage"),
        (
            lambda s, h: torch.cat([torch.zeros(1), (s + h).cumsum(0)[:-1]]),
            "an image that leaves at exit k has paid for stage",
        ),
        (lambda s, h: s.sum(), "a single number where shape (3,)"),
        (lambda s, h: s + h, "every stage before it"),
        (lambda s, h: (s + h).sum(), "return one cost for each exit"),
        (lambda s, h: h.cumsum(0), "the stages cost something too"),
        (lambda s, h: (s + h).cumsum(0) / (s + h).sum(), "not fractions"),
        (lambda s, h: print((s + h).cumsum(0)), "use return instead of print"),
        (lambda s, h: torch.cat([s.cumsum(0), h.cumsum(0)]), "shape (6,) where shape (3,)"),
    ],
    "evenly": [
        (lambda m, n: nearest(m, n, m.sum()), "macs is cumulative: the whole is macs[-1]"),
        (lambda m, n: nearest(m, n, m[-1] - m[0]), "the whole is macs[-1], without subtraction"),
        (lambda m, n: nearest(m, n, m[-2] if len(m) > 1 else m[-1]), "the whole is macs[-1], the last cost"),
        (
            lambda m, n: (m - m[-1] * torch.arange(1, n + 1)[:, None] / n).abs().argmin(1),
            "the network's end already has an exit: divide by",
        ),
        (
            lambda m, n: (m - m[-1] * torch.arange(n)[:, None] / (n + 1)).abs().argmin(1),
            "the first exit is at 1/(exits + 1)",
        ),
        (lambda m, n: nearest(m, n, m[-1]) + 1, "places count from 0"),
        (lambda m, n: torch.searchsorted(m, wanted(m, n)), "that is the first place after each fraction: the"),
        (
            lambda m, n: torch.searchsorted(m, wanted(m, n), right=True),
            "that is the first place above each fraction, not",
        ),
        (lambda m, n: torch.searchsorted(m, wanted(m, n)) - 1, "that is the last place before each fraction: the"),
        (lambda m, n: (torch.arange(1, n + 1) * len(m) / (n + 1)).long(), "2 at [0] where 1 is expected"),
        (
            lambda m, n: torch.linspace(0, len(m) - 1, n + 2)[1:-1].round().long(),
            "that counts places: one place may cost far more",
        ),
        (lambda macs, exits: macs[evenly(macs, exits)], "not what they cost"),
        (lambda macs, exits: evenly(macs, exits)[:1], "shape"),
        (lambda m, n: wanted(m, n), "those are the costs wanted"),
        (lambda m, n: nearest(m, n, m[-1]).flip(0), "the order is reversed"),
        (lambda m, n: nearest(m, n - 1, m[-1]) if n > 1 else nearest(m, n, m[-1]), "is expected"),
        (lambda m, n: print(nearest(m, n, m[-1])), "use return instead of print"),
        (lambda m, n: nearest(m, n, m[-1]) - 1, "that is one too few"),
    ],
    "exits": [
        (heads_in_the_trunk, "every head read the first stage: each stage is"),
        (relu_between, "value 1 of the list: -0.1211 at [0, 0] where"),
        (lambda s, h, x: loop(s, h, x)[::-1], "the order is reversed: shallow to deep"),
        (lambda s, h, x: loop(s, [h[0]] * len(h), x), "the first head was used throughout: each exit has"),
        (lambda s, h, x: loop(s, h, x)[:-1], "the last exit is missing"),
        (lambda s, h, x: loop(s, h, x, start=len(s) - 1), "1 value where a list of 2 is expected"),
        (lambda s, h, x: [y.softmax(1) for y in loop(s, h, x)], "return the logits, without a softmax"),
        (lambda s, h, x: [y.argmax(1) for y in loop(s, h, x)], "return the logits, not the predictions"),
        (lambda s, h, x: [b(a(x)) for a, b in zip(s, h, strict=True)], "was given the image"),
        (lambda s, h, x: exits(s, h, x)[-1:], "only the last exit"),
        (lambda s, h, x: exits(s, h, x)[0], "that is the first exit alone: is return inside"),
        (lambda s, h, x: [loop(s, h, x)], "1 value where a list of 2"),
        (lambda s, h, x: torch.stack(loop(s, h, x)), "a Tensor where a list of 2"),
        (lambda s, h, x: loop(s, h, x)[-1], "the last exit alone"),
        (lambda s, h, x: dict(enumerate(loop(s, h, x))), "a dict where a list of 2"),
        (lambda s, h, x: features(s, x), "those are the features"),
        (lambda s, h, x: [head(x) for head in h], "is expected"),
        (lambda s, h, x: print(loop(s, h, x)), "use return instead of print"),
    ],
    "front": [
        (front_strict, "being better in one of the two is enough if the"),
        (front_without_twins, "two equal points do not beat each other: one has"),
        (front_by_records, "False at [2] where True is expected"),
        (front_level, "being better in one of the two is enough if the"),
        (lambda m, a: a >= a.cummax(0).values, "the points come in any order: sort them by cost"),
        (lambda m, a: a == a.max(), "cheaper points that are less accurate belong to"),
        (lambda m, a: m == m.min(), "more accurate points that cost more belong to the"),
        (lambda m, a: ~front(m, a), "the others"),
        (lambda m, a: front(m, a).nonzero()[:, 0], "a bool"),
        (lambda m, a: front(m, -a), "accurate is good"),
        (lambda m, a: front(-m, a), "cheap is good"),
        (lambda m, a: m[front(m, a)], "not their costs"),
        (lambda m, a: front(m, a).sum(), "a single number where shape (5,)"),
        (lambda m, a: not (m < m[:, None]).any(), "a single number where shape (5,)"),
        (lambda m, a: m.argsort() == a.argsort(), "is expected"),
        (lambda m, a: 1 - front_strict(m, a), "a mask is inverted by ~"),
    ],
    "geometric_shares": [
        (
            lambda q, K: [q**k * (1 - q) / (1 - q**K) for k in range(K)] if q != 1 else [0.0] * K,
            "0 at [0] where 0.2 is expected",
        ),
        (
            lambda q, K: [q**k / sum(q**j for j in range(1, K + 1)) for k in range(K)],
            "the powers and their sum begin differently: start",
        ),
        (
            lambda q, K: [q * k / sum(q * j for j in range(1, K + 1)) for k in range(1, K + 1)],
            "a power: q ** k, not q * k",
        ),
        (lambda q, K: [(1 - q) * q**k for k in range(K)], "1 - q is for infinitely many exits: divide by the"),
        (
            lambda q, K: torch.tensor([float(q**k) for k in range(K)]).softmax(0),
            "divide by the sum; a softmax takes powers of e",
        ),
        (lambda q, K: [1 / K] * K, "equal shares belong to q = 1 only"),
        (lambda q, K: q ** torch.arange(K) * (torch.tensor(q) - 1) / (torch.tensor(q) ** K - 1), "0 / 0"),
        (lambda q, K: [q**k for k in range(K)], "sum is not 1"),
        (lambda q, K: inference.geometric_shares(torch.tensor([q]), K)[0].flip(0), "small q"),
        (lambda q, K: torch.tensor([q**k for k in range(1, K + 1)]), "their sum is not 1"),
        (lambda q, K: 100 * geometric(q, K), "in percent"),
        (lambda q, K: geometric(q, K).cumsum(0), "has left by exit k"),
        (lambda q, K: geometric(q, K)[None], "the values are right, only the shape"),
        (lambda q, K: geometric(q, K + 1), "shape (4,) where shape (3,)"),
        (lambda q, K: [(k + 1) ** q / sum((j + 1) ** q for j in range(K)) for k in range(K)], "not k ** q"),
    ],
    "going_on": [
        (lambda h, s, t: h[s <= t], "an image whose score just reaches the threshold"),
        (lambda h, s, t: h[s > t], "those images leave: return the others"),
        (lambda h, s, t: h[s < t].sort().values, "keep the order of here"),
        (lambda h, s, t: h[s < t].flip(0), "the order is reversed"),
        (lambda h, s, t: h[s.argsort()][: int((s < t).sum())], "keep the order of here, do not sort by score"),
        (lambda h, s, t: torch.where(s < t)[0], "those are places among the images still here:"),
        (lambda h, s, t: h[s < t] if (s < t).any() else h, "if all leave, none go on: return an empty tensor"),
        (lambda h, s, t: (s < t).sum(), "that is how many go on: return their numbers"),
        (lambda h, s, t: h[s >= t], "the images that leave"),
        (lambda h, s, t: s < t, "index `here`"),
        (lambda h, s, t: s[s < t], "those are their scores"),
        (lambda h, s, t: h[h < t], "not the numbers"),
        (lambda h, s, t: h[(s < t).float()], "an index is a whole number"),
        (lambda h, s, t: [i for i in range(len(h)) if s[i] < t], "places among"),
        (lambda h, s, t: print(h[s < t]), "use return instead of print"),
    ],
    "interval": [
        (
            lambda d: (d.mean(), t_quantile(len(d)) * d.std(correction=0) / len(d) ** 0.5),
            "divide by n - 1: the mean was estimated from the",
        ),
        (
            lambda d: (d.mean(), t_quantile(len(d) + 1) * d.std() / len(d) ** 0.5),
            "n seeds leave n - 1 degrees of freedom, not n",
        ),
        (lambda d: (d.mean(), t_quantile(len(d)) * d.std()), "that is the spread of the seeds: their mean"),
        (lambda d: (d.mean(), t_quantile(len(d)) * d.std() / len(d)), "divide by the root of n, not by n"),
        (
            lambda d: (d.mean(), t_quantile(len(d)) * d.std() / (len(d) - 1) ** 0.5),
            "divide by the root of n: n - 1 is inside the",
        ),
        (
            lambda d: (d.mean(), stats.t.ppf(0.95, len(d) - 1) * d.std() / len(d) ** 0.5),
            "2.5 % lie beyond either end: t at 0.975, not at",
        ),
        (lambda d: (d.abs().mean(), t_quantile(len(d)) * d.std() / len(d) ** 0.5), "keep the signs of the differences"),
        (lambda d: (d.median(), t_quantile(len(d)) * d.std() / len(d) ** 0.5), "the mean, not the median"),
        (
            lambda d: (d.mean(), t_quantile(len(d)) * d.var() / len(d) ** 0.5),
            "use the standard deviation, the root of the",
        ),
        (
            lambda d: (d.mean() - (w := t_quantile(len(d)) * d.std() / len(d) ** 0.5), d.mean() + w),
            "the mean and half the width, not the two ends",
        ),
        (lambda d: (d.mean(), 2.0 * interval(d)[1]), "half the width"),
        (lambda d: (d.mean(), 1.959964 * d.std() / len(d) ** 0.5), "1.96"),
        (lambda d: d.mean(), "two numbers"),
        (lambda d: (d.mean(), d.std() / len(d) ** 0.5), "the standard error: multiply by t"),
        (lambda d: tuple(reversed(interval(d))), "the mean first"),
        (lambda d: (d.mean(), t_quantile(len(d), 0.95) * d.std() / len(d) ** 0.5), "not at 0.95"),
        (lambda d: (d.mean(), 2 * d.std() / len(d) ** 0.5), "is expected"),
        (lambda d: (100 * d.mean(), 100 * interval(d)[1]), "100 times the right answer"),
        (lambda d: (*interval(d), len(d)), "shape (3,) where shape (2,)"),
        (lambda d: print(*interval(d)), "use return instead of print"),
        (lambda d: (d.mean(), 4.302653 * d.std() / len(d) ** 0.5), "always t of 3"),
        (lambda d: {"mean": d.mean()}, "a dict where a number or tensor is expected"),
    ],
    "learning_rate": [
        (lambda e, p, m: p * 0.1 ** sum(e > step for step in m), "the milestone epoch already has the lower rate"),
        (
            lambda e, p, m: p * 0.1 ** sum(e >= step - 1 for step in m),
            "the epoch before a milestone still has the higher",
        ),
        (lambda e, p, m: p * 0.1 ** (e >= m[0]), "each milestone divides the rate again"),
        (
            lambda e, p, m: p * 0.1 ** ((e >= m[0]) + sum(e > step for step in m[1:])),
            "the milestone epoch already has the lower rate",
        ),
        (lambda e, p, m: p * 0.1 ** sum(e >= step for step in (250, 280, 295)), "use the milestones that are given"),
        (
            lambda e, p, m: 0.1 ** (1 + sum(e >= step for step in m)),
            "begin at the peak that is given, not always at 0.1",
        ),
        (lambda e, p, m: p / (1 + 10 * sum(e >= step for step in m)), "0.00909091 where 0.01 is expected"),
        (lambda e, p, m: p * 0.5 ** sum(e >= step for step in m), "divide by 10 at a milestone"),
        (lambda e, p, m: p * 10 ** sum(e >= step for step in m), "the rate falls"),
        (lambda e, p, m: p * 0.1 ** (e in m), ">=, not =="),
        (lambda e, p, m: p * 0.1 ** (e >= m[-1]), "not only the last"),
        (lambda e, p, m: 0.1 ** sum(e >= step for step in m), "multiply by the peak"),
        (lambda e, p, m: p - 0.1 * sum(e >= step for step in m), "is expected"),
        (
            lambda e, p, m: p if e < m[0] else p * 0.1 if e < m[1] else p * 0.01,
            "0.001 where 0.0001 is expected (given 295",
        ),
        (lambda e, p, m: p * 0.1 ** (e // m[0]), "count the milestones"),
    ],
    "leave": [
        (leave_above, "an image leaves where its confidence *reaches*"),
        (lambda c, t: (c >= t[:, None]).byte().argmax(0) * (c > 0).all(0), "0 at [2] where 2 is expected"),
        (lambda c, t: (c >= t[:, None]).sum(0) - 1, "that counts the sure exits: return the first of"),
        (lambda c, t: len(t) - (c >= t[:, None]).sum(0), "a later exit may be less sure again: find the"),
        (
            lambda c, t: len(t) - 1 - (c >= t[:, None]).flip(0).byte().argmax(0),
            "that is the last exit where it could leave: an",
        ),
        (lambda c, t: leave(c, t).clamp(max=max(len(t) - 2, 0)), "the last exit takes all that are left"),
        (
            lambda c, t: (c[:, :1] >= t[:, None]).byte().argmax(0).expand(c.shape[1]),
            "each image decides for itself, not the first for",
        ),
        (lambda c, t: (c - t[:, None]).argmax(0), "that is the exit furthest above its threshold:"),
        (lambda c, t: c.argmax(0), "most confident exit"),
        (lambda c, t: leave(c, t) + 1, "from 0"),
        (lambda c, t: c >= t[:, None], "that is a mask (K, N)"),
        (lambda c, t: leave(c, t[:1].expand(len(t))), "each exit has its own threshold"),
        (lambda c, t: (c >= t).byte().argmax(0), "the shapes do not fit"),
        (lambda c, t: leave(c, t).float().mean(), "a single number where shape (7,)"),
        (lambda c, t: (c >= t[:, None]).max(0), "is expected"),
        (lambda c, t: (c <= t[:, None]).byte().argmax(0), "not confident enough"),
        (lambda c, t: [leave(c[:, [n]], t) for n in range(c.shape[1])], "the values are right, only the shape"),
        (lambda c, t: [next(k for k in range(len(t)) if c[k, n] > t[k]) for n in range(c.shape[1])], "StopIteration"),
    ],
    "linear_cka": [
        (cka, "subtract each channel's mean over the images first"),
        (lambda X, Y: cka(X - X.mean(), Y - Y.mean()), "take one mean for each channel, not one for all"),
        (lambda X, Y: cka(centred(X), Y - Y.mean()), "0.982109 where 1 is expected"),
        (lambda X, Y: cka(centred(X), centred(Y)) ** 0.5, "sum the squared entries of X^T Y, and take no root"),
        (lambda X, Y: cka(centred(X), centred(Y)) ** 2, "that is the square of the right answer"),
        (
            lambda X, Y: (centred(X).T @ centred(Y)).sum() / (centred(X).norm() * centred(Y).norm()),
            "-1.66667 where 1 is expected: it cannot be below 0",
        ),
        (
            lambda X, Y: (centred(X).T @ centred(Y)).norm() ** 2 / (centred(X).norm() ** 2 * centred(Y).norm() ** 2),
            "HSIC(X, X) is made of X^T X: add up its squared",
        ),
        (
            lambda X, Y: cka(centred(X) / X.std(0), centred(Y) / Y.std(0)),
            "do not standardise the channels: they keep their",
        ),
        (lambda X, Y: 2 * linear_cka(X, Y), "twice"),
        (lambda X, Y: cka_after(X - X.mean(1, True), Y - Y.mean(1, True)), "not of each image"),
        (lambda X, Y: (X - X.mean(0)).T.matmul(Y - Y.mean(0)).norm() ** 2, "divide by the root"),
        (lambda X, Y: hsic(X, Y) / (hsic(X, X) * hsic(Y, Y)), "square root of the denominator is missing"),
        (lambda X, Y: linear_cka(X, Y)[None, None], "shape (1, 1)"),
        (lambda X, Y: hsic(X, Y), "the result is from 0 to 1"),
        (lambda X, Y: cka(X - X.mean(0), Y), "subtract the means from Y as well"),
        (lambda X, Y: 100 * linear_cka(X, Y), "in percent"),
        (lambda X, Y: -linear_cka(X, Y), "the sign is wrong"),
        (lambda X, Y: 438, "it cannot be above 1"),
        (lambda X, Y: centred(X).T @ centred(Y), "where a single number is expected"),
        (lambda X, Y: print(linear_cka(X, Y)), "use return instead of print"),
    ],
    "margin": [
        (
            lambda p: p.amax(1) - p.masked_fill(p == p.amax(1, keepdim=True), 0).amax(1),
            "if two classes share the largest probability, the",
        ),
        (lambda p: p.amax(1) - p.median(1).values, "the second largest, not the median"),
        (lambda p: p.amax(1) - p.mean(1), "the second largest, not the mean"),
        (lambda p: p.sort(1).values.diff(dim=1)[:, 0], "sort is in ascending order: the last two count"),
        (lambda p: p.sort(1).values.diff(dim=1).amax(1), "that is the largest gap between any two"),
        (lambda p: 2 * p.amax(1) - 1, "1 - the largest is the sum of all other classes,"),
        (lambda p: p.amax(1) - p.amin(1), "that is the largest minus the smallest"),
        (lambda p: p[:, -1] - p[:, -2], "those are the last classes: sort the"),
        (lambda p: (p[:, 0] - p[:, 1]).abs(), "those are classes 0 and 1: sort the probabilities"),
        (lambda p: p.max(1).values, "the confidence"),
        (lambda p: p.topk(2, dim=1).values, "shape (4, 2) where shape (4,)"),
        (lambda p: p.max(1) - p.topk(2, dim=1).values[:, 1], "take .values or .indices"),
        (lambda p: right_margin(p).mean(), "one margin for each image"),
        (lambda p: -right_margin(p), "not the other way round"),
        (lambda p: right_margin(p)[:, None], "the values are right, only the shape"),
        (lambda p: p.amax(1) / p.topk(2, dim=1).values[:, 1], "not their ratio"),
    ],
    "normalise": [
        (lambda x, m, s: normalised(x, m, s, largest=256), "the largest value is 255, not 256"),
        (lambda x, m, s: normalised(x, m, s, largest=x.max()), "divide by 255, not by the largest value of these"),
        (lambda x, m, s: normalised(x, m, s**2), "divide by std, not by its square"),
        (
            lambda x, m, s: (x / 255) / s[:, None, None] - m[:, None, None],
            "subtract the mean first, then divide by std",
        ),
        (lambda x, m, s: (x / 255 - m.mean()) / s.mean(), "each channel has its own mean and std"),
        (lambda x, m, s: (x / 255 - m[0]) / s[0], "each channel has its own mean and std"),
        (lambda x, m, s: (x // 255 - m[:, None, None]) / s[:, None, None], "// drops the remainder: x / 255"),
        (lambda x, m, s: normalised(x, m, s).clamp(min=0), "values below the mean are negative: do not cut"),
        (
            lambda x, m, s: (x / 255 - x.double().mean((0, 2, 3), keepdim=True) / 255) / s[:, None, None],
            "-0.8 at [0, 0, 0, 0] where -1 is expected",
        ),
        (lambda x, m, s: (x - m[:, None, None]) / s[:, None, None], "divide by 255 first"),
        (lambda x, m, s: x / 255 - m[:, None, None], "divide by std"),
        (lambda x, m, s: (x / 255 - m) / s, "mean per column"),
        (lambda x, m, s: x / 255, "subtract the mean"),
        (lambda x, m, s: (x / 255 + m[:, None, None]) / s[:, None, None], "subtract the mean"),
        (lambda x, m, s: (x / 255 - m[:, None, None]) * s[:, None, None], "divide by std"),
        (lambda x, m, s: x.div_(255).sub_(m[:, None, None]), "floats do not fit into a tensor of whole numbers:"),
        (lambda x, m, s: normalised(x, m, s).byte(), "is expected"),
        (lambda x, m, s: normalised(x, m, s).permute(0, 2, 3, 1), "shape (2, 2, 3, 3) where shape (2, 3, 2, 3)"),
        (lambda x, m, s: normalised(x, m, s)[0], "shape (3, 2, 3) where shape (2, 3, 2, 3)"),
        (lambda x, m, s: (x / 255 - s[:, None, None]) / m[:, None, None], "is expected"),
    ],
    "partition": [
        (channels(zeroed, math.floor), "round(C * beta) channels are f+, rounded as"),
        (channels(zeroed, math.ceil), "round(C * beta) channels are f+, rounded as"),
        (channels(zeroed, half_up), "round(C * beta) channels are f+, rounded as"),
        (channels(cut, round), "that is referencing: partitioning puts zeros in"),
        (lambda f, beta: partition(f.detach(), beta), "nothing is detached here: f+ and f- keep their"),
        (lambda f, beta: [v.flip(1) for v in partition(f.flip(1), beta)], "f+ is the first round(C * beta) channels"),
        (lambda f, beta: (partition(f, beta)[0], f), "seen still holds f+: put zeros there"),
        (lambda f, beta: (partition(f, beta)[0], partition(f, beta)[0]), "both views are the same: seen is for f-"),
        (lambda f, beta: zeroed(f, round(f.shape[1] * beta) + 1), "f+ is the first round(C * beta) channels: one"),
        (lambda f, beta: (f, f), "nothing is cut"),
        (lambda f, beta: partition(f, beta)[::-1], "swapped"),
        (lambda f, beta: (f[:, : round(f.shape[1] * beta)], f[:, round(f.shape[1] * beta) :]), "keep all C"),
        (lambda f, beta: f, "return two tensors"),
        (lambda f, beta: partition(f, 1 - beta), "f+ is the first round"),
        (lambda f, beta: both_in_one(f, round(f.shape[1] * beta)), "are both views the same tensor"),
        (lambda f, beta: zeroed_too_early(f, round(f.shape[1] * beta)), "was f overwritten before"),
        (lambda f, beta: (f, partition(f, beta)[1]), "onward still holds f-"),
        (lambda f, beta: zeroed(f, round(f.shape[1] * beta) - 1), "one more"),
        (lambda f, beta: zeroed(f, round(f.shape[0] * beta)), "is expected"),
        (lambda f, beta: (f[: round(len(f) * beta)], f), "onward has shape (1, 8, 3, 4)"),
        (lambda f, beta: [v.numpy() for v in partition(f.detach(), beta)], "return two tensors"),
        (lambda f, beta: zeroed(f, f.shape[1] * beta), "an index is a whole number"),
    ],
    "pcgrad": [
        (lambda g, h: g - below(g, h) / (h @ h) * h + h, "the second yields as well, to the first as it"),
        (
            lambda g, h: (g - below(g, h) / (h @ h) * h + h - below(g, h) / (g @ g) * g) / 2,
            "that is the mean; PCGrad takes the sum",
        ),
        (
            lambda g, h: g + below(g, h) / (h @ h) * h + h + below(g, h) / (g @ g) * g,
            "subtract the opposing component: it was added",
        ),
        (
            lambda g, h: g - below(g, h) / h.norm() * h + h - below(g, h) / g.norm() * g,
            "the component of g along h is (g @ h) / (h @ h) *",
        ),
        (
            lambda g, h: g - below(g, h) / (g @ g) * h + h - below(g, h) / (h @ h) * g,
            "the component of g along h is (g @ h) / (h @ h) *",
        ),
        (
            lambda g, h: (n := g - below(g, h) / (h @ h) * h) + h - below(n, h) / (n @ n + 1e-12) * n,
            "the second yields as well, to the first as it",
        ),
        (lambda g, h: g - below(g, h) / (h @ h) * h, "h yields as well: add what is left of it"),
        (lambda g, h: g + h if g @ h > 0 else torch.zeros_like(g), "do not drop the update: subtract only the"),
        (lambda g, h: g + h, "plain sum"),
        (lambda g, h: g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g, "nothing is subtracted"),
        (lambda g, h: -pcgrad(g, h), "the sign is wrong"),
        (lambda g, h: h - below(g, h) / (g @ g) * g, "g yields as well: add what is left of it"),
        (lambda g, h: 2 * pcgrad(g, h), "twice"),
        (lambda g, h: (pcgrad(g, h), g), "where shape (2,) is expected"),
        (lambda g, h: g + h - below(g, h) * (g + h), "divide by the square of the length"),
    ],
    "received": [
        (lambda a, b, n: torch.cat([a[:, :n], b[:, n:]], 1), 'that is "own": under "all" this exit\'s gradient'),
        (lambda a, b, n: torch.cat([(a + b)[:, : n + 1], b[:, n + 1 :]], 1), "one channel too many: f+ is [:, :n]"),
        (lambda a, b, n: torch.cat([(a + b)[:, :n] / 2, b[:, n:]], 1), "f+ receives the sum of both, not their mean"),
        (lambda a, b, n: torch.cat([(a + b)[:, :n], 0 * b[:, n:]], 1), "f- receives the gradient of this exit"),
        (lambda a, b, n: torch.cat([(a + b)[:, :n], a[:, n:]], 1), "the two are swapped: deeper exits reach f+ only,"),
        (lambda a, b, n: a + b, "joint training"),
        (lambda a, b, n: torch.cat([a[:, :n], (a + b)[:, n:]], 1), "receives both"),
        (lambda a, b, n: b, "deeper exits reach f+"),
        (lambda a, b, n: a, "deeper exits alone"),
        (lambda a, b, n: received(a, b, max(n - 1, 0)), "one channel too few"),
        (lambda a, b, n: received(a, b, a.shape[1] - n), "f+ is the first n channels"),
        (lambda a, b, n: received(a, b, n)[:, :n], "shape (2, 4, 3, 4) where shape (2, 8, 3, 4)"),
        (lambda a, b, n: (a + b)[:, :n], "shape (2, 4, 3, 4) where shape (2, 8, 3, 4)"),
        (lambda a, b, n: torch.cat([a[:, :n], 0 * b[:, n:]], 1), "this exit's gradient is missing"),
    ],
    "saved": [
        (lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum()), "the first layer reads the image: it costs 2, not 3"),
        (lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum() - m[-1]), "the *first* layer costs 2: it reads the image"),
        (
            lambda m, c, b: (1 - b) * m[c].sum() / (3 * m.sum() - 1),
            "the first layer skips one of its three products:",
        ),
        (lambda m, c, b: (1 - b) * m[1:].sum() / (3 * m.sum() - m[0]), "0.0882353 where 0.0588235 is expected"),
        (lambda m, c, b: (1 - b) * c.double().mean() / 3, "layers do not cost the same: weight them by macs"),
        (lambda m, c, b: b * m[c].sum() / (3 * m.sum() - m[0]), "beta is the fraction that is still computed: 1 -"),
        (
            lambda m, c, b: (1 - b) * m[c].sum() / (2 * m.sum() - m[0]),
            "a whole step is three products: one forward, two",
        ),
        (lambda m, c, b: (1 - b) * m[c].sum() / m.sum(), "of a whole step"),
        (lambda m, c, b: 1 - saved(m, c, b), "what is left"),
        (lambda m, c, b: (1 - b) * m.sum() / (3 * m.sum() - m[0]), "read a cut feature"),
        (lambda m, c, b: (1 - b) * m[c].sum(), "divide by"),
        (lambda m, c, b: 2 * saved(m, c, b), "only the input gradient is saved"),
        (lambda m, c, b: 100 * saved(m, c, b), "in percent"),
        (lambda m, c, b: m[c].sum() / (3 * m.sum() - m[0]), "1 - beta is saved"),
        (lambda m, c, b: (1 - b) * m[~c].sum() / (3 * m.sum() - m[0]), "layers that are not cut"),
        (lambda m, c, b: (1 - b) * m[c] / (3 * m.sum() - m[0]), "where a single number is expected"),
    ],
    "seeds_needed": [
        (lambda s, g: math.ceil((1.96 * s / g) ** 2), "1.96 is for very many seeds: use t of n - 1"),
        (least(lambda s, n: t_quantile(n) * s / math.sqrt(n), first=3), "2 seeds may be enough"),
        (least(lambda s, n: t_quantile(n + 1) * s / math.sqrt(n)), "n seeds leave n - 1 degrees of freedom"),
        (least(lambda s, n: t_quantile(n) * s / math.sqrt(n - 1)), "divide by the root of n, not of n - 1"),
        (least(lambda s, n: t_quantile(n) * s / n), "divide by the root of n, not by n"),
        (least(lambda s, n: 2 * t_quantile(n) * s / math.sqrt(n)), "half the width counts: from the mean to one end"),
        (least(lambda s, n: t_quantile(n, 0.95) * s / math.sqrt(n)), "2.5 % lie beyond either end: t at 0.975, not at"),
        (lambda s, g: min(100, least(lambda s, n: t_quantile(n) * s / math.sqrt(n))(s, g)), "do not stop at 100 seeds"),
        (lambda s, g: max(2, math.ceil((1.96 * s / g) ** 2)), "1.96 is for very many"),
        (lambda s, g: seeds_needed(s, g) - 1, "one too few"),
        (lambda s, g: 0, "is expected"),
        (lambda s, g: seeds_needed(s, g) + 1, "one seed fewer is enough"),
        (lambda s, g: (1.96 * s / g) ** 2, "try n = 2, 3"),
        (lambda s, g: least(lambda s, n: t_quantile(n) * s / math.sqrt(n))(s**2, g), "do not square it"),
        (lambda s, g: least(lambda s, n: t_quantile(n) * s)(s, g), "varies less"),
    ],
    "selectivity": [
        (
            lambda a, y: (m := means(a, y)).max() - (m.sum() - m.max()) / (len(m) - 1),
            "that is m1 - m2: divide by m1 + m2, so that a",
        ),
        (
            lambda a, y: ((m := means(a, y)).max() - m.mean()) / (m.max() + m.mean()),
            "m2 averages the *other* classes: leave out the",
        ),
        (
            lambda a, y: ((m := means(a, y)).max() - m.min()) / (m.max() + m.min()),
            "m2 averages all other classes, it is not the",
        ),
        (
            lambda a, y: ((m := means(a, y)).max() - m.median()) / (m.max() + m.median()),
            "m2 is the mean of the other classes, not their",
        ),
        (
            lambda a, y: ((m := means(a, y))[0] - m[1:].mean()) / (m[0] + m[1:].mean()),
            "m1 is the highest of the class means, whichever",
        ),
        (
            lambda a, y: ((m := means(a, y)).max() - (o := (m.sum() - m.max()) / len(m))) / (m.max() + o),
            "divide by the number of *other* classes",
        ),
        (
            lambda a, y: (a.max() - (o := (a.sum() - a.max()) / (len(a) - 1))) / (a.max() + o),
            "compare means of classes, not activations of",
        ),
        (lambda a, y: class_index(a, y, lambda m: m.sort().values[-2]), "second highest"),
        (lambda a, y: 100 * selectivity(a, y), "in percent"),
        (lambda a, y: class_means(a, y).max() / others(a, y), "(m1 - m2) / (m1 + m2)"),
        (lambda a, y: -selectivity(a, y), "the sign is wrong"),
        (lambda a, y: class_means(a, y), "shape (3,) where a single number"),
        (lambda a, y: (a[y == 1].mean() - a[y != 1].mean()) / (a[y == 1].mean() + a[y != 1].mean()), "is expected"),
        (lambda a, y: y.mean(), "whole numbers, into floats first"),
        (lambda a, y: print(selectivity(a, y)), "use return instead of print"),
    ],
    "shortest": [
        (unlimited, "a weight is from 0 to 1: beyond an end, the end"),
        (lambda g, h: unlimited(g, h).clamp(min=0), "a weight is from 0 to 1: beyond an end, the end"),
        (lambda g, h: unlimited(g, h).clamp(max=1), "a weight is from 0 to 1: beyond an end, the end"),
        (lambda g, h: unlimited(h, g).clamp(0, 1), "that is the weight of h; w is the weight of g"),
        (lambda g, h: unlimited(g, h).abs().clamp(max=1), "below 0 the shortest is at 0: clamp, do not take"),
        (lambda g, h: h.norm() / (g.norm() + h.norm()), "the lengths are not enough: the angle counts as"),
        (lambda g, h: torch.tensor(float(h.norm() > g.norm())), "that is the shorter of the two: one between them"),
        (lambda g, h: h @ h / (g @ g + h @ h), "that is right only if the two are perpendicular:"),
        (lambda g, h: shortest(g, h) * g + (1 - shortest(g, h)) * h, "return its weight w"),
        (lambda g, h: 0.5, "only if both are equally long"),
        (lambda g, h: ((h - g) @ h / (g - h).norm()).clamp(0, 1), "divide by the *square*"),
        (lambda g, h: ((g - h) @ h / ((g - h) @ (g - h))).clamp(0, 1), "the sign is wrong"),
        (lambda g, h: 100 * unlimited(g, h).clamp(0, 1), "in percent"),
    ],
    "silent": [
        (lambda C, b: 1 - math.floor(C * b) / C, "round(C * beta) channels are f+, rounded as"),
        (lambda C, b: 1 - math.ceil(C * b) / C, "round(C * beta) channels are f+, rounded as"),
        (lambda C, b: 1 - half_up(C * b) / C, "round(C * beta) channels are f+, rounded as"),
        (lambda C, b: 1 - b, "channels are indivisible: round(C * beta) of them"),
        (lambda C, b: round(1 - b, 1), "channels are indivisible: round(C * beta) of them"),
        (lambda C, b: 1 - (round(C * b) / C) ** 2, "a weight reads one channel of onward: do not"),
        (lambda C, b: round(C * b) / C, "do learn"),
        (lambda C, b: C - round(C * b), "divide by C"),
        (lambda C, b: round(C * (1 - b)) / C, "rounded as Python does"),
        (lambda C, b: int(C * b) / C, "that do learn"),
        (lambda C, b: 1 - int(C * b) / C, "rounded as Python does"),
        (lambda C, b: round(C * b), "that do learn"),
        (lambda C, b: C * (1 - b), "divide by C"),
        (lambda C, b: 100 * (1 - round(C * b) / C), "in percent"),
        (lambda C, b: round(C * b) / C - 1, "the sign is wrong"),
        (lambda C, b: b, "that do learn"),
    ],
    "softmax": [
        (
            lambda z, t: (z.double() / t).exp() / (z.double() / t).exp().sum(1, keepdim=True),
            "exp of a large number is infinite: subtract each",
        ),
        (
            lambda z, t: (e := (z / t - (z / t).max()).exp()) / e.sum(1, keepdim=True),
            "each row has its own maximum: subtract that, or a",
        ),
        (
            lambda z, t: (e := (z / t - (z / t).mean(1, keepdim=True)).exp()) / e.sum(1, keepdim=True),
            "exp of a large number is infinite: subtract each",
        ),
        (
            lambda z, t: (e := (z.clamp(max=80) / t).exp()) / e.sum(1, keepdim=True),
            "do not cut the logits: subtract each row's maximum",
        ),
        (
            lambda z, t: (e := (z - z.amax(1, keepdim=True)).exp() / t) / e.sum(1, keepdim=True),
            "the temperature has no effect",
        ),
        (lambda z, t: (z / t**2).softmax(1), "divide by the temperature once, not twice"),
        (lambda z, t: (z / t).softmax(0), "the classes are in dimension 1: each row adds up"),
        (lambda z, t: ((z - z.amax(1, keepdim=True)) / t).exp(), "divide by each row's sum: probabilities add up to"),
        (lambda z, t: torch.softmax(z * t, 1), "divide by the temperature"),
        (lambda z, t: torch.softmax(z, 1) / t, "not the probabilities"),
        (lambda z, t: (z - t).softmax(1), "the temperature has no effect"),
        (lambda z, t: 100 * (z / t).softmax(1), "in percent"),
        (lambda z, t: (z / t).sigmoid(), "that is a sigmoid"),
        (lambda z, t: z / t / (z / t).sum(1, keepdim=True), "exp is missing"),
        (lambda z, t: (z / t).softmax(1).argmax(1), "shape (2,) where shape (2, 3)"),
        (lambda z, t: (z / t).exp(), "divide by each row's sum"),
        (lambda z, t: (z / t).exp() / (z / t).exp().sum(1), "the shapes do not fit"),
        (lambda z, t: (z / t).log_softmax(1), "the logarithm"),
    ],
    "surgery": [
        (channels(cut, math.floor), "round(C * beta) channels are f+, rounded as"),
        (channels(cut, math.ceil), "round(C * beta) channels are f+, rounded as"),
        (channels(cut, half_up), "round(C * beta) channels are f+, rounded as"),
        (channels(zeroed, round), "that is partitioning alone: put the other part,"),
        (lambda f, beta: (surgery(f, beta)[0], f), "the exit's gradient reaches f+ too: in seen, f+"),
        (lambda f, beta: (f, surgery(f, beta)[1]), "deeper exits still reach f-: in onward, f- is"),
        (lambda f, beta: (f.detach(), f), "that detaches all of onward: detach f- alone, and"),
        (lambda f, beta: surgery(f, beta)[::-1], "the two are swapped: f+ belongs to onward, f- to"),
        (lambda f, beta: [v.flip(1) for v in surgery(f.flip(1), beta)], "f+ is the first round(C * beta) channels"),
        (lambda f, beta: cut(f, f.shape[0]), "the gradient that f receives from onward: 0 at"),
        (lambda f, beta: (f, f), "nothing is cut"),
        (lambda f, beta: f, "return two tensors"),
        (lambda f, beta: (f[:, :1], f), "onward has shape"),
        (lambda f, beta: written_in_one(f, round(f.shape[1] * beta)), "f receives nothing"),
        (lambda f, beta: written_too_early(f, round(f.shape[1] * beta)), "was f overwritten before"),
        (lambda f, beta: cut(f, int(f.shape[1] * beta)), "rounded as Python does"),
        (lambda f, beta: (f, f.detach()), "that is Detached"),
        (lambda f, beta: cut(f, round(f.shape[1] * beta) + 1), "one fewer"),
        (lambda f, beta: (surgery(f, beta)[0],) * 2, "both views are the same"),
        (
            lambda f, beta: [v.transpose(0, 1) for v in surgery(f.transpose(0, 1), beta)],
            "dimension 0 is that of images",
        ),
        (lambda f, beta: torch.cat(surgery(f, beta)), "return two tensors"),
        (lambda f, beta: print(surgery(f, beta)), "use return instead of print"),
    ],
    "together": [
        (lambda exit, s: s[exit].mean(), "a batch is as slow as its slowest image, not as"),
        (lambda exit, s: s[exit.amax(0)].mean(), "the images of a batch are in dimension 1"),
        (lambda exit, s: s[exit.amax(1)].median(), "the mean over the batches, not the median"),
        (lambda exit, s: s[exit[:, -1]].mean(), "the slowest image may be anywhere in a batch:"),
        (lambda exit, s: s[exit].amax(1).sum() / exit.numel(), "the mean time of a batch, not of an image"),
        (lambda e, s: s[e.max()], "its own slowest"),
        (lambda e, s: s[e.amin(1)].mean(), "max, not min"),
        (lambda e, s: s[e.amax(1)].sum(), "not their sum"),
        (lambda e, s: s[e].sum(1).mean(), "at the same time"),
        (lambda e, s: s[e.amax(1)], "return the mean over the batches"),
        (lambda e, s: s[e.amax(1)].max(), "its own slowest image"),
        (lambda e, s: e.amax(1).double().mean(), "look up its seconds"),
        (lambda e, s: s.cumsum(0)[e.amax(1)].mean(), "already counts everything"),
        (lambda e, s: e.amax(1).mean(), "into floats first"),
    ],
    "warm_up": [
        (
            lambda e, b, base, warm: base * (b / 256) ** min(e / warm, 1),
            "the rate rises in a straight line: every epoch",
        ),
        (
            lambda e, b, base, warm: base * (1 + (b / 256 - 1) * min((e + 1) / warm, 1)),
            "epoch 0 begins at base: the warm-up ends at epoch",
        ),
        (
            lambda e, b, base, warm: base * (1 + (b / 256 - 1) * min(int(e) / warm, 1)),
            "epochs may be fractions: do not round them",
        ),
        (lambda e, b, base, warm: base * (1 + (b / 256 - 1) * min(e / 5, 1)), "use the given number of epochs, `warm`"),
        (lambda e, b, base, warm: 0.1 * (1 + (b / 256 - 1) * min(e / warm, 1)), "use the given base"),
        (
            lambda e, b, base, warm: base * (1 + (b / 256 - 1) * e / warm) if e < warm else base,
            "after the warm-up, the rate stays high",
        ),
        (
            lambda e, b, base, warm: base * (1 + b / 256 * min(e / warm, 1)),
            "it must end at base * b / 256: add (b / 256 - 1)",
        ),
        (lambda e, b, base, warm: base * b / 256, "begins at base"),
        (lambda e, b, base, warm: base * b / 256 * min(e / warm, 1), "not at 0"),
        (lambda e, b, base, warm: base + base * (b / 256 - 1) * e / warm, "stays"),
        (lambda e, b, base, warm: base + base * ((b / 256) ** 0.5 - 1) * min(e / warm, 1), "linear"),
        (lambda e, b, base, warm: base, "higher rate"),
        (
            lambda e, b, base, warm: base * (1 + (b / 256 - 1) * max(1 - e / warm, 0)),
            "the rate rises during the warm-up: yours falls",
        ),
        (lambda e, b, base, warm: base * b // 256, "is expected"),
        (lambda e, b, base, warm: base + (base * b / 256 - base) * e // warm, "is expected"),
        (lambda e, b, base, warm: print(base * b / 256), "use return instead of print"),
    ],
    "within": [
        (
            lambda s, q: s.sort().values[min(int(q * len(s)), len(s) - 1)],
            "one place too far: places count from 0, so the",
        ),
        (
            lambda s, q: s.sort().values[max(math.floor(q * len(s)) - 1, 0)],
            "too few are answered by then: round q * N up, by",
        ),
        (
            lambda s, q: s.sort().values[max(round(q * len(s)) - 1, 0)],
            "too few are answered by then: round q * N up, by",
        ),
        (
            lambda s, q: s.sort(descending=True).values[math.ceil(q * len(s)) - 1],
            "a fraction q is *slower* than that: sort from",
        ),
        (lambda s, q: s[math.ceil(q * len(s)) - 1], "sort the times first"),
        (lambda s, q: s.quantile(q), "that is between two times: return one of the"),
        (lambda s, q: s.quantile(q, interpolation="higher"), "one place too far: places count from 0, so the"),
        (lambda s, q: s.quantile(q, interpolation="lower"), "too few are answered by then: round q * N up, by"),
        (lambda s, q: s.quantile(q, interpolation="nearest"), "one place too far: places count from 0, so the"),
        (
            lambda s, q: min([t for t in s.tolist() if (s <= t).double().mean() > q], default=s.max()),
            "one place too far: places count from 0, so the",
        ),
        (
            lambda s, q: max(t for t in s.tolist() if (s < t).double().mean() <= q),
            "one place too far: places count from 0, so the",
        ),
        (lambda s, q: q * s.max(), "not of the longest"),
        (lambda s, q: s.mean(), "the slow images"),
        (lambda s, q: s.max(), "only a fraction q is asked for"),
        (lambda s, q: s.median(), "the median answers q = 0.5 only"),
        (lambda s, q: s.sort().values[: math.ceil(q * len(s))].sum(), "not their sum"),
        (lambda s, q: s.sort()[math.ceil(q * len(s)) - 1], "where a single number"),
        (lambda s, q: s.sort().values[q * len(s)], "an index is a whole number"),
        (lambda s, q: math.ceil(q * len(s)), "is expected"),
    ],
    **scratch_answers.SCRATCH,
}
