"""The doctor's report: every check answers, faults are found, and only what is essential changes the exit status."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dfs_edu import data
from dfs_edu.commands.notebooks import doctor as command
from dfs_edu.course import doctor
from dfs_edu.course.doctor import ADVICE, MISSING, OK, Check


@pytest.fixture
def fast(monkeypatch):
    """The slow measurement of bf16, replaced, on a machine that has instructions for it."""
    monkeypatch.setattr("dfs_edu.training.device.bf16_pays", lambda device: True)
    monkeypatch.setattr(doctor, "_matmul_seconds", lambda device, dtype: 1.0 if "float32" in str(dtype) else 0.5)


def by_name(checks) -> dict[str, Check]:
    return {check.name: check for check in checks}


def without(monkeypatch, missing: str) -> None:
    """Make `import missing` fail as if it were not installed."""
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, missing, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


def test_a_working_machine_is_reported_as_one(fast, capsys):
    assert command() == 0
    shown = capsys.readouterr().out
    names = "python torch torchvision gpu bf16 cores memory disk digits cifar100 jupyter kernel chromium"
    assert all(f" {name} " in shown for name in names.split())
    assert "0.50 of its fp32 time" in shown


def test_every_problem_says_what_to_do(fast):
    for check in doctor.report():
        assert check.found
        assert bool(check.todo) == (check.state != OK), check


def test_a_missing_torchvision_is_essential_and_does_not_end_the_report(fast, monkeypatch, capsys):
    without(monkeypatch, "torchvision")
    assert command() == 1
    shown = capsys.readouterr().out
    assert "missing  torchvision  ModuleNotFoundError" in shown
    assert "chromium" in shown


def test_torchvision_of_another_torch_is_found(monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision, "__version__", "0.20.1")
    check = doctor._torchvision()
    assert check.state == MISSING
    assert "pip install" in check.todo


@pytest.mark.parametrize(("torch", "torchvision"), [("2.14.1+cu130", "0.29"), ("2.9.1", "0.24"), ("2.9.0+cpu", "0.24")])
def test_matching_versions(torch, torchvision):
    assert doctor.matching_torchvision(torch) == torchvision


def test_an_unknown_torch_is_named():
    with pytest.raises(ValueError, match=r"torch 3\.0\.0"):
        doctor.matching_torchvision("3.0.0")


def test_bf16_is_not_timed_where_it_would_be_emulated(monkeypatch):
    """Emulated products of that size take a minute of CPU on two cores."""
    monkeypatch.setattr("dfs_edu.training.device.bf16_pays", lambda device: False)
    monkeypatch.setattr(doctor, "_matmul_seconds", None)
    check = doctor._bf16()
    assert (check.state, check.todo) == (ADVICE, "train in fp32 on this machine")


def test_slow_bf16_is_advice(monkeypatch):
    monkeypatch.setattr("dfs_edu.training.device.bf16_pays", lambda device: True)
    monkeypatch.setattr(doctor, "_matmul_seconds", lambda device, dtype: 2.0 if "bfloat16" in str(dtype) else 1.0)
    assert doctor._bf16().state == ADVICE


def test_cifar100_is_found_or_the_searched_places_are_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("DFS_EDU_DATA", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "places", lambda root=None: [tmp_path / "mine"])
    check = doctor._cifar100()
    assert check.state == ADVICE
    assert str(tmp_path / "mine") in check.todo
    assert "dfs-edu download cifar100" in check.todo
    (tmp_path / "mine" / data.cifar100.FOLDER).mkdir(parents=True)
    check = doctor._cifar100()
    assert check.state == OK
    assert str(tmp_path / "mine") in check.found


def test_a_missing_browser_is_advice(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    assert doctor._chromium().state == ADVICE
    assert doctor._examined("chromium").state == ADVICE


def test_a_stale_kernel_is_found(monkeypatch):
    from jupyter_client import kernelspec

    stale = kernelspec.KernelSpec(argv=["/usr/lib/another/python", "-m", "ipykernel_launcher"])
    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", lambda self, name: stale)
    check = doctor._kernel()
    assert check.state == MISSING
    assert "/usr/lib/another/python" in check.found


def test_little_memory_and_disk_are_advice(monkeypatch):
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: 1000 if "PAGES" in name else 4096)
    assert doctor._memory().state == ADVICE
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert doctor._disk().state == ADVICE


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "OSError"])
@pytest.mark.parametrize("package", ["torchvision", "sklearn"])
def test_a_package_that_breaks_at_import_is_a_line_of_the_report(tmp_path, package, error):
    """As a user meets it: a torchvision of another torch, a scikit-learn whose library is missing."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise {error}('no such operator:\\n{package}')")
    done = subprocess.run(
        [sys.executable, "-m", "dfs_edu", "doctor"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    name = {"sklearn": "digits"}.get(package, package)
    assert f"missing  {name:<12} {error}: no such operator:\\n{package}" in done.stdout
    assert " chromium " in done.stdout
