"""The folder of a finished run: its network, its data, and what of it is worth keeping.

A run may come from a stranger. What its files hold is compared with its record before anything large is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dfs_edu.backbones import build, parse
from dfs_edu.data import Dataset
from dfs_edu.files import check_file, write_whole
from dfs_edu.inference import Outputs
from dfs_edu.multiexit import MultiExit
from dfs_edu.training import records, results
from dfs_edu.training.recipes import Recipe
from dfs_edu.training.start import WEIGHTS, Shapes, check_shapes, shapes_in

SPLITS = ("validation", "test")


def load_network(folder: str | os.PathLike) -> tuple[MultiExit, dict[str, Any]]:
    """Load the trained network of a finished run.

    Args:
        folder: Of the run.

    Returns:
        The network, in eval mode on the CPU, and the run's record.

    Raises:
        FileNotFoundError: The run has not finished.
        ValueError: The record is damaged, or the weights are not those of the recipe's network.
    """
    folder = Path(folder)
    record = records.read(folder)
    if not (folder / WEIGHTS).exists():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS}: the run has not finished; resume it first")
    recipe = Recipe.from_dict(record["recipe"])
    classes, weights = load_weights(folder / WEIGHTS, recipe)
    network = build(recipe.backbone, classes, recipe.junction)
    network.answer_by(recipe.answers)
    network.load_state_dict({name: tensor.to(network.state_dict()[name].dtype) for name, tensor in weights.items()})
    return network.eval(), record


def load_weights(path: Path, recipe: Recipe) -> tuple[int, dict[str, Tensor]]:
    """Read the weights of a recipe's network from a file.

    First the names and shapes in the file's header are compared with the network's; until then neither is made, since a
    small file can name a network of any size.

    Returns:
        The number of classes, and the weights.

    Raises:
        ValueError: The weights are of another network; the message names the first difference.
    """
    check_file(path)
    fault = f"{path} does not hold the weights of {recipe.backbone}"
    try:
        with safe_open(path, "pt") as file:
            shapes = shapes_in(file)
        # Exits before the last one may have heads of their own kind, without fc
        last = max((int(name.split(".")[1]) for name in shapes if name.startswith("heads.")), default=0)
        classes = shapes[f"heads.{last}.fc.weight"][0]
        needed = _needed(recipe, classes, shapes)
    except (SafetensorError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{fault}: {error}") from error
    check_shapes(fault, shapes, needed)
    return classes, load_file(path)


def _needed(recipe: Recipe, classes: int, shapes: Shapes) -> Shapes:
    """Return the shapes of the network's state: built without memory, and only until it is larger than the file."""
    values = sum(map(math.prod, shapes.values()))
    family, sizes = parse(recipe.backbone)
    if too_large := [f"{size} {value}" for size, value in sizes.items() if value > values]:
        raise ValueError(f"a network of {too_large[0]} has more than the file's {values} values")
    try:
        with _no_larger(len(shapes), values), torch.device("meta"):
            network = build(recipe.backbone, classes, recipe.junction)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"a {family} of these sizes cannot be made: {error}") from error
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@contextmanager
def _no_larger(tensors: int, values: int) -> Generator[None]:
    """Raise ValueError once modules have too many parameters: twice the file's, since builders may replace some."""
    left = 2 * tensors

    def count(module: nn.Module, name: str, parameter: Tensor) -> None:
        nonlocal left
        left -= 1
        if left < 0 or parameter.numel() > values:
            raise ValueError(f"the network has more than the file's {tensors} tensors of {values} values")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def check_data(run: str | os.PathLike, record: dict[str, Any], dataset: Dataset) -> None:
    """Raise ValueError if a run was trained on other data than these, as far as its record knows."""
    if changed := records.changed_data(record.get("data", {}), dataset.facts):
        raise ValueError(
            f"{run} was trained on other data than these: {'; '.join(changed)}. Name the folder that it was trained on "
            "by --data or $DFS_EDU_DATA; `dfs-edu evaluate --test-data DIR` measures on other images of its classes"
        )


def keep(run: str | os.PathLike, folder: str | os.PathLike | None = None, weights: bool = False) -> Path:
    """Copy what is worth committing of a finished run: record, exit outputs, and its weights if asked.

    Args:
        run: Its folder.
        folder: Below which the copy is made, with the recipe's name, whatever the run's folder or record is called.
            None: data/recorded of the checkout, or of the current folder outside a checkout.
        weights: Whether to copy the weights, as float16, half the size.

    Returns:
        The folder of the copy.

    Raises:
        ValueError: The run has not finished, its recipe is not known here, one of its files is a link, or its files do
            not hold what its record says. Nothing is written.
    """
    run, folder = Path(run), Path(folder or (results.CHECKOUT if results.CHECKOUT.is_dir() else "data/recorded"))
    for name in (records.RECORD, *(f"{split}.npz" for split in SPLITS), WEIGHTS):
        if (run / name).is_symlink():
            raise ValueError(f"{run / name} is a link: what is kept of a run must be in its own folder")
    record = records.read(run)
    if "final" not in record:
        raise ValueError(f"{run} has not finished: resume it first")
    recipe = Recipe.from_dict(record["recipe"])
    parse(recipe.backbone)  # a known family and numbers, so that the recipe's name is no path
    kept = folder / recipe.name
    if kept.resolve() != folder.resolve() / recipe.name:
        raise ValueError(f"{kept} is a link, or leads out of {folder}")

    # Read everything, then write
    outputs = {split: _outputs(run / f"{split}.npz", split, record) for split in SPLITS}
    half = None
    if weights:
        _, tensors = load_weights(run / WEIGHTS, recipe)
        half = save({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()})
    for split, of_split in outputs.items():
        of_split.save(kept / f"{split}.npz")
    if half is not None:
        write_whole(kept / WEIGHTS, lambda file: file.write(half))
    records.write(kept / records.RECORD, record | {"recipe": record["recipe"] | {"name": recipe.name}})
    return kept


def _outputs(path: Path, split: str, record: dict[str, Any]) -> Outputs:
    """Read the outputs of a split, or raise ValueError if they differ from the record's accuracy."""
    outputs, recorded = Outputs.load(path), record["final"][f"{split}_accuracy"]
    accuracy = outputs.accuracy.tolist()
    same = len(accuracy) == len(recorded) and all(abs(a - b) < 1e-6 for a, b in zip(accuracy, recorded, strict=True))
    if outputs.split != split or not same:
        raise ValueError(
            f"{path} does not hold the outputs of the record: {outputs.split} accuracy {accuracy}, recorded {recorded}"
        )
    return outputs
