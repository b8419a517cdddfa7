"""The weights that a run starts from: those of a finished run, or of a file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from dfs_edu.files import check_file
from dfs_edu.training import records
from dfs_edu.training.recipes import DIGITS

WEIGHTS = "weights.safetensors"
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Start:
    """A file of weights, named in a recipe by its checksum, so that it may be moved or renamed.

    Attributes:
        file: In the format safetensors.
        checksum: SHA-256 of the file.
        classes: Those that the weights were trained on, if that is known.
    """

    file: Path
    checksum: str
    classes: tuple[str, ...] | None

    @property
    def digits(self) -> str:
        """The first digits of the checksum, by which a recipe names the file."""
        return self.checksum[:8]

    @classmethod
    def of(cls, path: str | os.PathLike) -> Start:
        """Return the weights of a finished run's folder, or those in a safetensors file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is of another kind.
        """
        path = Path(path)
        file = path / WEIGHTS if path.is_dir() else path
        if not file.exists():
            raise FileNotFoundError(f"start={str(path)!r}: there is no {file}; give a finished run or its {WEIGHTS}")
        check_file(file)
        with open(file, "rb") as opened:
            checksum = hashlib.file_digest(opened, "sha256").hexdigest()
        with _opened(file):  # a file of another kind is refused now
            pass
        record = file.with_name(records.RECORD)
        classes = records.read(record).get("data", {}).get("classes") if record.exists() else None
        return cls(file, checksum, tuple(classes) if classes else None)

    def load(self, network: nn.Module, classes: Sequence[str]) -> dict[str, Any]:
        """Load the weights into a network.

        The junction does not matter, nor does the file's precision.

        Args:
            network: On any device.
            classes: What it is to be trained on. If the weights were trained on other classes, the last layer of each
                exit keeps the values that it has.

        Returns:
            What a record keeps of it: "file", "sha256" and "fresh", the names of the tensors that were not loaded.

        Raises:
            ValueError: The weights are of another network, or not finite; the message names the first difference.
        """
        own, fresh = network.state_dict(), self.check(network, classes)
        with _opened(self.file) as opened:
            loaded = {name: opened.get_tensor(name) for name in own if name not in fresh}
        for name, value in loaded.items():
            if value.is_floating_point() != own[name].is_floating_point():
                raise ValueError(f"{self.file} holds other weights: {name} is {value.dtype}, not {own[name].dtype}")
            if value.is_floating_point() and not value.isfinite().all():
                raise ValueError(f"{self.file}: {name} is not finite")
        network.load_state_dict(own | {name: value.to(own[name].dtype) for name, value in loaded.items()})
        return {"file": str(self.file), "sha256": self.checksum, "fresh": sorted(fresh)}

    def check(self, network: nn.Module, classes: Sequence[str] | None = None) -> set[str]:
        """Compare names and shapes with those of a network, which may be on the meta device.

        Args:
            network: To be started from the weights.
            classes: What it is to be trained on; None: not known yet, so that classifiers are not compared.

        Returns:
            The names of the tensors that are not loaded, since they are of classifiers for other classes.

        Raises:
            ValueError: The weights are of another network; the message names the first difference.
        """
        needed = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        with _opened(self.file) as opened:
            shapes = shapes_in(opened)
        counts = {shape[0] for name, shape in shapes.items() if _is_classifier(name)}
        other = classes is None or counts != {len(classes)} or self.classes not in (None, tuple(classes))
        fresh = {name for name in needed if other and _is_classifier(name)}
        compared, wanted = ({name: part[name] for name in part if name not in fresh} for part in (shapes, needed))
        check_shapes(f"{self.file} holds other weights", compared, wanted)
        return fresh


def shapes_in(opened: safe_open) -> Shapes:
    """Return name and shape of every tensor of an open safetensors file, from its header alone."""
    return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def check_shapes(fault: str, shapes: Mapping, needed: Mapping) -> None:
    """Raise ValueError, naming a fault and the first difference, unless a file has the tensors that a network needs."""
    for name in [*needed, *shapes]:
        if shapes.get(name) != needed.get(name):
            difference = f"{name} is {shapes.get(name, 'missing')}, not {needed.get(name, 'missing')}"
            raise ValueError(f"{fault}: {difference}")


def find(text: str | os.PathLike) -> tuple[str, Start | None]:
    """Return the first digits of the checksum of weights, and their file.

    Args:
        text: A finished run's folder, a safetensors file, or the digits alone; then the file is None. They are enough
            to resume a run: its checkpoint holds all that it needs.
    """
    if re.fullmatch(DIGITS, str(text)) and not Path(text).exists():
        return str(text), None
    start = Start.of(text)
    return start.digits, start


def _is_classifier(name: str) -> bool:
    """Tell whether a tensor belongs to the last layer of an exit: "heads.2.fc.weight"."""
    return re.fullmatch(r"heads\.\d+\.fc\..*", name) is not None


def _opened(file: Path) -> safe_open:
    """Open a safetensors file, or raise ValueError saying how to make one."""
    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(
            f"{file} is no safetensors file ({error}); convert one of torch's by "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
        ) from error
