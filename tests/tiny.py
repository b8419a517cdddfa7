"""A tiny network of each family, with all the parts of it, and the side of the pictures that it is tested with.

A family that is not named here is tested as published.
"""

from dfs_edu.backbones import BACKBONES

SMALLER = {
    "vgg7": ("vgg7-4", 16),
    "vgg16": ("vgg16-2", 32),
    "resnet18": ("resnet18-width4-depth1", 16),
    "msdnet-cifar": ("msdnet-cifar-blocks3-base2-step1-growth4-width4", 24),
    "msdnet-imagenet": ("msdnet-imagenet-blocks2-base2-step2-growth4-width4", 136),
    "vit-tiny": ("vit-tiny-pixels32-patch8-depth4-width24-heads2", 32),
}
FAMILIES = SMALLER | {
    name: (family.published, max(16, family.smallest)) for name, family in BACKBONES.items() if name not in SMALLER
}
