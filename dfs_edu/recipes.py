"""What to train, how, and at which scale: frozen values, the same for every method that is compared.

Scales: smoke (seconds, for tests), lesson (minutes on two CPU cores), full (a GPU; a modern schedule) and paper (the
published schedule: Gong et al., ECCV 2024; the AutoAugment and Cutout of its VGG and ResNet are not in this recipe).
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields, replace

from dfs_edu.backbones import parse
from dfs_edu.data import DATASETS
from dfs_edu.surgery import Joint, Junction, junction_from, junction_to

SCALES = ("smoke", "lesson", "full", "paper")


@dataclass(frozen=True)
class Recipe:
    """A training run, whole: the same recipe, machine and versions give the same network.

    optimizer     "sgd" with Nesterov momentum, or "adamw", which vision transformers need (its betas are torch's)
    lr            peak learning rate
    schedule      "onecycle": up for a quarter of the steps, down to nearly zero (Smith and Topin, 2018);
                  "multistep": times 0.1 at each epoch of `milestones`
    train_images  use the first so many training pictures only (None: all); held_out_images: of validation and test
    loss          "cross-entropy" at each exit, or "distillation": the last exit teaches the others (losses.py)
    precision     "auto": bf16 where the machine is faster with it, else fp32; or "bf16", "fp32"
    compile       torch.compile the network: slower to start, faster a step; needs a C++ compiler on a CPU
    """

    dataset: str
    backbone: str
    scale: str
    junction: Junction = Joint()
    seed: int = 0
    epochs: int = 1
    batch_size: int = 256
    optimizer: str = "sgd"
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    milestones: tuple[int, ...] = ()
    train_images: int | None = None
    held_out_images: int | None = None
    loss: str = "cross-entropy"
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self):
        accept = {"dataset": DATASETS, "scale": SCALES, "schedule": ("onecycle", "multistep")}
        accept |= {"loss": ("cross-entropy", "distillation"), "precision": ("auto", "bf16", "fp32")}
        accept |= {"optimizer": ("sgd", "adamw")}
        for field, values in accept.items():
            if getattr(self, field) not in values:
                raise ValueError(f"{field}={getattr(self, field)!r}: use one of {', '.join(values)}")
        for field in ("epochs", "batch_size", "train_images", "held_out_images"):
            value = getattr(self, field)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{field}={value!r}: a whole number above zero")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed={self.seed!r}: a whole number from 0")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr!r}: a learning rate above zero")

    @property
    def name(self) -> str:
        """Of the run's folder: what is compared is in it, "digits-vgg7-16-lesson-surgery-own-0.5-seed0"."""
        options = junction_to(self.junction)
        parts = [options.pop("name")]
        if parts == ["surgery"]:
            parts += [options["exit_gradient"], f"{options['beta']:g}"]
            parts += [] if options["reference"] else ["partition"]
            parts += [] if options["scales"] == "last" else ["scales"]
        parts += [] if self.loss == "cross-entropy" else [self.loss]
        return "-".join([self.dataset, self.backbone, self.scale, *parts, f"seed{self.seed}"])

    def to_dict(self) -> dict:
        """Plain values, as a record keeps them; `from_dict` reads them back."""
        values = asdict(self) | {"junction": junction_to(self.junction), "milestones": list(self.milestones)}
        return {"name": self.name, **values}

    @staticmethod
    def from_dict(values: dict) -> Recipe:
        values = {key: value for key, value in values.items() if key != "name"}
        values |= {"junction": junction_from(values["junction"]), "milestones": tuple(values["milestones"])}
        return Recipe(**values)


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
}

# family of backbones -> its published recipe on CIFAR-100; the paper's digits are trained likewise
_STEPS = {"epochs": 300, "batch_size": 500, "lr": 0.1, "schedule": "multistep"}
_PUBLISHED = {
    "vgg7": {**_STEPS, "weight_decay": 1e-4, "milestones": (270, 280, 295)},
    "resnet18": {**_STEPS, "weight_decay": 5e-4, "milestones": (250, 280, 295), "loss": "distillation"},
    "msdnet-cifar": {**_STEPS, "weight_decay": 5e-4, "milestones": (250, 280, 295)},
}
# family of backbones -> what it needs that others do not, at every scale
_FAMILIES = {"vit-tiny": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}}
_EXAMPLES = ("digits/vgg7-16", "cifar100/vgg7-64", "cifar100/resnet18", "cifar100/msdnet-cifar")


def names() -> list[str]:
    """Recipes to begin with; every other size of these backbones has one too."""
    return list(_EXAMPLES)


def get(name: str, *, junction: Junction = Joint(), scale: str = "lesson", seed: int = 0, **changes) -> Recipe:
    """The recipe of "dataset/backbone", such as "cifar100/vgg7-64", at a scale; `changes` replace single fields.

    Raises ValueError for an unknown name (with the nearest known ones), scale or field, a value out of range, and for
    scale "paper" of a backbone whose published recipe is for other pictures.
    """
    dataset, _, backbone = name.partition("/")
    if dataset not in _SETTINGS or not backbone:
        near = difflib.get_close_matches(name, names(), n=2, cutoff=0.3) or names()
        raise ValueError(f"recipe {name!r} is not known; did you mean {' or '.join(near)}?")
    family, _ = parse(backbone)
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r}: use one of {', '.join(SCALES)}")
    unknown = set(changes) - {field.name for field in fields(Recipe)}
    if unknown:
        raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}")
    if scale == "paper" and family not in _PUBLISHED:
        raise ValueError(f"scale='paper': {family} was not published on such pictures; {', '.join(_PUBLISHED)} were")
    settings = _PUBLISHED[family] if scale == "paper" else _SETTINGS[dataset][scale] | _FAMILIES.get(family, {})
    return replace(Recipe(dataset, backbone, scale, junction, seed, **settings), **changes)
