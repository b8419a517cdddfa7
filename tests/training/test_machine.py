"""What a record says of the machine and the versions."""

import subprocess

import torch

from dfs_edu.training import machine


def test_the_environment_names_machine_and_versions():
    environment = machine.environment(torch.device("cpu"), "fp32")
    assert environment["torch"] == torch.__version__
    assert environment["device"]
    assert environment["threads"] == torch.get_num_threads()


def test_the_revision_is_git_s_and_marked_where_files_differ(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=n", "-c", "user.email=e@e.e"]
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    package = tmp_path / "dfs_edu" / "training"
    package.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    assert machine.revision() is None
    git("init")
    (package / "machine.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    assert machine.revision() == git("rev-parse", "--short", "HEAD").strip()
    (package / "machine.py").write_text("2")
    assert machine.revision().endswith("-dirty")


def test_peak_memory_grows_with_what_is_held():
    before = machine.peak_memory(torch.device("cpu"))
    held = torch.ones(2**26)  # 256 MiB
    assert machine.peak_memory(torch.device("cpu")) >= before
    assert machine.peak_memory(torch.device("cpu")) > held.nbytes
