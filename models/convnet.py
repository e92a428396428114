"""The convolutional network of the papers, at any width and depth."""

import torch
from torch import nn

from models.layers import Layers

STAGES = 3


class ConvNet(nn.Module):
    """3x3 convolutions, each followed by normalisation and ReLU, then one linear layer. The first
    block keeps the image size. Stage k = 0, 1, 2 then has ceil((depth - k) / 3) blocks, the last of
    which doubles the width and halves the image. At depth 3 the widths are c, 2c, 4c, 8c."""

    def __init__(self, num_classes: int, num_channels: int, depth: int, layers: Layers):
        super().__init__()
        modules: list[nn.Module] = []

        def block(inputs: int, outputs: int, *pool: nn.Module) -> None:
            # Maximum and ReLU commute, exactly: pooling first leaves ReLU a quarter of the work.
            norm, relu = layers.norm(outputs), nn.ReLU(inplace=True)
            modules.extend([layers.conv(inputs, outputs), norm, *pool, relu])

        width = num_channels
        block(3, width)
        for stage in range(STAGES):
            blocks = -((stage - depth) // STAGES)  # ceil((depth - stage) / STAGES)
            for _ in range(blocks - 1):
                block(width, width)
            if blocks > 0:
                block(width, 2 * width, nn.MaxPool2d(2))
                width *= 2
        self.conv_layers = nn.Sequential(*modules)
        self.linear_layers = nn.Sequential(
            nn.MaxPool2d(4 * 2 ** max(STAGES - depth, 0)),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_layers(self.conv_layers(x))
