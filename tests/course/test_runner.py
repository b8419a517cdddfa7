"""The runner of the course, on small notebooks made here: good ones, failing ones, misspelt ones."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from dfs_edu import figures
from dfs_edu.cli import main
from dfs_edu.course import browser, publish
from dfs_edu.course import runner as course
from dfs_edu.values import plain

DECLARED = 'SCALE = "lesson"\nDATASET = "digits"\nSEED = 0\nDEVICE = "cpu"'
PLOT = 'import plotly.graph_objects as go\ngo.Figure(go.Scatter(x=[1, 2], y=[3, 4])).show("plotly_mimetype")'
pytestmark = pytest.mark.usefixtures("warm_kernels")
needs_chromium = pytest.mark.skipif(browser.chromium() is None, reason="no Chrome or Chromium installed")


def notebook(path, *sources, parameters=DECLARED):
    """Write a notebook with a parameters cell and code cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [new_markdown_cell("# Why?"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells += map(new_code_cell, sources)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Four notebooks executed in one run: a good one between bad ones, one of them that never ends."""
    folder = tmp_path_factory.mktemp("course with space")
    report = "from dfs_edu.course import record\n"
    report += "record(f'{SCALE} on {DATASET}', seed=SEED, device=DEVICE, loss=float('nan'))"
    notebooks = [
        notebook(folder / "01_raises.ipynb", "x = 1", "# a comment\nx / 0", report),
        notebook(folder / "02_good.ipynb", PLOT, report, "record('a second finding', seconds=[1, 2])"),
        notebook(folder / "03_endless.ipynb", "1 + 1", "import time; time.sleep(60)", "2 + 2", "# the end"),
        notebook(folder / "04_dies.ipynb", "1 + 1", "import os; os._exit(3)", "2 + 2", "# the end"),
    ]
    return course.run(notebooks, scale="smoke", seed=7, out=folder / "out", timeout=15)


def test_parameters_arrive_and_results_come_back(results):
    good = results[1]
    assert good.error is None
    assert good.findings == ["smoke on digits", "a second finding"]  # DATASET was left to the notebook
    assert good.values == {"seed": 7, "device": "cpu", "loss": None, "seconds": [1, 2]}


def test_a_failure_is_located_and_does_not_stop_the_others(results):
    raises, _, endless, dies = results
    assert raises.error == "the cell `# a comment`: ZeroDivisionError: division by zero"
    assert raises.recorded == []
    assert "time.sleep(60)" in endless.error
    assert "Timeout" in endless.error
    assert endless.minutes < 0.5
    assert "os._exit(3)" in dies.error


def test_this_python_executes_a_notebook_and_nothing_alarming_is_printed(tmp_path):
    """A stale kernel of the same name is passed by; a relative folder of data is the caller's, not the notebook's."""
    stale = tmp_path / "jupyter" / "kernels" / "python3"
    stale.mkdir(parents=True)
    argv = ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (stale / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "old", "language": "python"}))
    source = "import os, sys\nfrom dfs_edu.course import record\n"
    source += "record('here', python=sys.executable, data=os.environ['DFS_EDU_DATA'])"
    paths = [notebook(tmp_path / "there" / f"0{i}_a.ipynb", source) for i in (1, 2)]
    code = f"""
from dfs_edu.course import runner as course
for result in course.run({[str(path) for path in paths]!r}, out="out"):
    assert result.error is None, result.error
    print(result.values)
"""
    environment = os.environ | {
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "DFS_EDU_DATA": "mine",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.count(str({"data": str(tmp_path / "mine"), "python": sys.executable})) == 2, done
    assert "KeyboardInterrupt" not in done.stdout + done.stderr


def test_two_notebooks_run_at_once_and_share_the_cores(tmp_path, capfd, monkeypatch):
    """The first runs by itself. The other two wait for each other: one after another would end in a timeout."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    alone = """
import os
from dfs_edu.course import record
record("alone", threads=os.environ.get("OMP_NUM_THREADS", "as many as there are"))"""
    source = """
import os, pathlib, time
from dfs_edu.course import record
pathlib.Path({mine!r}).touch()
while not pathlib.Path({other!r}).exists():
    time.sleep(0.1)
record("met", threads=int(os.environ["OMP_NUM_THREADS"]), folder=os.getcwd())"""
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    notebooks = [
        notebook(tmp_path / "a" / "00_fails.ipynb", alone, "1 / 0"),
        notebook(tmp_path / "a" / "01_a.ipynb", source.format(mine=first, other=second)),
        notebook(tmp_path / "b" / "02_b.ipynb", source.format(mine=second, other=first)),
    ]
    results = course.run(notebooks, out=tmp_path / "out", timeout=30, jobs=2)
    assert [result.notebook for result in results] == notebooks
    assert [result.findings for result in results] == [["alone"], ["met"], ["met"]]
    assert results[0].values["threads"] == "as many as there are"
    assert "ZeroDivisionError" in results[0].error
    assert [result.values["folder"] for result in results[1:]] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert results[1].values["threads"] == max(1, os.cpu_count() // 2)
    printed = capfd.readouterr().out
    assert printed.count("minutes. met") == 2
    assert "00_fails.ipynb" in printed
    assert "FAILED in the cell `1 / 0`" in printed


def test_at_least_one_notebook_at_a_time(tmp_path):
    with pytest.raises(ValueError, match="jobs=0"):
        course.run([notebook(tmp_path / "01_a.ipynb", "1")], out=tmp_path / "out", jobs=0)


def test_a_kernel_that_does_not_start_is_reported(tmp_path, monkeypatch):
    import ipykernel.kernelspec

    monkeypatch.setattr(ipykernel.kernelspec, "get_kernel_dict", lambda: {"argv": ["false"], "language": "python"})
    (result,) = course.run([notebook(tmp_path / "01_a.ipynb", "1", "2")], out=tmp_path / "out")
    assert result.error.startswith("starting the kernel: ")


def test_a_kernel_is_not_interrupted_on_its_way_out(tmp_path, monkeypatch):
    """What an interrupted idle kernel prints depends on the moment: the interrupt itself must not be sent."""
    sent = []
    monkeypatch.setattr(os, "killpg", lambda group, number, real=os.killpg: (sent.append(number), real(group, number)))
    (result,) = course.run([notebook(tmp_path / "01_a.ipynb", "1")], out=tmp_path / "out")
    assert result.error is None
    assert signal.SIGINT not in sent


def test_table_names_findings_and_failures(results):
    lines = course.table(results).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("01_raises")
    assert "FAILED in the cell `# a comment`: ZeroDivisionError" in lines[1]
    assert lines[2].endswith("smoke on digits; a second finding")


def test_page_is_interactive_and_asks_the_network_for_nothing(results):
    page = results[1].executed.with_suffix(".html").read_text(encoding="utf-8")
    assert "Plotly.newPlot(" in page
    assert len(page) > 3_000_000  # plotly.js itself
    own = page.replace(page[page.index("<script") : page.rindex("</script>")], "")
    assert "http" not in [word.split(":")[0] for word in own.split('src="')[1:]]
    assert "cdnjs" not in page.split("<body")[0]
    assert results[0].executed.with_suffix(".html").exists()


def test_frames_move_on_the_page_and_stay_in_the_notebook():
    fig = figures.conflict_through_training([0, 50], np.zeros((2, 3, 3)))
    bundle = {publish.PLOTLY: json.loads(fig.to_json()), "image/png": "AAAA"}  # a picture is there: none is drawn
    output = new_output("display_data", data=bundle)
    executed = new_notebook(cells=[new_code_cell("fig", execution_count=1, outputs=[output])])
    kept = publish.normalise(executed).cells[0].outputs[0].data[publish.PLOTLY]
    assert [frame["name"] for frame in kept["frames"]] == ["0", "50"]
    own = publish.page(executed, "frames").rsplit("Plotly.newPlot(", 1)[1]
    assert "Plotly.addFrames(" in own
    assert "Plotly.animate(" not in own  # it waits to be moved


def test_nothing_of_the_injected_parameters_is_written_back(results):
    before = nbformat.read(results[0].notebook, as_version=4)
    tidy = publish._tidy(nbformat.read(results[0].executed, as_version=4))
    assert [cell.source for cell in tidy.cells] == [cell.source for cell in before.cells]


@needs_chromium
def test_write_back_gives_committable_notebooks(tmp_path):
    path = notebook(tmp_path / "01_figure.ipynb", PLOT, "1 + 1")
    results = course.run([path], out=tmp_path / "out")
    course.write_back(results)
    first = path.read_bytes()
    written = nbformat.read(path, as_version=4)
    nbformat.validate(written)
    assert [cell.id for cell in written.cells] == ["cell-01", "cell-02", "cell-03", "cell-04"]
    assert [cell.execution_count for cell in written.cells[1:]] == [1, 2, 3]
    assert written.cells[3].outputs[0].execution_count == 3
    figure = written.cells[2].outputs[0].data
    assert set(figure) == {publish.PLOTLY, "image/png"}
    assert len(first) < 60_000
    assert b"papermill" not in first
    course.write_back(course.run([path], out=tmp_path / "out"))
    assert path.read_bytes() == first, "a second execution changed the committed notebook"


def test_normalise_is_idempotent_and_leaves_its_argument_alone():
    widget = {publish.WIDGET: {"model_id": "ab"}, "text/plain": "HBox(children=(FloatProgress(value=0.0),))"}
    fallback = {publish.WIDGET: {"model_id": "cd"}, "text/plain": "Explorer()", "text/html": "<svg/>"}
    outputs = [
        new_output("stream", name="stdout", text="one\n"),
        new_output("stream", name="stderr", text="\r 10%|#   | 1/10 [00:00<00:09]\r100%|####| 10/10 [00:09<00:00]\n"),
        new_output("stream", name="stdout", text="two\rthree\n"),
        new_output("display_data", data=widget),
        new_output("display_data", data=fallback),
        new_output("execute_result", data={"text/plain": "<object at 0x7f12ab>"}, execution_count=9),
    ]
    cell = new_code_cell("f()", execution_count=9, outputs=outputs, metadata={"papermill": {"duration": 1.5}})
    injected = new_code_cell("SEED = 3", metadata={"tags": ["injected-parameters"]})
    messy = new_notebook(cells=[injected, cell], metadata={"widgets": {}, "papermill": {}})
    before = json.dumps(messy)

    once = publish.normalise(messy)
    assert json.dumps(messy) == before
    assert publish.normalise(once) == once
    nbformat.validate(once)
    assert set(once.metadata) == {"kernelspec", "language_info"}
    (only,) = once.cells
    assert (only.id, only.execution_count, only.metadata) == ("cell-01", 1, {})
    stream, html, value = only.outputs
    assert stream.text == "one\nthree\n"
    assert html.data == {"text/plain": "Explorer()", "text/html": "<svg/>"}
    assert value.data == {"text/plain": "<object at 0x0>"}
    assert value.execution_count == 1


@pytest.mark.parametrize(
    ("parameters", "names"),
    [(DECLARED.replace("SCALE", "SCAEL"), "SCAEL"), ('SCALE = "smoke"', "declares SCALE;"), ("pass", "nothing")],
)
def test_misspelt_parameters_are_refused_before_anything_runs(tmp_path, parameters, names):
    bad = notebook(tmp_path / "02_bad.ipynb", "1", parameters=parameters)
    good = notebook(tmp_path / "01_good.ipynb", "1")
    with pytest.raises(ValueError, match=r"02_bad\.ipynb.*exactly SCALE, DATASET, SEED, DEVICE") as error:
        course.run([good, bad], scale="smoke", out=tmp_path / "out")
    assert names in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_notebook_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.ipynb: no such notebook"):
        course.run([tmp_path / "absent.ipynb"], out=tmp_path)


@pytest.mark.parametrize(("change", "reason"), [({"metadata": {}}, "No kernel name found"), ({"cells": 3}, "")])
def test_a_notebook_that_cannot_be_executed_is_named(tmp_path, change, reason):
    """A hand-in may lack its kernelspec, or hold anything."""
    path = notebook(tmp_path / "anna" / "01_a.ipynb", "1")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"anna.01_a\.ipynb: not a notebook that can be executed: .*{reason}"):
        course.run([path], out=tmp_path / "out")


def test_record_takes_arrays_and_tensors_and_refuses_what_json_cannot_hold():
    values = {"a": torch.tensor([1.5, float("inf")]), "b": torch.tensor(2), "c": {1: (True, None)}}
    assert plain(values) == {"a": [1.5, None], "b": 2, "c": {"1": [True, None]}}
    with pytest.raises(TypeError, match="cannot record"):
        plain(object())


def test_main_reports_failure_in_its_status(tmp_path, capsys):
    good, bad = notebook(tmp_path / "01_good.ipynb", "1"), notebook(tmp_path / "02_bad.ipynb", "1 / 0")
    assert main(["course", str(good), "--scale", "smoke", "--out", str(tmp_path / "out")]) == 0
    assert main(["course", str(good), str(bad), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "1 of 1 notebooks succeeded." in said
    assert "FAILED in the cell `1 / 0`: ZeroDivisionError" in said
    assert "1 of 2 notebooks succeeded." in said


def test_no_notebook_takes_the_place_of_another(tmp_path):
    (tmp_path / "ben").mkdir()
    anna, ben = notebook(tmp_path / "01_why.ipynb", "1"), notebook(tmp_path / "ben" / "01_why.ipynb", "1")
    with pytest.raises(ValueError, match="same name"):
        course.run([anna, ben], out=tmp_path / "out")
    with pytest.raises(ValueError, match="choose another folder"):
        course.run([anna], out=tmp_path)
    assert anna.is_file()


def test_main_refuses_parameters_together_with_write_back(capsys):
    assert main(["course", "--write-back", "--scale", "smoke"]) == 1
    assert "--write-back" in capsys.readouterr().err


def test_notebooks_are_chosen_by_number(tmp_path, monkeypatch):
    names = ["01_what.ipynb", "02_why.ipynb", "02b_more.ipynb", "10_how.ipynb"]
    for name in names:
        notebook(tmp_path / name)
    monkeypatch.setattr(course, "CHECKOUT", tmp_path)
    assert [path.name for path in course.chosen()] == names
    only = course.numbers("10,1")
    assert [path.name for path in course.chosen(only=only)] == ["10_how.ipynb", "01_what.ipynb"]
    assert course.chosen([tmp_path / names[1]], ["02"]) == [tmp_path / names[1]]
    assert [path.name for path in course.chosen(only=["02b", "02"])] == ["02b_more.ipynb", "02_why.ipynb"]
    with pytest.raises(ValueError, match="--only 03: not one of 01, 02, 02b, 10"):
        course.chosen(only=["03"])
    with pytest.raises(ValueError, match=r"04: no such notebook; to choose by number, use --only"):
        course.chosen(["04"])


def test_numbers_are_separated_by_commas(capsys):
    assert course.numbers("3, 04") == ["03", "04"]
    assert course.numbers("04b,4b, 4B ,15") == ["04b", "04b", "04b", "15"]
    for words in ("why", "4bc", "b4", "4 b", "3,", "٣"):
        assert main(["course", f"--only={words}"]) == 1
        message = f"--only {words!r}: give numbers of notebooks separated by commas, such as 03,04b"
        assert message in capsys.readouterr().err


def test_importing_the_runner_is_cheap():
    """Every notebook imports it for `record`; papermill and nbconvert would cost a second each time."""
    code = "import sys; from dfs_edu.course import record; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = [name for name in ("papermill", "nbconvert") if name in done.stdout]
    assert not heavy


def test_the_png_of_a_transparent_figure_is_white():
    clear = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(clear, "PNG")
    small = Image.open(io.BytesIO(base64.b64decode(publish._small_png(clear.getvalue()))))
    assert small.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
