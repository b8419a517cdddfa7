"""Why moving a slider of the threshold explorer changes nothing: the sentences that the page shows.

static/explorer.js writes the same ones; a browser test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dfs_edu.inference import Outputs

BINS = 40  # of the histograms of confidence
RARE = 100  # one image in so many counts as next to none


def budget(macs: float, split: str) -> list[str]:
    """Return the sentence that from these MACs onwards a larger budget is not spent."""
    return [
        f"From {_mmacs(macs)} onwards a larger budget changes nothing: on {split}, no thresholds that let more images "
        "go deeper are more accurate."
    ]


def unreached(reaching: Tensor) -> list[str]:
    """Return a sentence if no image reaches some of the exits that have sliders.

    Args:
        reaching: Whether each image reaches each of these exits, (K - 1, N).
    """
    counts = reaching.sum(1).tolist()
    if all(counts):
        return []
    first = counts.index(0)  # index of the first exit that no image reaches, so the number of the one before it
    exits = _exits(range(first + 1, len(counts) + 1))
    return [
        f"No image gets past exit {first}, whose threshold lets all leave: what is set for {exits} changes nothing."
    ]


def rarely_confident(outputs: Outputs, reaching: Tensor, thresholds: Sequence[float]) -> list[str]:
    """Return a sentence if some thresholds are above the confidence of all but one in `RARE` of the images there."""
    high = []  # exit, and the confidence below which the others stay
    for k, here in enumerate(reaching):
        bins = (outputs.confidence[k][here] * BINS).long().clamp(max=BINS - 1)
        above = bins.bincount(minlength=BINS).flip(0).cumsum(0)  # from the highest bin downwards
        edge = (BINS - int((above <= int(here.sum()) // RARE).sum())) / BINS
        if here.any() and edge < 1 and thresholds[k] >= edge:
            high.append((k + 1, edge))
    if not high:
        return []
    several = len(high) > 1
    edges = _listed([f"{edge:.3f}" for _, edge in high]) + (", respectively" if several else "")
    what = "their thresholds" if several else "its threshold"
    return [
        f"Raising {what} further changes next to nothing at {_exits([k for k, _ in high])}: of the images that get "
        f"there, 99 % are less confident than {edges}."
    ]


def _mmacs(macs: float) -> str:
    """A cost as the page writes it."""
    return f"{macs / 1e6:#.4g} MMACs" if macs < 1e9 else f"{macs / 1e6:.0f} MMACs"


def _exits(numbers: Sequence[int]) -> str:
    return ("exits " if len(numbers) > 1 else "exit ") + _listed(list(map(str, numbers)))


def _listed(words: Sequence[str]) -> str:
    """Words with commas and an "and"."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
