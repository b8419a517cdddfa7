"""What the records of a study say: accuracies by arm, differences from the first arm, and which of them are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfs_edu.answers import ENSEMBLES
from dfs_edu.intervals import LEAST, interval, p_values
from dfs_edu.tables import lines, printable
from dfs_edu.training import arms, results
from dfs_edu.values import plain

Records = Sequence[dict[str, Any]]
ANSWERS = "answers"  # in a record, whose accuracies these are if not the exits' own; see `answering`
OTHER = " of "  # between the words of an arm and the backbone that it has instead of the study's


def answering(records: Records, answers: str) -> list[dict[str, Any]]:
    """Return the same records with the accuracies of another answer in the place of the exits' own, in every arm alike.

    What ``table``, ``rows`` and the others say of them holds for this answer, so no arm is compared with its ensemble
    against one without.

    Args:
        records: Of a study, finished or not.
        answers: An ensemble of the exits so far, "mean" or "product" (answers.py), or "own".

    Raises:
        ValueError: There is no such answer, or a finished run, older than these measurements, does not have it.
    """
    if answers == "own":
        return list(records)
    if answers not in ENSEMBLES:
        raise ValueError(f"answers={answers!r}: use one of own, {', '.join(ENSEMBLES)}")
    changed = []
    for record in records:
        final = record.get("final")
        if final and answers not in final.get("ensembles", {}):
            raise ValueError(f"{record['recipe']['name']} is older than the measurement of ensembles: train it again")
        changed.append(record | {"final": final | final["ensembles"][answers], ANSWERS: answers} if final else record)
    return changed


def by_arm(records: Records) -> dict[str, dict[int, dict]]:
    """Return the records of finished runs by arm and seed; arms in the order in which they come, finished or not."""
    found: dict[str, dict[int, dict]] = {}
    for record in records:
        recipe = record["recipe"]
        other = "" if recipe["backbone"] == records[0]["recipe"]["backbone"] else OTHER + recipe["backbone"]
        runs = found.setdefault(arms.label(recipe) + other, {})
        if "final" in record:
            runs[recipe["seed"]] = record
    return found


def percent(record: Mapping, split: str = "test") -> np.ndarray:
    """Return the accuracy of each exit in percent, and their mean, (K + 1,)."""
    accuracy = 100 * np.array(record["final"][f"{split}_accuracy"])
    return np.append(accuracy, accuracy.mean())


def differences(records: Records, split: str = "test") -> dict[str, np.ndarray]:
    """Return each arm's accuracy minus the first arm's, in points, (n, K + 1), for the n > 0 seeds that both have.

    The first arm is the first one with the same backbone; the first arm of another backbone is compared with the first
    of all.
    """
    runs_of = by_arm(records)
    found = {}
    for name, runs in runs_of.items():
        base = runs_of[_base(name, runs_of)]
        pairs = [(percent(runs[s], split), percent(base[s], split)) for s in sorted(set(runs) & set(base))]
        if runs is not base and pairs and len(pairs[0][0]) == len(pairs[0][1]):  # another backbone may have other exits
            found[name] = np.stack([accuracy - reference for accuracy, reference in pairs])
    return found


def _base(name: str, names: Mapping[str, Any]) -> str:
    """Return the arm that another one is compared with."""
    backbone = name.partition(OTHER)[2]
    same = next(other for other in names if other.partition(OTHER)[2] == backbone)
    return same if same != name else next(iter(names))


def intervals(records: Records, split: str = "test") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the differences as fractions: mean (K + 1,) and half the width of its 95 % t-interval (K + 1,) per arm."""
    return {arm: interval(gaps / 100) for arm, gaps in differences(records, split).items()}


def time(records: Records, arm: str) -> float | None:
    """Return the training time of an arm as a ratio to the first arm's, each the median over its seeds.

    Validation, writing and probes are not in it; other work on the machine is. None if one of the two arms has no
    finished run, or if the first took less than is recorded.
    """
    runs_of = by_arm(records)
    base = next(iter(runs_of.values()))
    if not base or not runs_of[arm] or not _seconds(base):
        return None
    return _seconds(runs_of[arm]) / _seconds(base)


def _seconds(runs: Mapping[int, dict]) -> float:
    return float(np.median([record["final"]["seconds"] for record in runs.values()]))


def corrected(records: Records, split: str = "test") -> dict[str, np.ndarray]:
    """Return the p-value of each arm's difference at each exit (K,), corrected for the number of comparisons.

    Arms count that share at least three seeds with the arm that they are compared with. The false discovery rate is
    controlled as by Benjamini and Yekutieli (Annals of Statistics, 2001), which also holds if differences depend on
    each other, as those of neighbouring exits do: of all below 0.05, at most 5 % are expected to be false.
    """
    from scipy.stats import false_discovery_control  # slow to import, needed here alone

    gaps = {arm: points[:, :-1] for arm, points in differences(records, split).items() if len(points) >= LEAST}
    if not gaps:
        return {}
    p = [p_values(points) for points in gaps.values()]
    together = false_discovery_control(np.concatenate(p), method="by")
    return dict(zip(gaps, np.split(together, np.cumsum([len(part) for part in p])[:-1]), strict=True))


def verdicts(records: Records, split: str = "test") -> dict[str, np.ndarray]:
    """Return which differences (K,) of each arm survive the correction: +1 better, -1 worse, 0 not shown."""
    gaps = differences(records, split)
    return {arm: np.sign(gaps[arm][:, :-1].mean(0)) * (p < 0.05) for arm, p in corrected(records, split).items()}


def table(records: Records, split: str = "test") -> str:
    """Return a table: n, accuracy of each exit with its 95 % t-interval, the difference from the first arm, and `time`.

    Differences are taken seed by seed; below the table stands which of them survive the correction for their number
    (see `verdicts`). Below three seeds there is no interval. Failed runs stand last, with the reason.
    """
    runs_of = by_arm(records)
    failed = [f"failed: {record['recipe']['name']}: {record['failed']}" for record in records if "failed" in record]
    failed = [printable(line) for line in failed]  # the reason may have several lines
    if not any(runs_of.values()):
        return "\n".join(["no run has finished yet", *failed])
    exits = max(len(percent(record, split)) for runs in runs_of.values() for record in runs.values()) - 1

    # Accuracy of each arm, and below it the differences, in the same columns
    rows = []
    for name, runs in runs_of.items():
        ratio = time(records, name)
        shown = _cells([percent(record, split) for record in runs.values()], exits)
        rows.append([name, str(len(runs)), *shown, "" if ratio is None else f"{ratio:.2f}"])
    gaps = differences(records, split)
    lower = [[name, str(len(points)), *_cells(points, exits, "+"), ""] for name, points in gaps.items()]
    answers = "".join(f", {name} of exits so far" for name in {record.get(ANSWERS) for record in records} if name)
    head = [f"{split}{answers}, %", "n", *(f"exit {k + 1}" for k in range(exits)), "mean", "time"]
    backbones = {record["recipe"]["backbone"] for runs in runs_of.values() for record in runs.values()}
    title = f"minus {next(iter(runs_of))}{', or minus the first of the same backbone' * (len(backbones) > 1)}:"
    shown = lines(head, [*rows, "", title, *lower], align="<>")
    return "\n".join([shown, *_verdict_lines(records, split), *failed])


def _cells(values: Sequence[np.ndarray] | np.ndarray, exits: int, sign: str = "") -> list[str]:
    """Return the cells of the exits and of their mean, which stands last; empty cells for missing exits."""
    if not len(values):
        return [""] * (exits + 1)
    found = cells(values, sign)
    return found[:-1] + [""] * (exits + 1 - len(found)) + found[-1:]


def cells(values: Sequence[np.ndarray] | np.ndarray, sign: str = "") -> list[str]:
    """Return the mean of each column of values (n, E) with its interval, from three seeds onwards."""
    return [f"{m:{sign}.1f}" + ("" if np.isnan(h) else f" ±{h:4.1f}") for m, h in zip(*interval(values), strict=True)]


def _verdict_lines(records: Records, split: str) -> list[str]:
    """Return what the table says below itself: which differences survive the correction."""
    if not differences(records, split):
        return []
    found = verdicts(records, split)
    if not found:
        return ["", f"below {LEAST} seeds: no intervals, and nothing is shown"]

    def listed(sign: int) -> str:
        exits = {arm: [str(k) for k, v in enumerate(signs, 1) if v == sign] for arm, signs in found.items()}
        return "; ".join(f"{arm} (exit {', '.join(ks)})" for arm, ks in exits.items() if ks) or "none"

    count = sum(signs.size for signs in found.values())
    head = f"shown after correction for {count} comparisons (false discovery rate 5 %):"
    return ["", head, f"better: {listed(1)}", f"worse: {listed(-1)}"]


def rows(records: Records, split: str = "test") -> list[dict[str, Any]]:
    """Return what `table` shows, for pandas or a CSV: one row per arm and exit, and one for the mean of its exits.

    Columns: "split", "arm", "exit" (1 is the first; "mean"), "n" seeds, "accuracy" in percent and half the width of
    its interval, "pairs" of seeds, "difference" in points and half the width of its interval, "p_corrected" (see
    `corrected`; not for the mean), "time" (see `time`). None where a value is missing.
    """
    gaps, p, found = differences(records, split), corrected(records, split), []
    for arm, runs in by_arm(records).items():
        if not runs:
            continue
        mean, half = interval([percent(record, split) for record in runs.values()])
        gap, gap_half = interval(gaps[arm]) if arm in gaps else ([None] * len(mean),) * 2
        ratio, last = time(records, arm), len(mean) - 1
        for k in range(len(mean)):
            values = {"accuracy": mean[k], "accuracy_half_width": half[k], "pairs": len(gaps.get(arm, ())) or None}
            values |= {"difference": gap[k], "difference_half_width": gap_half[k]}
            values |= {"p_corrected": p[arm][k] if k < last and arm in p else None, "time": ratio}
            values = plain(values)
            found.append({"split": split, "arm": arm, "exit": k + 1 if k < last else "mean", "n": len(runs), **values})
    return found


def to_frame(records: Records, split: str = "test") -> Any:
    """Return `rows` as a pandas DataFrame.

    Raises:
        ModuleNotFoundError: pandas is missing; the message says how to install it.
    """
    return results.frame(rows(records, split))


def keep(records: Records, path: str | Path) -> None:
    """Write what is worth committing of a study into one file: recipe, environment, data and result of each run."""
    parts = ("recipe", "environment", "resumed", "data", "final", "failed")
    kept = [{part: record[part] for part in parts if part in record} for record in records]
    for record in kept:
        if "data" in record:  # the checksum identifies the data; the names of all classes are in each run's own record
            record["data"] = {part: record["data"][part] for part in ("name", "checksum")}
    results.write(path, {"runs": [record for record in kept if "final" in record or "failed" in record]})


def recorded(name: str) -> list[dict[str, Any]]:
    """Return the records of a study that is kept in data/recorded/studies.

    Raises:
        FileNotFoundError: No such study; the message names those that exist, or where to get them.
    """
    file = results.RECORDED / "studies" / f"{name}.json"
    if file.exists():
        return results.load(file)["runs"]
    if known := sorted(path.stem for path in file.parent.glob("*.json")):
        raise FileNotFoundError(f"no study {name!r} is recorded in {file.parent}; there are {', '.join(known)}")
    raise results.missing(file)
