"""The tables of README and docs/measured.md say what is recorded in data/recorded."""

from pathlib import Path

import numpy as np
import pytest

from dfs_edu import intervals, probes
from dfs_edu.backbones import build
from dfs_edu.training import results, study

ROOT = Path(__file__).parents[1]
WAYS = {"joint": "joint", "surgery, own, beta 0.5": "surgery own 0.5", "surgery, all, beta 0.5": "surgery all 0.5"}


def row(name: str, values, digits: int, sign: str = "") -> str:
    """A table's row: mean and 95 % interval over seeds, values (n, K) in percent."""
    mean, half = intervals.interval(values)
    cells = (f"{m:{sign}.{digits}f} ± {h:.{digits}f}" for m, h in zip(mean, half, strict=True))
    return f"| {name} | {' | '.join(cells)} |"


@pytest.mark.parametrize(
    ("document", "network"),
    [
        ("README.md", "vgg7-64"),
        ("docs/measured.md", "vgg7-64"),
        ("docs/measured.md", "resnet18-width16"),
    ],
)
def test_joint_and_surgery_on_cifar100(document, network):
    start = f"cifar100-{network}-lesson"
    records = results.recorded(f"{start}-joint-*", f"{start}-surgery-*-0.5-*")
    found = {name: 100 * np.array(values) for name, values in results.accuracies(records.values()).items()}
    said = (ROOT / document).read_text(encoding="utf-8")
    for title, name in WAYS.items():
        assert len(found[name]) == 3
        assert row(title, found[name], 2) in said
    for form in ("own", "all"):
        difference = found[f"surgery {form} 0.5"] - found["joint"]
        assert row(f"*{form} minus joint, seed by seed*", difference, 2, "+") in said


def test_each_run_of_msdnet():
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    arms = {
        "joint": "joint",
        "surgery, coarsest scale": "surgery-all-0.5",
        "surgery, all scales": "surgery-all-0.5-scales",
    }
    for title, arm in arms.items():
        for seed in (0, 1):
            (record,) = results.recorded(f"cifar100-msdnet-cifar-base2-step1-lesson-{arm}-seed{seed}").values()
            cells = " | ".join(f"{100 * a:.2f}" for a in record["final"]["test_accuracy"])
            assert f"| {title}, seed {seed} | {cells} |" in said


TITLES = {"surgery own 0.5, no reference": "the cut alone, no reference"} | {
    f"joint + {name.lower()}": name
    for name in ("PCGrad", "CAGrad", "MGDA", "IMTL-G", "Nash-MTL", "UPGrad", "Aligned-MTL")
}


def test_all_arms_on_digits():
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    records = study.recorded("digits-vgg7-16-lesson")
    for name, runs in study.by_arm(records).items():
        values = [study.percent(record) for record in runs.values()]
        time = "1" if name == "joint" else f"{study.time(records, name):.1f}"
        assert f"{row(TITLES.get(name, name), values, 1)} {time} |" in said


def test_every_exit_alone():
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    found = study.ceilings.reached(study.recorded("digits-vgg7-16-lesson-alone"))
    for name, values in found.items():
        assert row(name, values, 1) in said
        assert name == "alone" or row(f"*alone minus {name}*", found["alone"] - values, 1, "+") in said
    partners = [run for run in study.recorded("digits-vgg7-16-lesson-partners") if sum(run["recipe"]["weights"]) == 2]
    alone = found["alone"][:3, -1]
    gaps = [alone[run["recipe"]["seed"]] - study.percent(run)[-2] for run in partners]  # seed by seed
    assert len(partners) == 15
    assert np.reshape(gaps, (3, 5)).mean(0).max() < 0.5


def test_every_exit_alone_in_a_narrower_network():
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    narrow, wide = (study.ceilings.reached(study.recorded(f"digits-vgg7-{width}-lesson-alone")) for width in (8, 16))
    assert row("alone", narrow["alone"], 1) in said
    assert row("joint", narrow["joint"], 1) in said
    price = narrow["alone"] - narrow["joint"]
    assert row("*alone minus joint*", price, 1, "+") in said
    mean, half = intervals.interval(price)
    assert (abs(mean) < half).all()
    assert (mean[2:] > (wide["alone"] - wide["joint"]).mean(0)[2:]).all()


def test_a_better_head_at_exit_1():
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    records = study.recorded("digits-vgg7-16-lesson-head")
    found = {
        name: np.array([study.percent(runs[seed])[:6] for seed in range(3)])
        for name, runs in study.by_arm(records).items()
    }
    gaps = study.differences(records)  # of a head trained alone: from the same head in joint training
    assert row("as published, joint", found["joint"], 1) in said
    for title, network in (("one convolution", "vgg7-16-convs1"), ("two convolutions", "vgg7-16-convs2")):
        assert row(f"{title}, joint", found[f"joint of {network}"], 1) in said
        alone = f"joint, weights 1 0 0 0 0 0 of {network}"
        assert f"{row(f'{title}, alone', found[alone][:, :1], 1)} | | | | |" in said
        assert (gaps[alone][:, 0] < 0).all()
    assert row("*two convolutions minus as published*", gaps["joint of vgg7-16-convs2"][:, :6], 1, "+") in said
    mean, half = intervals.interval(-gaps[alone][:, 0])
    assert f"by {mean:.1f} ± {half:.1f} points with two convolutions" in said
    for name in ("digits-vgg7-16-lesson", "digits-vgg7-16-lesson-cuts"):  # of every other way to share the trunk
        assert all(gap[:, 0].mean() < 2.15 for gap in study.differences(study.recorded(name)).values())


def test_what_a_better_head_costs():
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    plain, better = (probes.cost(build(name, 10)).macs / 1e6 for name in ("vgg7-16", "vgg7-16-convs2"))
    assert f"exit 1 costs {better[0]:.1f} instead of {plain[0]:.1f} million MACs" in said
    assert f"more than the way to exit 3 ({plain[2]:.1f} million)" in said


def test_other_junctions_and_methods_on_cifar100():
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    records = study.recorded("cifar100-vgg7-64-lesson")
    for name, runs in study.by_arm(records).items():
        assert len(runs) == 3
        if not name.startswith("surgery"):  # those stand in a table of their own
            assert row(TITLES.get(name, name), [study.percent(record) for record in runs.values()], 1) in said
    for name, gaps in study.differences(records).items():
        if not name.startswith("surgery"):
            assert row(f"*{TITLES.get(name, name)} minus joint*", gaps, 1, "+") in said


def test_wider_and_longer_cuts():
    said = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    records = study.recorded("cifar100-vgg7-64-full-10-epochs")
    for name, runs in study.by_arm(records).items():
        assert len(runs) == 3
        assert row(name, [study.percent(record) for record in runs.values()], 1) in said
    for name, gaps in study.differences(records).items():
        assert row(f"*{name} minus joint*", gaps, 1, "+") in said
