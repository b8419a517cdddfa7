"""Following a run: the figure grows, and a process that fails is not waited for in silence."""

import subprocess

import nbformat
import plotly.graph_objects as go
import pytest
from nbclient import NotebookClient
from warm import python

import dfs_edu as dfs
from dfs_edu.training import results
from dfs_edu.widgets import live as follow


class Shown:
    """IPython's display, remembered."""

    def __init__(self):
        self.figures, self.stands = [], None

    def __call__(self, bundle, raw, display_id):
        assert raw is display_id is True
        return self.update(bundle, raw)

    def update(self, bundle, raw):
        assert raw is True
        plotly = bundle.get("application/vnd.plotly.v1+json")
        assert plotly is None or self.stands is None, "JupyterLab leaves a figure standing that is followed by another"
        if plotly:
            self.figures.append(go.Figure(plotly))
        self.stands = plotly
        return self


@pytest.fixture
def shown(monkeypatch):
    shown = Shown()
    monkeypatch.setattr("IPython.display.display", shown)
    return shown


def record(epochs):
    rows = [{"epoch": e, "validation_accuracy": [0.1 * e, 0.2], "seconds": 1.0} for e in range(1, epochs + 1)]
    return {"recipe": dfs.recipes.get("digits/vgg7-4", epochs=5).to_dict(), "epochs": rows}


def test_the_figure_grows_with_the_run(shown):
    live = follow.Live()
    for epochs in (0, 1, 2):
        live(record(epochs))
    assert [len(figure.data[0].x) for figure in shown.figures] == [1, 2]
    assert shown.figures[-1].layout.title.text == "Validation accuracy, epoch 2 of 5"
    assert list(shown.figures[-1].layout.xaxis.range) == [0.5, 5.5]


def process(code):
    return subprocess.Popen([*python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_process_is_followed_to_its_end(shown, tmp_path):
    results.write(tmp_path / "first.json", record(1))
    results.write(tmp_path / "second.json", record(2))
    code = f"""
import os, time
for name in ("first", "second"):
    os.replace(r"{tmp_path}/" + name + ".json", r"{tmp_path}/record.json")
    time.sleep(0.5)
print("x" * 200_000)  # more than a pipe holds
"""
    assert follow.watch(process(code), tmp_path, seconds=0.1) == record(2)
    assert [len(figure.data[0].x) for figure in shown.figures] == [1, 2]


def test_a_failed_process_is_reported_with_its_output(shown, tmp_path):
    with pytest.raises(RuntimeError, match=r"status 3: .*no room"):
        follow.watch(process("print('no room'); raise SystemExit(3)"), tmp_path, seconds=0.1)


def test_a_process_that_trained_nothing_is_reported(shown, tmp_path):
    with pytest.raises(RuntimeError, match="wrote no record into"):
        follow.watch(process("pass"), tmp_path, seconds=0.1)


def test_training_calls_it(shown):
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", train_images=64, held_out_images=32, epochs=2)
    dfs.train(recipe, None, device="cpu", progress=False, on_epoch=follow.Live())
    assert [len(figure.data[0].x) for figure in shown.figures] == [1, 2]


def test_in_a_notebook_the_new_figure_takes_the_place_of_the_old():
    code = """
from dfs_edu.widgets.live import Live
live = Live()
for n in (1, 2, 3):
    rows = [{"epoch": e, "validation_accuracy": [0.1]} for e in range(1, n + 1)]
    live({"recipe": {"epochs": 3}, "epochs": rows})
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"] == "Validation accuracy, epoch 3 of 3"
