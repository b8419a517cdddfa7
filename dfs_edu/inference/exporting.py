"""Export a trained network: a torch.export program and an ONNX file for each stage and each head, and a manifest.

The state that travels between the files is the feature as the stage computed it. What a junction lets through (in
evaluation nearly always all of it) is part of the head and of the next stage, so early exit can stop between files.

ONNX and the packages around it are imported only when a network is exported.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dfs_edu.answers import boosted
from dfs_edu.extras import need
from dfs_edu.files import check_writable
from dfs_edu.inference import Judge, checked_thresholds, runtime
from dfs_edu.modes import evaluating
from dfs_edu.multiexit import MultiExit, State, checked_shape
from dfs_edu.probes import cost
from dfs_edu.surgery import Junction

BATCH = 2  # images in the example that the programs are made with; they run with any number


def new_folder(folder: str | os.PathLike) -> Path:
    """The path of a new folder for an export, checked before hours of work depend on it.

    Raises:
        FileExistsError: it exists already.
        OSError: it cannot be written.
    """
    if Path(folder).exists():
        raise FileExistsError(f"{folder} exists already: choose another folder")
    check_writable(folder)
    return Path(folder)


def export(
    net: MultiExit,
    folder: str | os.PathLike,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    thresholds: Sequence[float] | Tensor,
    temperatures: Sequence[float] | Tensor | None = None,
    criterion: str = "confidence",
    input_shape: Sequence[int] = (3, 32, 32),
    name: str = "",
) -> Path:
    """Write the network into a new folder, with a runner (runtime.py) that needs only numpy and onnxruntime.

    The batch size is free, the size of the images is not. The files compute in float32, as the runner does: a network
    in another precision (bfloat16, float16, float64) is exported as a float32 copy. The folder appears complete or not
    at all.

    Args:
        net: the network.
        folder: where to; it must not exist.
        classes: the names of the classes, in order.
        mean: per channel, in units of 0 to 1, by which images are normalised.
        std: the same.
        thresholds: of ``EarlyExit``, kept in the manifest.
        temperatures: of ``EarlyExit``, kept in the manifest.
        criterion: of ``EarlyExit``, kept in the manifest.
        input_shape: (3, H, W) of an image.
        name: what the network is called in the manifest.

    Returns:
        The folder.

    Raises:
        ImportError: a package of the extra ``export`` is missing.
        FileExistsError: the folder exists already.
        ValueError: arguments that do not fit the network, or one that answers by a rule other than "own" and "boosted".
    """
    if net.answers not in ("own", "boosted"):
        raise ValueError(f"answers={net.answers!r}: networks that answer by own or boosted can be exported")
    versions = exporter_versions()
    folder, K, shape = new_folder(folder), len(net.heads), checked_shape(input_shape)
    known = cast(nn.Linear, net.heads[-1].fc).out_features
    if known != len(classes):
        raise ValueError(f"{len(classes)} names of classes for a network of {known}")
    manifest: dict[str, Any] = {
        "format": runtime.FORMAT,
        "name": name,
        "versions": versions,
        "picture": {"shape": shape, "mean": [float(m) for m in mean], "std": [float(s) for s in std]},
        "classes": list(classes),
        "answers": net.answers,
        "criterion": criterion,
        "thresholds": checked_thresholds(thresholds, K).tolist(),
        "temperatures": Judge(K, criterion, temperatures).temperatures,
        "macs": cost(net, shape).macs.tolist(),
        "stages": [],
        "heads": [],
    }
    with _appearing_whole(folder) as beside:
        net = in_float32(net)
        with evaluating(net), _quiet():
            for kind, part in parts(net, shape):
                manifest[kind].append(write(part, beside, f"{kind[:-1]}{len(manifest[kind]) + 1}"))
        (beside / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
        shutil.copy(runtime.__file__, beside / "runtime.py")
    return folder


def exporter_versions() -> dict[str, str]:
    """Versions of torch and onnx for the manifest. Raises MissingExtra if a package that an export needs is missing."""
    versions = {"torch": str(torch.__version__), "onnx": need("onnx").__version__}
    need("onnxscript")  # torch.onnx imports it, but late: after minutes of work
    return versions


@contextmanager
def _appearing_whole(folder: Path) -> Generator[Path]:
    """A temporary folder that takes its place as ``folder`` at the end, or is removed after an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield beside
        beside.chmod(0o755)
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside)
        raise


def in_float32(net: MultiExit) -> MultiExit:
    """The network itself if all of it is float32, else a float32 copy."""
    dtypes = {t.dtype for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()}
    return net if dtypes <= {torch.float32} else copy.deepcopy(net).float()


class Part(nn.Module):
    """A stage or a head, and the junction before it, with the state as separate tensors.

    Args:
        module: the stage or head.
        junction: the junction that its input passes, None for the first stage.
        side: which of the junction's views it reads: 0 the onward view, 1 the exit view.
        example: a state that reaches it, of a few images.
    """

    def __init__(self, module: nn.Module, junction: Junction | None, side: int, example: State) -> None:
        super().__init__()
        self.module, self.junction, self.side = module, junction, side
        self.many = isinstance(example, list)
        self.example: tuple[Tensor, ...] = tuple(example) if isinstance(example, list) else (example,)

    def forward(self, *state: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The state, tensors (B, ...), through the junction and the module: again one tensor or several."""
        whole: State = list(state) if self.many else state[0]
        whole = whole if self.junction is None else self.junction(whole)[self.side]
        out = self.module(whole)
        return tuple(out) if isinstance(out, list) else out


class Boosted(nn.Module):
    """A head of a network that answers by "boosted", whose last input is the previous exit's answer.

    Args:
        head: the head by itself.
        k: the exit, the first is 1.
        before: an answer of the exit before, for the example's images.
    """

    def __init__(self, head: Part, k: int, before: Tensor) -> None:
        super().__init__()
        self.head, self.k = head, k
        self.example: tuple[Tensor, ...] = (*head.example, before)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The exit's answer (B, classes), given the state, tensors (B, ...), and the answer before (B, classes)."""
        *state, before = inputs
        return boosted(cast(Tensor, self.head(*state)), before, self.k)[0]


def parts(net: MultiExit, shape: tuple[int, int, int]) -> Iterator[tuple[Literal["stages", "heads"], Part | Boosted]]:
    """Each stage and head as a module with an example, in the order in which they run, with its key in the manifest."""
    weight = next(net.parameters())
    state: State = torch.zeros(BATCH, *shape, device=weight.device, dtype=weight.dtype)
    before: Junction | None = None
    answer: Tensor | None = None
    modules = zip(net.stages, net.junctions, net.heads, strict=True)
    for k, (stage, junction, head) in enumerate(modules, start=1):
        part = Part(stage, before, 0, state)
        yield "stages", part
        feature = part(*part.example)
        state, before = list(feature) if isinstance(feature, tuple) else feature, junction
        exit = Part(head, junction, 1, state)
        exit = exit if answer is None else Boosted(exit, k, answer)
        yield "heads", exit
        answer = exit(*exit.example) if net.answers == "boosted" else None


def write(part: Part | Boosted, folder: Path, name: str) -> dict[str, Any]:
    """Write both files of a part, and return its entry in the manifest."""
    part = part.eval()
    out = part(*part.example)
    outs = out if isinstance(out, tuple) else (out,)
    batch = torch.export.Dim("batch", min=1)
    with torch.inference_mode(False), torch.no_grad():  # the exporter cannot trace tensors of inference mode
        example = tuple(t.clone() for t in part.example)
        program = torch.export.export(part, example, dynamic_shapes=(tuple({0: batch} for _ in example),))
    torch.export.save(program, folder / f"{name}.pt2")

    inputs, outputs = [f"in{i}" for i in range(len(example))], [f"out{i}" for i in range(len(outs))]
    onnx_program = torch.onnx.export(program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False)
    assert onnx_program is not None  # it is without a file name
    onnx_program.save(folder / f"{name}.onnx")
    return {
        "onnx": f"{name}.onnx",
        "program": f"{name}.pt2",
        "inputs": _described(inputs, example),
        "outputs": _described(outputs, outs),
    }


def _described(names: Sequence[str], tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Name and shape of each tensor, the batch size left open."""
    return [{"name": name, "shape": ["batch", *t.shape[1:]]} for name, t in zip(names, tensors, strict=True)]


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the exporters, which report on versions of operators that nobody asked for."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
