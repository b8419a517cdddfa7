"""A tiny network with a batch, for tests of methods: in float64, with a nested trunk."""

import torch

import dfs_edu as dfs
from dfs_edu import methods

NESTED = ("vgg7-4", "msdnet-cifar-blocks3-base1-step1-growth2")
JOINT = dfs.Joint()


def tiny(junction=JOINT, backbone="vgg7-4"):
    torch.manual_seed(0)
    net = dfs.build(backbone, 5, junction).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64)
    return net, images, torch.randint(5, (6,), generator=generator)


def parts(net):
    return list(net.stages.parameters()), list(net.heads.parameters())


def begun(method, net):
    """A method, or the one of this name, that knows the stages, as the trainer leaves it."""
    method = methods.make(method, len(net.heads)) if isinstance(method, str) else method
    method.begin([list(stage.parameters()) for stage in net.stages])
    return method


def gradients(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]
