"""A multi-exit network: a trunk cut into stages, a head at each exit, a junction between the two."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from torch import Tensor, nn

from dfs_edu.splitgrad import Conv2d
from dfs_edu.surgery import Joint, Junction

State = Tensor | list[Tensor]  # what a stage hands on; MSDNet's is a list of scales, fine to coarse


class Head(nn.Module):
    """What turns the feature of an exit into logits: an embedding (B, D), then the linear classifier `fc`."""

    fc: nn.Module

    def embed(self, seen: State) -> Tensor:
        """What the classifier reads: the embedding (B, D) of what the exit sees."""
        raise NotImplementedError

    def both(self, seen: State) -> tuple[Tensor, Tensor]:
        """Embedding (B, D) and logits (B, classes), for losses that look at both."""
        embedding = self.embed(seen)
        return embedding, self.fc(embedding)  # (B, D), (B, classes)

    def forward(self, seen: State) -> Tensor:
        """Logits (B, classes) of what the exit sees."""
        return self.both(seen)[1]


class MultiExit(nn.Module):
    """K stages, K heads and the junctions between them.

    stages      modules; stage k turns the state of the trunk into the feature of exit k
    heads       modules; head k turns what exit k sees into logits (B, classes)
    junctions   one Junction for all exits, or a list of K
    smallest    the least height and width of a picture that every stage and head can read, in pixels

    A stage or head that can skip gradients nobody uses has a method `listen(heard)`. `heard` is a bool array (C,) for
    the channels of its input, or a list of them where the state is a list, or None where nothing is known; a stage
    answers with the same for its output.

    The state_dict holds stages and heads only: weights move freely between networks that differ in their junctions.
    Raises TypeError or ValueError, naming the value, for junctions that are none, or not one for each exit.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        junctions: Junction | Sequence = Joint(),
        smallest: int = 1,
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.smallest = smallest
        self.join(junctions)

    def join(self, junctions: Junction | Sequence) -> None:
        """Put these junctions in: one for all exits, or a list of K. The weights stay. Raises what `MultiExit` does."""
        K = len(self.stages)
        junctions = [junctions] * K if isinstance(junctions, Junction) else junctions
        if not isinstance(junctions, list | tuple) or not all(isinstance(j, Junction) for j in junctions):
            raise TypeError(f"junction={junctions!r}: give a junction such as Surgery(beta=0.5), or a list of them")
        if not K or not K == len(self.heads) == len(junctions):
            raise ValueError(f"{K} stages, {len(self.heads)} heads, {len(junctions)} junctions: one for every exit")
        self.junctions = [junction.at(k, K) for k, junction in enumerate(junctions, start=1)]
        self._skip_unheard_gradients()

    def _skip_unheard_gradients(self) -> None:
        """Follow the cuts along the trunk, and tell each module which channels of its input pass a gradient on."""
        for module in self.modules():  # what cannot be told below, as within a wrapped stage, skips nothing
            if isinstance(module, Conv2d):
                module.listen(None)
        heard = None
        for stage, junction, head in zip(self.stages, self.junctions, self.heads, strict=True):
            heard = stage.listen(heard) if hasattr(stage, "listen") else None
            heard, seen = _behind(junction, heard)
            if hasattr(head, "listen"):
                head.listen(seen)

    def exits(self, x: Tensor) -> Generator[Tensor, Tensor | None, None]:
        """Logits (B, classes) of each exit, shallow to deep, computed only when asked for.

        Early exit sends back, as indices into the batch, the pictures that go on; the others cost nothing further.
        Raises ValueError for pictures that are too small.

        >>> import torch
        >>> from dfs_edu.backbones import build
        >>> exits = build("vgg7-16", classes=10).exits(torch.zeros(4, 3, 32, 32))
        >>> next(exits).shape  # only the first stage and its head have run
        torch.Size([4, 10])
        >>> exits.send(torch.tensor([1, 3])).shape  # two pictures go on
        torch.Size([2, 10])
        """
        return self._walk(x, lambda head, seen: head(seen))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pictures (B, C, H, W) -> K logits (B, classes), shallow to deep."""
        return list(self.exits(x))

    def embed(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(embedding (B, D_k), logits (B, classes)) of each exit, for losses that look at features; needs `Head`s."""
        return list(self._walk(x, lambda head, seen: head.both(seen)))

    def _walk(self, x: Tensor, say: Callable) -> Generator:
        """The loop of a multi-exit network; say(head, seen) is what an exit hands out."""
        H, W = x.shape[-2:]
        if min(H, W) < self.smallest:
            raise ValueError(f"pictures of {H}x{W} pixels: this network needs {self.smallest}x{self.smallest} at least")
        for stage, junction, head in zip(self.stages, self.junctions, self.heads, strict=True):
            onward, seen = junction(stage(x))
            going_on = yield say(head, seen)
            x = onward if going_on is None else select(onward, going_on)


def _behind(junction: Junction, heard) -> tuple:
    """Which channels of (onward, seen) pass a gradient on to something that hears it."""
    if heard is None:
        return None, None
    if isinstance(heard, list):
        scales = [_behind(junction.on_scale(i, len(heard)), h) for i, h in enumerate(heard)]
        return tuple(map(list, zip(*scales, strict=True)))
    return tuple(heard & live.numpy() for live in junction.live(len(heard)))


def checked_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape (C, H, W) of a picture as a tuple; ValueError, naming the value, if it is none."""
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if len(shape) != 3 or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"input_shape={input_shape!r}: give channels, height, width: whole numbers above zero")
    return shape


def check_classes(classes: int) -> None:
    """Raises ValueError for what is no number of classes: a whole number from 2."""
    if type(classes) is not int or classes < 2:
        raise ValueError(f"classes={classes!r}: a classifier has at least 2 classes")


def select(state: State, index: Tensor) -> State:
    """The pictures of a batch at `index` (n,); the state of the trunk is a tensor (B, ...) or a list of them."""
    return state[index] if isinstance(state, Tensor) else [s[index] for s in state]
