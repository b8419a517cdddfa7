"""A study on a cluster of two machines, here two raylets: one dies, a process is killed, and no run notices."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from dying import SAME

import dfs_edu as dfs
from dfs_edu.cli import main
from dfs_edu.training import checkpoint, cluster, results, study

ROOT = Path(__file__).parents[2]
ray_needed = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed: the extra [cluster]")
STORE = 80 * 2**20  # bytes, Ray's minimum nearly
RUNNING = 600  # seconds, more than any study here takes on a busy machine

# A method that is slow and writes down each step, with the process and the raylet that started it; and two that fail
PLUGIN = """
import os, time
from pathlib import Path

from dfs_edu.methods.method import named
from dfs_edu.methods.weighted import Weighted


class Noted(Weighted):
    def step(self, trainer, *batch):
        with Path(__file__).with_name("steps").open("a") as file:
            print(trainer.folder.name, os.getpid(), os.getppid(), trainer.steps_taken, file=file)
        self.go_on()
        super().step(trainer, *batch)


@named("slow")
class Slow(Noted):
    def go_on(self):
        time.sleep(0.3)


@named("diverging")
class Diverging(Noted):
    def go_on(self):
        raise FloatingPointError("the loss of exit 1 is not finite")


@named("broken")
class Broken(Noted):
    def go_on(self):
        raise OSError("the disk is full")
"""


@pytest.fixture(scope="module")
def machines():
    """The address of a cluster, and its two machines of one CPU each."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    path = os.pathsep.join(filter(None, [str(ROOT), before.get("PYTHONPATH")]))
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": path}  # of the workers
    made = Cluster()
    for _ in range(2):
        added(made)
    yield made
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)


def added(made, tries: int = 3):
    """Add a machine. Ray waits for 30 seconds until it has begun, too little where tests compete for the cores."""
    for left in reversed(range(tries)):
        try:
            return made.add_node(num_cpus=1, object_store_memory=STORE, include_dashboard=False)
        except Exception as error:  # it has no class of its own
            if not left or "timed out during startup" not in str(error):
                raise


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "noted_dfs.py").write_text(PLUGIN)
    return tmp_path


def started(folder, *words: str) -> subprocess.Popen:
    """A study, in a process group of its own as a shell starts it."""
    small = "digits/vgg7-2 --scale smoke --train-images 64 --held-out-images 32 --batch-size 16 --epochs 4 --seeds 1"
    command = [sys.executable, "-m", "dfs_edu", "study", *small.split(), "--precision", "fp32", "--device", "cpu"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    how = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    how["env"] = os.environ | {"PYTHONPATH": path}
    how["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell ignores it in the background
    return subprocess.Popen([*command, "--plugin", "noted_dfs", *words], cwd=folder, **how)


def steps(folder) -> dict[str, list[list[int]]]:
    """Of each run, the steps noted so far: process, the process that started it, steps taken before."""
    noted: dict[str, list[list[int]]] = {}
    file = folder / "steps"
    for line in file.read_text().splitlines() if file.exists() else ():
        name, *numbers = line.split()
        noted.setdefault(name, []).append([int(number) for number in numbers])
    return noted


def wait_for(ready, driver: subprocess.Popen):
    end = time.monotonic() + RUNNING
    while not (found := ready()):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@ray_needed
@pytest.mark.kill
def test_ctrl_c_saves_and_stops(machines, folder):
    driver = started(folder, "--arms", "joint+slow", "--out", "runs", "--on", machines.address)
    wait_for(lambda: steps(folder), driver)
    os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=RUNNING)
    assert driver.returncode == 130, said
    (taken,) = steps(folder).values()
    assert len(taken) < 4  # no epoch was over, after which a run saves anyway
    assert checkpoint.is_there(folder / "runs" / next(iter(steps(folder))))
    time.sleep(1)
    assert list(steps(folder).values()) == [taken]


@ray_needed
@pytest.mark.kill
def test_an_error_that_is_no_result_ends_the_study_and_is_not_tried_again(machines, folder):
    driver = started(folder, "--arms", "joint+broken", "--out", "runs", "--on", machines.address)
    _, said = driver.communicate(timeout=RUNNING)
    assert driver.returncode == 1
    assert said.splitlines()[-1] == "dfs-edu: the disk is full"
    assert [len(taken) for taken in steps(folder).values()] == [1]


@ray_needed
@pytest.mark.kill
def test_runs_survive_their_process_and_their_machine(machines, folder):
    """The last test with this cluster, since it loses a machine."""
    arms = ["--arms", "joint+slow", "surgery+slow", "joint+diverging"]
    driver = started(folder, *arms, "--out", "cluster", "--on", machines.address)
    (other,) = machines.worker_nodes
    raylet = other.all_processes["raylet"][0].process.pid

    # Both are in their second epoch, one on each machine
    def both():
        later = {name: taken[-1] for name, taken in steps(folder).items() if taken[-1][-1] >= 5}
        return later if len(later) == 2 else None

    running = wait_for(both, driver)
    by_raylet = {parent: process for process, parent, _ in running.values()}
    assert raylet in by_raylet
    assert len(by_raylet) == 2
    machines.remove_node(other, allow_graceful=False)
    (process,) = (process for parent, process in by_raylet.items() if parent != raylet)
    os.kill(process, signal.SIGKILL)
    table, said = driver.communicate(timeout=RUNNING)
    assert "2 of 3 runs are finished" in table, said
    assert driver.returncode == 1
    assert sum(": finished on " in line for line in said.splitlines()) == 2
    assert "failed on " in said

    # Continued from a checkpoint, in another process; what diverged was not tried again
    *slow, diverged = sorted(steps(folder).items(), key=lambda item: "diverging" in item[0])
    assert len(diverged[1]) == 1
    for _, taken in slow:
        first, second = dict.fromkeys(process for process, _, _ in taken)
        before, after = ([n for process, _, n in taken if process == one] for one in (first, second))
        assert before == list(range(1, len(before) + 1))
        assert after == list(range(after[0], 17))
        assert 5 <= after[0] <= len(before) + 1
        assert after[0] % 4 == 1  # saved after an epoch of four steps

    # As if nothing had happened
    local = started(folder, *arms, "--out", "local")
    said = local.communicate(timeout=RUNNING)[1]
    assert local.returncode == 1, said
    assert len(results.runs(folder / "local")) == 3
    same_runs(folder / "cluster", folder / "local")


def same_runs(ours, theirs):
    for name, record in results.runs(theirs).items():
        other = results.read(ours / name)
        assert other["recipe"] == record["recipe"]
        assert other.get("failed") == record.get("failed")
        assert len(other["epochs"]) == len(record["epochs"])
        for row, expected in zip(other["epochs"], record["epochs"], strict=True):
            assert {key: row.get(key) for key in SAME} == {key: expected.get(key) for key in SAME}
        if "final" in record:
            read = lambda folder, name=name: (folder / name / "weights.safetensors").read_bytes()  # noqa: E731
            assert read(ours) == read(theirs)
            assert other["final"]["test_accuracy"] == record["final"]["test_accuracy"]


# What is noticed early, without a cluster


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nonsense", "--on nonsense: use ray, local, HOST:PORT or ray://HOST:PORT"),
        ("ray://somewhere", "use ray, local"),
        ("127.0.0.1:99999", "use ray, local"),
        ("127.0.0.1:1", "--on 127.0.0.1:1: nothing answers there"),
        ("ray://127.0.0.1:1", "nothing answers there"),
    ],
)
@ray_needed
def test_a_bad_address_is_an_error_at_once(address, says, tmp_path, capsys):
    begun = time.monotonic()
    assert main(["study", "digits/vgg7-2", "--scale", "smoke", "--on", address, "--out", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err
    assert time.monotonic() - begun < 30
    assert not list(tmp_path.glob("digits-*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--cpus 2", "--cpus and --gpus are what a run on a cluster gets"),
        ("--gpus 0", "--cpus and --gpus"),
        ("--on local --processes 2", "give one of them"),
    ],
)
def test_options_that_contradict_each_other(words, says, tmp_path, capsys):
    assert main(["study", "digits/vgg7-2", *words.split(), "--out", str(tmp_path)]) == 1
    assert says in capsys.readouterr().err


def task(folder, **changes) -> cluster.Task:
    marker = folder / "marker"
    marker.touch()
    values = {"out": str(folder), "marker": str(marker), "files": (), "folder": str(folder), "plugins": ()}
    return cluster.Task(**values | {"code": cluster.code(), "share": cluster.Share(), "options": {}} | changes)


def test_a_machine_that_can_train(tmp_path):
    task(tmp_path).check()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"marker": "/nowhere/marker"}, "does not see the folder .*: name one by --out that all machines share"),
        ({"files": ("/nowhere/data",)}, "does not see /nowhere/data"),
        ({"plugins": ("nothing_like_it",)}, "--plugin nothing_like_it cannot be imported"),
        ({"code": cluster.code() | {"dfs_edu": "0123"}}, "its dfs_edu is .*, the driver's is 0123"),
        ({"code": cluster.code() | {"torch": "1.0"}}, "its torch is .*, the driver's is 1.0"),
    ],
)
def test_a_machine_that_cannot_train_says_why(changes, says, tmp_path):
    with pytest.raises(OSError, match=f"machine .* of the cluster: .*{says}"):
        task(tmp_path, **changes).check()


NODES = [{"Resources": {"CPU": 4.0}}, {"Resources": {"CPU": 2.0, "GPU": 1.0}}]


@pytest.mark.parametrize("share", [{"cpus": 5}, {"cpus": 3, "gpus": 0.5}])
def test_a_share_that_no_machine_has_is_refused(share, tmp_path):
    with pytest.raises(ValueError, match=r"no machine of the cluster has that many \(at most 4 CPUs and 1 GPUs\)"):
        cluster.check_nodes(None, task(tmp_path, share=cluster.Share(**share)), NODES)


@pytest.mark.parametrize(
    ("share", "says"), [({"cpus": 0}, "--cpus 0"), ({"gpus": 2}, "--gpus 2: a run uses one GPU"), ({"gpus": -1}, "-1")]
)
def test_an_impossible_share(share, says):
    with pytest.raises(ValueError, match=says):
        cluster.Share(**share)


@pytest.mark.parametrize(
    ("gpus", "device", "nodes", "expected"),
    [
        (None, "auto", NODES, 1),
        (None, "auto", NODES[:1], 0),
        (None, "cpu", NODES, 0),
        (None, "cuda", NODES, 1),
        (0.25, "auto", NODES, 0.25),
        (0, "auto", NODES, 0),
    ],
)
def test_gpus_of_a_run(gpus, device, nodes, expected):
    assert cluster.gpus_of(gpus, device, nodes) == expected
    assert cluster.Share(gpus=expected).device == ("cuda" if expected else "cpu")


@pytest.mark.parametrize(("gpus", "device"), [(0, "cuda"), (1, "cpu"), (None, "cuda:1"), (None, "mps")])
def test_gpus_that_contradict_the_device(gpus, device):
    with pytest.raises(ValueError, match=f"--device {device}"):
        cluster.gpus_of(gpus, device, NODES)


def test_a_study_that_is_over_needs_no_cluster(tmp_path):
    (recipe,) = study.grid(dfs.recipes.get("digits/vgg7-2", scale="smoke"), ["joint"], [0])
    results.write(tmp_path / recipe.name / results.RECORD, {"recipe": recipe.to_dict(), "epochs": [], "failed": "so"})
    cluster.work([recipe], tmp_path, "nowhere")


@pytest.mark.parametrize(
    ("on", "variable", "address"), [("local", None, "local"), ("ray", None, "auto"), ("ray", "local", "local")]
)
def test_clusters_by_name(on, variable, address, monkeypatch):
    asked = []
    fake = SimpleNamespace(init=lambda **options: asked.append(options), shutdown=lambda: asked.append("left"))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    with cluster.connected(on) as ray:
        assert ray is fake
    options, left = asked
    assert options["address"] == address
    assert ("object_store_memory" in options) == (address == "local")
    assert left == "left"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
