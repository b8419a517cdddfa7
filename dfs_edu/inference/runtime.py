"""Early exit on ONNX Runtime, from what ``dfs-edu export`` wrote. Needs numpy and onnxruntime, nothing of dfs_edu.

A copy of this file is beside the exported network, as runtime.py::

    from runtime import Runner
    labels, exits = Runner("folder")(images)      # uint8 (B, 3, H, W)

There is one file per stage and one per head: a stage runs on the images that are still in the network, and no others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "dfs_edu export 1"

# Scores (B,) of probabilities p (B, classes); agreed (B,): exits in a row that agree, as a fraction of K - 1


def confidence(p: np.ndarray, agreed: np.ndarray) -> np.ndarray:
    """The largest probability."""
    return p.max(1)


def margin(p: np.ndarray, agreed: np.ndarray) -> np.ndarray:
    """The difference between the largest probability and the second largest."""
    two = np.partition(p, -2, axis=1)
    return two[:, -1] - two[:, -2]


def entropy(p: np.ndarray, agreed: np.ndarray) -> np.ndarray:
    """One minus the entropy as a fraction of its maximum."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, -p * np.log(p), 0)
    return np.clip(1 - terms.sum(1) / math.log(p.shape[1]), 0, 1)


def patience(p: np.ndarray, agreed: np.ndarray) -> np.ndarray:
    """How many exits in a row agree with the one before them, as a fraction of K - 1."""
    return agreed


CRITERIA = {"confidence": confidence, "margin": margin, "entropy": entropy, "patience": patience}


class Runner:
    """An exported network that answers with early exit.

    Calling it with images, uint8 (B, 3, H, W) or normalised float32 ones, returns labels int64 (B,) and exits int64
    (B,), from 0.

    Args:
        folder: what ``dfs-edu export`` wrote; only files of the folder itself are read, whatever its manifest names.
        thresholds: K numbers in [0, 1], the last one 0; None: the manifest's.
        options: for each onnxruntime.InferenceSession, such as providers=["CUDAExecutionProvider"]; unless sess_options
            says otherwise, the threads of a session sleep while another one works.

    Raises:
        ValueError: another format of folder, a manifest that is incomplete or names files elsewhere, or invalid
            thresholds; on calling, no images, images of another shape, or images whose logits are not finite.
    """

    def __init__(self, folder: str | Path, thresholds: Sequence[float] | None = None, **options: Any) -> None:
        import onnxruntime  # only here: the rest of this file can be read and tested without it

        folder = Path(folder)
        try:
            self.manifest = _manifest(folder)
            stages, heads = ([bare(part["onnx"]) for part in self.manifest[kind]] for kind in ("stages", "heads"))
            self.score, image = CRITERIA[self.manifest["criterion"]], self.manifest["picture"]
            self.shape = tuple(int(size) for size in image["shape"])
            # Images are 0 to 255, mean and deviation in units of 0 to 1
            self.mean, self.std = (
                255 * np.asarray(image[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std")
            )
            self.temperatures = np.asarray(self.manifest["temperatures"], np.float32)
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
        if "sess_options" not in options:
            # With two sessions per exit, threads that wait would spin and take the cores of the one that works
            options["sess_options"] = onnxruntime.SessionOptions()
            options["sess_options"].add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.stages, self.heads = (
            [onnxruntime.InferenceSession(str(folder / name), **options) for name in names] for names in (stages, heads)
        )

    @staticmethod
    def _checked(thresholds: Sequence[float], K: int) -> list[float]:
        """Thresholds as a list; ValueError unless they are K numbers from 0 to 1, the last one 0."""
        values = [float(t) for t in thresholds]
        if len(values) != K or not all(0 <= t <= 1 for t in values) or values[-1] != 0:
            raise ValueError(f"thresholds={values}: give {K} numbers from 0 to 1, the last one 0")
        return values

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        B, K = len(images), len(self.heads)
        labels, exits, active = np.zeros(B, np.int64), np.zeros(B, np.int64), np.arange(B)
        before, streak = None, np.zeros(B, np.int64)  # of the images in `active`: last predictions, agreements in a row
        for k, (logits, keep) in enumerate(self._walk(images)):
            # All images that are still here get this exit's answer; those that stay are overwritten further on
            p = softmax(logits / self.temperatures[k])
            prediction = p.argmax(1)
            streak = (streak + 1) * (prediction == before) if before is not None else streak
            labels[active], exits[active] = prediction, k
            if k == K - 1 and not np.isfinite(logits).all():
                raise ValueError("the last exit's logits are not finite: the images hold NaN or infinity")

            # Those whose score, in float32 as in `EarlyExit`, does not reach the threshold go on
            stays = ~(self.score(p, streak / max(K - 1, 1)).astype(np.float32) >= np.float32(self.thresholds[k]))
            if k == K - 1 or not stays.any():
                break
            before, streak, active = prediction[stays], streak[stays], active[stays]
            keep(stays)
        return labels, exits

    def logits(self, images: np.ndarray) -> list[np.ndarray]:
        """Logits of every exit for every image: K arrays float32 (B, classes)."""
        return [logits for logits, _ in self._walk(images)]

    def _walk(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, Callable[[np.ndarray], None]]]:
        """Each exit's logits, computed when asked for, and a function that takes a mask of the images that go on."""
        state, before = [self._normalised(images)], []  # before: the previous answer, if heads read it

        def keep(stays: np.ndarray) -> None:
            if not stays.all():
                state[:], before[:] = ([part[stays] for part in parts] for parts in (state, before))

        for stage, head in zip(self.stages, self.heads, strict=True):
            state[:] = run(stage, state)
            (answer,) = run(head, [*state, *before])
            before[:] = [answer] if self.manifest.get("answers") == "boosted" else []
            yield answer, keep

    def _normalised(self, images: np.ndarray) -> np.ndarray:
        """float32 (B, 3, H, W) of mean 0 and deviation 1; ValueError for images of another shape or type."""
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != self.shape or not len(images):
            raise ValueError(f"images of shape {images.shape}: give (B, {', '.join(map(str, self.shape))})")
        if images.dtype == np.uint8:
            return (images - self.mean) / self.std
        if images.dtype != np.float32:
            raise ValueError(f"images of {images.dtype}: give uint8, or normalised float32")
        return images


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder; ValueError for another format."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"it is of format {manifest.get('format')!r}, this runner reads {FORMAT!r}")
    return manifest


def bare(name: object) -> str:
    """The name of a file in the folder; ValueError for a path, which would lead out of it."""
    if not isinstance(name, str) or not name.endswith(".onnx") or any(sign in name for sign in "/\\:\0"):
        raise ValueError(f"{name!r}: the name of a file in this folder is wanted, such as 'stage1.onnx'")
    return name


def run(session: Any, state: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a stage or head (an onnxruntime.InferenceSession) makes of its inputs, in their order."""
    return session.run(None, {entry.name: part for entry, part in zip(session.get_inputs(), state, strict=True)})


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (B, classes) -> probabilities, without overflow."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
