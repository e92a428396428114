"""A network of one's own, as train.py's --model takes it: docs/own-network.md."""

from torch import nn


def network(num_classes: int, num_channels: int = 8) -> nn.Module:
    """Three strided convolutions with layer normalisation, the largest activation of each channel
    over the image, and a linear layer."""
    c = num_channels
    return nn.Sequential(
        nn.Conv2d(3, c, 3, stride=2, bias=False), nn.GroupNorm(1, c), nn.ReLU(),
        nn.Conv2d(c, 2 * c, 3, stride=2, bias=False), nn.GroupNorm(1, 2 * c), nn.ReLU(),
        nn.Conv2d(2 * c, 4 * c, 3, stride=2, bias=False), nn.GroupNorm(1, 4 * c), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4 * c, num_classes),
    )  # fmt: skip
