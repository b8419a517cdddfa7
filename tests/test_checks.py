"""Checks of exercises: right answers pass, stubs do not raise, and the usual mistakes are told by name."""

import pytest
import torch

from dfs_edu import checks


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


RIGHT = {
    "exits": exits,
    "cumulative_macs": lambda s, h: torch.cumsum(s, 0) + torch.cumsum(h, 0),
    "cosine": lambda g, h: (g * h).sum() / (g.pow(2).sum() * h.pow(2).sum()).sqrt(),
    "conflicting": conflicting,
    "surgery": surgery,
    "step_cost": lambda beta: 1 + 1 + beta,
    "leave": leave,
    "average_macs": lambda exit, macs: sum(macs[e] for e in exit) / len(exit),
    "evenly": evenly,
    "conv_macs": lambda i, o, k, s, g: g * (i // g) * (o // g) * (k * s) ** 2,
    "front": front,
    "learning_rate": lambda e, p, m: p / 10 ** len([x for x in m if x <= e]),
    "interval": interval,
    "warm_up": lambda e, b, base, warm: base * b / 256 if e >= warm else base + (base * b / 256 - base) * e / warm,
}

WRONG = [  # check, a mistake, a word of what must be said
    ("exits", lambda s, h, x: [b(a(x)) for a, b in zip(s, h, strict=True)], "was given the picture"),
    ("exits", lambda s, h, x: exits(s, h, x)[-1:], "only the last exit"),
    ("exits", lambda s, h, x: exits(s, h, x)[0], "a Tensor where a list of 2"),
    ("cumulative_macs", lambda s, h: s.cumsum(0), "the heads cost something"),
    ("cumulative_macs", lambda s, h: s + h, "every stage before"),
    ("cumulative_macs", lambda s, h: s.sum(), r"shape \(\) where \(2,\)"),
    ("cosine", lambda g, h: g @ h, "inner product"),
    ("cosine", lambda g, h: (g @ h).abs() / g.norm() / h.norm(), "keep the sign"),
    ("cosine", lambda g, h: "0.5?", "a str where a number"),
    ("conflicting", lambda g: 1 - conflicting(g), "pairs that agree"),
    ("conflicting", lambda g: (g @ g.T < 0).double().mean(), "diagonal"),
    ("surgery", lambda f, beta: (f, f), "nothing is cut"),
    ("surgery", lambda f, beta: surgery(f, beta)[::-1], "exchanged"),
    ("surgery", lambda f, beta: f, "return two tensors"),
    ("surgery", lambda f, beta: (f[:, :1], f), "a view of shape"),
    ("step_cost", lambda beta: 3 * beta, "weight gradient"),
    ("leave", lambda c, t: c.argmax(0), "surest"),
    ("leave", lambda c, t: leave(c, t) + 1, "from 0"),
    ("average_macs", lambda exit, macs: macs.mean(), "not the same number"),
    ("average_macs", lambda exit, macs: macs[exit].mean() * 2, "is expected"),
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
    ("front", lambda m, a: front(m, a).nonzero()[:, 0], "a bool"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_told_so(name, capsys):
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
    said = capsys.readouterr().out
    assert said.startswith("✗")
    assert re.search(word, said), said


def test_every_check_has_a_right_answer_here():
    public = {name for name, value in vars(checks).items() if getattr(value, "__module__", "") == checks.__name__}
    assert {name for name in public if not name.startswith("_") and name != "Mistakes"} == set(RIGHT)
