"""Recipes are values: complete, checked early, and the same after a trip through a record."""

import json
import math
import re
import reprlib
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

import dfs_edu as dfs
from dfs_edu.training.optim import make_optimizer
from dfs_edu.training.recipes import SCALES, Recipe, get, names


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["digits/vgg7-16", "cifar100/vgg7-64", "cifar100/vgg7-5"])
@pytest.mark.parametrize(
    "junction", [dfs.Joint(), dfs.Detached(), dfs.Equilibrium(), dfs.Surgery(0.25, exit_gradient="all")]
)
def test_a_recipe_comes_back_from_its_record(name, scale, junction):
    recipe = get(name, junction=junction, scale=scale, seed=3)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_what_is_compared_is_in_the_name():
    junctions = [
        dfs.Joint(),
        dfs.Detached(),
        dfs.Equilibrium(),
        dfs.Surgery(),
        dfs.Surgery(0.25),
        dfs.Surgery(reference=False),
        dfs.Surgery(exit_gradient="all"),
        dfs.Surgery(scales="all"),
    ]
    found = {
        get(n, junction=j, scale=s, seed=i).name for n in names() for j in junctions for s in SCALES for i in (0, 1)
    }
    assert len(found) == len(names()) * 8 * 4 * 2
    assert get("digits/vgg7-16").name == "digits-vgg7-16-lesson-joint-seed0"


@pytest.mark.parametrize(
    ("backbone", "weight_decay", "milestones", "loss"),
    [
        ("vgg7-64", 1e-4, (270, 280, 295), "cross-entropy"),
        ("resnet18", 5e-4, (250, 280, 295), "distillation"),
        ("msdnet-cifar-dropout50", 5e-4, (250, 280, 295), "cross-entropy"),
    ],
)
def test_the_published_recipes(backbone, weight_decay, milestones, loss):
    recipe = get(f"cifar100/{backbone}", scale="paper")
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum) == (300, 500, 0.1, 0.9)
    assert (recipe.weight_decay, recipe.schedule, recipe.milestones) == (weight_decay, "multistep", milestones)
    assert recipe.loss == loss


def test_a_vision_transformer_is_trained_by_adamw_at_every_scale_of_ours():
    for scale in ("smoke", "lesson", "full"):
        recipe = get("digits/vit-tiny-pixels32-patch8", scale=scale)
        assert (recipe.optimizer, recipe.lr) == ("adamw", 1e-3)
        assert get("digits/vgg7-16", scale=scale).optimizer == "sgd"
        assert get("digits/vit-tiny-pixels32-patch8", scale=scale, optimizer="sgd", lr=0.1).optimizer == "sgd"


def test_a_recipe_is_frozen():
    with pytest.raises(FrozenInstanceError):
        get("digits/vgg7-16").lr = 1


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("digits/vgg7", {}, "did you mean vgg7-64"),
        ("cifar/vgg7-64", {}, "did you mean cifar100/vgg7-64"),
        ("digits/vgg7-0", {}, "width=0 is not a whole number above zero"),
        ("digits/vgg7-16", {"scale": "tiny"}, "scale='tiny': use one of smoke, lesson, full, paper"),
        ("digits/vgg7-16", {"epoch": 3}, "a recipe has no epoch"),
        ("digits/vgg7-16", {"epochs": 0}, "epochs=0: a whole number from 1"),
        ("digits/vgg7-16", {"batch_size": 2.5}, "batch_size=2.5"),
        ("digits/vgg7-16", {"train_images": True}, "train_images=True"),
        ("digits/vgg7-16", {"seed": -1}, "seed=-1: a whole number from 0"),
        ("digits/vgg7-16", {"lr": 0}, "lr=0: a number above 0"),
        ("digits/vgg7-16", {"lr": float("nan")}, "lr=nan"),
        ("digits/vgg7-16", {"precision": "fp16"}, "precision='fp16': use one of auto, bf16, fp32"),
        ("digits/vgg7-16", {"schedule": "cosine"}, "schedule='cosine'"),
        ("digits/vgg7-16", {"optimizer": "adam"}, "optimizer='adam': use one of sgd, adamw"),
        ("digits/vgg7-16", {"loss": "hinge"}, "loss='hinge': use one of cross-entropy, distillation"),
        (
            "cifar100/vit-tiny",
            {"scale": "paper"},
            "no published recipe here for vit-tiny on cifar100; there is one for vgg7",
        ),
        ("cifar100/vgg7-64-depth3", {}, "vgg7 has no size 'depth'; it has width"),
        ("cifar100/", {}, "is not known"),
    ],
)
def test_a_wrong_recipe_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        get(name, **changes)


NUMBERS = "lr momentum weight_decay clip ema label_smoothing"
COUNTS = "seed epochs batch_size accumulate train_images held_out_images pixels uncut"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 1e31, 10**400, True, "0.1", (0.1,), 1 + 1j])
@pytest.mark.parametrize("field", NUMBERS.split())
def test_an_invalid_number_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}={re.escape(reprlib.repr(value))}: .*(above|from|between)"):
        get("digits/vgg7-16", **{field: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1.5, True, "3", 10**20, [3]])
@pytest.mark.parametrize("field", COUNTS.split())
def test_an_invalid_count_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}="):
        get("digits/vgg7-16", **{field: value})


@pytest.mark.parametrize("field", ["weights", "milestones"])
@pytest.mark.parametrize("value", [[1, math.inf], [math.nan], [-1, 2], ["1"], [True], "12", 3, None])
def test_an_invalid_list_of_numbers_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}="):
        get("digits/vgg7-16", **{field: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, True, "0.5"])
def test_beta_is_named(value):
    with pytest.raises((ValueError, TypeError), match="beta"):
        get("digits/vgg7-16", junction=dfs.Surgery(beta=value))


def test_numbers_at_the_ends_of_their_ranges_are_taken():
    get("digits/vgg7-16", lr=1e6, weight_decay=0, momentum=0, seed=2**63 - 1, label_smoothing=0, clip=1, ema=0.999)


def test_a_shorter_published_run_keeps_the_shape_of_its_schedule():
    assert get("cifar100/vgg7-64", scale="paper", epochs=30).milestones == (27, 28, 29.5)
    assert get("cifar100/vgg7-64", scale="paper", epochs=30, milestones=(5, 6)).milestones == (5, 6)
    assert get("cifar100/vgg7-64", scale="full", epochs=30).milestones == ()
    squeezed = get("cifar100/vgg7-64", scale="paper", epochs=20)
    assert Recipe.from_dict(squeezed.to_dict()) == squeezed


@pytest.mark.parametrize("junction", ["surgery", dfs.Surgery, [dfs.Surgery()]])
def test_a_recipe_takes_one_junction(junction):
    with pytest.raises(TypeError, match="one junction for all exits"):
        get("digits/vgg7-16", junction=junction)


def test_the_error_for_an_unknown_field_lists_the_fields():
    with pytest.raises(ValueError, match=r"no epoch; it has .*\bepochs\b"):
        get("digits/vgg7-16", epoch=3)


def test_published_schedules_depend_on_the_data_set():
    with pytest.raises(
        ValueError, match="no published recipe here for vgg7 on imagenet; there is one for msdnet-imagenet"
    ):
        get("imagenet/vgg7-16", scale="paper")


def test_numbers_of_numpy_and_lists_become_plain_ones():
    """A checkpoint holds no others: it would be written, and not read back."""
    numbers = {
        "lr": np.float64(0.05),
        "epochs": np.int64(2),
        "batch_size": np.int32(32),
        "weights": [np.float32(1)] * 6,
    }
    recipe = get("digits/vgg7-16", junction=dfs.Surgery(beta=np.linspace(0, 1, 5)[2]), **numbers)
    values = [recipe.lr, recipe.epochs, recipe.batch_size, recipe.weights, *recipe.weights, recipe.junction.beta]
    assert [type(v) for v in values] == [float, int, int, tuple, *[float] * 6, float]
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert hash(recipe) == hash(
        get("digits/vgg7-16", junction=dfs.Surgery(0.5), lr=0.05, epochs=2, batch_size=32, weights=(1,) * 6)
    )


def test_distillation_needs_the_whole_batch():
    with pytest.raises(ValueError, match="accumulate=2: distillation"):
        get("digits/vgg7-16", loss="distillation", accumulate=2)


def test_paper_is_the_published_network_start_and_momentum():
    msdnet = get("cifar100/msdnet", scale="paper")
    assert (msdnet.backbone, msdnet.initial, msdnet.nesterov) == ("msdnet-cifar-dropout50", "torch", False)
    assert get("cifar100/msdnet-dropout0", scale="paper").backbone == "msdnet-cifar-dropout0"  # what is said stands
    assert get("imagenet/msdnet", scale="paper").backbone == "msdnet-imagenet"
    for name in "vgg7-64", "resnet18":
        recipe = get(f"cifar100/{name}", scale="paper")
        assert (recipe.backbone, recipe.initial, recipe.nesterov) == (name, "backbone", False)
    assert get("cifar100/msdnet", scale="lesson").backbone == "msdnet-cifar"
    weight = torch.nn.Parameter(torch.zeros(1))
    for recipe, nesterov in (msdnet, False), (get("cifar100/msdnet"), True):
        assert make_optimizer([weight], recipe).defaults["nesterov"] is nesterov


def test_an_older_record_had_nesterov_s_momentum_and_the_backbone_s_own_weights():
    values = get("cifar100/msdnet", scale="lesson").to_dict()
    del values["nesterov"], values["initial"]
    recipe = Recipe.from_dict(values)
    assert (recipe.nesterov, recipe.initial) == (True, "backbone")
    assert "initial" not in recipe.name
    assert get("cifar100/msdnet", initial="torch").name == "cifar100-msdnet-cifar-lesson-joint-initial-torch-seed0"
