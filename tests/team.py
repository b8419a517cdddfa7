"""What test_distributed.py starts by torchrun: python -m torch.distributed.run --nproc-per-node 2 tests/team.py OUT"""

import sys

import torch

import dfs_edu as dfs
from dfs_edu.training.recipes import get

SMALL = {"scale": "smoke", "epochs": 2, "batch_size": 16, "train_images": 48, "held_out_images": 17}
SMALL |= {"precision": "fp32", "lr": 0.05}
CASES = {
    "surgery": ("vgg7-4", dfs.Surgery(0.5), {"ema": 0.9}),
    "partition": ("vgg7-4", dfs.Surgery(0.5, reference=False), {"accumulate": 2, "clip": 1.0}),
    "detached": ("vgg16-2", dfs.Detached(), {}),
    "distillation": ("resnet18-width4-depth1", dfs.Surgery(0.5, exit_gradient="all"), {"loss": "distillation"}),
    "idle parameters": (
        "msdnet-cifar-blocks3-base2-step1-growth4-width4",
        dfs.Surgery(0.5, scales="all"),
        {"label_smoothing": 0.1},
    ),
    "compiled": (
        "msdnet-cifar-blocks2-base1-step1-growth4-width4",
        dfs.Surgery(0.5, exit_gradient="all"),
        {"compile": True, "ema": 0.9, "accumulate": 2},
    ),
    "lots drawn": ("vgg7-4", dfs.Surgery(0.5, exit_gradient="all"), {"method": "pcgrad"}),
    "frozen": ("vgg7-4", dfs.Surgery(0.5), {"frozen": 1, "ema": 0.9}),
    "frozen, by exit": ("vgg7-4", dfs.Surgery(0.5), {"frozen": 1, "method": "mgda"}),
    "blocks": ("vgg7-4", dfs.Surgery(0.5), {"method": "bdl-final"}),
    "signs drawn": ("vgg7-4", dfs.Joint(), {"method": "graddrop"}),
    "last exit first": ("vgg7-4", dfs.Joint(), {"method": "mixed-1", "accumulate": 2, "clip": 1.0}),
    "projected": ("vgg7-4", dfs.Joint(), {"method": "upgrad"}),
    "fused": (
        "msdnet-cifar-blocks2-base1-step1-growth4-width4",
        dfs.Joint(),
        {"method": "meta-gf", "epochs": 6, "accumulate": 2},
    ),
    "looking ahead": ("vgg7-4", dfs.Surgery(0.5), {"method": "wpn"}),
    "annealed": ("vgg7-4", dfs.Joint(), {"loss": "annealed-distillation", "clip": 1.0}),
    "mixup": ("vgg7-4", dfs.Joint(), {"mixing": "mixup", "accumulate": 2}),
    "losses after the step": ("vgg7-4", dfs.Joint(), {"method": "famo"}),
    "boosted": ("vgg7-4", dfs.Equilibrium(), {"loss": "boosted"}),
    "transformer": ("vit-tiny-pixels32-patch8-depth4-width24-heads2", dfs.Equilibrium(), {"lr": 1e-3}),
}


def recipe(case):
    backbone, junction, options = CASES[case]
    return get(f"digits/{backbone}", junction=junction, **(SMALL | options))


if __name__ == "__main__":
    dfs.data.load("digits")  # composed in float32, and kept
    torch.set_default_dtype(torch.float64)
    for case in CASES:
        dfs.train(recipe(case), f"{sys.argv[1]}/{case}", device="cpu", progress=False)
