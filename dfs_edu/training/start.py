"""The weights that a run starts from: those of a finished run, or of a file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from dfs_edu.files import check_file
from dfs_edu.training import results
from dfs_edu.training.recipes import DIGITS

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Start:
    """A file of weights. checksum: SHA-256 of the file; classes: those that they were trained on, where that is known.

    A recipe names it by its `digits`, so that it may be moved or renamed.
    """

    file: Path
    checksum: str
    classes: tuple[str, ...] | None

    @property
    def digits(self) -> str:
        """The beginning of the checksum, as a recipe names the file."""
        return self.checksum[:8]

    @classmethod
    def of(cls, path: str | os.PathLike) -> Start:
        """The weights of a finished run's folder, or those in a safetensors file.

        Raises FileNotFoundError where there are none, ValueError for a file of another kind.
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
        record = file.with_name(results.RECORD)
        classes = results.read(record).get("data", {}).get("classes") if record.exists() else None
        return cls(file, checksum, tuple(classes) if classes else None)

    def load(self, network: nn.Module, classes: Sequence[str]) -> dict:
        """Put the weights into a network for these classes. Returns what a record says of it.

        If they were trained on other classes, the last layer of each exit keeps the values that it has, and the record
        lists it under "fresh". The junction does not matter, nor does the file's precision.

        Raises ValueError, naming the first difference, for weights of another network, and for values that are not
        finite.
        """
        own, fresh = network.state_dict(), self.check(network, classes)
        with _opened(self.file) as opened:
            loaded = {name: opened.get_tensor(name) for name in own if name not in fresh}
        for name, value in loaded.items():
            if value.is_floating_point() != own[name].is_floating_point():
                kinds = f"{name} is {value.dtype} there, {own[name].dtype} here"
                raise ValueError(f"{self.file} holds other weights: {kinds}")
            if value.is_floating_point() and not value.isfinite().all():
                raise ValueError(f"{self.file}: {name} is not finite")
        network.load_state_dict(own | {name: value.to(own[name].dtype) for name, value in loaded.items()})
        return {"file": str(self.file), "sha256": self.checksum, "fresh": sorted(fresh)}

    def check(self, network: nn.Module, classes: Sequence[str] | None = None) -> set[str]:
        """Compare names and shapes with a network, which may be on the meta device.

        Returns the names of the tensors that are not loaded, since they belong to other classes. Without `classes`
        these are all that belong to any.

        Raises ValueError, naming the first difference, for weights of another network.
        """
        own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        with _opened(self.file) as opened:
            there = shapes_in(opened)
        numbers = {shape[0] for name, shape in there.items() if _is_classifier(name)}
        other = classes is None or numbers != {len(classes)} or self.classes not in (None, tuple(classes))
        fresh = {name for name in own if other and _is_classifier(name)}
        for name in sorted({*own, *there} - fresh):
            if own.get(name) != there.get(name):
                found, needed = there.get(name, "missing"), own.get(name, "unknown")
                raise ValueError(f"{self.file} holds other weights: {name} is {found} there, {needed} here")
        return fresh


def shapes_in(opened: safe_open) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an open safetensors file, from its header alone."""
    return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def find(said: str | os.PathLike) -> tuple[str, Start | None]:
    """The digits of the weights that are meant, and their file, or None where the digits alone are given.

    The digits alone are enough to resume a run: its checkpoint holds all that it needs.
    """
    if re.fullmatch(DIGITS, str(said)) and not Path(said).exists():
        return str(said), None
    start = Start.of(said)
    return start.digits, start


def _is_classifier(name: str) -> bool:
    """Whether a tensor's name is that of an exit's last layer: "heads.2.fc.weight"."""
    return re.fullmatch(r"heads\.\d+\.fc\..*", name) is not None


def _opened(file: Path):
    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(
            f"{file} is no safetensors file ({error}); one of torch's becomes one by "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"
        ) from error
