"""Early exit on ONNX Runtime, from what `dfs-edu export` wrote. Needs numpy and onnxruntime, not the rest of dfs_edu.

This file lies beside the exported network as runtime.py:

    from runtime import Runner
    labels, exits = Runner("folder")(pictures)      # uint8 (B, 3, H, W)

One file a stage and one a head: a stage runs on the pictures that are still in the network, and no others.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime

FORMAT = "dfs_edu export 1"


def confidence(p, agreed):
    """The largest probability (B,), of p (B, classes)."""
    return p.max(1)


def margin(p, agreed):
    """How far the largest probability is above the second."""
    two = np.partition(p, -2, axis=1)
    return two[:, -1] - two[:, -2]


def entropy(p, agreed):
    """What the entropy lacks of its largest value, as a fraction of it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, -p * np.log(p), 0)
    return np.clip(1 - terms.sum(1) / math.log(p.shape[1]), 0, 1)


def patience(p, agreed):
    """How many exits in a row agree with the one before them, as a fraction of K - 1."""
    return agreed


CRITERIA = {"confidence": confidence, "margin": margin, "entropy": entropy, "patience": patience}


def _sleeping():
    """Waiting threads would otherwise spin: with two sessions an exit, those of all others take this one's cores."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class Runner:
    """An exported network.

    folder      what `dfs-edu export` wrote; files are read from the folder itself alone, whatever its manifest says
    thresholds  instead of the manifest's: K numbers in [0, 1], the last one 0
    options     for each onnxruntime.InferenceSession, such as providers=["CUDAExecutionProvider"]; unless sess_options
                says otherwise, the threads of a session sleep while another one works

    Calling it with pictures uint8 (B, 3, H, W), or normalised float32 ones, gives labels int64 (B,) and exits int64
    (B,), from 0. Raises ValueError for another format of folder, a manifest that is not whole or names files elsewhere,
    wrong thresholds, pictures of another shape, none, or such as give logits that are not finite.
    """

    def __init__(self, folder, thresholds=None, **options):
        folder = Path(folder)
        try:
            self.manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
            if self.manifest.get("format") != FORMAT:
                raise ValueError(f"it is of format {self.manifest.get('format')!r}, this runner reads {FORMAT!r}")
            stages, heads = ([bare(part["onnx"]) for part in self.manifest[kind]] for kind in ("stages", "heads"))
            self.score, picture = CRITERIA[self.manifest["criterion"]], self.manifest["picture"]
            self.shape = tuple(int(size) for size in picture["shape"])
            self.mean, self.std = (255 * np.float32(picture[name]).reshape(3, 1, 1) for name in ("mean", "std"))
            self.temperatures = np.float32(self.manifest["temperatures"])
            shipped = self.manifest["thresholds"]
            for name in (*stages, *heads):
                if (folder / name).is_symlink() or not (folder / name).is_file():
                    raise ValueError(f"{name} is not a file in it")
            if not len(heads) == len(stages) == len(self.temperatures) >= 1:
                raise ValueError(f"{len(stages)} stages, {len(heads)} heads, {len(self.temperatures)} temperatures")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{folder} is not what `dfs-edu export` writes: {error}") from error
        self.thresholds = self._checked(shipped if thresholds is None else thresholds, len(heads))
        options.setdefault("providers", onnxruntime.get_available_providers())
        options.setdefault("sess_options", _sleeping())
        self.stages, self.heads = (
            [onnxruntime.InferenceSession(str(folder / name), **options) for name in names] for names in (stages, heads)
        )

    @staticmethod
    def _checked(thresholds, K: int) -> list[float]:
        values = [float(t) for t in thresholds]
        if len(values) != K or not all(0 <= t <= 1 for t in values) or values[-1] != 0:
            raise ValueError(f"thresholds={values}: give {K} numbers from 0 to 1, the last one 0")
        return values

    def __call__(self, pictures) -> tuple[np.ndarray, np.ndarray]:
        B, K = len(pictures), len(self.heads)
        labels, exits, here = np.zeros(B, np.int64), np.zeros(B, np.int64), np.arange(B)
        before, streak = None, np.zeros(B, np.int64)
        for k, (logits, keep) in enumerate(self._walk(pictures)):
            p = softmax(logits / self.temperatures[k])
            said = p.argmax(1)
            streak = (streak + 1) * (said == before) if before is not None else streak
            labels[here], exits[here] = said, k  # whoever goes on is overwritten further on
            if k == K - 1 and not np.isfinite(logits).all():
                raise ValueError("the last exit's logits are not finite: the pictures hold NaN or infinity")
            stays = ~(self.score(p, streak / max(K - 1, 1)).astype(np.float32) >= np.float32(self.thresholds[k]))
            if k == K - 1 or not stays.any():
                break
            before, streak, here = said[stays], streak[stays], here[stays]
            keep(stays)
        return labels, exits

    def logits(self, pictures) -> list[np.ndarray]:
        """Of every exit for every picture: K arrays float32 (B, classes)."""
        return [logits for logits, _ in self._walk(pictures)]

    def _walk(self, pictures):
        """(logits, what to call with a mask of those that go on) of each exit, computed when asked for."""
        state = [self._normalised(pictures)]

        def keep(stays) -> None:
            if not stays.all():
                state[:] = [part[stays] for part in state]

        for stage, head in zip(self.stages, self.heads, strict=True):
            state[:] = run(stage, state)
            yield run(head, state)[0], keep

    def _normalised(self, pictures) -> np.ndarray:
        pictures = np.asarray(pictures)
        if pictures.ndim != 4 or pictures.shape[1:] != self.shape or not len(pictures):
            raise ValueError(f"pictures of shape {pictures.shape}: give (B, {', '.join(map(str, self.shape))})")
        if pictures.dtype == np.uint8:
            return (pictures - self.mean) / self.std
        if pictures.dtype != np.float32:
            raise ValueError(f"pictures of {pictures.dtype}: give uint8, or normalised float32")
        return pictures


def bare(name) -> str:
    """The name of a file in the folder; ValueError for a path, which would lead out of it."""
    if not isinstance(name, str) or not name.endswith(".onnx") or any(sign in name for sign in "/\\:\0"):
        raise ValueError(f"{name!r}: the name of a file in this folder is wanted, such as 'stage1.onnx'")
    return name


def run(session, state) -> list[np.ndarray]:
    """What a stage or head makes of its inputs, in their order."""
    return session.run(None, {entry.name: part for entry, part in zip(session.get_inputs(), state, strict=True)})


def softmax(logits) -> np.ndarray:
    """(B, classes) -> probabilities, without overflow."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
