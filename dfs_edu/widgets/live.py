"""Follow a training run in a notebook, whether this process trains or another one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from dfs_edu import figures
from dfs_edu.training import results


class Live:
    """A figure in a notebook that grows with a run: ``train(recipe, on_epoch=Live())``.

    It is a plain figure that is displayed again after each epoch, not a widget: the notebook is saved with its last
    state.
    """

    def __init__(self):
        self.shown = None  # the display handle

    def __call__(self, record: dict) -> None:
        """Display the curves of a record, in place of the last ones."""
        from IPython.display import display  # only in a notebook it is sure to be installed

        if not record["epochs"]:
            return
        planned = record["recipe"]["epochs"]
        title = f"Validation accuracy, epoch {len(record['epochs'])} of {planned}"
        figure = figures.learning_curves(record, title).update_xaxes(range=[0.5, planned + 0.5])
        # Displayed as data: a figure that displays itself would appear below the last one, not in its place
        bundle = {"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": title}
        if self.shown is None:
            self.shown = display(bundle, raw=True, display_id=True)
        else:
            # JupyterLab's plotly draws an output once and ignores updates until something else was displayed there
            empty = f'<div style="height: {figure.layout.height}px"></div>'  # of equal height: the page does not jump
            self.shown.update({"text/html": empty, "text/plain": title}, raw=True)
            self.shown.update(bundle, raw=True)


def watch(process: subprocess.Popen, folder: str | Path, seconds: float = 2.0) -> dict:
    """Show a run that another process trains, until that process ends; return its record.

    Args:
        process: Started with its output in one pipe (``stdout=PIPE, stderr=STDOUT, text=True``).
        folder: Folder of the run.
        seconds: How often the record is read.

    Raises:
        RuntimeError: The process failed or trained nothing; the message ends with the last of its output.
    """
    live, seen = Live(), 0
    record_file = Path(folder) / "record.json"
    while True:
        output = _output_at_the_end(process, seconds)
        if record_file.exists():
            record = results.read(record_file)
            if len(record["epochs"]) > seen:
                seen = len(record["epochs"])
                live(record)
        if output is not None:
            break
    if process.returncode:
        raise RuntimeError(f"the training ended with status {process.returncode}: {output[-1000:].strip()}")
    if not seen:
        raise RuntimeError(f"the training wrote no record into {folder}: {output[-1000:].strip()}")
    return record


def _output_at_the_end(process: subprocess.Popen, seconds: float) -> str | None:
    """The output of the process once it has ended. Its pipe is read meanwhile, so that it never has to wait."""
    try:
        return process.communicate(timeout=seconds)[0] or ""
    except subprocess.TimeoutExpired:
        return None
