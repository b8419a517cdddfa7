"""What others report, to compare with what is measured here."""

from __future__ import annotations

# Top-1 accuracy of each exit, a fraction (Gong et al., ECCV 2024). The recipes of the rows differ, and the best epoch
# was chosen on the test split.
PUBLISHED = {
    "MSDNet, CIFAR-100": {
        "MSDNet, joint": [0.6410, 0.6746, 0.7034, 0.7238, 0.7306, 0.7381, 0.7389],
        "DFS": [0.7246, 0.7564, 0.7750, 0.7854, 0.7920, 0.7945, 0.7956],
    },
    "MSDNet, CIFAR-100, rivals": {
        "GE": [0.6400, 0.6841, 0.7186, 0.7350, 0.7446, 0.7539, 0.7596],
        "PCGrad": [0.6706, 0.7137, 0.7486, 0.7578, 0.7625, 0.7695, 0.7671],
        "CAGrad": [0.6878, 0.7255, 0.7423, 0.7497, 0.7535, 0.7582, 0.7608],
        "Nash-MTL": [0.6414, 0.6923, 0.7264, 0.7489, 0.7532, 0.7588, 0.7675],
    },
    "MSDNet, ImageNet": {
        "MSDNet, joint": [0.5664, 0.6514, 0.6842, 0.6977, 0.7134],
        "DFS": [0.6180, 0.6803, 0.7075, 0.7179, 0.7288],
    },
}

# Parameters and MACs of leaving at each of the K exits, for networks that ``build`` knows. ResNet18's count the path to
# the exit alone, its parameters without the linear classifier; the others' include all earlier heads.
PUBLISHED_COSTS = {
    "msdnet-cifar": {
        "params": [0.90e6, 1.84e6, 2.80e6, 3.76e6, 4.92e6, 6.10e6, 7.36e6],
        "macs": [56.43e6, 101.00e6, 155.31e6, 198.10e6, 249.53e6, 298.05e6, 340.64e6],
    },
    "msdnet-imagenet": {
        "params": [4.24e6, 8.77e6, 13.07e6, 16.75e6, 23.96e6],
        "macs": [0.34e9, 0.69e9, 1.01e9, 1.25e9, 1.36e9],
    },
    "resnet18": {
        "params": [0.43e6, 0.96e6, 3.11e6, 11.17e6],
        "macs": [169.62e6, 300.22e6, 431.05e6, 559.75e6],
    },
}
