"""Take a trained network away: one torch.export program and one ONNX file for each stage and each head, and a manifest.

The state that travels between the files is the feature as the stage made it; what a junction lets through (in
evaluation nearly always all of it) is part of the head and of the next stage. So early exit can stop between files.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from dfs_edu.files import check_writable
from dfs_edu.inference import Judge, checked_thresholds, evaluating, runtime
from dfs_edu.multiexit import MultiExit, State, checked_shape
from dfs_edu.probes import cost
from dfs_edu.surgery import Junction

BATCH = 2  # of the pictures that the programs are made with; they run with any number


def new_folder(folder: str | os.PathLike) -> Path:
    """The path of a folder that an export can make.

    Raises FileExistsError where it is there already, and OSError where it cannot be written.
    """
    if Path(folder).exists():
        raise FileExistsError(f"{folder} is there already: choose another folder")
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
    """Write the network into a new folder, with the runner that needs numpy and onnxruntime alone (runtime.py).

    classes       the names of the classes, in order
    mean, std     of a channel, in units of 0 to 1, by which pictures are normalised
    thresholds, temperatures, criterion   of `EarlyExit`, kept in the manifest
    input_shape   (3, H, W) of a picture
    name          what the network is called in the manifest

    The batch size is free, the picture's size is not. Files are of float32, in which the runner works: a network in
    another precision (bfloat16, float16, float64) is exported as a float32 copy. The folder appears whole or not at
    all. Raises FileExistsError where it is there already, and ValueError for arguments that do not fit the network.
    """
    folder, K, shape = new_folder(folder), len(net.heads), checked_shape(input_shape)
    if (known := net.heads[-1].fc.out_features) != len(classes):
        raise ValueError(f"{len(classes)} names of classes for a network of {known}")
    manifest = {
        "format": runtime.FORMAT,
        "name": name,
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__},
        "picture": {"shape": shape, "mean": [float(m) for m in mean], "std": [float(s) for s in std]},
        "classes": list(classes),
        "criterion": criterion,
        "thresholds": checked_thresholds(thresholds, K).tolist(),
        "temperatures": Judge(K, criterion, temperatures).temperatures,
        "macs": cost(net, shape).macs.tolist(),
        "stages": [],
        "heads": [],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        net = in_float32(net)
        with evaluating(net), quiet():
            for kind, part in parts(net, shape):
                manifest[kind].append(write(part, beside, f"{kind[:-1]}{len(manifest[kind]) + 1}"))
        (beside / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
        shutil.copy(runtime.__file__, beside / "runtime.py")
        beside.chmod(0o755)
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside)
        raise
    return folder


def in_float32(net: MultiExit) -> MultiExit:
    """The network itself where all of it is float32, else a copy that is."""
    kinds = {t.dtype for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()}
    return net if kinds <= {torch.float32} else copy.deepcopy(net).float()


class Part(nn.Module):
    """A stage or a head that takes the state as separate tensors, and what the junction before it lets through.

    example   the state that comes to it, of a few pictures
    """

    def __init__(self, module: nn.Module, junction: Junction | None, side: int, example: State):
        super().__init__()
        self.module, self.junction, self.side = module, junction, side
        self.many = isinstance(example, list)
        self.example = tuple(example) if self.many else (example,)

    def forward(self, *state: Tensor):
        """The state, a tensor (B, ...) each, through the junction and the module: tensors again."""
        whole = list(state) if self.many else state[0]
        whole = whole if self.junction is None else self.junction(whole)[self.side]
        out = self.module(whole)
        return tuple(out) if isinstance(out, list) else out


def parts(net: MultiExit, shape: tuple[int, int, int]):
    """("stages" or "heads", Part) in the order in which they run."""
    weight = next(net.parameters())
    state, before = torch.zeros(BATCH, *shape, device=weight.device, dtype=weight.dtype), None
    for stage, junction, head in zip(net.stages, net.junctions, net.heads, strict=True):
        part = Part(stage, before, 0, state)
        yield "stages", part
        state = part(*part.example)
        state, before = list(state) if isinstance(state, tuple) else state, junction
        yield "heads", Part(head, junction, 1, state)


def write(part: Part, folder: Path, name: str) -> dict:
    """Both files of a part; what the manifest says of it."""
    part = part.eval()
    out = part(*part.example)
    outs = out if isinstance(out, tuple) else (out,)
    batch = torch.export.Dim("batch", min=1)
    with torch.inference_mode(False), torch.no_grad():
        example = tuple(t.clone() for t in part.example)
        program = torch.export.export(part, example, dynamic_shapes=(tuple({0: batch} for _ in example),))
    torch.export.save(program, folder / f"{name}.pt2")
    names = {"input": [f"in{i}" for i in range(len(example))], "output": [f"out{i}" for i in range(len(outs))]}
    onnx_program = torch.onnx.export(
        program, input_names=names["input"], output_names=names["output"], dynamo=True, verbose=False
    )
    onnx_program.save(folder / f"{name}.onnx")
    sizes = {"input": example, "output": outs}
    return {
        "onnx": f"{name}.onnx",
        "program": f"{name}.pt2",
        **{
            f"{side}s": [
                {"name": n, "shape": ["batch", *t.shape[1:]]} for n, t in zip(names[side], sizes[side], strict=True)
            ]
            for side in ("input", "output")
        },
    }


@contextmanager
def quiet():
    """The exporters talk about versions of operators that nobody asked for."""
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
