"""A tiny network of each family, with all the parts of it, and the side of the pictures that it is tested with."""

FAMILIES = {
    "vgg7": ("vgg7-4", 16),
    "vgg16": ("vgg16-2", 32),
    "resnet18": ("resnet18-width4-depth1", 16),
    "msdnet-cifar": ("msdnet-cifar-blocks3-base2-step1-growth4-width4", 24),
    "msdnet-imagenet": ("msdnet-imagenet-blocks2-base2-step2-growth4-width4", 136),
    "vit-tiny": ("vit-tiny-pixels32-patch8-depth4-width24-heads2", 32),
}
