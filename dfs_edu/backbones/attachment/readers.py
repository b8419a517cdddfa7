"""The convolutions that read a feature, which can skip gradients that nobody uses."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from dfs_edu.backbones.attachment.trace import Trace
from dfs_edu.splitgrad import Conv2d

# What works on each channel by itself and has no weights: behind it, the same channels are heard as before it.
BY_CHANNEL = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Identity)


def split_readers(whole: Trace, place: str) -> list[str]:
    """Put split convolutions, with the same weights, where convolutions read the feature; returns their paths."""
    paths = list(dict.fromkeys(_readers(whole, whole.find(place))))
    for path in paths:
        old = whole.root.get_submodule(path)
        geometry = {name: getattr(old, name) for name in ("stride", "padding", "dilation", "groups")}
        new = Conv2d(old.in_channels, old.out_channels, old.kernel_size, **geometry, bias=False, device="meta")
        new.weight, new.bias = old.weight, old.bias
        whole.root.set_submodule(path, new.train(old.training))
    return paths


def _readers(whole: Trace, feature: fx.Node) -> Iterator[str]:
    for user in feature.users:
        module = whole.root.get_submodule(user.target) if user.op == "call_module" else None
        if type(module) in BY_CHANNEL:
            yield from _readers(whole, user)
        elif type(module) in (nn.Conv2d, Conv2d) and whole.calls[user.target] == 1:
            depthwise = module.groups == module.in_channels == module.out_channels
            hooked = module._forward_pre_hooks or module._forward_hooks
            plain = module.padding_mode == "zeros" and not isinstance(module.padding, str) and not hooked
            if plain and (module.groups == 1 or depthwise):
                yield user.target
