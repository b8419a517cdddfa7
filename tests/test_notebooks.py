"""The whole course, executed by papermill at smoke scale: no errors, and what it records makes sense."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import nbformat
import pytest

from dfs_edu.course import runner as course

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

K = 6  # exits of the course's vgg7


def fractions(values, count: int = K) -> None:
    assert len(values) == count
    assert all(0 <= value <= 1 for value in values)


def cumulative_macs() -> list[int]:
    """By hand: 3x3 convolutions of 3, 16, 16, 32, 32, 64 channels at 32, 32, 16, 16, 8, 8 pixels, and linear heads."""
    convolutions = [3 * 16 * 32**2, 16 * 16 * 32**2, 16 * 32 * 16**2, 32 * 32 * 16**2, 32 * 64 * 8**2, 64 * 64 * 8**2]
    heads = [10 * width for width in (16, 16, 32, 32, 64, 64)]
    return list(accumulate(9 * c + h for c, h in zip(convolutions, heads, strict=True)))


def why_several_exits(found: dict) -> None:
    fractions(found["accuracy"])
    assert found["macs"] == cumulative_macs()
    assert len(found["difficulty"]) == K + 1


def do_exits_disagree(found: dict) -> None:
    fractions(found["conflicting"].values(), 2)
    assert found["by_hand"] == pytest.approx(found["by_probe"], abs=1e-3)
    assert -1 <= found["first_and_last"] <= 1
    fractions(found["through_training"], K - 1)
    fractions(found["photographs"].values(), 2)


def start_here(found: dict) -> None:
    assert found["missing"] == []
    fractions(found["accuracy"])
    assert found["macs"] == cumulative_macs()
    assert found["layers"] == 2 * K  # a convolution and a BatchNorm in each stage


def cutting_features(found: dict) -> None:
    assert set(found["accuracy"]) == {"joint", "detached", "partition"}
    for accuracy in found["accuracy"].values():
        fractions(accuracy)
    assert any(abs(cosine) > 1e-3 for cosine in found["at_the_cut"]["joint"])
    assert found["at_the_cut"]["partition"] == [0] * (K - 1)  # exit 1 owns other channels than the deeper exits
    first, *behind = found["dead"]["partition"]["convolution"]
    assert first < 0.5
    assert all(0.5 <= share < 1 for share in behind)  # they read [f+, 0]
    *cut, last = found["dead"]["partition"]["head"]
    assert all(0.5 <= share < 1 for share in cut)
    assert last < 0.5


def seeing_without_touching(found: dict) -> None:
    assert found["same"] is True
    assert len(found["sight"]) == 5
    assert set(found["accuracy"]) == {"joint", "partition", "surgery own", "surgery all"}
    for accuracy in found["accuracy"].values():
        fractions(accuracy)
    assert found["at_the_cut"]["surgery own"] == [0] * (K - 1)
    assert any(abs(cosine) > 1e-3 for cosine in found["at_the_cut"]["surgery all"])  # f+ hears exit 1 as well
    assert set(found["cifar100"]) == {"surgery own 0.5", "surgery all 0.5"}
    for shares in found["through_training"].values():
        fractions(shares, K - 1)
    assert found["through_training"]["surgery"][-1] == 0  # exits 5 and 6 own different channels of stage 5
    assert found["carried"]["surgery"] == [[0, 0]] * (K - 1)
    assert all(abs(plus) + abs(minus) > 0 for plus, minus in found["carried"]["joint"])
    assert found["leaking"] == 0  # a stage of VGG is one convolution
    own = found["by_own_channels"]
    assert all(length > 0 for length in own["joint"])
    assert own["coarsest scale cut"] == own["all scales cut"] == [0, 0, 0]
    shared, specific = zip(*found["by_finer_scales"]["coarsest scale cut"], strict=True)
    assert all(length > 0 for length in shared + specific)
    assert [specific for _, specific in found["by_finer_scales"]["all scales cut"]] == [0, 0]


def what_surgery_saves(found: dict) -> None:
    assert 0.1 < found["theory"] < 1 / 6  # half an input gradient of three thirds, less what cannot be saved
    assert found["counted"] == pytest.approx(found["theory"], abs=1e-3)
    assert found["usual"] == 0
    assert found["by_beta"]["theory"] == sorted(found["by_beta"]["theory"], reverse=True)
    assert found["by_beta"]["theory"][-1] == found["by_beta"]["counted"][-1] == 0  # at beta 1 all is heard
    assert all(seconds > 0 for seconds in found["times"].values())
    assert found["by_network"]["vit-tiny-pixels32-patch4"] == [0, 0]
    assert 0.99 < found["memory"] < 1.02


def when_to_stop(found: dict) -> None:
    fractions(found["share"])
    assert sum(found["share"]) == pytest.approx(1)
    assert found["same_exit_as_simulated"] > 0.995  # a smaller batch may round a confidence across its threshold
    spent = sum(share * macs for share, macs in zip(found["share"], cumulative_macs(), strict=True))
    assert found["macs"] == pytest.approx(spent)
    fractions([found["accuracy"], found["last_exit"], *found["photographs"]], 4)
    assert set(found["gaps"]) == {"margin", "entropy", "patience"}
    for mean, low, high in found["gaps"].values():
        assert low <= mean <= high


def which_backbone_and_your_own(found: dict) -> None:
    exits = {"VGG": 6, "ResNet": 4, "MSDNet": 7}
    assert {family: len(macs) for family, macs in found["macs"].items()} == exits
    assert {family: len(gap) for family, gap in found["cifar100"].items()} == exits
    assert all(macs == sorted(macs) for macs in found["macs"].values())
    fractions(found["at_40"].values(), 3)
    for fp32, bf16 in found["peak"].values():
        assert 0.5 * fp32 < bf16 < 0.6 * fp32
    assert set(found["attached"]) == {"heads alone", "joint", "surgery"}
    for accuracy in found["attached"].values():
        fractions(accuracy, 4)
    assert found["apart"] < 1e-4
    assert found["untouched"]


def a_full_cifar100_run(found: dict) -> None:
    assert found["same"] is True  # killed and resumed
    fractions(found["accuracy"])
    assert found["work"]["cifar100/resnet18"] > found["work"]["cifar100/vgg7-64"] > 1e16
    for gap, half in found["gaps"].values():
        assert len(gap) == len(half)
        assert all(h > 0 for h in half)
    published, onecycle = found["minutes"]
    assert 0 < onecycle < published


def a_full_imagenet_run(found: dict) -> None:
    fractions(found["accuracy"], 5)
    assert found["classes"] == 10
    assert found["train_pictures"] == 190  # 20 of each class, one of them set apart
    assert found["skipped"] == [found["damaged"]]
    assert found["epochs"] == 2
    assert found["reading"] > 0
    assert found["training"] > 0
    full, paper = found["hours"]["full"], found["hours"]["paper"]
    assert paper == pytest.approx(3 * full)  # 90 epochs and 30
    assert 0.5 < found["peak"]["bf16"] / found["peak"]["fp32"] < 0.6
    assert (
        5 < found["step"] / found["macs"][-1] < 6
    )  # two FLOPs a MAC, three passes, but for the first layer's gradient


def how_sure_is_sure(found: dict) -> None:
    fractions(found["error"], 6)
    fractions(found["after"], 6)
    assert all(0.01 <= t <= 100 for t in found["temperatures"])
    for errors in found["cifar100"].values():
        fractions(errors, 6)


def how_to_spend_a_budget(found: dict) -> None:
    methods = {"geometric shares", "one threshold", "search"}
    assert set(found["share"]) == set(found["accuracy"]) == set(found["fitted"]) == methods
    for share in found["share"].values():
        assert sum(share) == pytest.approx(1)
    for accuracy in (*found["accuracy"].values(), *found["fitted"].values()):
        fractions(accuracy, 25)
    assert found["fitted"]["search"] == sorted(found["fitted"]["search"])  # a larger budget is never worse
    assert found["leads"]["validation"][0] > 0
    assert found["cuts"][0] <= found["cuts"][1] <= found["cuts"][2]  # the more going on costs, the more leave
    for mean, low, high in (row for rows in found["difference"].values() for row in rows):
        assert low - 1e-9 <= mean <= high + 1e-9
    assert found["bills"]["better exit 1"] <= found["bills"]["as trained"]
    assert all(len(seeds) == 3 for seeds in found["seeds"].values())


def take_it_away(found: dict) -> None:
    sizes = {"one by one", "16 at a time", "250 at a time"}
    assert set(found["speed"]) == set(found["idle"]) == sizes
    for promised, measured in found["speed"].values():
        assert promised == sorted(promised)
        assert promised[0] == 1  # nobody leaves early
        assert promised[-1] > 1.5
        assert all(speed > 0 for speed in measured)
    assert found["macs"] == cumulative_macs()
    for seconds in found["time_to"].values():
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
    assert all(p50 <= p95 for p50, p95 in found["latency"].values())
    assert found["same_label"] > 0.99
    assert found["same_exit"] > 0.99
    assert found["apart"] < 1e-4
    assert all(rate > 0 for rates in found["rates"] for rate in rates)


def what_do_the_two_parts_hold(found: dict) -> None:
    for biased, unbiased in found["chance"].values():
        assert abs(unbiased) < 0.1 * biased  # of noise
    for rows in found["alike"].values():
        assert all(-1 <= value <= 1 for row in rows.values() for value in row)
    assert len(found["between"]) == 8  # four pairs of networks, two parts
    for accuracy in found["probes"].values():
        fractions(accuracy["whole"])
        for part in ("shared", "specific", "mixed"):
            fractions(accuracy[part][:-1], K - 1)
            assert accuracy[part][-1] is None  # nothing is cut at the last exit
    assert set(found["probes"]) == {"joint", "surgery", "untrained", "random filters"}
    assert set(found["lost"]) == {f"{name}, {fill}" for name in ("joint", "surgery") for fill in ("mean", "zero")}
    for name, medians in found["selectivity"].items():
        assert name.startswith(("joint", "surgery"))
        for values in medians.values():
            fractions(values, K - 1)
    assert set(found["cifar100"]) in (set(), {"joint", "surgery own", "surgery all"})  # where its pictures are
    assert set(found["conductance"]["own"]) == {"joint", "surgery"}
    assert all(len(parts) == K - 1 for parts in found["conductance"]["last"].values())


def rival_answers(found: dict) -> None:
    names = {"pcgrad", "cagrad", "mgda", "imtl-g", "nash-mtl", "upgrad", "aligned-mtl"}
    assert found["opposed"]["sum"] > 0
    assert found["opposed"]["pcgrad"] == found["opposed"]["mgda"] == found["opposed"]["imtl-g"] == 0
    assert set(found["weights"]) == names
    assert set(found["gains"]) == set(found["times"]) == names | {"sum"}
    for cosines in found["gains"].values():
        assert all(-1.001 <= cosine <= 1.001 for cosine in cosines)
    assert min(found["gains"]["mgda"]) > -1e-3
    assert all(found["cosine"][k][k] == pytest.approx(1) for k in range(K))
    assert min(factor for name, factor in found["times"].items() if name != "sum") > 1
    for accuracy in found["accuracy"].values():
        fractions(accuracy)


def who_wins(found: dict) -> None:
    assert found["mine"] == {"joint": 3, "surgery own 0.5": 3}
    for name in ("digits", "cifar100", "cuts"):
        assert "joint" not in found[name]
        for gaps in found[name].values():
            assert len(gaps) == K + 1
            assert gaps[-1] == pytest.approx(sum(gaps[:-1]) / K)
    for verdict in found["sure"].values():
        assert len(verdict) == K
        assert set(verdict) <= {-1, 0, 1}


# Number of a notebook -> what must hold of the values that it recorded, at smoke scale on digits.
EXPECT: dict[str, Callable[[dict], None]] = {
    "00": start_here,
    "01": why_several_exits,
    "02": do_exits_disagree,
    "03": cutting_features,
    "04": seeing_without_touching,
    "05": what_surgery_saves,
    "06": what_do_the_two_parts_hold,
    "07": how_sure_is_sure,
    "08": when_to_stop,
    "09": how_to_spend_a_budget,
    "10": which_backbone_and_your_own,
    "11": rival_answers,
    "12": who_wins,
    "13": a_full_cifar100_run,
    "14": a_full_imagenet_run,
    "15": take_it_away,
}
# What does not depend on the scale is, in a fresh execution, what the committed notebook shows.
SAME_AS_COMMITTED = {
    "00": ["macs", "layers"],
    "01": ["macs"],
    "02": ["by_hand", "by_probe", "photographs"],
    "03": [],
    "04": ["same", "cifar100", "sight"],
    "05": ["theory", "counted", "usual", "by_beta", "by_network"],
    "06": ["chance"],
    "07": ["cifar100"],
    "08": ["whole", "photographs"],
    "09": ["gift", "bills", "seeds"],
    "10": ["macs", "at_40", "cifar100", "peak", "places"],
    "11": ["opposed"],
    "12": ["digits", "cifar100", "cuts", "sure"],
    "13": ["work", "gaps", "minutes"],
    "14": ["step", "macs", "hours", "peak"],
    "15": ["macs"],
}
# Compares a gradient through max-pooling: of the equal values of a plain ground rounding chooses one, and that differs
# with the number of threads.
THREADS_AS_COMMITTED = {"02"}


def number(notebook: Path) -> str:
    return notebook.stem.split("_")[0]


def test_every_notebook_has_its_expectations():
    assert set(EXPECT) == {number(notebook) for notebook in NOTEBOOKS}


def flat(value) -> dict[str, float]:
    """Numbers by place, of a number, a list or a dict of lists."""
    if not isinstance(value, dict | list):
        return {"": value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {f"{key} {place}": leaf for key, item in items for place, leaf in flat(item).items()}


def complaints(notebook) -> list[str]:
    """What went wrong without stopping the notebook: errors shown, tracebacks printed, unknown parameters."""
    found = []
    if notebook.metadata.get("widgets"):
        found.append("widget state was stored")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            if output.output_type == "error":
                found.append(f"{output.ename}: {output.evalue}")
            if "Traceback (most recent call last)" in text:
                found.append(text)
    return found


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, caplog, capfd, monkeypatch):
    if number(path) in THREADS_AS_COMMITTED:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (result,) = course.run([path], scale="smoke", dataset="digits", seed=0, device="cpu", out=tmp_path, timeout=900)
    assert result.error is None
    assert complaints(nbformat.read(result.executed, as_version=4)) == []
    printed = capfd.readouterr()
    assert "unknown parameter" not in (caplog.text + printed.out + printed.err).lower()
    assert result.findings, "nothing recorded: end with course.record(...)"
    assert result.executed.with_suffix(".html").stat().st_size > 10_000
    EXPECT[number(path)](result.values)
    committed = course.Result(path, path, 0, course.recorded(nbformat.read(path, as_version=4))).values
    for name in SAME_AS_COMMITTED[number(path)]:
        fresh, shown = flat(result.values[name]), flat(committed[name])
        assert fresh == pytest.approx(shown, abs=1e-4), f"run `make notebooks`: {name}"


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[]), "ValueError: no"),
        (nbformat.v4.new_output("stream", name="stderr", text="Traceback (most recent call last): x"), "Traceback"),
        (nbformat.v4.new_output("stream", name="stdout", text="fine"), None),
    ],
)
def test_the_scan_sees_what_went_wrong(output, complaint):
    found = complaints(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("f()", outputs=[output])]))
    assert [complaint in text for text in found] == [True] * bool(complaint)
