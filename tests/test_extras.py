"""What needs no optional dependency works without any; what needs one names the extra that brings it."""

import subprocess
import tomllib
from pathlib import Path

import pytest
from warm import python

from dfs_edu.extras import EXTRAS, MissingExtra, need

ROOT = Path(__file__).parents[1]

# As if none of them were installed; what is imported before cannot hide an import at the top of a module
HIDDEN = f"""
import sys
for name in {sorted(EXTRAS)!r}:
    sys.modules[name] = None
"""
CORE = (
    HIDDEN
    + """
import torch
import dfs_edu as dfs

net = dfs.build("vgg7-4", classes=10, junction=dfs.Surgery(beta=0.5))
x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
assert dfs.probes.conflict(net, x, y).cosine.shape[1:] == (6, 6)
assert len(dfs.probes.cost(net).macs) == 6
labels, exits = dfs.inference.EarlyExit(net.eval(), [0.5] * 5 + [0.0])(x)
assert labels.shape == exits.shape == (8,)
for name in "resnet18-width4", "msdnet-cifar-blocks2-base1":
    dfs.build(name, classes=10, junction=dfs.Detached())
run = dfs.train(dfs.recipes.get("digits/vgg7-4", scale="smoke", train_images=64), out=None, progress=False)
assert len(run.record["final"]["test_accuracy"]) == 6
import dfs_edu.figures, dfs_edu.widgets.explorer, dfs_edu.course
"""
)
NEEDS = {
    "methods": 'dfs_edu.methods.make("upgrad", 3).weights(torch.eye(3).double())',
    "cluster": 'import dfs_edu.training.cluster; dfs_edu.training.cluster.connected("local").__enter__()',
    "vision": 'dfs_edu.build("vit-tiny", 10)',
    "export": 'dfs_edu.inference.exporting.export(dfs_edu.build("vgg7-4", 10), "exported", classes=list("0123456789"), '
    "mean=[0.0] * 3, std=[1.0] * 3, thresholds=[0.5] * 5 + [0.0])",
}


def alone(code: str, folder) -> subprocess.CompletedProcess:
    return subprocess.run([*python(), "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_the_core_works_without_any_extra(tmp_path):
    done = alone(CORE, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("extra", "code"), NEEDS.items())
def test_what_needs_an_extra_names_it(extra, code, tmp_path):
    done = alone(f"{HIDDEN}\nimport torch, dfs_edu, dfs_edu.methods, dfs_edu.inference.exporting\n{code}", tmp_path)
    assert f"which is not installed: pip install 'dfs-edu[{extra}]'" in done.stderr.splitlines()[-1]
    assert "MissingExtra" in done.stderr


def test_the_command_line_reports_it_in_one_line(tmp_path):
    done = alone(f"{HIDDEN}\nfrom dfs_edu.cli import main\nsys.exit(main(['costs', 'vit-tiny']))", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("dfs-edu: this needs timm, which is not installed")


def test_every_optional_module_belongs_to_an_extra_that_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in EXTRAS.items():
        assert any(requirement.startswith(f"{module.replace('_', '-')}>=") for requirement in extras[extra]), module


def test_an_error_of_another_kind_is_not_taken_for_a_missing_extra():
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as error:
        need("no_such_module")
    assert not isinstance(error.value, MissingExtra)
    assert need("json").loads("1") == 1
