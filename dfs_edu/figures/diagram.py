"""The network, drawn: stages, exits, the channels of each feature, and the paths of activations and gradients.

One function draws it, as SVG that follows the colours of the page around it (the CSS variables of the widgets), or its
own, which are readable on light and dark. It flows from top to bottom. A row is a stage, its feature and its exit::

    [ stage 2                2,204 of 2,336 in conflict ]
      |    ^         ----------------------------------> [ exit 2 ]     this exit sees; its gradient, dashed
      +->[ f+ channels        | f- channels ]
                     -----------------                                  deeper exits see; their gradient, dashed
                       |   ^
    [ stage 3 ...

What depends on junctions, or on the exit whose path is lit, are attributes of named parts (``states``): the widget
(widgets/diagram.py) changes these and draws nothing by itself.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from dfs_edu.figures.look import FORWARD, GRADIENT, INK, MEANINGS, figure, literal

WIDTH, TOP, ROW = 420, 36, 100  # of the drawing, above the first stage, from one stage to the next
LEFT, RIGHT, EXIT, END = 46, 274, 318, 416  # of a feature's channels, and of an exit's box
BOX = 26  # height of a stage and of an exit
# Heights in a row: what this exit sees and pulls on, the channels, what deeper exits see and pull on
SEE, PULL, FEATURE, ONWARD, BACK = 36, 42, 56, 71, 77
DOWN, UP = 60, 80  # from left to right: the paths to the next stage and back
CELLS = 32  # channels up to this number are drawn one by one
# The lines of a row: the stage makes its feature, the exit and deeper ones see it, and pull on it and on the stage
FORWARDS = ("made", "to-exit", "down"), ("see", "onward")
GRADIENTS = ("trains", "pull", "from-exit", "back", "up")
LINES = (
    dict.fromkeys(FORWARDS[0], "dfs-forward")
    | dict.fromkeys(FORWARDS[1], "dfs-forward dfs-band")
    | dict.fromkeys(GRADIENTS, "dfs-gradient")
)

STYLE = f"""
.dfs-network {{ font: 13px system-ui, sans-serif; }}
.dfs-network text {{ fill: var(--dfs-ink, {INK}); }}
.dfs-network path {{ fill: none; stroke-width: 1.5; }}
.dfs-network rect {{ fill: none; stroke: var(--dfs-soft, {INK}); }}
.dfs-network .dfs-in-conflict {{ fill: {INK}; fill-opacity: 0.22; stroke: none; }}
.dfs-network .dfs-forward {{ stroke: var(--dfs-forward, {FORWARD}); }}
.dfs-network .dfs-gradient {{ stroke: var(--dfs-gradient, {GRADIENT}); stroke-dasharray: 5 2.5; }}
.dfs-network .dfs-channels {{ stroke-width: 16; }}
.dfs-network .dfs-band {{ stroke-width: 3; }}
.dfs-network .dfs-shared {{ stroke: var(--dfs-shared, {MEANINGS["shared"]}); }}
.dfs-network .dfs-specific {{ stroke: var(--dfs-specific, {MEANINGS["specific"]}); }}
.dfs-network .dfs-whole {{ stroke: {INK}; }}
.dfs-network .dfs-on-channels {{ fill: #ffffff; font-weight: 600; paint-order: stroke; stroke-width: 4px; }}
.dfs-network .dfs-small {{ font-size: 12px; }}
.dfs-network .dfs-hit {{ fill: transparent; stroke: none; }}
.dfs-network .dfs-box[data-lit="yes"], .dfs-network [data-lit="yes"] > .dfs-box {{ stroke-width: 2.5; }}
.dfs-network [data-lit="no"] {{ opacity: 0.16; }}
"""

State = dict[str, dict[str, str]]  # part -> attributes; "text" is what stands in it


def network(wiring, exit: int | None = None, title: str = "") -> str:
    """Draw a multi-exit network as SVG: which channels each exit sees, and where its gradient arrives.

    Args:
        wiring: as ``probes.wiring`` returns it, for K exits. Of a list of scales, it shows the last.
        exit: number, from 1, of an exit whose forward path and gradient path are lit; None: all alike.
        title: for screen readers.

    Raises:
        ValueError: for an exit that does not exist.
    """
    K = len(wiring.views)
    if exit is not None and not 1 <= exit <= K:
        raise ValueError(f"exit={exit}: give a number from 1 to {K}, or None")
    now = states(wiring, exit)
    height = TOP + K * ROW - 14
    label = escape(f"{title}: {words(wiring, exit)}" if title else words(wiring, exit), quote=True)
    box = f'viewBox="0 0 {WIDTH} {height + 22}" width="{WIDTH}" height="{height + 22}"'
    path = f"M{DOWN},18V{TOP - 2}" + _head(DOWN, TOP - 2, "down")
    start = f'<text x="44" y="13">image</text><path class="dfs-forward" d="{path}"></path>'
    rows = "".join(_row(k, wiring, now) for k in range(K))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dfs-network" role="img" aria-label="{label}" {box}>'
        f"<style>{STYLE}</style>{start}{rows}{_legend(height + 10)}</svg>"
    )


@literal
def network_figure(wiring, exit: int | None = None, title: str = "The network") -> go.Figure:
    """Return the drawing of ``network`` inside a figure, for readers that show figures but no SVG.

    Args:
        wiring: as for ``network``.
        exit: as for ``network``.
        title: of the figure.
    """
    svg = network(wiring, exit)
    height = TOP + len(wiring.views) * ROW + 8
    source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    place = {"x": 0, "y": 1, "sizex": 1, "sizey": 1, "xref": "paper", "yref": "paper", "xanchor": "left"}
    fig = figure([], title, height=height + 60, margin={"l": 8, "r": 8, "t": 48, "b": 12})
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    return fig.add_layout_image(source=source, yanchor="top", layer="above", **place)


def states(wiring, exit: int | None = None) -> State:
    """Return the attributes of all parts that depend on junctions or on the exit that is lit: part -> attributes."""
    K = len(wiring.views)
    found: State = {part: {"d": path, "data-lit": ""} for part, path in _paths(wiring, range(K)).items()}
    if exit is not None:
        for part, path in _paths(wiring, [exit - 1]).items():
            found[part] = {"d": path or found[part]["d"], "data-lit": "yes" if path else "no"}
    for k in range(K):
        for part, attributes in {**_boxes(k, wiring, exit), **_labels(k, wiring, exit), **_widths(k, wiring)}.items():
            name = f"{part}-{k + 1}"
            found[name] = found.get(name, {}) | attributes
    return found


def lit(wiring, exit: int) -> list[str]:
    """Return the parts of the drawing that are lit for an exit, a number from 1: its forward path and gradient path."""
    return sorted(part for part, attributes in states(wiring, exit).items() if attributes.get("data-lit") == "yes")


def words(wiring, exit: int | None = None) -> str:
    """Say what the drawing shows: how many weights are in conflict, or what one exit sees and pulls on."""
    if exit is None:
        conflict, total, several = (int(n.sum()) for n in (wiring.opposed, wiring.weights, wiring.several))
        return f"{conflict:,} of {total:,} weights in conflict; several exits pull on {several:,}."
    k = exit - 1
    sees, channels = int((wiring.views[k][1] > 0).sum()), wiring.views[k].shape[1]
    pulled = [(int(n), s) for s, n in enumerate(wiring.pulled[:, k], start=1) if n]
    where = ", ".join(f"{n:,} of stage {s}" for n, s in reversed(pulled))
    back = f"pulls on these weights: {where}." if pulled else "reaches no stage."
    seen = f"all {channels}" if sees == channels else f"{sees} of the {channels}"
    return f"Exit {exit} sees {seen} channels of its feature. Its gradient {back}"


def names(exits: Sequence[int]) -> str:
    """Name exits, given their numbers in order: "exits 1, 3–6"."""
    if not exits:
        return "none"
    runs: list[list[int]] = []
    for number in exits:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    joined = ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return ("exits " if len(exits) > 1 else "exit ") + joined


# What depends on the junctions


def _paths(wiring, exits: Sequence[int]) -> dict[str, str]:
    """The lines of a drawing with these exits alone, from 0: part -> path, empty if there is none."""
    K, paths = len(wiring.views), {}
    for k in range(K):
        views, top = wiring.views[k] > 0, TOP + k * ROW
        own, deeper = [j for j in exits if j == k], [j for j in exits if j > k]
        see, onward = views[1] & bool(own), views[0] & bool(deeper)
        pull, back = views[3] & _arrives(k, wiring, own), views[2] & _arrives(k, wiring, deeper)
        down, up, trained = f"M14,{top + BOX}V{top + 52}H44", f"M44,{top + 60}H28V{top + BOX + 2}", own + deeper
        lines = {
            "made": down + _head(44, top + 52, "right") if trained else "",
            "trains": up + _head(28, top + BOX + 2, "up") if wiring.pulled[k, trained].any() else "",
            "see": _along(see, top + SEE),
            "to-exit": _to_exit(see, top + SEE, back=False),
            "pull": _along(pull, top + PULL),
            "from-exit": _to_exit(pull, top + PULL, back=True),
        }
        for part, mask in _parts(k, wiring).items():
            lines[part] = _along(mask & (see | onward | pull | back) if len(exits) < K else mask, top + FEATURE)
        if k < K - 1:
            lines |= {"onward": _along(onward, top + ONWARD), "down": _to_stage(onward, top, back=False)}
            lines |= {"back": _along(back, top + BACK), "up": _to_stage(back, top, back=True)}
        paths |= {f"{part}-{k + 1}": path for part, path in lines.items()}
    return paths


def _boxes(k: int, wiring, exit: int | None) -> State:
    """What is written at stage and exit k, from 0, and whether they are on the path of the exit that is lit."""
    passed, reached = (_lit(exit, on) for on in (exit is not None and k < exit, k + 1 == exit))
    conflict, total = int(wiring.opposed[k]), int(wiring.weights[k])
    first, second = _arrivals(k, wiring)
    return {
        "stage": {"data-lit": passed},
        "name": {"data-lit": passed},
        "in-conflict": {"data-lit": passed, "width": f"{(RIGHT - 2) * conflict / max(1, total):.1f}"},
        "count": {"data-lit": passed, "text": f"{_short(conflict)} of {_short(total)} in conflict"},
        "exit": {"data-lit": reached, "aria-label": words(wiring, k + 1)},
        "first": {"data-lit": passed, "text": first},
        "second": {"data-lit": passed, "text": second},
    }


def _short(n: int) -> str:
    return f"{n:,}" if n < 100_000 else f"{n / 1000:,.0f}k"


def _lit(exit: int | None, on: bool) -> str:
    return "" if exit is None else "yes" if on else "no"


def _labels(k: int, wiring, exit: int | None) -> State:
    """The names of the parts of f_k, written on its channels where there is room."""
    found = {}
    for part, mask in _parts(k, wiring).items():
        at, n = int(np.argmax(mask)) if mask.any() else 0, int(mask.sum())
        long, short = {"shared": (f"f+ {n}", "f+"), "specific": (f"f− {n}", "f−"), "whole": (f"{n} channels", "")}[part]
        room = min(_run(mask, at), n) * (RIGHT - LEFT) / len(mask)
        text = next((name for name in (long, short) if room > 8 + 8 * len(name)), "")
        x = LEFT + at * (RIGHT - LEFT) / len(mask) + 5
        lit = _lit(exit, exit is not None and k < exit)
        found[f"on-{part}"] = {"text": text if n else "", "x": f"{x:.1f}", "data-lit": lit}
    return found


def _run(mask: np.ndarray, start: int) -> int:
    """How many channels from the start onwards are in the mask, without a gap."""
    return int(np.argmin(np.append(mask[start:], False)))


def _widths(k: int, wiring) -> State:
    """The stronger a pull, the wider its line: equilibrium gives each side a share."""
    *_, deeper, own = wiring.views[k].max(1, initial=0)
    pulls = {"back": deeper, "pull": own} if k < len(wiring.views) - 1 else {"pull": own}
    return {part: {"style": f"stroke-width:{1 + 2 * min(1.0, float(width)):.2f}"} for part, width in pulls.items()}


def _parts(k: int, wiring) -> dict[str, np.ndarray]:
    """The parts of f_k, by name, as masks of channels; of the three, those that it has not are empty."""
    shared, none = wiring.shared[k], np.zeros(wiring.views[k].shape[1], bool)
    if shared is None:
        return {"shared": none, "specific": none, "whole": ~none}
    return {"shared": np.asarray(shared), "specific": ~np.asarray(shared), "whole": none}


def _arrives(k: int, wiring, exits: Sequence[int]) -> np.ndarray:
    """The channels of f_k where the gradient of one of the exits arrives, (C,)."""
    parts, reach = _parts(k, wiring), wiring.reach[k, list(exits)].any(0)
    return parts["whole"] & reach.any() | parts["shared"] & reach[0] | parts["specific"] & reach[1]


def _arrivals(k: int, wiring) -> tuple[str, str]:
    """Two lines: whose gradients arrive at f+ and f-, or at all channels, and with which factors."""
    exits = range(k, len(wiring.views))
    f_plus, f_minus = (names([j + 1 for j in exits if wiring.reach[k, j, part]]) for part in (0, 1))
    if wiring.shared[k] is not None:
        return f"f+ ← {f_plus}", f"f− ← {f_minus}"
    *_, deeper, own = wiring.views[k].max(1, initial=0)
    if {round(float(deeper), 3), round(float(own), 3)} <= {0, 1}:
        return f"← {f_plus}", ""
    others = names([j + 1 for j in exits if j > k and wiring.reach[k, j].any()])
    return f"← {own:.2f} × exit {k + 1}", f"← {deeper:.2f} × {others}"


# Lines


def _x(channels: np.ndarray | int, of: int) -> np.ndarray:
    return LEFT + np.asarray(channels) * (RIGHT - LEFT) / of


def _runs(mask: np.ndarray) -> np.ndarray:
    """(n, 2): where each run of channels in the mask begins and ends."""
    return np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))).reshape(-1, 2)


def _along(mask: np.ndarray, y: float) -> str:
    """A line along the channels in the mask."""
    return "".join(f"M{a:.1f},{y}H{b:.1f}" for a, b in _x(_runs(mask), len(mask)))


def _head(x: float, y: float, towards: str) -> str:
    """The head of an arrow that ends at (x, y)."""
    wings = {"down": (-4, -4, 4, -4), "up": (-4, 4, 4, 4), "right": (-4, -4, -4, 4), "left": (4, -4, 4, 4)}[towards]
    return f"M{x + wings[0]},{y + wings[1]}L{x},{y}L{x + wings[2]},{y + wings[3]}"


def _to_exit(mask: np.ndarray, y: float, back: bool) -> str:
    """The line between the channels in the mask and the exit, where its gradient comes back."""
    if not mask.any():
        return ""
    first = _x(int(np.argmax(mask)), len(mask))
    return f"M{first:.1f},{y}H{EXIT - 2}" + (_head(RIGHT + 12, y, "left") if back else _head(EXIT - 2, y, "right"))


def _to_stage(mask: np.ndarray, top: float, back: bool) -> str:
    """The line between the channels in the mask and the next stage, from where the gradients come back."""
    if not mask.any():
        return ""
    (first, _), *_ = _x(_runs(mask), len(mask))
    x, y = (UP, top + BACK) if back else (DOWN, top + ONWARD)
    head = _head(x, y + 2, "up") if back else _head(x, top + ROW - 2, "down")
    return f"M{first:.1f},{y}H{x}V{top + ROW - 2}" + head


# What stays


def _drawn(tag: str, part: str, fixed: dict[str, str], now: State) -> str:
    """An element of SVG, with its attributes of now if it has any."""
    attributes = {"data-part": part} | fixed | now.get(part, {})
    text = escape(attributes.pop("text", ""))
    listed = "".join(f' {name}="{escape(value, quote=True)}"' for name, value in attributes.items())
    return f"<{tag}{listed}>{text}</{tag}>"


def _row(k: int, wiring, now: State) -> str:
    """Stage, feature and exit k, from 0."""
    y, C, n = TOP + k * ROW, wiring.views[k].shape[1], k + 1
    cell = (RIGHT - LEFT) / C
    cells = {"stroke-dasharray": f"{cell - 0.75:.3f} 0.75"} if C <= CELLS else {}

    def drawn(tag: str, part: str, **fixed: str | int) -> str:
        names = {name.rstrip("_").replace("_", "-"): str(value) for name, value in fixed.items()}
        return _drawn(tag, f"{part}-{n}", names, now)

    middle, box = y + BOX // 2 + 5, {"y": y, "height": BOX, "rx": 5}
    stage = drawn("rect", "in-conflict", class_="dfs-in-conflict", x=2, **box)
    stage += drawn("rect", "stage", class_="dfs-box", x=2, width=RIGHT - 2, **box)
    stage += drawn("text", "name", x=10, y=middle, text=f"stage {n}")
    stage += drawn("text", "count", class_="dfs-small", x=RIGHT - 8, y=middle, text_anchor="end")
    paths = "".join(drawn("path", part, class_=look) for part, look in LINES.items() if f"{part}-{n}" in now)
    parts = ("shared", "specific", "whole")
    channels = "".join(_drawn("path", f"{p}-{n}", {"class": f"dfs-channels dfs-{p}", **cells}, now) for p in parts)
    labels = "".join(drawn("text", f"on-{p}", class_=f"dfs-on-channels dfs-{p}", y=y + FEATURE + 4) for p in parts)
    place = f'x="{EXIT}" width="{END - EXIT}"'
    inside = f'<rect class="dfs-hit" {place} y="{y + SEE - 20}" height="42"></rect>'
    inside += f'<rect class="dfs-box" {place} y="{y + SEE - 10}" height="{BOX}" rx="5"></rect>'
    inside += f'<text x="{(EXIT + END) // 2}" y="{y + SEE + 8}" text-anchor="middle">exit {n}</text>'
    attributes = {"data-part": f"exit-{n}", "data-exit": str(n)} | now[f"exit-{n}"]
    exit = "".join(f' {name}="{escape(value, quote=True)}"' for name, value in attributes.items())
    arrivals = "".join(drawn("text", p, class_="dfs-small", x=284, y=y + h) for p, h in (("first", 70), ("second", 86)))
    return f"{stage}{paths}{channels}{labels}{arrivals}<g{exit}>{inside}</g>"


def _legend(y: float) -> str:
    keys = ("forward", "forward", 2), ("gradient", "gradient", 92), ("shared", "f+, shared", 188)
    drawn = ""
    for name, text, x in (*keys, ("specific", "f−, specific", 296)):
        thick = ' style="stroke-width:10"' if name in ("shared", "specific") else ' style="stroke-width:2.5"'
        drawn += f'<path class="dfs-{name}" d="M{x},{y}h18"{thick}></path><text x="{x + 24}" y="{y + 4}">{text}</text>'
    return drawn
