"""What to train, how, and at which scale: frozen values, equal for all methods that are compared.

Scales: smoke (seconds, for tests), lesson (minutes on two CPU cores), full (a GPU and a modern schedule) and paper (the
published schedule: Gong et al., ECCV 2024).

A field of `Recipe` holds its type, range and default, and its docstring the help: checks, records and the command line
derive from these.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from annotated_types import Interval

from dfs_edu import losses, methods
from dfs_edu.backbones import parse
from dfs_edu.data import DATASETS
from dfs_edu.data.mixing import Mixing
from dfs_edu.data.splits import LARGEST_SIDE
from dfs_edu.losses import Loss
from dfs_edu.surgery import Joint, Junction
from dfs_edu.training import arms
from dfs_edu.training.fields import accepts, check, field_types, make_plain

DIGITS = "[0-9a-f]{8}"  # how a recipe names images or weights: the first digits of their checksum
MOST = 2**31 - 1
LARGEST = 1e30  # of rates and lengths: far from where float32 ends

Scale = Literal["smoke", "lesson", "full", "paper"]
SCALES = get_args(Scale)
SMOKE: Scale = "smoke"  # everything runs, and no number means anything
Count = Annotated[int, Interval(ge=1, le=MOST)]
Epochs = Annotated[int, Interval(ge=0, le=MOST)]
Length = Annotated[float, Interval(gt=0, le=LARGEST)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True)
class Recipe:
    """A whole training run: the same recipe, machine and versions give the same network.

    Attributes:
        dataset: Which images.
        backbone: The network, and its sizes.
        scale: How much work: seconds, minutes, hours of a GPU, as published.
        junction: The junction at every exit, see surgery.py and cuts/.
        uncut: Number of epochs of joint training before the junction is inserted.
        initial: What convolutions start from: "backbone" leaves them as the builder does (He's weights in ResNet and
            MSDNet, torch's in VGG); "torch" draws them as torch does, as the published MSDNet runs did.
        start: First digits of the checksum of the weights to start from (see start.py); `train(start=FILE)` fills it
            in.
        frozen: Number of epochs at the beginning in which only the heads are trained: the trunk's weights and the
            running averages of its BatchNorm layers do not change.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        epochs: Passes over the training images.
        batch_size: Images per update.
        optimizer: "sgd" has momentum; "adamw" is what vision transformers need (its betas are torch's).
        lr: Peak learning rate.
        momentum: Momentum of "sgd".
        nesterov: Nesterov's momentum; the published runs used plain momentum.
        weight_decay: L2 penalty on the weights, with "adamw" decoupled from the gradient.
        schedule: "onecycle" raises the learning rate for a quarter of the steps, then lowers it to nearly zero (Smith
            and Topin, 2018); "multistep" multiplies it by 0.1 at each milestone.
        milestones: Epochs at which "multistep" lowers the learning rate; 13.5 is in the middle of an epoch.
        clip: Maximum length of the gradient; a longer one is scaled down to it. None: no clipping.
        accumulate: Number of parts in which a batch is computed, one after the other, to save memory; BatchNorm sees
            one part at a time.
        ema: Decay of a moving average of the weights, which is evaluated in their place. None: no average.
        augmentation: "crop" is random crops, mirrored where the images allow; "autoaugment" adds CIFAR-10's policy and
            Cutout of half the image's side.
        mixing: "mixup" trains on weighted means of two images, "cutmix" on images with a rectangle of another one;
            labels are mixed alike (data/mixing.py).
        train_images: Number of training images to use. None: all.
        held_out_images: Number of validation images, and of test images, to use. None: all.
        pixels: Side of the images, if the data set can be read at any size. None: what the backbone was made for.
        content: First digits of the checksum of a folder's images, so that runs on other images have other names;
            `train` and studies fill it in.
        method: How the losses become one update of the trunk: "sum", or the name of another of methods/, such as
            "pcgrad", "bdl" or "mixed-2".
        weights: Weights of the losses in the sum, one for each exit. Empty: all are 1.
        step_length: With other methods than the sum: a step as long as the sum's, so that one learning rate is fair to
            all, or the method's own.
        loss: "cross-entropy" at each exit; "distillation" lets the last exit teach the others; more in losses/.
        label_smoothing: Share of the target that is spread over all classes.
        precision: "auto" is bf16 where the machine is faster with it, else fp32.
        compile: Compile the network with torch.compile: a slow start, then faster steps. Needs a C++ compiler on a CPU.
    """

    dataset: str
    backbone: str
    scale: Scale
    junction: Junction = Joint()
    uncut: Epochs = 0
    initial: Literal["backbone", "torch"] = "backbone"
    start: str | None = None
    frozen: Epochs = 0
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 0  # what the generators of torch and numpy both accept
    epochs: Count = 1
    batch_size: Count = 256
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Length = 0.2
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Interval(ge=0, le=LARGEST)] = 5e-4
    schedule: Literal["onecycle", "multistep"] = "onecycle"
    milestones: tuple[Annotated[float, Interval(ge=0)], ...] = ()
    clip: Length | None = None
    accumulate: Count = 1
    ema: Annotated[float, Interval(gt=0, lt=1)] | None = None
    augmentation: Literal["crop", "autoaugment"] = "crop"
    mixing: Mixing = "none"
    train_images: Count | None = None
    held_out_images: Count | None = None
    pixels: Annotated[int, Interval(ge=1, le=LARGEST_SIDE)] | None = None
    content: str | None = None
    method: str = "sum"
    weights: tuple[float, ...] = ()
    step_length: Literal["sum", "own"] = "sum"
    loss: Loss = "cross-entropy"
    label_smoothing: Fraction = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False

    def __post_init__(self):
        names = [field.name for field in fields(self)]
        make_plain(self, names)
        if not isinstance(self.junction, Junction):
            raise TypeError(f"junction={self.junction!r}: give one junction for all exits, such as Surgery(beta=0.5)")
        make_plain(self.junction, [field.name for field in fields(self.junction)])
        for name in names:
            if name != "junction":
                check(name, getattr(self, name), field_types(Recipe)[name])
        self._check_together()

    def _check_together(self) -> None:
        """Raise ValueError for values that are accepted by themselves, but not together."""
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset={self.dataset!r}: use one of {', '.join(DATASETS)}")
        if self.content is not None and not (self.dataset == "folder" and re.fullmatch(DIGITS, self.content)):
            raise ValueError(f"content={reprlib.repr(self.content)}: eight digits 0-9a-f of a folder's images, or None")
        if self.start is not None and not re.fullmatch(DIGITS, self.start):
            raise ValueError(f"start={reprlib.repr(self.start)}: eight digits 0-9a-f; a file goes to train(start=FILE)")
        if self.uncut >= self.epochs:
            raise ValueError(f"uncut={self.uncut}: fewer than the {self.epochs} epochs of the run")
        if self.frozen > self.epochs:
            raise ValueError(f"frozen={self.frozen}: at most the {self.epochs} epochs of the run")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} parts do not divide a batch of {self.batch_size} images")
        method = methods.check(self.method, self.weights, self.step_length, self.epochs)
        if method.by_exit and not self.junction.linear:
            name = type(self.junction).__name__
            raise ValueError(f"method={self.method!r}: it pulls exits one by one, and {name} needs them together")
        for field in fields(self):
            if field.name in method.refuses and (value := getattr(self, field.name)) != field.default:
                raise ValueError(f"{field.name}={value!r}: {self.method} works with {field.default!r} only")
        if self.accumulate > 1 and not method.in_parts:
            raise ValueError(f"accumulate={self.accumulate}: {self.method} needs a whole batch for a step")
        if self.accumulate > 1 and not losses.in_parts(self.loss):
            raise ValueError(f"accumulate={self.accumulate}: {self.loss} is measured over a whole batch")

    def junction_in(self, epoch: int) -> Junction:
        """Return the junction of an epoch, counted from 0: the first `uncut` epochs are trained jointly."""
        return Joint() if epoch < self.uncut else self.junction

    @property
    def answers(self) -> str:
        """What exits answer, a rule of answers.py: their own logits, unless the loss is "boosted"."""
        return losses.answers_of(self.loss)

    @property
    def name(self) -> str:
        """Name of the run's folder with all that studies compare, "digits-vgg7-16-lesson-surgery-own-0.5-seed0"."""
        return "-".join([self.dataset, self.backbone, self.scale, *arms.words(self), f"seed{self.seed}"])

    def to_dict(self) -> dict:
        """Return plain values, as a record keeps them; `from_dict` reads them back."""
        lists = {"milestones": list(self.milestones), "weights": list(self.weights)}
        return {"name": self.name, **asdict(self), "junction": arms.junction_to(self.junction), **lists}

    @staticmethod
    def from_dict(values: dict) -> Recipe:
        """Return the recipe that `to_dict` wrote, also into older records.

        Raises:
            ValueError: These are not the values of a recipe; the message names the field.
        """
        check_types(values)
        values = {key: value for key, value in values.items() if key != "name"}
        names = {field.name for field in fields(Recipe)}
        if unknown := set(values) - names:
            raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(names))}")
        values["junction"] = arms.junction_from(values["junction"])
        return Recipe(**values)


def check_types(values: Any) -> None:
    """Raise ValueError, naming the field, unless the values have the types that `Recipe.to_dict` writes.

    Ranges and names are not checked: a record may come from a version, or a plugin, that knows others.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a recipe is {reprlib.repr(values)}, not a dict")
    required = {field.name for field in fields(Recipe) if field.default is MISSING} | {"junction"}
    if missing := required - set(values):
        raise ValueError(f"a recipe without {', '.join(sorted(missing))}")
    for name, annotation in field_types(Recipe).items():
        junction = name == "junction"
        if name in values and not (
            arms.is_written(values[name]) if junction else accepts(values[name], annotation, False)
        ):
            raise ValueError(f"recipe, {name}={reprlib.repr(values[name])}: of another type")


# dataset -> scale -> what differs from Recipe's defaults, whatever the backbone
_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
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

# family of backbones -> its published recipe, on CIFAR-100 or ImageNet; digits and folders are trained in the same way
_STEPS: dict[str, Any] = {"epochs": 300, "batch_size": 500, "lr": 0.1, "schedule": "multistep", "nesterov": False}
_PLAIN = {"initial": "torch"}
_STRONG = {"augmentation": "autoaugment"}
_PUBLISHED: dict[str, dict[str, Any]] = {
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
# family -> what its published network adds to the name: dropout in front of the heads' classifiers
_PUBLISHED_SIZES = {"msdnet-cifar": {"dropout": 50}}
# family of backbones -> what it needs at every scale, unlike others
_FAMILIES: dict[str, dict[str, Any]] = {"vit-tiny": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}}
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
    """Return recipes to begin with; every other size of these backbones has one, too."""
    return list(_EXAMPLES)


def get(name: str, *, junction: Junction = Joint(), scale: str = "lesson", seed: int = 0, **changes: Any) -> Recipe:
    """Return the recipe of "dataset/backbone", such as "cifar100/vgg7-64", at a scale.

    Args:
        name: "msdnet" alone stands for the one for the data set's images: "imagenet/msdnet", "digits/msdnet-base2".
        junction: The junction at every exit.
        scale: One of `SCALES`. At "paper" the network is the published one as well: on CIFAR-100, the heads of MSDNet
            drop half of what they read during training.
        seed: See `Recipe`.
        **changes: Single fields of `Recipe`. With another number of epochs, milestones stay at the same fractions of
            the run, unless they are given, too.

    Raises:
        ValueError: Unknown name (the message has the nearest known ones), scale or field; a value out of range; scale
            "paper" without a published recipe for the backbone on such images.

    >>> recipe = get("cifar100/resnet18", scale="paper", epochs=30)
    >>> recipe.lr, recipe.milestones, recipe.name
    (0.1, (25, 28, 29.5), 'cifar100-resnet18-paper-joint-distillation-seed0')
    """
    dataset, _, backbone = name.partition("/")
    backbone = re.sub(r"^msdnet(?!-cifar|-imagenet)", _MSDNET.get(dataset, "msdnet"), backbone)
    if dataset not in _SETTINGS or not backbone:
        near = difflib.get_close_matches(name, names(), n=2, cutoff=0.3) or names()
        raise ValueError(f"recipe {name!r} is not known; did you mean {' or '.join(near)}?")
    family, _ = parse(backbone)
    check("scale", scale, Scale)
    known = [field.name for field in fields(Recipe)]
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"a recipe has no {', '.join(unknown)}; it has {', '.join(known)}")

    if scale == "paper":
        backbone, settings = _published(dataset, backbone)
    else:
        settings = _SETTINGS[dataset][scale] | _FAMILIES.get(family, {})
    values: dict[str, Any] = {"scale": scale, "junction": junction, "seed": seed, **settings, **changes}
    recipe = Recipe(dataset, backbone, **values)
    if recipe.milestones and "milestones" not in changes:
        squeezed = [m * recipe.epochs / settings["epochs"] for m in settings["milestones"]]
        recipe = replace(recipe, milestones=tuple(int(m) if m == int(m) else m for m in squeezed))
    return recipe


def _published(dataset: str, backbone: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the published network, and the settings that it was trained with."""
    family, sizes = parse(backbone)
    large = dataset == "imagenet"
    known = [name for name in _PUBLISHED if large == (name == "msdnet-imagenet")]
    if family not in known:
        there = ", ".join(known)
        raise ValueError(f"scale='paper': no published recipe here for {family} on {dataset}; there is one for {there}")
    added = {size: n for size, n in _PUBLISHED_SIZES.get(family, {}).items() if size not in sizes}
    return "-".join([backbone, *(f"{size}{n}" for size, n in added.items())]), _PUBLISHED[family]
