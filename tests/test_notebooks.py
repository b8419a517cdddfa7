"""The whole course, executed by papermill at smoke scale: no errors, and what it records makes sense."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import nbformat
import pytest

from dfs_edu.course import runner as course

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.usefixtures("warm_kernels")

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
    fractions([found["half"]], 1)


def do_exits_disagree(found: dict) -> None:
    fractions(found["conflicting"].values(), 2)
    assert found["by_hand"] == pytest.approx(found["by_probe"], abs=1e-3)
    assert found["by_hand"] < -0.2  # the first example of conflict conflicts
    assert found["other_loss_rises"] > 0  # as predicted
    assert -1 <= found["first_and_last"] <= 1
    fractions(found["through_training"], K - 1)
    fractions(found["photographs"].values(), 2)


def start_here(found: dict) -> None:
    assert found["missing"] == []
    fractions(found["accuracy"])
    assert found["macs"] == cumulative_macs()
    assert all(gain > 0 for gain in found["published"])
    assert len(found["measured"]) == K
    assert found["measured"][-1] < 0


def cutting_features(found: dict) -> None:
    assert set(found["accuracy"]) == {"joint", "detached", "partition"}
    for accuracy in found["accuracy"].values():
        fractions(accuracy)
    assert any(abs(cosine) > 1e-3 for cosine in found["at_the_cut"]["joint"])
    assert found["at_the_cut"]["partition"] == [0] * (K - 1)  # exit 1 owns other channels than the deeper exits
    assert found["place"] == "only in the layers that make an exit's own feature"
    first, *behind = found["dead"]["partition"]["convolution"]
    assert first < 0.5
    assert all(0.5 <= share < 1 for share in behind)  # they read [f+, 0]
    *cut, last = found["dead"]["partition"]["head"]
    assert all(0.5 <= share < 1 for share in cut)
    assert last < 0.5
    assert {name: len(gaps) for name, gaps in found["recorded"].items()} == {
        "partition, digits": K + 1,
        "detached, cifar100": K + 1,
    }


def seeing_without_touching(found: dict) -> None:
    assert len(found["sight"]) == 5
    assert set(found["accuracy"]) == {"joint", "partition", "surgery own", "surgery all"}
    for accuracy in found["accuracy"].values():
        fractions(accuracy)
    assert found["at_the_cut"]["surgery own"] == [0] * (K - 1)
    assert any(abs(cosine) > 1e-3 for cosine in found["at_the_cut"]["surgery all"])  # f+ hears exit 1 as well
    fractions(found["in_conflict"].values(), 3)
    pairs = 2 * sum(k * (k - 1) // 2 for k in range(2, K + 1))  # of exits that reach a stage, in its two layers
    cut = 2 * sum(range(1, K))
    assert found["sharing"] == {"joint": pairs, "surgery own": pairs - cut, "surgery all": pairs}
    assert {name: len(gaps) for name, gaps in found["cifar100"].items()} == {"surgery own": K + 1, "surgery all": K + 1}
    for name, what in found["sure"].items():
        assert name in found["cifar100"]
        assert re.fullmatch(r"(gains|loses|differs) at .*\d( and loses at .*\d)?|differs at no exit", what)


def what_leaks_around_a_cut(found: dict) -> None:
    assert found["carried"]["surgery own"] == [[0, 0]] * (K - 1)
    assert all(abs(plus) + abs(minus) > 0 for plus, minus in found["carried"]["joint"])
    fractions(found["torn"], K - 1)
    assert found["leaking"] == 0  # a stage of VGG is one convolution
    own = found["by_own_channels"]
    assert all(length > 0 for length in own["joint"])
    assert own["coarsest scale cut"] == own["all scales cut"] == [0, 0, 0]
    shared, specific = zip(*found["by_finer_scales"]["coarsest scale cut"], strict=True)
    assert all(length > 0 for length in shared + specific)
    assert [specific for _, specific in found["by_finer_scales"]["all scales cut"]] == [0, 0]
    assert found["paths"] == {"joint": 6, "coarsest scale cut": 5, "all scales cut": 3}
    for arms in found["photographs"].values():
        fractions(arms.values(), 2)


def what_surgery_saves(found: dict) -> None:
    assert 0.1 < found["theory"] < 1 / 6  # half an input gradient of three thirds, less what cannot be saved
    assert found["counted"] == pytest.approx(found["theory"], abs=1e-3)
    assert found["usual"] == 0
    assert found["by_beta"]["theory"] == sorted(found["by_beta"]["theory"], reverse=True)
    assert found["by_beta"]["counted"] == pytest.approx(found["by_beta"]["theory"], abs=1e-3)
    assert all(seconds > 0 for seconds in found["times"].values())
    assert found["by_network"]["vit-tiny-pixels32-patch4"] == 0
    assert max(found["by_network"], key=found["by_network"].get) == "vgg7-64"
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
    assert found["work"]["cifar100/resnet18"] > found["work"]["cifar100/vgg7-64"] > 1e16
    assert found["speed"] > 1e9
    assert len(found["gaps"]) == 4  # two forms of surgery after 4 and after 10 epochs
    for gap, half in found["gaps"].values():
        assert len(gap) == len(half) == K + 1
        assert all(h > 0 for h in half)
    published, onecycle = found["minutes"]
    assert 0 < onecycle < published


def a_full_imagenet_run(found: dict) -> None:
    fractions(found["accuracy"], 5)
    assert found["classes"] == 10
    assert found["train_images"] == 60  # 7 of each class, one of them set apart
    assert found["skipped"] == [found["damaged"]]
    assert found["epochs"] == 2
    assert found["reading"] > 0
    assert found["training"] > 0
    full, paper = found["hours"]["full"], found["hours"]["paper"]
    assert paper == pytest.approx(3 * full)  # 90 epochs and 30
    assert found["days"]["full"] == pytest.approx(2 * found["seeds"] * full / 24)
    for widths in found["widths"].values():
        assert list(widths.values()) == sorted(widths.values(), reverse=True)  # more seeds, a narrower interval
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
    sizes = {"one by one", "200 at a time"}
    assert set(found["speed"]) == set(found["idle"]) == sizes
    for promised, measured in found["speed"].values():
        assert promised == sorted(promised)
        assert promised[0] == 1  # no image leaves early
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
    assert set(found["maps"]) == {"joint and surgery", "joint and untrained", "joint, two different images"}
    for values in found["maps"].values():
        assert len(values) == K
        assert all(value is None or -1 <= value <= 1 for value in values)  # None: all maps of an exit are empty
    assert set(found["cka"]) == {"joint", "surgery", "surgery all"}
    for parts in found["cka"].values():
        assert all(len(values) == K - 1 and all(-1 <= value <= 1 for value in values) for values in parts.values())
    assert set(found["probes"]) == {"joint", "surgery", "random filters"}
    for accuracy in found["probes"].values():
        fractions(accuracy["whole"])
        for part in ("shared", "specific", "mixed"):
            fractions(accuracy[part][:-1], K - 1)
            assert accuracy[part][-1] is None  # nothing is cut at the last exit
    assert set(found["lost"]) == {"joint", "surgery", "surgery all"}
    assert set(found["photographs"]) in (set(), {"joint", "surgery", "surgery all"})  # if the images are here


def rival_answers(found: dict) -> None:
    names = {"pcgrad", "cagrad", "mgda", "imtl-g", "nash-mtl", "upgrad", "aligned-mtl"}
    assert found["opposed"]["sum"] > 0
    assert found["opposed"]["pcgrad"] == found["opposed"]["mgda"] == found["opposed"]["imtl-g"] == 0
    for shares in (found["pairs"], found["uphill"]):
        assert set(shares) == {"before training", "after training"}
        fractions(shares.values(), 2)
    assert set(found["weights"]) == set(found["rivals"]) == names
    assert set(found["gains"]) == names | {"sum"}
    for cosines in found["gains"].values():
        assert all(-1.001 <= cosine <= 1.001 for cosine in cosines)
    assert min(found["gains"]["mgda"]) > -1e-3
    assert set(found["photographs"]) == {"pcgrad", "upgrad"}
    assert min(factor for name, factor in found["times"].items() if name != "sum") > 1


def who_wins(found: dict) -> None:
    assert found["mine"] == {"joint": 3, "surgery own 0.5": 3}
    for name in ("digits", "cifar100", "cuts", "longer"):
        assert "joint" not in found[name]
        for gaps in found[name].values():
            assert len(gaps) == K + 1
            assert gaps[-1] == pytest.approx(sum(gaps[:-1]) / K)
    for verdict in found["sure"].values():
        assert len(verdict) == K
        assert set(verdict) <= {-1, 0, 1}
    assert found["winners"]


def why_exits_compete(found: dict) -> None:
    assert len(found["digits"]) == K
    assert found["digits"][0] < 0  # exit 1 is better in company
    assert max(found["digits"][3:]) < 0.02  # the deep exits pay little
    assert 0.05 < found["cifar100"] < 0.1
    assert list(found["partners"]) == [f"exit {k}" for k in range(1, K)]
    assert set(found["trained"]) == {"joint", "exit 3 alone"}
    for accuracy in found["trained"].values():
        fractions(accuracy)


# Number of a notebook -> what must hold of the values that it recorded, at smoke scale on digits.
EXPECT: dict[str, Callable[[dict], None]] = {
    "00": start_here,
    "01": why_several_exits,
    "02": do_exits_disagree,
    "03": cutting_features,
    "04": seeing_without_touching,
    "04b": what_leaks_around_a_cut,
    "05": what_surgery_saves,
    "06": what_do_the_two_parts_hold,
    "07": how_sure_is_sure,
    "08": when_to_stop,
    "09": how_to_spend_a_budget,
    "10": which_backbone_and_your_own,
    "11": rival_answers,
    "12": who_wins,
    "12b": why_exits_compete,
    "13": a_full_cifar100_run,
    "14": a_full_imagenet_run,
    "15": take_it_away,
}
# What does not depend on the scale is, in a fresh execution, what the committed notebook shows.
SAME_AS_COMMITTED = {
    "00": ["macs", "published", "measured"],
    "01": ["macs"],
    "02": ["by_hand", "by_probe", "photographs"],
    "03": ["recorded"],
    "04": ["cifar100", "sight", "sure"],
    "04b": ["paths", "photographs"],
    "05": ["theory", "counted", "usual", "by_beta", "by_network"],
    "06": ["chance"],
    "07": ["cifar100"],
    "08": ["whole", "photographs"],
    "09": ["gift", "bills", "seeds"],
    "10": ["macs", "at_40", "cifar100", "peak", "places"],
    "11": ["opposed", "rivals", "photographs"],
    "12": ["digits", "cifar100", "cuts", "longer", "sure"],
    "12b": ["digits", "cifar100", "partners"],
    "13": ["work", "gaps", "minutes"],
    "14": ["step", "macs", "hours", "peak", "widths", "seeds"],
    "15": ["macs", "case"],
}


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
    # Of equal values max-pooling chooses one, and which one depends on the number of threads: one, as committed
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
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
