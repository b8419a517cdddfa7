"""Networks that cannot get exits, refused early: the message names the cause and the cure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dfs_edu.multiexit import MultiExit, check_classes, checked_shape

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Hooks that recompute a weight at every pass, from parameters of other names: a copy would not have them
WEIGHT_HOOKS = {
    prune.BasePruningMethod: "call torch.nn.utils.prune.remove(module, name) first",
    WeightNorm: "call torch.nn.utils.remove_weight_norm(module), or use torch.nn.utils.parametrizations.weight_norm",
    SpectralNorm: "call remove_spectral_norm(module), or use torch.nn.utils.parametrizations.spectral_norm",
}


def unwrapped(model: Any) -> Any:
    """Return the network inside the wrappers of torch.compile, DataParallel and DistributedDataParallel."""
    while isinstance(model, nn.Module):
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        elif isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        else:
            break
    return model


def check(model: Any, at: Any, classes: Any, input_shape: Any) -> None:
    """Raise TypeError or ValueError, naming the value, for arguments of ``attached`` that cannot be right."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: give an nn.Module, such as torchvision's resnet50()")
    if isinstance(model, MultiExit):
        raise TypeError("model is a MultiExit: it has its exits already")
    if isinstance(at, bool) or not isinstance(at, int | list | tuple):
        raise TypeError(f"at={at!r}: give a list of node names or modules, or a number of exits")
    if (at if isinstance(at, int) else len(at)) < 1:
        raise ValueError(f"at={at!r}: there must be at least one exit besides the network's own end")
    if classes is not None:
        check_classes(classes)
    checked_shape(input_shape)
    _check_kind(model)


def _check_kind(model: nn.Module) -> None:
    """Refuse a network that cannot be copied and traced, wherever it is cut."""
    name = type(model).__name__
    if getattr(model, "aux_logits", False):
        raise ValueError(f"{name} returns several tensors in training: build it with aux_logits=False")
    for path, module in model.named_modules():
        where = f"{path!r} of {name}" if path else name
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"{where} is scripted by TorchScript: give the nn.Module that it was made from")
        if ".quantized" in type(module).__module__:
            raise TypeError(
                f"{where} is quantized, so it has no gradients: give the network before torch.ao.quantization"
            )
        if isinstance(forward := vars(module).get("forward"), FunctionType) and forward.__closure__:
            raise ValueError(
                f"{where} has a forward that is a closure: a copy of the network would go on using what it holds, the "
                "original's weights maybe; define it in a subclass"
            )
        if type(module).__call__ is not nn.Module.__call__ and not isinstance(module, fx.GraphModule):
            raise ValueError(f"{where} has a __call__ of its own, which a graph would lose: put it into forward")
        for hook in [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]:
            for kind, cure in WEIGHT_HOOKS.items():
                if isinstance(hook, kind):
                    raise ValueError(f"{where} computes a weight in a hook ({type(hook).__name__}): {cure}")
        for parameter, value in module.named_parameters(recurse=False):
            if value._backward_hooks or getattr(value, "_post_accumulate_grad_hooks", None):
                raise ValueError(f"{where}: its parameter {parameter!r} has hooks, which a copy loses: remove them")
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                raise ValueError(
                    f"{where}: its attribute {attribute!r} is the result of a computation, which cannot be copied: "
                    "delete or detach it"
                )


def check_beside(model: nn.Module, opened: Iterable[str]) -> None:
    """Refuse hooks and the like of modules that are taken apart, the network included: a graph would lose them."""
    for path in ["", *sorted(opened)]:
        module = model.get_submodule(path)
        where = f"{path!r}, which a cut opens," if path else type(module).__name__
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise ValueError(f"{where} has hooks, which the attached network would not run: remove them first")
        if "forward" in vars(module):
            raise ValueError(f"{where} has a forward of its own, which replaces its class's: define it in a subclass")


def is_plain(module: nn.Module) -> bool:
    """Return whether a module does nothing beside its class's forward: no hooks, no methods of its own."""
    return not any(getattr(module, hooks) for hooks in HOOKS) and not any(map(callable, vars(module).values()))


def check_owners(stages: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
    """Refuse weights that two stages share: they belong to neither, and to no single exit."""
    owner = {}
    for k, pair in enumerate(zip(stages, heads, strict=True), start=1):
        for name, parameter in [named for module in pair for named in module.named_parameters()]:
            if owner.setdefault(parameter, (k, name))[0] != k:
                j, first = owner[parameter]
                raise ValueError(f"{first} of stage {j} and {name} of stage {k} are one parameter: cut elsewhere")
