"""The layers that both architectures are made of: convolutions and their normalisation.

`NORMS` says by name how a network is normalised, and what is scale invariant then. In the ConvNet,
where every convolution is normalised on its own, these keep the output when they are multiplied by
one factor a > 0 each:

    batch, instance, weight    every filter
    group                      the filters of a group (GROUP_SIZE of them)
    layer                      the filters of a layer together

In the ResNet the residual stream adds the outputs of several convolutions before they are
normalised. With weight normalisation, which normalises the filters themselves, still every filter
is invariant; with the others, all convolutions together are, and those inside the blocks
(conv1) also as in the ConvNet.
"""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

# PyTorch's default of 1e-5 is not small beside the variance of a convolution whose weights have
# shrunk, which would break the scale invariance just where it matters, at the small norms
# before a jump. Invariance holds while this is far below that variance; a channel without any
# variance gives zero, not NaN. (The official code has PyTorch's; its checkpoints are measured so.)
NORM_EPS = 1e-12
GROUP_SIZE = 4  # channels in a group of group normalisation; fewer where they do not divide
# The variance that ReLU halves (He et al., 2015, arXiv 1502.01852).
FILTER_NORM = math.sqrt(2)
NORMS = ("batch", "layer", "group", "instance", "weight")


class UnitFilters(nn.Module):
    """Weight normalisation (Salimans and Kingma, 2016, arXiv 1602.07868): w = √2 v / ‖v‖.

    Every filter of a weight tensor, (outputs, inputs, height, width), has a norm of √2; scale and
    shift, where there are any, follow the convolution (`Affine`).
    """

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return v * (FILTER_NORM / torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True))


class Affine(nn.Module):
    """Scale and shift of every channel, as after a normalisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias.view(-1, 1, 1), x, self.weight.view(-1, 1, 1))


class Layers:
    """Makes the layers of one network.

    Parameters
    ----------
    norm : one of `NORMS`.
    affine : whether every normalisation has a trainable scale and shift for each channel.
    eps : added to the variance that a normalisation divides by.
    """

    def __init__(self, norm: str, affine: bool, eps: float = NORM_EPS):
        self.kind, self.affine, self.eps = norm, affine, eps
        # Whether what `norm` gives returns a new tensor, which may be overwritten.
        self.norm_copies = norm != "weight" or affine

    def conv(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
        """A convolution without bias that keeps the image size (divides it by `stride`)."""
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        if self.kind == "weight":
            parametrize.register_parametrization(layer, "weight", UnitFilters())
        return layer

    def norm(self, channels: int) -> nn.Module:
        """The normalisation of so many channels; with weight normalisation, what follows it."""
        if self.kind == "batch":
            return nn.BatchNorm2d(channels, eps=self.eps, affine=self.affine)
        if self.kind == "weight":
            return Affine(channels) if self.affine else nn.Identity()
        size = {"layer": channels, "group": math.gcd(channels, GROUP_SIZE), "instance": 1}
        groups = channels // size[self.kind]
        return nn.GroupNorm(groups, channels, eps=self.eps, affine=self.affine)
