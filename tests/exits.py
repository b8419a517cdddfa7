"""Outputs of exits and networks with varied confidences, for the tests of early exit."""

import torch

from dfs_edu.backbones import build
from dfs_edu.inference import Outputs

MACS = [10.0, 30.0, 60.0]  # of `hand_outputs`


def random_outputs(split="validation", pictures=200, exits=4, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randint(classes, shape, generator=generator)  # noqa: E731
    confidence = torch.rand(exits, pictures, generator=generator)
    return Outputs(confidence, draw(exits, pictures), draw(pictures), split)


def hand_outputs(split="test"):
    """Four pictures, three exits; every quantity below can be worked out on paper."""
    return Outputs(
        torch.tensor([[0.9, 0.6, 0.5, 0.2], [0.9, 0.8, 0.5, 0.4], [0.9, 0.9, 0.9, 0.9]]),
        torch.tensor([[1, 0, 0, 0], [1, 2, 0, 0], [1, 2, 3, 4]]),
        torch.tensor([1, 2, 3, 0]),
        split,
    )


def float64_net(seed):
    torch.manual_seed(seed)
    net = build("vgg7-2", classes=5).double()
    for stage in net.stages:
        stage.norm.momentum = 1.0  # one batch, and BatchNorm has the statistics of such pictures
    net.train()(varied(64))
    return net.eval()


def varied(pictures):
    """Noise of random tint and contrast, so that confidences differ from picture to picture."""
    noise, tint, contrast = (
        torch.randn(pictures, 3, 32, 32),
        torch.randn(pictures, 3, 1, 1),
        torch.rand(pictures, 1, 1, 1),
    )
    return (3 * tint + 3 * contrast * noise).double()


def spread_thresholds(net, images):
    """Thresholds at a random quantile of each exit's confidences."""
    confidence = [logits.detach().softmax(1).amax(1).float() for logits in net(images)]
    return [*(c.quantile(q).item() for c, q in zip(confidence[:-1], 0.3 + 0.6 * torch.rand(5), strict=True)), 0]
