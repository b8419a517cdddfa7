"""Follow a training while it runs: live in a notebook, whoever trains."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from dfs_edu import figures
from dfs_edu.training import results


class Live:
    """A figure in a notebook that grows with a run: `train(recipe, on_epoch=Live())`.

    It is a plain figure that is shown anew, not a widget: what is saved with the notebook is its last state.
    """

    def __init__(self):
        self.shown = None

    def __call__(self, record: dict) -> None:
        from IPython.display import display  # only a notebook has it for sure

        if not record["epochs"]:
            return
        planned = record["recipe"]["epochs"]
        title = f"Validation accuracy, epoch {len(record['epochs'])} of {planned}"
        figure = figures.learning_curves(record, title).update_xaxes(range=[0.5, planned + 0.5])
        # As data: a figure that is asked to display itself is put below the last one instead of in its place.
        bundle = {"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": title}
        if self.shown is None:
            self.shown = display(bundle, raw=True, display_id=True)
        else:
            # JupyterLab's plotly draws a place once and ignores what comes later, until something else was there.
            empty = f'<div style="height: {figure.layout.height}px"></div>'  # as high, so that the page does not jump
            self.shown.update({"text/html": empty, "text/plain": title}, raw=True)
            self.shown.update(bundle, raw=True)


def watch(process: subprocess.Popen, folder: str | Path, seconds: float = 2.0) -> dict:
    """Show a run that another process trains into `folder`, look every so many seconds, until the process ends.

    Returns the record. Raises RuntimeError, with the last words of the process, where it failed or trained nothing; it
    must have been started with its output in one pipe (stdout=PIPE, stderr=STDOUT, text=True).
    """
    live, seen = Live(), 0
    record_file = Path(folder) / "record.json"
    while True:
        ended = _ended(process, seconds)
        if record_file.exists():
            record = results.read(record_file)
            if len(record["epochs"]) > seen:
                seen = len(record["epochs"])
                live(record)
        if ended is not None:
            break
    if process.returncode:
        raise RuntimeError(f"the training ended with status {process.returncode}: {ended[-1000:].strip()}")
    if not seen:
        raise RuntimeError(f"the training wrote no record into {folder}: {ended[-1000:].strip()}")
    return record


def _ended(process: subprocess.Popen, seconds: float) -> str | None:
    """What the process said, once it has ended. Its pipe is read meanwhile, so that it never waits for us."""
    try:
        return process.communicate(timeout=seconds)[0] or ""
    except subprocess.TimeoutExpired:
        return None
