"""The convolutions that read a feature, which can skip gradients that nothing uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import fx, nn

from dfs_edu.backbones.attachment.refused import is_plain
from dfs_edu.backbones.attachment.trace import Trace
from dfs_edu.splitgrad import BY_CHANNEL, Conv2d


def split_readers(whole: Trace, place: str) -> list[str]:
    """Put split convolutions with the same weights in place of those that read a feature. Returns their paths."""
    paths = list(dict.fromkeys(_readers(whole, cast(fx.Node, whole.find(place)))))
    for path in paths:
        old = cast(nn.Conv2d, whole.root.get_submodule(path))
        geometry = {name: getattr(old, name) for name in ("stride", "padding", "dilation", "groups")}
        new = Conv2d(old.in_channels, old.out_channels, old.kernel_size, **geometry, bias=False, device="meta")
        new.weight, new.bias = old.weight, old.bias
        whole.root.set_submodule(path, new.train(old.training))
    return paths


def _readers(whole: Trace, feature: fx.Node) -> Iterator[str]:
    """Paths of the convolutions that read a feature, also through modules that act on each channel by itself."""
    for user in feature.users:
        module, path = whole.module_of(user), str(user.target)
        if type(module) in BY_CHANNEL:
            yield from _readers(whole, user)
        elif isinstance(module, nn.Conv2d) and type(module) in (nn.Conv2d, Conv2d) and whole.calls[path] == 1:
            depthwise = module.groups == module.in_channels == module.out_channels
            plain = module.padding_mode == "zeros" and not isinstance(module.padding, str) and is_plain(module)
            if plain and (module.groups == 1 or depthwise):
                yield path
