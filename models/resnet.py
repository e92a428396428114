"""Pre-activation ResNet-18 (He et al., 2016, arXiv 1603.05027) with normalised shortcuts."""

import torch
from torch import nn
from torch.nn import functional as F

from models.layers import Layers


class Block(nn.Module):
    """o = relu(bn1(x)); output = conv2(relu(bn2(conv1(o)))) + s, where s is the shortcut of o where
    the shape changes, else x itself."""

    def __init__(self, inputs: int, outputs: int, stride: int, layers: Layers):
        super().__init__()
        self.in_place = layers.norm_copies
        self.bn1 = layers.norm(inputs)
        self.conv1 = layers.conv(inputs, outputs, stride=stride)
        self.bn2 = layers.norm(outputs)
        self.conv2 = layers.conv(outputs, outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                layers.norm(inputs), layers.conv(inputs, outputs, kernel=1, stride=stride)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(x), inplace=self.in_place)
        skip = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)), inplace=True)) + skip


class ResNet18(nn.Module):
    """Four layers of two blocks with widths k, 2k, 4k, 8k and strides 1, 2, 2, 2."""

    def __init__(self, num_classes: int, num_channels: int, depth: int, layers: Layers):
        super().__init__()
        del depth  # this architecture has only one
        width = num_channels
        self.conv1 = layers.conv(3, width)
        self.layer1 = self._layer(width, width, 1, layers)
        self.layer2 = self._layer(width, 2 * width, 2, layers)
        self.layer3 = self._layer(2 * width, 4 * width, 2, layers)
        self.layer4 = self._layer(4 * width, 8 * width, 2, layers)
        self.bn = layers.norm(8 * width)
        self.linear = nn.Linear(8 * width, num_classes, bias=False)

    @staticmethod
    def _layer(inputs: int, outputs: int, stride: int, layers: Layers) -> nn.Sequential:
        return nn.Sequential(
            Block(inputs, outputs, stride, layers), Block(outputs, outputs, 1, layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        out = F.avg_pool2d(F.relu(self.bn(out), inplace=True), 4)
        return self.linear(out.flatten(1))
