"""make gpu: everything that waits for a GPU, in parts. Started again, each goes on where it was stopped.

Results are in DIR, small enough to be copied: tests.jsonl, step.json, exits.json, vgg7-paper.json, msdnet-paper.json,
and recorded/ with records and exit outputs of finished runs. DIR/runs holds checkpoints: take it along to go on
elsewhere.
Where a command may run for ten minutes only: timeout -s INT 570 make gpu
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu import checks, exits, step
from benchmarks.gpu.training import MSDNET, VGG7
from dfs_edu.backbones import parse
from dfs_edu.data import DataError
from dfs_edu.files import check_writable
from dfs_edu.training.device import pick_device

# TFLOP/s of a joint training step on an H200 (docs/measured.md, "On a GPU"): bf16, but of the last two fp32 in TF32
RATES = {"vgg7": 82.0, "resnet18": 47.0, "msdnet-cifar": 14.0}


@dataclass(frozen=True)
class Part:
    """One part of the work.

    Attributes:
        what: In words.
        run: (folder of results, smoke, device) -> nothing.
        flops: smoke -> FLOPs by backbone; None if they are not known.
        only_gpu: Whether a CPU cannot run it even at smoke.
    """

    what: str
    run: Callable[[Path, bool, torch.device], None]
    flops: Callable[[bool], dict[str, float]] | None = None
    only_gpu: bool = False

    def minutes(self, tflops: float | None) -> str:
        """Return the time that the part takes by its FLOPs, in words."""
        if self.flops is None:
            return "not known: it has no count of FLOPs"
        seconds = sum(count / 1e12 / (tflops or RATES[parse(name)[0]]) for name, count in self.flops(False).items())
        return f"{seconds / 60:,.0f} minutes" if seconds >= 90 else f"{seconds:,.0f} seconds"


PARTS = {
    "tests": Part("tests/test_gpu.py to its end", checks.run, only_gpu=True),
    "step": Part("the training step of msdnet-cifar and resnet18, made faster", step.run, step.flops),
    "vgg7": Part("vgg7-64 as published, 300 epochs: joint, surgery own and all, 3 seeds", VGG7.run, VGG7.flops),
    "msdnet": Part("MSDNet as published, 300 epochs: joint, surgery all", MSDNET.run, MSDNET.flops),
    "exits": Part("early exit with shrinking batches under CUDA graphs", exits.run, exits.flops),
}


def main(words: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(words)
    device = pick_device(args.device)
    check_writable(args.out)
    if not args.smoke:
        print(expected(args.parts, args.tflops))
    for name in args.parts:
        part = PARTS[name]
        print(f"\n# {name}: {part.what}", flush=True)
        if device.type != "cuda" and (part.only_gpu or not args.smoke):
            print(f"{name}: skipped, it needs a GPU")
            continue
        try:
            part.run(args.out, args.smoke, device)
        except DataError as error:
            print(f"{name}: skipped, {error}")
        except KeyboardInterrupt:
            print(f"\n{name}: stopped; called again, it goes on")
            raise SystemExit(130) from None
    print(f"\nkept in {args.out}")


def _parser() -> argparse.ArgumentParser:
    purpose = (__doc__ or "").replace("%", "%%")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=purpose,
        epilog=expected(PARTS, None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which, in this order")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, also on a CPU: does every part run?")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="DIR")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--tflops", type=float, help="assumed for all networks, instead of what was measured on an H200"
    )
    return parser


def expected(names: Sequence[str] | dict[str, Part], tflops: float | None) -> str:
    """Return how long each part should take, by the FLOPs that `probes.cost` counts."""
    rates = f"{tflops:g}" if tflops else ", ".join(f"{rate:g} ({name})" for name, rate in RATES.items())
    lines = [f"  {name:8} {PARTS[name].minutes(tflops)}" for name in names]
    return "\n".join(
        [
            f"Expected by FLOPs, at {rates} TFLOP/s, measured with one run alone on an H200 (docs/measured.md);",
            "runs side by side gain, compiling, reading, evaluation and waiting for launches come on top:",
            *lines,
        ]
    )


if __name__ == "__main__":  # processes that train side by side import this file
    main()
