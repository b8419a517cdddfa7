"""What to train, how, and at which scale: frozen values, the same for every method that is compared.

Scales: smoke (seconds, for tests), lesson (minutes on two CPU cores), full (a GPU; a modern schedule) and paper (the
published schedule: Gong et al., ECCV 2024).
"""

from __future__ import annotations

import difflib
import re
import reprlib
from dataclasses import MISSING, asdict, dataclass, fields, replace
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import numpy as np

from dfs_edu import methods
from dfs_edu.backbones import parse
from dfs_edu.data import DATASETS
from dfs_edu.data.splits import LARGEST_SIDE
from dfs_edu.surgery import Joint, Junction
from dfs_edu.training.arms import junction_from, junction_to, number, spell

# Fields that the command line can set, besides those with words of their own
NUMBERS = {
    "epochs": int,
    "batch_size": int,
    "lr": float,
    "weight_decay": float,
    "clip": float,
    "accumulate": int,
    "ema": float,
    "label_smoothing": float,
    "uncut": int,
    "frozen": int,
    "train_images": int,
    "held_out_images": int,
}
DIGITS = "[0-9a-f]{8}"  # by which a recipe names images or weights: the beginning of their checksum
SCALES = ("smoke", "lesson", "full", "paper")
MOST = 2**31 - 1  # epochs, images and the like
SEEDS = 2**63  # so many, from 0: what torch's and numpy's generators both take
LARGEST = 1e30  # of rates and lengths: far from where float32 ends
# field -> (whether a number is in its range, the range in words)
_RANGES = {
    "lr": (lambda v: 0 < v <= LARGEST, f"a learning rate above zero, at most {LARGEST:g}"),
    "momentum": (lambda v: 0 <= v < 1, "a number from 0, below 1"),
    "weight_decay": (lambda v: 0 <= v <= LARGEST, f"a number from 0 to {LARGEST:g}"),
    "clip": (lambda v: 0 < v <= LARGEST, f"a length above zero, at most {LARGEST:g}, or None"),
    "ema": (lambda v: 0 < v < 1, "a decay between 0 and 1, or None"),
    "label_smoothing": (lambda v: 0 <= v < 1, "a fraction from 0, below 1"),
}
_COUNTS = ("epochs", "batch_size", "accumulate", "train_images", "held_out_images", "pixels")


@dataclass(frozen=True)
class Recipe:
    """A training run, whole: the same recipe, machine and versions give the same network.

    uncut         the first so many epochs are trained jointly, before the junction is put in
    start         weights to start from instead, by the eight digits of start.py: `train(start=FILE)` fills it in
    frozen        in the first epochs, as many as this, only the heads move: neither a weight of the trunk does nor an
                  average of its BatchNorms
    initial       where convolutions start from: "backbone", as its builder leaves them (He's weights in ResNet and
                  MSDNet, torch's in VGG); or "torch", torch's own, with which the published MSDNet runs started
    optimizer     "sgd" with momentum, Nesterov's unless `nesterov` is False, or "adamw", which vision transformers need
                  (its betas are torch's)
    lr            peak learning rate
    clip          scale the gradient down to this length where it is longer; None: never
    accumulate    parts that a batch is computed in, one after the other, for less memory; BatchNorm sees one part
    ema           keep a moving average of the weights, of this decay, and evaluate that; None: the weights themselves
    augmentation  "crop": random crops, mirrored where the pictures allow; "autoaugment": CIFAR-10's policy and Cutout
                  of half the picture's side besides
    label_smoothing   share of the target that is spread over all classes
    schedule      "onecycle": up for a quarter of the steps, down to nearly zero (Smith and Topin, 2018);
                  "multistep": times 0.1 at each epoch of `milestones`, which may be 13.5
    train_images  use the first so many training pictures only (None: all); held_out_images: of validation and test
    pixels        side of the pictures, where the data set can be read at any; None: what the backbone was made for
    content       which images a folder holds, in eight letters, so that runs on other images have other names; None:
                  whichever are there: `train` and studies fill it in
    method        how the losses become one update of the trunk: "sum", or another one of methods/
    weights       of the losses in the sum, one for each exit; none: all 1
    step_length   of the other methods: "sum", as long a step as the sum's, so that one lr is fair; or their "own"
    loss          "cross-entropy" at each exit, or "distillation": the last exit teaches the others (losses.py)
    precision     "auto": bf16 where the machine is faster with it, else fp32; or "bf16", "fp32"
    compile       torch.compile the network: slower to start, faster a step; needs a C++ compiler on a CPU
    """

    dataset: str
    backbone: str
    scale: str
    junction: Junction = Joint()
    uncut: int = 0
    initial: str = "backbone"
    start: str | None = None
    frozen: int = 0
    seed: int = 0
    epochs: int = 1
    batch_size: int = 256
    optimizer: str = "sgd"
    lr: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    milestones: tuple[float, ...] = ()
    clip: float | None = None
    accumulate: int = 1
    ema: float | None = None
    augmentation: str = "crop"
    train_images: int | None = None
    held_out_images: int | None = None
    pixels: int | None = None
    content: str | None = None
    method: str = "sum"
    weights: tuple[float, ...] = ()
    step_length: str = "sum"
    loss: str = "cross-entropy"
    label_smoothing: float = 0.0
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self):
        _make_plain(self)
        accept = {"dataset": DATASETS, "scale": SCALES, "schedule": ("onecycle", "multistep")}
        accept |= {"loss": ("cross-entropy", "distillation"), "precision": ("auto", "bf16", "fp32")}
        accept |= {
            "initial": ("backbone", "torch"),
            "optimizer": ("sgd", "adamw"),
            "augmentation": ("crop", "autoaugment"),
        }
        for field, values in accept.items():
            if getattr(self, field) not in values:
                raise ValueError(f"{field}={getattr(self, field)!r}: use one of {', '.join(values)}")
        self._check_numbers()
        if self.pixels is not None and self.pixels > LARGEST_SIDE:
            raise ValueError(f"pixels={self.pixels!r}: at most {LARGEST_SIDE}")
        if self.content is not None and not (
            self.dataset == "folder" and isinstance(self.content, str) and re.fullmatch(DIGITS, self.content)
        ):
            raise ValueError(f"content={_shown(self.content)}: eight digits 0-9a-f of a folder's images, or None")
        if not isinstance(self.junction, Junction):
            raise TypeError(f"junction={self.junction!r}: give one junction for all exits, such as Surgery(beta=0.5)")
        _make_plain(self.junction)
        if type(self.seed) is not int or not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed={self.seed!r}: a whole number from 0, below 2**63")
        if type(self.uncut) is not int or not 0 <= self.uncut < self.epochs:
            raise ValueError(f"uncut={self.uncut!r}: a whole number from 0, below the {self.epochs} epochs of the run")
        if type(self.frozen) is not int or not 0 <= self.frozen <= self.epochs:
            raise ValueError(f"frozen={self.frozen!r}: a whole number from 0 to the {self.epochs} epochs of the run")
        if self.start is not None and not (isinstance(self.start, str) and re.fullmatch(DIGITS, self.start)):
            raise ValueError(f"start={_shown(self.start)}: eight digits 0-9a-f; a file goes to train(start=FILE)")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} parts do not divide a batch of {self.batch_size} pictures")
        method = methods.check(self.method, self.weights, self.step_length)
        if method.by_exit and not self.junction.linear:
            name = type(self.junction).__name__
            raise ValueError(f"method={self.method!r}: it pulls exits one by one, and {name} needs them together")
        if self.accumulate > 1 and not method.in_parts:
            raise ValueError(f"accumulate={self.accumulate}: {self.method} needs a whole batch for a step")
        if self.accumulate > 1 and self.loss == "distillation":
            raise ValueError(f"accumulate={self.accumulate}: distillation measures features over a whole batch")

    def _check_numbers(self) -> None:
        """Raise ValueError, naming field, value and range, for a number that is none, not finite or out of range."""
        optional = {field.name for field in fields(self) if field.default is None}
        for field in _COUNTS:
            value = getattr(self, field)
            if value is None and field in optional:
                continue
            if type(value) is not int or value < 1:
                raise ValueError(f"{field}={_shown(value)}: a whole number above zero")
            if value > MOST:
                raise ValueError(f"{field}={_shown(value)}: at most {MOST}")
        for field, (accepts, words) in _RANGES.items():
            value = getattr(self, field)
            if not (value is None and field in optional) and not (is_number(value) and accepts(value)):
                raise ValueError(f"{field}={_shown(value)}: {words}")
        if not isinstance(self.weights, tuple):
            raise ValueError(f"weights={_shown(self.weights)}: a list of numbers, one for each exit")
        if not isinstance(self.milestones, tuple) or not all(is_number(m) and m >= 0 for m in self.milestones):
            raise ValueError(f"milestones={_shown(self.milestones)}: epochs, finite numbers from 0")
        for field in ("compile", "nesterov"):
            if type(getattr(self, field)) is not bool:
                raise ValueError(f"{field}={_shown(getattr(self, field))}: True or False")

    def junction_in(self, epoch: int) -> Junction:
        """The junction of an epoch, counted from 0: the first `uncut` epochs have none."""
        return Joint() if epoch < self.uncut else self.junction

    @property
    def name(self) -> str:
        """Of the run's folder: what is compared is in it, "digits-vgg7-16-lesson-surgery-own-0.5-seed0"."""
        parts = [spell(self.junction)]
        parts += ["uncut", str(self.uncut)] if self.uncut else []
        parts += [] if self.initial == "backbone" else ["initial", self.initial]
        parts += ["start", self.start] if self.start else []
        parts += ["frozen", str(self.frozen)] if self.frozen else []
        parts += [] if self.method == "sum" else [self.method]
        parts += [] if self.step_length == "sum" else [f"{self.step_length}-step"]
        parts += ["weighted", *map(number, self.weights)] if self.weights else []
        parts += [] if self.loss == "cross-entropy" else [self.loss]
        parts += [f"pixels{self.pixels}"] if self.pixels else []
        parts += [self.content] if self.content else []
        return "-".join([self.dataset, self.backbone, self.scale, *parts, f"seed{self.seed}"])

    def to_dict(self) -> dict:
        """Plain values, as a record keeps them; `from_dict` reads them back."""
        lists = {"milestones": list(self.milestones), "weights": list(self.weights)}
        return {"name": self.name, **asdict(self), "junction": junction_to(self.junction), **lists}

    @staticmethod
    def from_dict(values: dict) -> Recipe:
        """The recipe that `to_dict` wrote, also into older records. Raises ValueError, naming the field, for others."""
        check_types(values)
        values = {key: value for key, value in values.items() if key != "name"}
        kinds = {field.name for field in fields(Recipe)}
        if unknown := set(values) - kinds:
            raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(kinds))}")
        return Recipe(**values | {"junction": junction_from(values["junction"])})


def check_types(values) -> None:
    """Raise ValueError, naming the field, where the values are not of the kinds that `Recipe.to_dict` writes.

    Whether they are in range, and whether their names are known here, is for `Recipe` to say.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a recipe is {_shown(values)}, not a dict")
    kinds = get_type_hints(Recipe)
    required = {field.name for field in fields(Recipe) if field.default is MISSING} | {"junction"}
    if missing := required - set(values):
        raise ValueError(f"a recipe without {', '.join(sorted(missing))}")
    for field, kind in kinds.items():
        if field in values and not _is_a(values[field], kind):
            raise ValueError(f"recipe, {field}={_shown(values[field])}: it is {getattr(kind, '__name__', kind)}")


def _is_a(value, kind) -> bool:
    """Whether a value from a record is of a kind that a field of `Recipe` is declared with."""
    if isinstance(kind, UnionType):
        return any(_is_a(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_is_a(one, get_args(kind)[0]) for one in value)
    if kind is Junction:
        plain = isinstance(value, dict) and all(isinstance(one, str | int | float) for one in value.values())
        return isinstance(value, str) or (plain and isinstance(value.get("name"), str))
    if kind is float:
        return is_number(value)
    return type(value) is kind and (kind is not int or -(2**63) <= value < 2**63)


def is_number(value) -> bool:
    """Whether a value from a record is a finite number."""
    return type(value) in (int, float) and -1e300 < value < 1e300  # NaN is not, nor an int that no float can hold


def _shown(value) -> str:
    """A value in an error: its beginning, since a record may hold anything."""
    return reprlib.repr(value)


def _make_plain(values) -> None:
    """Python's numbers for numpy's, with which a checkpoint could not be read back; a tuple for a list."""
    for field in fields(values):
        object.__setattr__(values, field.name, _plain(getattr(values, field.name)))


def _plain(value):
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


# dataset -> scale -> what differs from Recipe's defaults, whatever the backbone
_SETTINGS = {
    "digits": {
        "smoke": {"epochs": 1, "batch_size": 64, "train_images": 512, "held_out_images": 256},
        "lesson": {"epochs": 4, "batch_size": 128, "lr": 0.1},
        "full": {"epochs": 30},
    },
    "cifar100": {
        "smoke": {"epochs": 1, "batch_size": 64, "train_images": 512, "held_out_images": 256},
        "lesson": {"epochs": 4, "batch_size": 128, "lr": 0.1},
        "full": {"epochs": 100},
    },
    "imagenet": {
        "smoke": {"epochs": 1, "batch_size": 8, "train_images": 32, "held_out_images": 16},
        "lesson": {"epochs": 1, "batch_size": 16, "lr": 0.05, "train_images": 1024, "held_out_images": 256},
        "full": {"epochs": 30, "batch_size": 256, "weight_decay": 5e-5, "label_smoothing": 0.1, "compile": True},
    },
    "folder": {
        "smoke": {"epochs": 1, "batch_size": 32, "train_images": 256, "held_out_images": 128},
        "lesson": {"epochs": 10, "batch_size": 64, "lr": 0.1},
        "full": {"epochs": 100, "batch_size": 128, "lr": 0.1},
    },
}

# family of backbones -> its published recipe, on CIFAR-100 or ImageNet; digits and folders are trained likewise
_STEPS = {"epochs": 300, "batch_size": 500, "lr": 0.1, "schedule": "multistep", "nesterov": False}
_PLAIN = {"initial": "torch"}
_STRONG = {"augmentation": "autoaugment"}
_PUBLISHED = {
    "vgg7": {**_STEPS, **_STRONG, "weight_decay": 1e-4, "milestones": (270, 280, 295)},
    "resnet18": {**_STEPS, **_STRONG, "weight_decay": 5e-4, "milestones": (250, 280, 295), "loss": "distillation"},
    "msdnet-cifar": {**_STEPS, **_PLAIN, "weight_decay": 5e-4, "milestones": (250, 280, 295)},
    "msdnet-imagenet": {
        **_STEPS,
        **_PLAIN,
        "epochs": 90,
        "batch_size": 256,
        "weight_decay": 0.0,
        "milestones": (70, 80, 85),
    },
}
# family -> what its published network adds to the name: half of what the heads' classifiers read is dropped
_PUBLISHED_SIZES = {"msdnet-cifar": {"dropout": 50}}
# family of backbones -> what it needs that others do not, at every scale
_FAMILIES = {"vit-tiny": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}}
_MSDNET = {"imagenet": "msdnet-imagenet", "cifar100": "msdnet-cifar", "digits": "msdnet-cifar"}  # what msdnet means
_EXAMPLES = (
    "digits/vgg7-16",
    "cifar100/vgg7-64",
    "cifar100/resnet18",
    "cifar100/msdnet-cifar",
    "imagenet/msdnet-imagenet",
    "folder/vgg7-16",
)


def names() -> list[str]:
    """Recipes to begin with; every other size of these backbones has one too."""
    return list(_EXAMPLES)


def get(name: str, *, junction: Junction = Joint(), scale: str = "lesson", seed: int = 0, **changes) -> Recipe:
    """The recipe of "dataset/backbone", such as "cifar100/vgg7-64", at a scale; `changes` replace single fields.

    With another number of epochs, milestones stay at the same parts of the way, unless they are given too.
    At scale "paper", the network is the published one as well: heads of MSDNet on CIFAR-100 drop half in training.
    "msdnet" alone is the one for the data set's pictures: "imagenet/msdnet", "cifar100/msdnet-base2-step1".

    Raises ValueError for an unknown name (with the nearest known ones), scale or field, a value out of range, and for
    scale "paper" where no published recipe is known here for the backbone on such images.

    >>> recipe = get("cifar100/resnet18", scale="paper", epochs=30)
    >>> recipe.lr, recipe.milestones, recipe.name
    (0.1, (25, 28, 29.5), 'cifar100-resnet18-paper-joint-distillation-seed0')
    """
    dataset, _, backbone = name.partition("/")
    backbone = re.sub(r"^msdnet(?!-cifar|-imagenet)", _MSDNET.get(dataset, "msdnet"), backbone)
    if dataset not in _SETTINGS or not backbone:
        near = difflib.get_close_matches(name, names(), n=2, cutoff=0.3) or names()
        raise ValueError(f"recipe {name!r} is not known; did you mean {' or '.join(near)}?")
    family, sizes = parse(backbone)
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r}: use one of {', '.join(SCALES)}")
    unknown = set(changes) - {field.name for field in fields(Recipe)}
    if unknown:
        known = ", ".join(field.name for field in fields(Recipe))
        raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}; it has {known}")
    large = dataset == "imagenet"
    if scale == "paper" and (family not in _PUBLISHED or large != (family == "msdnet-imagenet")):
        known = [name for name in _PUBLISHED if large == (name == "msdnet-imagenet")]
        named = ", ".join(known)
        raise ValueError(f"scale='paper': no published recipe here for {family} on {dataset}; there is one for {named}")
    if scale == "paper":
        added = {size: n for size, n in _PUBLISHED_SIZES.get(family, {}).items() if size not in sizes}
        backbone = "-".join([backbone, *(f"{size}{n}" for size, n in added.items())])
    settings = _PUBLISHED[family] if scale == "paper" else _SETTINGS[dataset][scale] | _FAMILIES.get(family, {})
    recipe = Recipe(dataset, backbone, scale, junction, seed=seed, **settings | changes)
    if recipe.milestones and "milestones" not in changes:
        squeezed = [m * recipe.epochs / settings["epochs"] for m in settings["milestones"]]
        recipe = replace(recipe, milestones=tuple(int(m) if m == int(m) else m for m in squeezed))
    return recipe
