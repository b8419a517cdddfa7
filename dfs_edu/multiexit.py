"""A multi-exit network: a trunk cut into stages, a head at each exit, and a junction between the two."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, cast

from torch import Tensor, nn

from dfs_edu.answers import rule_of
from dfs_edu.splitgrad import Conv2d, Mask, Masks, propagate
from dfs_edu.surgery import Joint, Junction, State


class Head(nn.Module):
    """Turns what an exit sees into logits: an embedding (B, D), then the linear classifier ``fc``."""

    fc: nn.Module

    def embed(self, seen: Any) -> Tensor:
        """Return the embedding (B, D), which the classifier reads, of a state of the form that the stages return."""
        raise NotImplementedError

    def both(self, seen: Any) -> tuple[Tensor, Tensor]:
        """Return embedding (B, D) and logits (B, classes), for losses that look at both."""
        embedding = self.embed(seen)
        return embedding, self.fc(embedding)

    def forward(self, seen: Any) -> Tensor:
        """Return the logits (B, classes)."""
        return self.both(seen)[1]


class MultiExit(nn.Module):
    """K stages, K heads and the junctions between them.

    Its state_dict holds stages and heads only: weights move freely between networks with different junctions.

    Args:
        stages: Modules; stage k turns the state of the trunk into the feature of exit k.
        heads: Modules; head k turns what exit k sees into logits (B, classes).
        junctions: One junction for all exits, or a list of K.
        smallest: Least height and width, in pixels, of an image that every stage and head can read.
        answers: What exits make of their own logits and of earlier answers: "own" leaves them as they are, the other
            rules are in answers.py.

    Raises:
        TypeError: ``junctions`` holds something that is not a junction.
        ValueError: There is not one stage, head and junction for every exit, or no such rule.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        junctions: Junction | Sequence[Junction] = Joint(),
        smallest: int = 1,
        answers: str = "own",
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.smallest = smallest
        self.answer_by(answers)
        self.join(junctions)

    def answer_by(self, answers: str) -> None:
        """Choose what exits answer, by a rule's name; weights stay. Raises ValueError if there is no such rule."""
        rule_of(answers)
        self.answers = answers

    def join(self, junctions: Junction | Sequence[Junction]) -> None:
        """Put in other junctions, one for all exits or a list of K; weights stay. Raises what ``MultiExit`` does."""
        K = len(self.stages)
        junctions = [junctions] * K if isinstance(junctions, Junction) else junctions
        if not isinstance(junctions, list | tuple) or not all(isinstance(j, Junction) for j in junctions):
            raise TypeError(f"junction={junctions!r}: give a junction such as Surgery(beta=0.5), or a list of them")
        if not K or not K == len(self.heads) == len(junctions):
            raise ValueError(f"{K} stages, {len(self.heads)} heads, {len(junctions)} junctions: one for every exit")
        self.junctions = [junction.at(k, K) for k, junction in enumerate(junctions, start=1)]
        self._skip_unused_gradients()

    def _skip_unused_gradients(self) -> None:
        """Follow the cuts along the trunk; each convolution then skips the gradients that a cut drops."""
        masks: dict[Conv2d, Mask] = {}
        live = None
        for stage, junction, head in zip(self.stages, self.junctions, self.heads, strict=True):
            live, seen = _live_views(junction, propagate(stage, live, masks))
            propagate(head, seen, masks)
        for module in self.modules():
            if isinstance(module, Conv2d):
                module.skip_all_but(masks.get(module))  # None, all channels, if nothing is known, as in a wrapped stage

    def exits(self, x: Tensor) -> Generator[Tensor, Tensor | None, None]:
        """Yield the logits (B, classes) of each exit, shallow to deep; each is computed only when asked for.

        For early exit, send back the indices of those images in the batch that go on; the others cost nothing more.

        Raises:
            ValueError: The images are too small.

        >>> import torch
        >>> from dfs_edu.backbones import build
        >>> exits = build("vgg7-16", classes=10).exits(torch.zeros(4, 3, 32, 32))
        >>> next(exits).shape  # only the first stage and its head have run
        torch.Size([4, 10])
        >>> exits.send(torch.tensor([1, 3])).shape  # two images go on
        torch.Size([2, 10])
        """
        return self._walk(x)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return K logits (B, classes), shallow to deep, for images (B, C, H, W)."""
        return list(self.exits(x))

    def embed(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (embedding (B, D_k), logits (B, classes)) of each exit. Every head must be a ``Head``."""
        return list(self._walk(x, embeds=True))

    def _walk(self, x: Tensor, embeds: bool = False) -> Generator[Any, Tensor | None, None]:
        """The loop of a multi-exit network. An exit yields its answer, after its embedding if ``embeds``."""
        H, W = x.shape[-2:]
        if min(H, W) < self.smallest:
            raise ValueError(f"images of {H}x{W} pixels: this network needs {self.smallest}x{self.smallest} or more")
        state: State = x
        rule, carried = rule_of(self.answers), None
        parts = zip(self.stages, self.junctions, self.heads, strict=True)
        for k, (stage, junction, head) in enumerate(parts, start=1):
            onward, seen = junction(stage(state))
            embedding, logits = cast(Head, head).both(seen) if embeds else (None, head(seen))
            answer, carried = rule(logits, carried, k)
            remaining = yield (embedding, answer) if embeds else answer
            state = onward
            if remaining is not None:
                state, carried = select(onward, remaining), None if carried is None else carried[remaining]


def _live_views(junction: Junction, live: Masks) -> tuple[Masks, Masks]:
    """The live channels of (onward, seen), given those of the feature in front of the junction."""
    if live is None:
        return None, None
    if isinstance(live, list):
        scales = [_live_views(junction.on_scale(i, len(live)), mask) for i, mask in enumerate(live)]
        return [onward for onward, _ in scales], [seen for _, seen in scales]
    onward, seen = junction.live(len(live))
    return live & onward.numpy(), live & seen.numpy()


def checked_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of an image as a tuple. Raises ValueError, naming the value, for anything else."""
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if len(shape) != 3 or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"input_shape={input_shape!r}: give channels, height, width: whole numbers above zero")
    return shape


def check_classes(classes: int) -> None:
    """Raise ValueError, naming the value, unless it is a whole number of classes, at least 2."""
    if type(classes) is not int or classes < 2:
        raise ValueError(f"classes={classes!r}: a classifier has at least 2 classes")


def select(state: State, index: Tensor) -> State:
    """Return the state of the trunk, a tensor (B, ...) or a list of them, for the images at ``index`` (n,)."""
    return state[index] if isinstance(state, Tensor) else [s[index] for s in state]
