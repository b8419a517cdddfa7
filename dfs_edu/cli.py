"""The command dfs-edu: thin, each command calls what the notebooks call."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dfs_edu.tables import lines, printable
from dfs_edu.training import plugins

RUN = "folder of a finished run, such as runs/digits-vgg7-16-lesson-joint-seed0"


# Of each command what it does, and where its options and its work are: in this module, or in one of its own, which is
# imported only for that command
COMMANDS = {
    "train": "train a network and keep its record",
    "evaluate": "accuracy of a trained network at each exit and under budgets",
    "probe": "measure where the exits of a trained network disagree",
    "export": "write a trained network as ONNX and torch.export files, stage by stage",
    "costs": "parameters and MACs of every exit, the published ones beside them",
    "study": "compare junctions and methods on an equal recipe, over seeds",
    "runs": "list runs, name the best, compare some exit by exit",
    "keep": "copy what is worth committing of a run to data/recorded",
    "course": "execute the notebooks, or report on executed ones",
    "doctor": "say what this machine has, and what to do about the rest",
    "download": "fetch CIFAR-100 from its home; needs a network",
}
OWN_MODULE = {"study": "training.study", "course": "course.runner", "doctor": "course.doctor"}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 if it did its work, 1 if it could not and said why, 130 if it was stopped."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without "±" gets an escape instead of a traceback
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = _parsed(sys.argv[1:] if argv is None else argv)
        return args.command(args) or 0
    except KeyboardInterrupt as stopped:
        print(f"\n{stopped or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"dfs-edu: {printable(str(error))}", file=sys.stderr)
        return 1


def _parsed(argv: list[str]) -> argparse.Namespace:
    """The command's arguments; plugins are imported first, so that options know the names that they add."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _plugin_argument(first)
    plugins.load(first.parse_known_args(argv)[0].plugin)
    parser = argparse.ArgumentParser(prog="dfs-edu", description="Multi-exit networks and their gradient conflict.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, what in COMMANDS.items():
        sub = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        if name in argv[:1]:  # the options of the others would import what they are about
            add_arguments, command = _command(name)
            add_arguments(sub)
            _plugin_argument(sub)
            sub.set_defaults(command=command)
    return parser.parse_args(argv)


def _plugin_argument(parser: argparse.ArgumentParser) -> None:
    what = "import a module of yours first, whose networks, junctions and methods are known then; may be given again"
    parser.add_argument("--plugin", metavar="MODULE", action="append", default=[], help=what)


def _command(name: str) -> tuple[Callable, Callable]:
    """The function that adds a command's options to a parser, and the one that does its work."""
    if name in OWN_MODULE:
        module = importlib.import_module(f"dfs_edu.{OWN_MODULE[name]}")
        return module.add_arguments, module.main
    return globals()[f"_{name}_arguments"], globals()[name]


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DIR", help="where data sets lie (default: $DFS_EDU_DATA, then data/)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto: a GPU where there is one")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    from dfs_edu.methods import LENGTHS, names
    from dfs_edu.training.arms import KINDS
    from dfs_edu.training.recipes import NUMBERS, SCALES

    add = parser.add_argument
    add("recipe", help="data set and backbone: digits/vgg7-16, cifar100/resnet18, imagenet/msdnet, folder/vgg7-16 ...")
    add(
        "--scale",
        choices=SCALES,
        default="lesson",
        help="how much work: seconds, minutes, hours of a GPU, as published",
    )
    add("--junction", default="joint", help=f"at every exit: {', '.join(KINDS)}; or in words: surgery-all-0.25")
    add("--beta", type=float, help="surgery: share of the channels that the deeper exits may move (default 0.5)")
    add("--exit-gradient", choices=("own", "all"), help="surgery: where an exit's gradient goes (default own)")
    add("--scales", choices=("last", "all"), help="surgery of MSDNet: cut its coarsest scale, or all (default last)")
    add("--no-reference", action="store_true", help="surgery: partition only, each side blind to the other's part")
    add("--seed", type=int, default=0, help="of weights, order and augmentation (default 0)")
    for field, kind in NUMBERS.items():
        add(f"--{field.replace('_', '-')}", type=kind, help="instead of the recipe's")
    add("--image-size", dest="pixels", type=int, help="side of the pictures of ImageNet and folders, in pixels")
    add("--optimizer", choices=("sgd", "adamw"), help="instead of the recipe's")
    add("--no-nesterov", action="store_true", help="plain momentum, as in the published runs")
    add(
        "--initial",
        choices=("backbone", "torch"),
        help="torch: convolutions start as torch makes them (MSDNet, published)",
    )
    add("--start", metavar="RUN", help="weights to start from: a run's folder, or a safetensors file")
    add("--augmentation", choices=("crop", "autoaugment"), help="autoaugment: CIFAR-10's policy and Cutout besides")
    add("--method", choices=names(), help="how the losses become one update (default: their sum)")
    add("--weights", type=float, nargs="+", metavar="W", help="of the losses in the sum, one for each exit")
    add("--step-length", choices=LENGTHS, help="of other methods: as long as the sum's (default), or their own")
    add("--loss", choices=("cross-entropy", "distillation"), help="distillation: the last exit teaches the others")
    add("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="auto: bf16 where the machine gains")
    add("--compile", action="store_true", help="torch.compile: a slow start, then faster steps")
    add("--out", default="runs", metavar="DIR", help="the run gets a folder of its own in it (default runs)")
    add("--resume", action="store_true", help="go on where a stopped or killed run was")
    add("--track", type=int, metavar="N", help="look at the exits' conflict every N steps, into the record")
    add("--checkpoint-steps", type=int, default=1000, help="a checkpoint after so many steps and every epoch")
    _data_arguments(parser)


def train(args: argparse.Namespace) -> None:
    """One run of one recipe; on several processes if torchrun started them."""
    from dfs_edu import distributed
    from dfs_edu.training import recipes
    from dfs_edu.training.recipes import NUMBERS
    from dfs_edu.training.start import find
    from dfs_edu.training.trainer import train

    changes = {"precision": args.precision} | ({"compile": True} if args.compile else {})
    for field in (*NUMBERS, "pixels", "optimizer", "augmentation", "method", "step_length", "loss", "initial"):
        if getattr(args, field) is not None:
            changes[field] = getattr(args, field)
    changes |= {"weights": tuple(args.weights)} if args.weights else {}
    changes |= {"nesterov": False} if args.no_nesterov else {}
    if args.start:
        changes["start"], args.start = find(args.start)
    recipe = recipes.get(args.recipe, junction=_junction(args), scale=args.scale, seed=args.seed, **changes)
    how = {"resume": args.resume, "root": args.data, "device": args.device, "track": args.track, "start": args.start}
    run = train(recipe, args.out, checkpoint_steps=args.checkpoint_steps, **how)
    distributed.leave()
    if os.environ.get("RANK", "0") != "0":
        return
    final = run.record["final"]
    print(f"{recipe.name}: {final['seconds']:.0f} s on {run.record['environment']['device']}")
    print(lines(["exit", "validation %", "test %"], _numbered(final["validation_accuracy"], final["test_accuracy"])))
    print(f"kept in {run.folder}")


def _junction(args: argparse.Namespace):
    from dfs_edu.surgery import Surgery
    from dfs_edu.training.arms import junction_from

    junction = junction_from(args.junction)
    options = {
        "beta": args.beta,
        "exit_gradient": args.exit_gradient,
        "scales": args.scales,
        "reference": False if args.no_reference else None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if options and not isinstance(junction, Surgery):
        raise ValueError(f"--junction {args.junction} has no {', '.join(options)}: that belongs to --junction surgery")
    return replace(junction, **options)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help=RUN)
    parser.add_argument(
        "--test-data", metavar="DIR", help="measure on other images: a folder for each class of the run"
    )
    _policy_arguments(parser, [0.25, 0.5, 0.75, 1.0], nargs="+")
    _data_arguments(parser)


def _policy_arguments(parser: argparse.ArgumentParser, budget, **several) -> None:
    """Of evaluate and export alike, so that what is measured can be what is exported."""
    from dfs_edu.inference import CRITERIA

    parser.add_argument("--criterion", choices=CRITERIA, default="confidence", help="by what a picture leaves")
    parser.add_argument(
        "--budget",
        type=float,
        default=budget,
        metavar="B",
        help=f"average cost that thresholds are fitted for: 0 the first exit's, 1 the last one's (default {budget})",
        **several,
    )


def evaluate(args: argparse.Namespace) -> None:
    """Accuracy and cost of each exit, and what early exit makes of them within budgets, as `export` would ship it."""
    from dfs_edu import inference, probes
    from dfs_edu.data import folder

    budgets = _checked_budgets(args.budget)
    network, dataset, batches = _trained(args)
    if args.test_data:
        dataset = replace(dataset, test=folder.test_images(args.test_data, dataset.classes, dataset.pixels))
    validation = inference.collect(network, batches(dataset.validation), logits=True)
    macs = probes.cost(network, (3, dataset.pixels, dataset.pixels)).macs
    policies = inference.fit_policies(validation, macs, macs[0] + budgets * (macs[-1] - macs[0]), args.criterion)
    how = {"criterion": args.criterion, "temperatures": policies[0].temperatures}
    test = inference.collect(network, batches(dataset.test), **how)
    columns = ["exit", "MMACs", "validation %", "test %"]
    exits = zip(macs / 1e6, validation.accuracy * 100, test.accuracy * 100, strict=True)
    print(lines(columns, [[f"{k}", *(f"{float(v):.2f}" for v in row)] for k, row in enumerate(exits, 1)]))
    where = f"{len(test.label)} images of {args.test_data}, classes as trained" if args.test_data else "the test split"
    print(f"\nearly exit, fitted on the validation split, measured on {printable(where)}")
    print(f"policy: {policies[0].name}")
    rows = []
    for budget, policy in zip(budgets, policies, strict=True):
        point = inference.apply(test, policy.thresholds, macs)
        share = " ".join(f"{100 * s:.0f}" for s in point.share.tolist())
        spent = [(macs[0] + budget * (macs[-1] - macs[0])) / 1e6, point.macs / 1e6]
        thresholds = " ".join(f"{t:.4f}" for t in policy.thresholds.tolist())
        cells = [f"{budget:g}", *(f"{value:.2f}" for value in spent), f"{100 * point.accuracy:.2f}"]
        rows.append([*cells, share, thresholds])
    print(lines(["budget", "MMACs", "spent", "test %", "share leaving, %", "thresholds"], rows))


def _checked_budgets(budgets: list[float]):
    import numpy as np

    for budget in budgets:
        if not 0 <= budget <= 1:
            raise ValueError(f"--budget {budget}: from 0, the first exit's cost, to 1, the last one's")
    return np.array(budgets)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help=RUN)
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: export/ in the run's)")
    _policy_arguments(parser, 0.5)
    _data_arguments(parser)


def export(args: argparse.Namespace) -> None:
    """A folder that runs with numpy and onnxruntime alone: temperatures and thresholds are fitted on validation."""
    from dfs_edu import inference, probes
    from dfs_edu.inference import exporting as write

    (budget,) = _checked_budgets([args.budget])
    out = write.new_folder(args.out or args.run / "export")  # known before minutes of work are lost
    network, dataset, batches = _trained(args)
    validation = inference.collect(network, batches(dataset.validation), logits=True)
    shape = (3, dataset.pixels, dataset.pixels)
    macs = probes.cost(network, shape).macs
    (policy,) = inference.fit_policies(validation, macs, [macs[0] + budget * (macs[-1] - macs[0])], args.criterion)
    point = inference.apply(validation.again(policy.criterion, policy.temperatures), policy.thresholds, macs)
    folder = write.export(
        network.cpu(),
        out,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        thresholds=policy.thresholds,
        temperatures=policy.temperatures,
        criterion=policy.criterion,
        input_shape=shape,
        name=args.run.resolve().name,
    )
    print(f"{folder}: {100 * point.accuracy:.2f} % on validation for {point.macs / 1e6:.4g} MMACs a picture")
    print(f"policy: {policy.name}")


def _probe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help=RUN)
    parser.add_argument("--images", type=int, default=512, help="training pictures to probe with (default 512)")
    _data_arguments(parser)


def probe(args: argparse.Namespace) -> None:
    """Cosines of the exits' gradients on training pictures, layer by layer."""
    import numpy as np

    from dfs_edu import probes

    if args.images < 1:
        raise ValueError(f"--images {args.images}: at least one")
    network, dataset, batches = _trained(args)
    batch = batches(dataset.train[: args.images], args.images)
    report = probes.conflict(network, *next(iter(batch)))
    rows = []
    for layer, pairs, share in zip(report.layers, report.pairs(), report.conflicting(), strict=True):
        pairs = pairs[~np.isnan(pairs)]
        if len(pairs):
            rows.append([layer, f"{pairs.mean():+.3f}", f"{pairs.min():+.3f}", f"{100 * share:.0f}"])
    print(f"cosine between the gradients of two exits, {len(batch.split)} training pictures:")
    print(lines(["layer", "mean", "lowest", "conflicting %"], rows))


def _trained(args: argparse.Namespace):
    """The run's network on its device, the data set that it was trained on, and a maker of batches for it."""
    from dfs_edu import data
    from dfs_edu.training.recipes import Recipe
    from dfs_edu.training.runs import check_data, load_network
    from dfs_edu.training.trainer import load_data, pick_device

    network, record = load_network(args.run)
    device = pick_device(args.device)
    dataset = load_data(Recipe.from_dict(record["recipe"]), args.data)
    check_data(args.run, record, dataset)

    def batches(split, size: int = 500):
        return data.batches(split, dataset, size, device=device)

    return network.to(device), dataset, batches


def _costs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backbone", nargs="*", help="vgg7-64, msdnet-cifar-blocks5 ... (default: all published ones)")
    parser.add_argument("--classes", type=int, help="(default 100; 1000 for pictures of 224 pixels)")
    parser.add_argument("--batch", type=int, help="also estimate the memory of a training step of so many pictures")


def costs(args: argparse.Namespace) -> None:
    """One table a network. What is counted and what is not: probes/costs.py."""
    import numpy as np
    import torch

    from dfs_edu import probes
    from dfs_edu.backbones import BACKBONES, build, pixels_of
    from dfs_edu.training.recipes import MOST
    from dfs_edu.training.results import PUBLISHED_COSTS

    for option in ("classes", "batch"):
        value = getattr(args, option)
        if value is not None and not 1 <= value <= MOST:
            raise ValueError(f"--{option} {value}: a whole number from 1 to {MOST}")
    for name in args.backbone or [backbone.published for backbone in BACKBONES.values()]:
        pixels = pixels_of(name)
        classes = args.classes or (100 if pixels == 32 else 1000)
        with torch.device("meta"):
            net = build(name, classes)
        cost = probes.cost(net, (3, pixels, pixels))
        columns = {"params": cost.params, "MMACs": cost.macs / 1e6}
        columns |= {"params, path": cost.path_params, "MMACs, path": cost.path_macs / 1e6}
        if published := PUBLISHED_COSTS.get(name):
            columns |= {"published params": published["params"], "published MMACs": np.array(published["macs"]) / 1e6}
        print(f"\n{name}, {classes} classes, pictures of {pixels}x{pixels}")
        rows = [[str(k), *row] for k, row in enumerate(zip(*map(_cells, columns.items()), strict=True), 1)]
        print(lines(["exit", *columns], rows))
        if args.batch:
            fp32, bf16 = (probes.peak_memory(net, (3, pixels, pixels), args.batch, half) for half in (False, True))
            print(f"a training step of {args.batch} pictures holds at most", end=" ")
            print(f"{fp32.peak / 2**20:,.0f} MiB in fp32, {bf16.peak / 2**20:,.0f} MiB in bf16 (estimated)")
    print(
        "\nMACs of convolutions, linear layers and attention's products, with all heads up to the exit;"
        "\npath: with its own head alone. The published MACs add one for each output of a ReLU, k x k for each"
        "\noutput of a pooling over k x k and one for each bias of a classifier, nothing for BatchNorm;"
        "\nresnet18's published figures are of the path, its parameters without the classifier."
    )


def _cells(column: tuple) -> list[str]:
    name, values = column
    return [f"{value:,.0f}" if "params" in name else f"{value:,.3f}" for value in values]


def _runs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", default=["*"], help="names or patterns, 'cifar100-*' (default: all)")
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder that holds the runs (default runs)")
    parser.add_argument("--compare", action="store_true", help="accuracy of every exit, and where recipes differ")
    parser.add_argument("--best", action="store_true", help="only the one whose exits are best on validation")
    parser.add_argument("--csv", metavar="FILE", help="write all of them there: a row for each run and exit")


def runs(args: argparse.Namespace) -> int:
    """What has been trained, and how far it has come: validation accuracy, mean of all exits and last exit.

    The best is chosen by that mean.
    """
    from dfs_edu.training import results

    records, faults = {}, {}
    for pattern in args.name:
        found, broken = results.survey(args.out, pattern)
        records, faults = records | found, faults | broken
    if not records and not faults:
        raise ValueError(f"no run in {args.out} is called {' or '.join(args.name)}")
    if records:
        print(_listing(records, args.best, args.compare))
    if args.csv:
        results.write_csv(results.rows(records), args.csv)
    for name, fault in faults.items():
        print(printable(f"cannot be read: {name}: {fault}"))
    return 0 if records else 1


def _listing(records: dict[str, dict], best: bool, compare: bool) -> str:
    """A row for each run, or for the best one, and what they are compared by."""
    from dfs_edu.training import results

    if best:
        found = max(records, key=lambda name: _mean(results.last_validation(records[name])))
        records = {found: records[found]}
    rows = []
    for name, record in records.items():
        epochs, last = record["epochs"], results.last_validation(record)
        speed = epochs[-1].get("pictures_per_second") if epochs else None
        planned = record["recipe"].get("epochs", 1)
        state = "" if "final" in record else " failed" if "failed" in record else " unfinished"
        done = f"{len(epochs)}/{planned}{state}"
        seconds = sum(row["seconds"] for row in epochs)
        cells = [f"{100 * _mean(last):.2f}", f"{100 * last[-1]:.2f}"] if last else ["", ""]
        rows.append([name, done, *cells, f"{seconds:.0f}", f"{speed:.0f}" if speed else ""])
    parts = [lines(["run", "epochs", "mean %", "last %", "seconds", "pictures/s"], rows)]
    return "\n\n".join(parts + [_comparison(records)] * compare)


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def _comparison(records: dict[str, dict]) -> str:
    """Validation and, of finished runs, test accuracy of each exit; then the fields of the recipes that differ."""
    from dfs_edu.training import results

    parts = []
    for split in ("validation", "test"):
        accuracy = {name: record.get("final", {}).get(f"{split}_accuracy") for name, record in records.items()}
        if split == "validation":
            accuracy = {name: found or results.last_validation(records[name]) for name, found in accuracy.items()}
        accuracy = {name: found for name, found in accuracy.items() if found}
        exits = max(map(len, accuracy.values()), default=0)
        rows = [
            [name, *(f"{100 * a:.2f}" for a in found), *[""] * (exits - len(found))] for name, found in accuracy.items()
        ]
        if rows:
            parts.append(lines([f"{split} %, exit", *map(str, range(1, exits + 1))], rows))
    recipes = [record["recipe"] for record in records.values()]
    differ = [field for field in recipes[0] if any(recipe.get(field) != recipes[0][field] for recipe in recipes)]
    rows = [
        [field, *(str(recipe.get(field)) for recipe in recipes)]
        for field in differ
        if field not in ("name", "junction")
    ]
    rows += [["junction", *(_junction_words(recipe) for recipe in recipes)]] if "junction" in differ else []
    if rows:
        parts.append(lines(["recipe", *map(str, range(1, len(recipes) + 1))], rows))
    return "\n\n".join(parts)


def _junction_words(recipe: dict) -> str:
    from dfs_edu.training import results

    try:
        return results.label(recipe["junction"])
    except ValueError:  # of somebody else's kind
        return str(recipe["junction"])


def _keep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, nargs="+", help=RUN)
    parser.add_argument("--weights", action="store_true", help="the weights too, as float16")


def keep(args: argparse.Namespace) -> None:
    """Copy what is worth committing of finished runs into data/recorded."""
    from dfs_edu.training import runs

    for run in args.run:
        print(runs.keep(run, weights=args.weights))


def _download_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=("cifar100",))
    parser.add_argument("--data", default="data", metavar="DIR", help="where to (default data/)")


def download(args: argparse.Namespace) -> None:
    """Fetch CIFAR-100."""
    from dfs_edu.data import cifar100

    cifar100.download(Path(args.data))


def _numbered(*columns: list[float]) -> list[list[str]]:
    """Rows "1", "12.34", ... from fractions an exit."""
    return [[str(k), *(f"{100 * v:.2f}" for v in row)] for k, row in enumerate(zip(*columns, strict=True), 1)]
