"""A run without numbers: shapes, costs, and which values of a network can cross a cut."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

BATCH = 5  # images in the trial run; a second run has two more, so that no other dimension of 5 passes for the batch
ALONG_THE_LAST = (nn.LayerNorm, nn.Linear, nn.MultiheadAttention, nn.Embedding, nn.RNNBase)
CHANNELS_FIRST = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)
PERMUTING = {"transpose", "permute", "swapaxes", "movedim", "einsum", "matmul", "linear", "layer_norm"}


class Trial(fx.Interpreter):
    """A run in evaluation mode on the meta device.

    ``value`` holds what each node computed, ``flops`` the FLOPs up to and including each node, ``modified`` the nodes
    whose tensor was changed in place afterwards, and ``again`` what each node computes for another number of images: a
    dimension that grows with it has one entry per image.

    Args:
        model: The network.
        graph: Its graph.
        input_shape: (C, H, W) of an image.
        batch: Number of images.

    Raises:
        ValueError: The network cannot run: a tensor that is not a buffer stays behind, a list is changed in place, or
            the images do not fit.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, input_shape: tuple[int, int, int], batch: int = BATCH):
        super().__init__(copy.deepcopy(model).to("meta").eval(), graph=graph)
        self.extra_traceback = False
        self.input_shape = input_shape
        self.value: dict[fx.Node, Any] = {}
        self.flops: dict[fx.Node, int] = {}
        self.versions: dict[fx.Node, int] = {}
        dtype = next((p.dtype for p in model.parameters()), None)
        self.images = torch.empty(batch, *input_shape, device="meta", dtype=dtype)
        try:
            self.count()
        except Exception as error:  # it runs the model's own code: anything may come
            if path := self.plain_tensor():
                raise ValueError(
                    f"{path} is a plain tensor, which neither moves with the network nor is saved: make it a buffer, "
                    f"self.register_buffer({path.rpartition('.')[2]!r}, ...)"
                ) from error
            if "immutable_list" in str(error):
                raise ValueError(
                    "the network changes a list in place while it computes, which a traced graph cannot: make a copy "
                    "of the list first, `x = list(x)`, or attach to the modules after it"
                ) from error
            raise ValueError(f"input_shape={input_shape}: the network cannot read such images ({error})") from error
        self.modified = {node for node, version in self.versions.items() if self.value[node]._version != version}
        self.again = self.value if batch != BATCH else Trial(model, graph, input_shape, batch=BATCH + 2).value

    def count(self) -> None:
        """Run, counting FLOPs."""
        with torch.no_grad(), FlopCounterMode(display=False) as self.counter:
            self.run(self.images, enable_io_processing=False)

    def plain_tensor(self) -> str | None:
        """Return the path of a tensor that is not a buffer, if the run works once such tensors are moved, too."""
        plain = []
        for path, module in self.module.named_modules():
            for name, value in vars(module).items():
                if type(value) is Tensor and not value.is_meta:
                    plain.append(f"{path}.{name}".strip("."))
                    setattr(module, name, value.to("meta"))
        try:
            self.count()
        except Exception:
            return None
        return plain[0] if plain else None

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and note its value and costs."""
        value = super().run_node(n)
        self.value[n], self.flops[n] = value, self.counter.get_total_flops()
        if isinstance(value, Tensor):
            self.versions[n] = value._version
        return value


def problem(trial: Trial, node: fx.Node, feature: bool) -> str | None:
    """Return why a node's value cannot cross a cut, or be an exit's feature; None if it can."""
    value, again = trial.value[node], trial.again[node]
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}: only tensors can drop the images that leave"
    shape = tuple(value.shape)
    if value.ndim < 2 or (len(value), len(again)) != (BATCH, BATCH + 2):
        return f"of shape {shape} for {BATCH} images: it must have one entry per image, (B, ...)"
    if node in trial.modified:
        return "which a later node changes in place"
    if feature and (value.ndim > 4 or not value.is_floating_point()):
        return f"{value.dtype} of shape {shape}: a feature is (B, C, H, W), (B, N, C) or (B, C)"
    if feature and value.ndim == 3 and _channels_first(trial, node):
        return (
            f"of shape {shape}, (B, C, L) as from nn.Conv1d: three dimensions are read as tokens (B, N, C). Choose a "
            "node after a transpose, or write the network with nn.Conv2d"
        )
    return None


def channels_last(trial: Trial, node: fx.Node) -> bool:
    """Return whether a feature is (B, H, W, C), as in Swin: its dimensions 1 and 2, not 2 and 3, scale as the image."""
    value, (_, H, W) = trial.value[node], trial.input_shape
    maps = lambda h, w: abs(h * W - w * H) < max(H, W)  # noqa: E731
    return value.ndim == 4 and maps(*value.shape[1:3]) and not maps(*value.shape[2:4])


def channels(trial: Trial, node: fx.Node) -> int:
    """Return how many channels a feature has: (B, C, H, W), (B, H, W, C), (B, N, C) or (B, C)."""
    value = trial.value[node]
    return value.shape[-1 if value.ndim == 3 or channels_last(trial, node) else 1]


def _channels_first(trial: Trial, node: fx.Node) -> bool:
    """Whether three dimensions are (B, C, L). The last module that a feature came through decides."""
    while node.op != "placeholder":
        if node.op == "call_module":
            inner = list(trial.module.get_submodule(str(node.target)).modules())
            if any(isinstance(module, ALONG_THE_LAST) for module in inner):
                return False
            if any(isinstance(module, CHANNELS_FIRST) for module in inner):
                return True
        name = getattr(node.target, "__name__", node.target)
        if node.op != "call_module" and name in PERMUTING:
            return False
        if name == "conv1d":
            return True
        value = lambda n: trial.value[n]  # noqa: E731
        before = [n for n in node.all_input_nodes if isinstance(value(n), Tensor) and value(n).ndim >= 3]
        if not before:
            return False
        if value(before[0]).ndim == 4 and value(node).ndim == 3:  # flattened maps
            return value(node).shape[1] == value(before[0]).shape[1] and not channels_last(trial, before[0])
        node = before[0]
    return True  # the images themselves, (B, C, ...)
